// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

import { $, note, showState } from './page.js';
import { PushIt } from './push/pushit.mjs';

const push = new PushIt();
let next;

push.on('state', (state) => {
  showState(state);
  note(state);
  next = state.retryAt;
});

setInterval(() => {
  $('countdown').textContent = next ? `The next attempt comes in ${Math.max(0, (next - Date.now()) / 1000).toFixed(1)} s.` : '';
}, 100);

$('close').addEventListener('click', () => push.close());
$('connect').addEventListener('click', () => push.connect());
