// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

import { $, note, showState } from './page.js';

const worker = new Worker('in-worker.js', { type: 'module' });

worker.onmessage = ({ data }) => {
  if (data.state) showState(data.state);
  else note(data.heard);
};
$('publish').addEventListener('click', () => worker.postMessage(new Date().toLocaleTimeString()));
