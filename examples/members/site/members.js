// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * The page of the members' area. The rules in the Caddyfile decide what it may do and what
 * it gets. A page sends {text}. The server makes {from, text, at} of it, so the page can
 * trust it: from is the user who was logged in, text is a string, at is the server's time.
 *
 * @module
 */

import { paint } from './names.js';
import { $, fromTemplate, sentence, showConnection } from './page.js';
import { PushIt } from './push/pushit.mjs';

const MOST_ENTRIES = 300; // entries that a view stores

const me = $('name').textContent;
const text = $('text');
const clock = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit' });
const sending = new Map(); // elements of this page's messages without an answer, by uuid

const push = new PushIt();
showConnection(push);

// ---- Views ----

const views = {
  inbox: makeView('inbox', 'Inbox', `users/${me}: members write, only you read`),
  news: makeView('news', 'News', 'news: editors write, members read'),
  rules: makeView('rules', 'Rules', 'What the Caddyfile says, tried out'),
};
/** @type {ReturnType<typeof makeView>} */
let current;

function makeView(name, title, about) {
  const section = $(`view-${name}`);
  const link = document.querySelector(`nav a[href="#${name}"]`);
  return { name, title, about, section, link, log: section.querySelector('.log'), unread: 0, draft: '' };
}

function enterFromAddress() {
  if (current) current.draft = text.value;
  current = views[location.hash.slice(1)] ?? views.inbox;
  $('title').textContent = current.title;
  $('about').textContent = current.about;
  $('composer').hidden = current === views.rules;
  $('to-label').hidden = current !== views.inbox;
  text.value = current.draft;
  for (const each of Object.values(views)) {
    each.section.hidden = each !== current;
    if (each === current) each.link.setAttribute('aria-current', 'page');
    else each.link.removeAttribute('aria-current');
  }
  toEnd(current);
  showUnread();
}

function showUnread() {
  if (!document.hidden) current.unread = 0;
  let all = 0;
  for (const { unread, link } of [views.inbox, views.news]) {
    all += unread;
    link.querySelector('.unread').hidden = unread === 0;
    link.querySelector('.unread b').textContent = unread > 99 ? '99+' : String(unread);
  }
  document.title = all > 0 ? `(${all}) pushit members` : 'pushit members';
}

function toEnd({ log, section }) {
  if (log) section.scrollTop = section.scrollHeight;
}

// ---- Messages ----

/** Reads a channel into a view, which also shows a refusal. */
function read(view, channel) {
  const empty = view.section.querySelector('.empty');
  const handle = push.channel(channel);
  const show = (refusal) => {
    if (refusal) empty.textContent = `You cannot read here. ${sentence(refusal.message)}`;
    empty.classList.toggle('refused', Boolean(refusal));
    view.section.dataset.read = String(!refusal);
    empty.hidden = !refusal && view.log.childElementCount > 0;
  };
  handle.on('message', (message) => receive(view, message));
  handle.subscribe(show, () => show());
}

function receive(view, { uuid, data }) {
  // Others can use the same uuid. Only the server's stamp shows that this message is the
  // page's own.
  const own = data.from === me && sending.get(uuid);
  if (own) return showTime(own, data.at);
  show(view, data, view === views.news && data.from === me);
  if (view !== current || document.hidden) view.unread++;
  showUnread();
}

/** Adds a message to a view, and returns its element. */
function show(view, { from, text, at }, mine, to = '') {
  const element = fromTemplate('entry');
  const part = (selector) => element.querySelector(selector);
  element.classList.toggle('mine', mine);
  paint(element, from);
  part('.where').textContent = to && `to ${to}`;
  part('.name').textContent = from;
  part('.text').textContent = text;
  showTime(element, at);
  const { section, log } = view;
  const follow = mine || section.scrollHeight - section.scrollTop - section.clientHeight < 60;
  log.append(element);
  if (log.childElementCount > MOST_ENTRIES) log.firstElementChild.remove();
  section.querySelector('.empty').hidden = true;
  if (follow) toEnd(view);
  return element;
}

function showTime(element, at) {
  const time = element.querySelector('time');
  time.textContent = clock.format(new Date(at));
  time.dateTime = at;
}

async function say(view, channel, words, to) {
  const sent = push.channel(channel).publish({ text: words });
  const { uuid } = sent;
  const element = show(view, { from: me, text: words, at: new Date().toISOString() }, true, to);
  element.dataset.status = 'sending';
  sending.set(uuid, element);
  try {
    await sent;
    element.dataset.status = 'sent';
  } catch (refusal) {
    element.dataset.status = 'failed';
    element.querySelector('.reason').textContent = sentence(refusal.message);
    element.querySelector('.failed').hidden = false;
    element.querySelector('.edit').addEventListener('click', () => edit(element, words, to));
    toEnd(view);
  }
  sending.delete(uuid);
}

/** Takes a refused message back into the composer. */
function edit(element, words, to) {
  element.remove();
  if (to) $('to').value = to;
  text.value = [words, text.value].filter(Boolean).join('\n');
  text.focus();
}

$('composer').addEventListener('submit', (event) => {
  event.preventDefault();
  const words = text.value.trim();
  if (words === '') return;
  text.value = '';
  if (current === views.news) say(views.news, 'news', words);
  else say(views.inbox, `users/${$('to').value}`, words, $('to').value);
  text.focus();
});

text.addEventListener('keydown', (event) => {
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $('composer').requestSubmit();
});

// ---- Trying the rules ----

async function subscribe(channel) {
  await push.channel(channel).subscribe(() => {}); // the caller shows the refusal
  push.unsubscribe(channel);
}

const publish = (channel, data) => push.channel(channel).publish(data);

function addAttempt(what, act, ...args) {
  const element = fromTemplate('attempt');
  const part = (selector) => element.querySelector(selector);
  part('h3').textContent = what;
  part('code').textContent = [act.name, args[0], ...args.slice(1).map((data) => JSON.stringify(data))].join(' ');
  part('button').setAttribute('aria-label', `Try: ${what}`);
  part('button').addEventListener('click', async () => {
    const answer = part('.answer');
    answer.textContent = 'Asking…';
    delete answer.dataset.refused;
    const refusal = await act(...args).then(
      () => undefined,
      (error) => error,
    );
    answer.textContent = refusal ? `Refused (${refusal.code}): ${sentence(refusal.message)}` : 'Accepted.';
    answer.dataset.refused = String(Boolean(refusal));
  });
  $('attempts').append(element);
}

paint($('me'), me);
for (const option of [...$('to').options]) if (option.value === me) option.remove();
const other = $('to').value;

read(views.inbox, `users/${me}`);
read(views.news, 'news');
addAttempt(`Read ${other}’s inbox`, subscribe, `users/${other}`);
addAttempt('Read everything at once', subscribe, '*');
addAttempt(`Write to yourself as ${other}, and see in your inbox who it is from`, publish, `users/${me}`, { from: other, text: 'Guess who!' });
addAttempt('Send what is not text', publish, `users/${other}`, { text: 7 });
addAttempt('Publish where no rule allows it', publish, 'lobby', { text: 'Is anybody here?' });

addEventListener('hashchange', enterFromAddress);
document.addEventListener('visibilitychange', showUnread);
enterFromAddress();
