// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// The debug page of Push-It, with the API in its documentation.

const MOST = 200; // entries in the list

const $ = (id) => document.getElementById(id);

const pushIt = new PushIt({ channels: [] });

pushIt.onMessageReceived = (channel, message) => note('message', channel, message.payload, message.uuid);
pushIt.onConnect = () => note('connected');
pushIt.onDisconnect = (state) => note('disconnected', '', state);
pushIt.onConnectionDenied = (reason) => note('denied', '', reason);

pushIt.on('state', showState);
pushIt.on('error', (error) => note('error', error.channel, error.message));
for (const type of ['subscribe', 'unsubscribe']) {
  pushIt.on(type, ({ channel }) => {
    note(type, channel);
    showSubscriptions();
  });
}

$('post').addEventListener('submit', (event) => {
  event.preventDefault();
  const { channel, message } = event.target.elements;
  const data = parsed(message.value);
  const uuid = pushIt.publish(
    { channel: channel.value, data },
    (error) => note('refused', channel.value, `${error.code}: ${error.message}`, uuid),
    () => note('taken', channel.value, undefined, uuid),
  );
});

$('subscribe').addEventListener('submit', (event) => {
  event.preventDefault();
  const { value } = event.target.elements.channel;
  pushIt.subscribe(value, (error) => note('refused', value, `${error.code}: ${error.message}`), showSubscriptions);
});

$('connect').addEventListener('click', () => pushIt.connect());
$('close').addEventListener('click', () => pushIt.close());
$('clear').addEventListener('click', () => $('messages').replaceChildren());
$('endpoint').textContent = pushIt.endpoint;
$('agent').textContent = pushIt.agentId;

/** Publishes JSON as it is, and other text as a string. */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

function showState(state) {
  $('state').dataset.state = state.name;
  $('state').textContent = [state.name, state.code || '', state.reason].filter(Boolean).join(' · ');
  showSubscriptions();
}

function showSubscriptions() {
  $('none').hidden = pushIt.channels.length > 0;
  $('subscriptions').replaceChildren(
    ...pushIt.channels.map((channel) => {
      const item = document.createElement('li');
      const name = document.createElement('bdi');
      name.textContent = channel;
      const button = document.createElement('button');
      button.textContent = '×';
      button.setAttribute('aria-label', `Unsubscribe from ${channel}`);
      button.addEventListener('click', () => pushIt.unsubscribe(channel, undefined, showSubscriptions));
      item.append(name, button);
      return item;
    }),
  );
}

/** Adds an entry at the top. Data of others is inserted as text. */
function note(what, channel = '', data = undefined, uuid = '') {
  const item = $('entry').content.firstElementChild.cloneNode(true);
  item.className = what;
  item.title = uuid;
  item.querySelector('b').textContent = what;
  item.querySelector('.channel').textContent = channel;
  item.querySelector('time').textContent = new Date().toLocaleTimeString();
  item.querySelector('pre').textContent = data === undefined ? '' : JSON.stringify(data, null, 2);
  $('messages').prepend(item);
  while ($('messages').childElementCount > MOST) $('messages').lastElementChild.remove();
}
