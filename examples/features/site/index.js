// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

import { $, note, showState } from './page.js';
import { PushIt } from './push/pushit.mjs';

const push = new PushIt({ channels: ['news'] });

push.onMessageReceived = (channel, message) => note(`${channel}: ${message.payload}`);

$('form').addEventListener('submit', (event) => {
  event.preventDefault();
  push.publish({ channel: 'news', data: event.target.text.value }, (refusal) => note(refusal.message, 'refused'));
  event.target.reset();
});

push.on('state', showState);
