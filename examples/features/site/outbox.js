// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

import { $, note, showState } from './page.js';
import { PushIt } from './push/pushit.mjs';

const push = new PushIt({ channels: ['letters'] });
let last = 0;

push.onMessageReceived = (channel, { payload }) => note(`letter ${payload} has arrived`);

$('publish').addEventListener('click', () => {
  for (let n = 0; n < 3; n++) {
    const letter = ++last;
    push.publish(
      'letters',
      letter,
      (refusal) => note(`letter ${letter}: ${refusal.message}`, 'refused'),
      () => note(`letter ${letter} was taken`),
    );
    note(`letter ${letter} is published`);
  }
});

push.on('state', showState);
