// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

import { $, note, showState } from './page.js';
import { PushIt } from './push/pushit.mjs';

const word = $('form').word;

const push = new PushIt({
  endpoint: 'guarded',
  // Called at each attempt, and before the credentials expire.
  credentials: async () => ({ token: word.value }),
});

push.onConnect = () => note('let in', 'taken');
push.onConnectionDenied = (reason) => note(`denied: ${reason}`, 'refused');

$('form').addEventListener('submit', (event) => {
  event.preventDefault();
  push.close();
  push.connect();
});

push.on('state', showState);
