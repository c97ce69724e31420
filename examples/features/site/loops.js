// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

import { $, note, showState } from './page.js';
import { PushIt } from './push/pushit.mjs';

const push = new PushIt();
const numbers = push.channel('numbers');
let stop;

$('read').addEventListener('click', async () => {
  stop = new AbortController();
  $('read').disabled = !($('stop').disabled = false);
  let left = 5;
  for await (const { payload } of push.channel('numbers', { signal: stop.signal })) {
    note(`read ${payload}`);
    if (--left === 0) break; // the end of the loop unsubscribes
  }
  note('the loop is over');
  $('read').disabled = !($('stop').disabled = true);
});

$('stop').addEventListener('click', () => stop.abort());

$('publish').addEventListener('click', async () => {
  try {
    const uuid = await numbers.publish(Math.round(Math.random() * 100));
    note(`the server has taken ${uuid}`);
  } catch (refusal) {
    note(refusal.message, 'refused');
  }
});

push.on('state', showState);
