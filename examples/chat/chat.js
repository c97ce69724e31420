// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * The page of the chat. Each room on the left is a channel that this page subscribes to.
 * The data of a message is {name, text, at}. The name is only what the sender claims;
 * nothing checks it here. The page shows all data of others as text, never as HTML.
 *
 * @module
 */

import { paint, randomName } from './names.js';
import { $, fromTemplate, sentence, showConnection } from './page.js';
import { People, whoIsHere } from './people.js';
import { PushIt } from './push/pushit.mjs';

const EVERYTHING = '*'; // a pattern: all channels
const TYPING = 'typing/'; // a page whose visitor types in `lobby` says so on `typing/lobby`
const TYPING_EVERY = 2_000; // how often a page says so, in ms
const TYPING_LASTS = 4_000; // how long others show it, in ms
const MOST_ENTRIES = 300; // entries that a room stores
const OPENING = 50; // how many of the messages that the server keeps a room begins with
const SAME_BREATH = 5 * 60_000; // messages of one sender within this many ms are shown together
const NAME_LENGTH = 40;
const MOST_FACES = 5; // that are shown above a room

const log = $('log');
const scroll = $('scroll');
const text = $('text');
const clock = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit' });

/**
 * An entry is a message as a room shows it.
 * @typedef {{uuid: string, channel: string, data: any, name: string, text: string, at: number, mine: boolean,
 *   status: 'sending' | 'sent' | 'failed', element: HTMLElement}} Entry
 *
 * @typedef {{channel: string, entries: Entry[], seen: Set<string>, typing: Map<string, {name: string, timer: number}>,
 *   unread: number, draft: string, refused: string, item: HTMLElement, here?: import("./push/pushit.mjs").Presence, leave: () => void,
 *   back?: {missed: number, mark?: Entry}}} Room  `back`: what was missed is coming
 */

/** @type {Map<string, Room>} */
const rooms = new Map();
/** @type {Room} */
let current;
const published = new Set(); // uuids of this page's own messages
const known = new Set(['lobby', 'random', 'stories/5']);
let saidTypingAt = 0;

// ---- What the browser remembers ----

/** Storage that the visitor may have switched off. */
function recall(storage, key) {
  try {
    return JSON.parse(window[storage].getItem(`pushit-chat-${key}`));
  } catch {
    return null;
  }
}

function remember(storage, key, value) {
  try {
    window[storage].setItem(`pushit-chat-${key}`, JSON.stringify(value));
  } catch {
    // Then the page does not remember.
  }
}

/** A chosen name is for all tabs. A random one is for its tab, so that two tabs are two people. */
let myName = recall('localStorage', 'name') ?? recall('sessionStorage', 'name') ?? randomName();
remember('sessionStorage', 'name', myName);

// ---- The connection ----

const push = new PushIt();
const tab = push.agentId; // distinguishes this page from others with the same name
showConnection(push);
push.channel(`${TYPING}*`).on('message', onTyping);
const people = new People(push, myName, () => current && showPeople(current));

let countdown = 0;
push.on('state', ({ name, retryAt }) => {
  $('reconnect').hidden = name === 'connecting';
  $('countdown').textContent = name === 'connecting' ? 'Connecting…' : '';
  clearInterval(countdown);
  if (!retryAt) return;
  const tick = () => {
    const seconds = Math.max(0, Math.ceil((retryAt - Date.now()) / 1000));
    $('countdown').textContent = `Reconnecting in ${seconds}\u00a0s.`;
  };
  countdown = setInterval(tick, 250);
  tick();
});

// ---- Rooms ----

