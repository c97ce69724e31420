// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * A single-page application. Each page has a channel, and listens only to this one.
 *
 * @module
 */

import { PushIt } from '/push/pushit.mjs';

const $ = (name) => document.getElementById(name);
const push = new PushIt();

/** The channel of the current page, and the function that stops listening to it. */
let channel = '';
let stop = () => {};
let claps = 0;

push.on('state', ({ name, reason = '' }) => {
  $('state').textContent = name === 'connected' ? 'Connected' : `Connecting… ${reason}`;
  $('state').dataset.connected = String(name === 'connected');
  $('clap').disabled = name !== 'connected';
});

function showClaps(count) {
  claps = count;
  $('claps').textContent = count === 0 ? 'Nobody has clapped since you came.' : `Claps since you came: ${count}`;
}

/** Shows the page in the address, and listens to its channel instead of the previous one. */
function showPage() {
  const path = location.pathname.split('/').filter(Boolean).join('/');
  channel = ['claps', path || 'home'].join('/');
  $('page').textContent = path || 'Home';
  $('channel').textContent = channel;
  for (const link of document.querySelectorAll('nav a')) {
    if (link.pathname === location.pathname) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  showClaps(0);
  stop();
  stop = push.channel(channel).on('message', () => showClaps(claps + 1));
}

$('clap').addEventListener('click', () => push.publish(channel, null));

document.addEventListener('click', (event) => {
  const link = event.target.closest('nav a');
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  history.pushState(null, '', link.href);
  showPage();
});
addEventListener('popstate', showPage);

showPage();
