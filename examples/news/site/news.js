// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * The readers' page: news from the history when it is opened, then live. A message's
 * data is {title, text, at}, made by the backend. It goes into the page as text.
 *
 * @module
 */

import { PushIt } from './push/pushit.mjs';

const PAGE = 20;
const $ = (id) => document.getElementById(id);
const when = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'short' });
const seen = new Set();
let before; // asks for older news

const push = new PushIt();
const news = push.channel('news');

// First listen, then ask for what was before: nothing falls between the two. What comes
// in both ways is shown once.
news.on('message', (message) => show(message, true));
load();

// After a loss the client gets by itself what was missed. If some of it is gone, ask for what there is.
push.on('gap', () => load());

push.on('state', ({ name, reason }) => {
  $('state').dataset.state = name;
  $('state').textContent = { connected: 'Live', connecting: 'Connecting…' }[name] ?? `Not connected: ${reason}`;
});

async function load(from) {
  try {
    const page = await news.history({ last: PAGE, before: from });
    before = page.before;
    $('older').hidden = !before;
    for (const message of page.messages) show(message, false);
    $('empty').hidden = seen.size > 0;
  } catch (refusal) {
    $('state').textContent = `The news could not be loaded: ${refusal.message}`;
  }
}

$('older').addEventListener('click', () => load(before));

/** Puts a message into the list, the newest first. */
function show({ uuid, payload }, live) {
  if (seen.has(uuid)) return;
  seen.add(uuid);
  $('empty').hidden = true;
  const item = $('item').content.firstElementChild.cloneNode(true);
  const { title, text, at } = payload;
  item.querySelector('h2').textContent = title;
  item.querySelector('p').textContent = text;
  item.querySelector('time').textContent = when.format(at);
  item.querySelector('time').dateTime = new Date(at).toISOString();
  item.dataset.at = at;
  item.classList.toggle('live', live);
  const next = [...$('news').children].find((other) => Number(other.dataset.at) <= at);
  $('news').insertBefore(item, next ?? null);
}