function join(channel) {
  if (rooms.has(channel)) return rooms.get(channel);
  const item = fromTemplate('room');
  const room = {
    channel,
    entries: [],
    seen: new Set(),
    typing: new Map(),
    unread: 0,
    draft: '',
    refused: '',
    item,
    leave: () => {},
  };
  item.querySelector('a').href = linkTo(channel);
  item.querySelector('.channel').textContent = channel === EVERYTHING ? 'everything' : channel;
  item.querySelector('.sign').textContent = channel === EVERYTHING ? '✳' : '#';
  item.querySelector('.leave').setAttribute('aria-label', `Leave ${channel}`);
  item.querySelector('.leave').addEventListener('click', () => leave(room));
  $('rooms').insertBefore(item, rooms.get(EVERYTHING)?.item ?? null); // the entry for everything stays last
  rooms.set(channel, room);
  known.add(channel);
  const handle = push.channel(channel);
  handle.on('message', (message) => onMessage(room, message));
  if (channel !== EVERYTHING) {
    room.here = handle.presence();
    room.here.on('change', () => showPeople(room));
  }
  handle.subscribe((refusal) => {
    if (refusal.code === 'closed') return; // the page shows that the session is closed in another place
    room.refused = refusal.message;
    showRoom(room);
  });
  room.leave = () => {
    room.here?.close();
    handle.unsubscribe();
  };
  // After the subscribe, so that nothing falls between the two; what comes in both ways is seen.
  // Of a pattern come more, because the page shows only some of them.
  handle.history({ last: channel === EVERYTHING ? 4 * OPENING : OPENING }).then(
    ({ messages }) => begin(room, messages.filter((message) => !isHidden(room, message.channel)).slice(-OPENING)),
    ({ code }) => code === 'timeout' && mark(room, 'gap', 'Earlier messages could not be loaded.'),
  );
  rememberRooms();
  return room;
}

function leave(room) {
  room.leave();
  room.item.remove();
  rooms.delete(room.channel);
  rememberRooms();
  if (room === current) {
    const next = rooms.values().next().value ?? join('lobby');
    history.replaceState(null, '', linkTo(next.channel));
    enter(next);
  }
  current.item.querySelector('a').focus();
}

function rememberRooms() {
  remember('localStorage', 'rooms', [...rooms.keys()]);
}

/** The address of the page names the room, so that links and the back button work. */
function linkTo(channel) {
  return `#${encodeURIComponent(channel).replaceAll('%2F', '/')}`;
}

function enterFromAddress() {
  let channel = '';
  try {
    channel = decodeURIComponent(location.hash.slice(1));
  } catch {
    // A mistyped address.
  }
  enter(channel ? join(channel) : (rooms.values().next().value ?? join('lobby')));
}

function enter(room) {
  if (current) current.draft = text.value;
  current = room;
  text.value = room.draft;
  log.ariaBusy = true; // do not read out the whole room
  log.replaceChildren(...room.entries.map((entry) => entry.element));
  log.ariaBusy = false;
  const everything = room.channel === EVERYTHING;
  $('title').textContent = everything ? '✳ everything' : `# ${room.channel}`;
  $('about').textContent = everything ? 'Whatever is published, on any channel' : 'Whoever opens this page may read and write here';
  $('second').href = linkTo(room.channel);
  $('listening').hidden = !everything;
  text.placeholder = `Message to ${room.channel}`;
  for (const each of rooms.values()) showRoom(each);
  room.item.scrollIntoView({ block: 'nearest', inline: 'center' });
  toEnd();
}

/** Updates everything but the messages: the list, the count of unread ones, the hint, who is here, who types. */
function showRoom(room) {
  if (room === current && !document.hidden) room.unread = 0;
  const link = room.item.querySelector('a');
  if (room === current) link.setAttribute('aria-current', 'page');
  else link.removeAttribute('aria-current');
  room.item.classList.toggle('refused', room.refused !== '');
  room.item.classList.toggle('typing', room.typing.size > 0);
  room.item.querySelector('.unread').hidden = room.unread === 0;
  room.item.querySelector('.unread b').textContent = room.unread > 99 ? '99+' : String(room.unread);
  const all = [...rooms.values()].reduce((sum, each) => sum + each.unread, 0);
  document.title = all > 0 ? `(${all}) pushit chat` : 'pushit chat';
  if (room !== current) return;
  showPeople(room);

  $('empty').hidden = room.entries.length > 0 && !room.refused;
  $('empty').classList.toggle('refused', room.refused !== '');
  $('composer').hidden = room.channel === EVERYTHING || room.refused !== '';
  $('hint').textContent = room.refused
    ? `You are not in this channel. ${sentence(room.refused)}`
    : 'Nobody has said anything here yet.';
  const names = [...new Set([...room.typing.values()].map(({ name }) => name))];
  $('typing').textContent =
    names.length === 0 ? '' : names.length > 3 ? 'Several people are typing …' : `${names.join(' and ')} ${names.length > 1 ? 'are' : 'is'} typing …`;
}

