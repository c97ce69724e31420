// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * A single-page application in which each page has a channel. The frames are
 * written out here to show how little there is to them; examples/chat has a
 * connection that is worth copying.
 *
 * @module
 */

const $ = (name) => document.getElementById(name);
const endpoint = new URL('/push/websocket', location.href);
endpoint.protocol = endpoint.protocol.replace('http', 'ws');

/** 96 random bits in hex: the agentId of this tab, and the uuid of each frame. */
const id = () => [...crypto.getRandomValues(new Uint32Array(3))].map((n) => n.toString(16).padStart(8, '0')).join('');
const agentId = id();

let socket;
let channel = '';
let claps = 0;

function send(name, data) {
  socket.send(JSON.stringify({ channel: name, uuid: id(), agentId, data }));
}

function open() {
  socket = new WebSocket(endpoint);
  socket.onopen = () => send('/meta/connect', {});
  socket.onmessage = ({ data }) => receive(JSON.parse(data));
  socket.onclose = () => {
    showState('Reconnecting…', false);
    setTimeout(open, 500 + Math.random() * 2500);
  };
}

function receive(frame) {
  if (frame.channel === '/meta/connect' && frame.successful) send('/meta/subscribe', { channel });
  else if (frame.channel === '/meta/subscribe' && frame.successful) showState('Connected', true);
  else if (frame.error) showState(frame.error, false);
  else if (frame.channel === channel) showClaps(claps + 1);
}

function showState(words, connected) {
  $('state').textContent = words;
  $('state').dataset.connected = String(connected);
  $('clap').disabled = !connected;
}

function showClaps(count) {
  claps = count;
  $('claps').textContent = count === 0 ? 'Nobody has clapped since you came.' : `Claps since you came: ${count}`;
}

/** Shows the page that the address names, and listens to its channel in place of the last one's. */
function showPage() {
  const before = channel;
  const path = location.pathname.split('/').filter(Boolean).join('/');
  channel = ['claps', path || 'home'].join('/');
  $('page').textContent = path || 'Home';
  $('channel').textContent = channel;
  for (const link of document.querySelectorAll('nav a')) {
    if (link.pathname === location.pathname) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  showClaps(0);
  if (before !== '' && before !== channel && socket.readyState === WebSocket.OPEN) {
    send('/meta/unsubscribe', { channel: before });
    send('/meta/subscribe', { channel });
  }
}

$('clap').addEventListener('click', () => send(channel, null));

document.addEventListener('click', (event) => {
  const link = event.target.closest('nav a');
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  history.pushState(null, '', link.href);
  showPage();
});
addEventListener('popstate', showPage);

showPage();
open();
