// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

import { PushIt } from './push/pushit.mjs';

const push = new PushIt({ channels: ['worker'] });

push.on('state', (state) => postMessage({ state }));
push.onMessageReceived = (channel, { payload }) => postMessage({ heard: payload });
onmessage = ({ data }) => push.publish('worker', data);
