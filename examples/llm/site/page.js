// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Shows an answer word by word. The session storage keeps the text, and the id of its last
 * word, so that a page that is reloaded goes on with the next one.
 *
 * @module
 */

const output = document.querySelector('#answer');
const state = document.querySelector('#state');
const kept = 'answer';

/** @type {{channel: string, text: string, last: string, done: boolean} | null} */
let answer = JSON.parse(sessionStorage.getItem(kept));
let source;

function show(text) {
  output.textContent = answer.text;
  state.textContent = text;
  sessionStorage.setItem(kept, JSON.stringify(answer));
}

function listen() {
  source?.close();
  if (answer.done) return show('This is the whole answer.');
  show('The answer comes …');
  // format=json tells words from the object that ends the answer.
  const query = new URLSearchParams({ channel: answer.channel, format: 'json', ...(answer.last ? { last_event_id: answer.last } : { since: '10000' }) });
  source = new EventSource(`/push/sse?${query}`);
  source.onmessage = ({ data, lastEventId }) => {
    const word = JSON.parse(data);
    answer.last = lastEventId;
    if (typeof word === 'string') answer.text += word;
    else answer.done = true;
    show(answer.done ? 'This is the whole answer.' : 'The answer comes …');
    if (answer.done) source.close();
  };
  // Words are missing: the page was away for longer than they are kept, or the server has restarted.
  source.addEventListener('/meta/gap', () => {
    source.close();
    answer.done = true;
    show('A part of this answer is lost. Ask again.');
  });
  source.onerror = () => {
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, 2000 + 2000 * Math.random());
    else state.textContent = 'The connection is away for a moment …';
  };
}

document.querySelector('form').addEventListener('submit', async (event) => {
  event.preventDefault();
  const response = await fetch('/ask', { method: 'POST', body: document.querySelector('#question').value });
  if (!response.ok) {
    state.textContent = await response.text();
    return;
  }
  answer = { channel: (await response.json()).channel, text: '', last: '', done: false };
  listen();
});

if (answer) listen();