/** Shows who is in the room: some faces above it, and everybody in a dialog. */
function showPeople(room) {
  if (room !== current) return;
  const all = people.of(room.here ?? []);
  const others = (room.here?.count ?? 0) - all.length; // of a room with so many that the server only counts them
  $('here').hidden = all.length + others === 0;
  $('who').textContent = others > 0 ? `${all.length + others} are here` : whoIsHere(all);
  const put = (list, element, { name, tab }) => {
    paint(element, name);
    element.classList.toggle('typing', room.typing.has(tab));
    list.push(element);
  };
  const faces = [];
  const entries = [];
  for (const person of all) {
    if (faces.length < MOST_FACES) {
      const face = document.createElement('span');
      face.append(Object.assign(document.createElement('span'), { className: 'avatar' }));
      put(faces, face, person);
    }
    const entry = fromTemplate('person');
    entry.querySelector('.name').textContent = person.name;
    entry.querySelector('small').textContent = person.me ? 'you' : room.typing.has(person.tab) ? 'is typing …' : '';
    put(entries, entry, person);
  }
  $('faces').replaceChildren(...faces);
  $('people').replaceChildren(...entries);
}

// ---- What was said before, and meanwhile ----

/** Puts messages that the server has kept above those that have come since the page was opened, or was back. */
function begin(room, messages, at = 0) {
  for (const { channel, uuid, data } of messages) {
    if (isHidden(room, channel) || room.seen.has(uuid)) continue;
    known.add(channel);
    insert(room, makeEntry(room, uuid, channel, data, published.has(uuid) ? 'sent' : undefined), at++);
  }
  if (room === current) toEnd();
  showRoom(room);
}

const MISSING = {
  epoch: 'the server was restarted',
  count: 'there were more than the server keeps',
  age: 'you were away for longer than the server keeps them',
  bytes: 'the server had no room for them',
  limit: 'there were too many to send at once',
};

push.on('gap', ({ channel, reason }) => {
  const room = rooms.get(channel);
  if (!room) return;
  const line = mark(room, 'gap', `Messages may be missing here: ${MISSING[reason] ?? 'the server does not keep them'}.`);
  // What there is comes below the line.
  push.history(channel, { last: OPENING }).then(({ messages }) => begin(room, messages, room.entries.indexOf(line) + 1), () => {});
});

let lost = false;
push.on('state', ({ name }) => {
  lost ||= name === 'disconnected';
});

// Back after a loss: what was missed comes now, and then the answer to a question that is asked now.
push.on('subscribe', async ({ channel }) => {
  const room = rooms.get(channel);
  if (!room || !lost) return;
  const back = (room.back = { missed: 0 });
  await push.history(channel, { last: 1 }).catch(() => {});
  if (room.back === back) room.back = undefined;
});

/** Counts a message that was missed, in a line above the first of them. */
function countMissed(room) {
  const missed = ++room.back.missed;
  room.back.mark ??= mark(room, 'away', '');
  room.back.mark.element.querySelector('span').textContent = `${missed} ${missed > 1 ? 'messages' : 'message'} while you were away`;
}

/** Puts a line of the page's own between the messages. */
function mark(room, kind, words) {
  const entry = { uuid: `mark ${Math.random()}`, channel: room.channel, name: '', text: '', at: Date.now(), mine: false, status: 'sent', mark: true, element: fromTemplate('mark') };
  entry.element.classList.add(kind);
  entry.element.querySelector('span').textContent = words;
  insert(room, entry);
  showRoom(room);
  return entry;
}

// ---- Messages ----

/** Whether a message of the pattern is one between the pages, which no room shows. */
function isHidden(room, channel) {
  return room.channel === EVERYTHING && (channel.startsWith(TYPING) || channel === 'names');
}

