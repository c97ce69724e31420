// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

import { note, showState } from './page.js';
import { PushIt } from './push/pushit.mjs';

const push = new PushIt();

push.channel('rooms/*').on('message', ({ channel, payload }) => note(`${channel}: ${payload}`));

for (const button of document.querySelectorAll('[data-channel]')) {
  button.addEventListener('click', () => push.publish(button.dataset.channel, 'somebody is here'));
}

push.on('state', showState);
