// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * A board: the pointers of all who are here, and flowers that stay. Places are fractions of
 * the board, so that they fit each window.
 *
 * @module
 */

import { hue, paint, randomName } from './names.js';
import { $, fromTemplate, showConnection } from './page.js';
import { People, whoIsHere } from './people.js';
import { PushIt } from './push/pushit.mjs';

const EVERY = 50; // how often a page says where its pointer is, in ms
const IDLE = 5_000; // after so many ms without a move, a pointer fades
const MOST_FLOWERS = 200;
const MOST_FACES = 5;

const board = $('board');
const push = new PushIt();
const room = push.channel(`boards/${location.hash.slice(1) || 'meadow'}`);
const here = room.presence();
let myName = recall() ?? randomName();
const people = new People(push, myName, show);
showConnection(push);

// ---- The pointers of the others ----

/** By the id of the page's connection. @type {Map<string, {element: HTMLElement, idle: number}>} */
const pointers = new Map();

room.on('message', ({ data }) => {
  const { uuid, x, y, flower } = data;
  if (flower) plant(x, y);
  if (![...here].some((member) => member.uuid === uuid)) return; // it has gone, or the list has not come
  let pointer = pointers.get(uuid);
  if (!pointer) {
    pointer = { element: fromTemplate('pointer'), idle: 0 };
    pointers.set(uuid, pointer);
    label(uuid);
    board.append(pointer.element);
  }
  place(pointer.element, x, y);
  pointer.element.classList.remove('idle');
  clearTimeout(pointer.idle);
  pointer.idle = setTimeout(() => pointer.element.classList.add('idle'), IDLE);
});

here.on('leave', ({ uuid }) => {
  clearTimeout(pointers.get(uuid)?.idle);
  pointers.get(uuid)?.element.remove();
  pointers.delete(uuid);
});
here.on('change', show);

function label(uuid) {
  const [{ name }] = people.of([{ uuid }]);
  const { element } = pointers.get(uuid);
  element.style.setProperty('--hue', String(hue(name)));
  element.querySelector('bdi').textContent = name;
}

function place(element, x, y) {
  element.style.left = `${x * 100}%`;
  element.style.top = `${y * 100}%`;
}

// ---- My own ----

let moved; // the last place that was not published
let timer = 0;

board.addEventListener('pointermove', (event) => {
  moved = placeOf(event);
  if (timer) return;
  say();
  timer = setInterval(say, EVERY);
});

/** Says where the pointer is. The server does not keep it, and a lost one does not matter. */
function say() {
  if (!moved || push.state.name !== 'connected') {
    clearInterval(timer);
    timer = 0;
    return;
  }
  room.publish(moved, { history: false }).catch(() => {});
  moved = undefined;
}

board.addEventListener('click', (event) => {
  const { x, y } = placeOf(event);
  plant(x, y);
  room.publish({ x, y, flower: true }).catch(() => {});
});

/** @returns {{x: number, y: number}} */
function placeOf({ clientX, clientY }) {
  const { left, top, width, height } = board.getBoundingClientRect();
  const within = (part) => Math.round(Math.min(1, Math.max(0, part)) * 10_000) / 10_000;
  return { x: within((clientX - left) / width), y: within((clientY - top) / height) };
}

// ---- Flowers ----

const flowers = [];

function plant(x, y) {
  const flower = fromTemplate('flower');
  flower.style.setProperty('--hue', String(hue(`${x} ${y}`))); // for all the same
  place(flower, x, y);
  board.prepend(flower); // below the pointers
  $('hint').hidden = true;
  flowers.push(flower);
  if (flowers.length > MOST_FLOWERS) flowers.shift().remove();
}

// The newest that were planted before. Those that come meanwhile are live.
room.history({ last: MOST_FLOWERS }).then(
  ({ messages }) => messages.forEach(({ data }) => data.flower && plant(data.x, data.y)),
  () => {},
);

// ---- Who is here ----

function show() {
  const all = people.of(here);
  $('who').textContent = whoIsHere(all);
  $('faces').replaceChildren(
    ...all.slice(0, MOST_FACES).map(({ name }) => {
      const face = document.createElement('span');
      face.append(Object.assign(document.createElement('span'), { className: 'avatar' }));
      paint(face, name);
      return face;
    }),
  );
  for (const uuid of pointers.keys()) label(uuid);
}

const input = $('name');
input.value = myName;
paint(input.parentElement, myName);
input.addEventListener('change', () => {
  input.value = input.value.trim() || myName;
  myName = input.value;
  remember(myName);
  paint(input.parentElement, myName);
  people.rename(myName);
});

/** Storage that the visitor may have switched off. A name is for its tab, so that two tabs are two people. */
function recall() {
  try {
    return sessionStorage.getItem('pushit-cursors-name');
  } catch {
    return null;
  }
}

function remember(name) {
  try {
    sessionStorage.setItem('pushit-cursors-name', name);
  } catch {
    // Then the page does not remember.
  }
}

remember(myName);
