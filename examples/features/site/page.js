// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/** Parts that all of these pages have: links to the others, the state, and a list of events. */

const PAGES = {
  'index.html': 'Messages',
  'loops.html': 'Loops and promises',
  'patterns.html': 'Patterns',
  'states.html': 'States',
  'outbox.html': 'The outbox',
  'credentials.html': 'Credentials',
  'worker.html': 'In a worker',
};

export const $ = (id) => document.getElementById(id);

for (const [href, textContent] of Object.entries(PAGES)) {
  const link = Object.assign(document.createElement('a'), { href, textContent });
  if (href === (location.pathname.split('/').pop() || 'index.html')) link.setAttribute('aria-current', 'page');
  document.querySelector('nav').append(link);
}

/** Adds a line to the list. Data of others is inserted as text. */
export function note(what, className = '') {
  const item = document.createElement('li');
  item.className = className;
  const time = Object.assign(document.createElement('time'), { textContent: new Date().toLocaleTimeString() });
  item.append(typeof what === 'string' ? what : JSON.stringify(what), ' ', time);
  $('log').prepend(item);
}

export function showState({ name, reason }) {
  $('state').dataset.state = name;
  $('state').textContent = [name, reason].filter(Boolean).join(' · ');
}
