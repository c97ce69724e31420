// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/** The console: an agent like any other page, so all gates decide about it. */

import { PushIt } from '../pushit.mjs';
import { $, cut, el } from './elements.mjs';

const MOST = 200; // entries of the log

/** JSON as it is, and other text as a string. */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/** Data as text: on one line if that is short. */
function textOf(data) {
  if (data === undefined || typeof data === 'string') return data ?? '';
  const line = JSON.stringify(data);
  return line.length < 80 ? line : JSON.stringify(data, null, 1);
}

/** Adds an entry at the top of the log. */
function note(kind, what, channel = '', data = undefined) {
  const item = el(`li.${kind}`, el('b', what), cut(channel), el('time', new Date().toLocaleTimeString()), el('pre', textOf(data)));
  $('log').prepend(item);
  while ($('log').childElementCount > MOST) $('log').lastElementChild.remove();
}

const refused = (what, channel) => (refusal) => note('refused', `${what} refused`, channel, `${refusal.code}: ${refusal.message}`);

/** A WebSocket that shows its frames, if they are wanted. */
class Shown extends WebSocket {
  constructor(url) {
    super(url);
    this.addEventListener('message', ({ data }) => frame('received', data));
  }

  send(data) {
    super.send(data);
    frame('sent', data);
  }
}

function frame(what, data) {
  if ($('frames').checked) note('frame', what, '', data);
}

/** The globals of this page, but its WebSocket is Shown. */
const shown = new Proxy(globalThis, {
  get(target, name) {
    if (name === 'WebSocket') return Shown;
    const value = target[name];
    return typeof value === 'function' && value.prototype === undefined ? value.bind(target) : value;
  },
});

/** Makes the console ready. `name` puts a channel into its form. */
export function openConsole() {
  let push;
  const words = { connecting: 'Connecting …', connected: 'Connected', disconnected: 'Disconnected', closed: 'Closed' };

  function showState(state) {
    $('console-state').dataset.state = state?.name ?? 'off';
    $('console-state').textContent = words[state?.name] ?? 'Not connected';
    $('connect-button').textContent = push ? 'Disconnect' : 'Connect';
    $('connect-button').classList.toggle('primary', !push);
    showSubscriptions();
  }

  function showSubscriptions() {
    $('subscriptions').replaceChildren(
      ...(push?.channels ?? []).map((channel) => {
        const button = el('button.chip', cut(channel));
        button.setAttribute('aria-label', `Unsubscribe from ${channel}`);
        button.addEventListener('click', () => push?.unsubscribe(channel, refused('unsubscribe', channel)).catch(() => {}));
        return el('li', button);
      }),
    );
  }

  function connect() {
    const text = $('connect').elements.credentials.value;
    push = new PushIt({ channels: [], global: shown, ...(text ? { credentials: parsed(text) } : {}) });
    const mine = push;
    push.on('state', (state) => {
      if (push !== mine) return;
      if (state.name === 'connected') note('done', 'connected');
      if (state.name === 'disconnected' || state.name === 'closed') note('lost', state.name, '', [state.code, state.reason].filter(Boolean).join(': '));
      if (state.name === 'closed') push = undefined;
      showState(state);
    });
    push.on('message', (message) => note('message', 'message', message.channel, message.data));
    push.on('error', (error) => note('refused', 'error', error.channel, `${error.code ?? ''} ${error.message}`.trim()));
    push.on('subscribe', ({ channel }) => {
      note('done', 'subscribed', channel);
      showSubscriptions();
    });
    push.on('unsubscribe', ({ channel, code, error }) => {
      note(code ? 'refused' : 'done', 'unsubscribed', channel, code && `${code}: ${error}`);
      showSubscriptions();
    });
    showState({ name: 'connecting' });
  }

  function disconnect() {
    const closing = push;
    push = undefined;
    closing.close();
    note('done', 'disconnected');
    showState();
  }

  $('connect').addEventListener('submit', (event) => {
    event.preventDefault();
    if (push) disconnect();
    else connect();
  });

  $('subscribe').addEventListener('submit', (event) => {
    event.preventDefault();
    const channel = event.target.elements.channel.value.trim();
    if (!push) connect();
    push.subscribe(channel, refused('subscribe', channel)).catch(() => {});
  });

  $('publish').addEventListener('submit', (event) => {
    event.preventDefault();
    const field = $('subscribe').elements.channel;
    const channel = field.value.trim();
    if (!field.reportValidity()) return;
    if (!push) connect();
    push.publish({ channel, data: parsed(event.target.elements.data.value) }, refused('publish', channel), () => note('done', 'published', channel));
  });

  $('publish').addEventListener('keydown', (event) => {
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) $('publish').requestSubmit();
  });

  $('clear').addEventListener('click', () => $('log').replaceChildren());

  return {
    name(channel) {
      $('subscribe').elements.channel.value = channel;
    },
  };
}