function onMessage(room, { channel, uuid, data }) {
  if (isHidden(room, channel)) return;
  known.add(channel);
  const own = room.entries.find((entry) => entry.uuid === uuid && entry.status !== 'sent');
  if (own) return sent(room, own, true);
  if (room.seen.has(uuid)) return; // it was repeated, because the first answer was lost
  if (room.back) countMissed(room);
  const entry = makeEntry(room, uuid, channel, data, published.has(uuid) ? 'sent' : undefined);
  insert(room, entry);
  for (const [who, { name }] of room.typing) if (name === entry.name) stopTyping(room, who);
  if (room !== current || document.hidden) room.unread += room.channel === EVERYTHING ? 0 : 1;
  showRoom(room);
}

/** @returns {Entry} with a status if the message is this page's own */
function makeEntry(room, uuid, channel, data, status) {
  const plain = typeof data?.text === 'string' && typeof data?.name === 'string';
  const now = Date.now();
  const at = Math.abs(data?.at - now) < 86_400_000 ? data.at : now; // the sender's clock, if it is plausible
  const entry = {
    uuid,
    channel,
    data,
    name: plain ? data.name.trim().slice(0, NAME_LENGTH) || 'Nobody' : 'a program',
    text: plain ? data.text : JSON.stringify(data), // a channel carries any JSON: show it as it is
    at,
    mine: status !== undefined,
    status: status ?? 'sent',
    element: fromTemplate('entry'),
  };
  const part = (selector) => entry.element.querySelector(selector);
  entry.element.classList.toggle('mine', entry.mine);
  entry.element.classList.toggle('raw', !plain);
  paint(entry.element, entry.name);
  part('.name').textContent = entry.name;
  part('.text').textContent = entry.text;
  part('time').textContent = clock.format(at);
  part('time').dateTime = new Date(at).toISOString();
  if (room.channel === EVERYTHING) {
    part('.where').textContent = `#${channel}`;
    part('.where').href = linkTo(channel);
  }
  part('.again').addEventListener('click', () => sendAgain(room, entry));
  part('.edit').addEventListener('click', () => edit(room, entry));
  return entry;
}

function insert(room, entry, at = endOf(room, entry)) {
  room.seen.add(entry.uuid);
  room.entries.splice(at, 0, entry);
  showStatus(entry);
  group(room, at);
  group(room, at + 1);
  if (room.entries.length > MOST_ENTRIES) {
    const [oldest] = room.entries.splice(0, 1);
    room.seen.delete(oldest.uuid);
    oldest.element.remove();
    group(room, 0);
  }
  if (room !== current) return;
  const follow = atEnd() || entry.mine;
  const next = room.entries[room.entries.indexOf(entry) + 1];
  log.insertBefore(entry.element, next ? next.element : null);
  if (follow) toEnd();
  else $('newer').hidden = false;
}

/** Where an entry goes: messages that are still being sent stay at the end. */
function endOf(room, { status }) {
  let at = room.entries.length;
  while (status === 'sent' && at > 0 && room.entries[at - 1].status === 'sending') at--;
  return at;
}

/** Messages of one sender within a short time show the name once. */
function group(room, at) {
  const entry = room.entries[at];
  if (!entry) return;
  const before = room.entries[at - 1];
  const together =
    before && !entry.mark && before.name === entry.name && before.mine === entry.mine && before.channel === entry.channel && entry.at - before.at < SAME_BREATH;
  entry.element.classList.toggle('together', Boolean(together));
}

function showStatus(entry) {
  if (entry.mark) return;
  entry.element.dataset.status = entry.status;
  entry.element.querySelector('.failed').hidden = entry.status !== 'failed';
}

function say(room, words) {
  const data = { name: myName, text: words, at: Date.now() };
  const uuid = publish(room, { channel: room.channel, data }, () => entry);
  const entry = makeEntry(room, uuid, room.channel, data, 'sending');
  published.add(uuid);
  insert(room, entry);
  showRoom(room);
}

/** Publishes, and shows the result. A repeated message keeps its uuid. */
function publish(room, message, entryOf) {
  return push.publish(
    message,
    (refusal) => failed(room, entryOf(), refusal),
    () => sent(room, entryOf(), false),
  );
}

function sendAgain(room, entry) {
  entry.status = 'sending';
  showStatus(entry);
  publish(room, entry, () => entry);
}

function failed(room, entry, refusal) {
  entry.status = 'failed';
  entry.element.querySelector('.reason').textContent = sentence(refusal.message);
  entry.element.querySelector('.again').hidden = refusal.final;
  showStatus(entry);
  if (room === current && atEnd(200)) toEnd();
}

/** Takes a refused message back into the composer. */
function edit(room, entry) {
  room.entries.splice(room.entries.indexOf(entry), 1);
  entry.element.remove();
  showRoom(room);
  text.value = [entry.text, text.value].filter(Boolean).join('\n');
  text.focus();
}

/** The server has the message. When it comes back on the channel, it gets its place in the order that all agents see. */
function sent(room, entry, back) {
  if (entry.status === 'sent') return;
  entry.status = 'sent';
  showStatus(entry);
  if (!back) return;
  const was = room.entries.indexOf(entry);
  room.entries.splice(was, 1);
  group(room, was);
  insert(room, entry);
}

// ---- Who is typing: one subscription to typing/* for all rooms ----

function onTyping({ channel, data }) {
  const room = rooms.get(channel.slice(TYPING.length));
  if (!room || typeof data?.name !== 'string' || typeof data?.tab !== 'string' || data.tab === tab) return;
  stopTyping(room, data.tab);
  if (room.typing.size > 20) return;
  const timer = setTimeout(() => stopTyping(room, data.tab), TYPING_LASTS);
  room.typing.set(data.tab, { name: data.name.slice(0, NAME_LENGTH), timer });
  showRoom(room);
}

function stopTyping(room, who) {
  clearTimeout(room.typing.get(who)?.timer);
  room.typing.delete(who);
  showRoom(room);
}

text.addEventListener('input', () => {
  if (push.state.name !== 'connected' || text.value.trim() === '' || Date.now() - saidTypingAt < TYPING_EVERY) return;
  saidTypingAt = Date.now();
  push.publish(TYPING + current.channel, { name: myName, tab }, () => {}); // a lost one does not matter
});

// ---- The composer ----

$('composer').addEventListener('submit', (event) => {
  event.preventDefault();
  const words = text.value.trim();
  if (words === '') return;
  text.value = '';
  saidTypingAt = 0;
  say(current, words);
  text.focus();
});

text.addEventListener('keydown', (event) => {
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $('composer').requestSubmit();
});

// ---- Scrolling ----

function atEnd(slack = 60) {
  return scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < slack;
}

function toEnd() {
  scroll.scrollTop = scroll.scrollHeight;
  $('newer').hidden = true;
}

let followed = true;
scroll.addEventListener('scroll', () => {
  followed = atEnd();
  if (followed) $('newer').hidden = true;
});
new ResizeObserver(() => followed && toEnd()).observe(scroll); // a phone's keyboard opened or closed
$('newer').addEventListener('click', toEnd);

// ---- Dialogs ----

$('join').addEventListener('click', () => {
  const options = [...known].filter((channel) => !rooms.has(channel)).slice(0, 50);
  $('known').replaceChildren(...options.map((channel) => new Option(channel, channel)));
  ask('join-dialog', '', (channel) => {
    location.hash = linkTo(channel);
    text.focus();
  });
});

$('me').addEventListener('click', () =>
  ask('name-dialog', myName, (name) => {
    myName = name;
    remember('localStorage', 'name', name);
    people.rename(name);
    showMe();
  }),
);

$('here').addEventListener('click', () => $('people-dialog').showModal());

function ask(dialogId, value, done) {
  const dialog = $(dialogId);
  const input = dialog.querySelector('input');
  input.value = value;
  dialog.returnValue = '';
  dialog.onclose = () => {
    if (dialog.returnValue === 'ok' && input.value.trim() !== '') done(input.value.trim());
  };
  dialog.showModal();
  input.select();
}

// ---- Small things ----

function showMe() {
  paint($('me'), myName);
  $('me').querySelector('.name').textContent = myName;
}

showMe();
for (const channel of recall('localStorage', 'rooms') ?? ['lobby', 'random', 'stories/5', EVERYTHING]) join(channel);
addEventListener('hashchange', enterFromAddress);
document.addEventListener('visibilitychange', () => showRoom(current));
enterFromAddress();
