// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Many clients lose their server at the same moment, and do not come back all at once.
 * Once on a simulated clock, which shows only the waits of the clients, and once with a
 * real server.
 *
 * @module
 */

import { PushIt } from '../src/pushit.js';
import { randomFrom } from './report.mjs';

/** Lets everything run that does not wait for a timer. */
async function settled() {
  for (let n = 0; n < 12; n++) await null;
}

/** A simulated clock with its timers. */
class Clock {
  now = 1_000_000;
  #timers = new Map(); // by the time that they come at
  #times = []; // a heap of these

  at(time, fn) {
    if (!this.#timers.has(time)) {
      this.#timers.set(time, new Set());
      this.#push(time);
    }
    const entry = [fn];
    this.#timers.get(time).add(entry);
    return () => this.#timers.get(time)?.delete(entry);
  }

  async runTo(end) {
    await settled();
    for (;;) {
      const time = this.#times[0];
      if (time === undefined || time > end) break;
      this.now = time;
      for (const [fn] of this.#timers.get(time)) fn();
      this.#timers.delete(time);
      this.#pop();
      await settled();
    }
    this.now = end;
  }

  #push(time) {
    const heap = this.#times;
    let at = heap.push(time) - 1;
    for (let up; at > 0 && heap[(up = (at - 1) >> 1)] > time; at = up) heap[at] = heap[up];
    heap[at] = time;
  }

  #pop() {
    const heap = this.#times;
    const last = heap.pop();
    if (heap.length === 0) return;
    let at = 0;
    for (let child; (child = 2 * at + 1) < heap.length; at = child) {
      if (heap[child + 1] < heap[child]) child++;
      if (heap[child] >= last) break;
      heap[at] = heap[child];
    }
    heap[at] = last;
  }
}

/**
 * @param {{clients: number, away: number, seed: number}} options  `away` is how long the server is, in ms
 * @returns {Promise<{times: number[], back: number}>} when each client was connected again, and since when it could be
 */
export async function simulatedStorm({ clients, away, seed }) {
  const clock = new Clock();
  const random = randomFrom(seed);
  const server = { up: true, sockets: new Set() };

  class FakeWebSocket {
    constructor() {
      clock.at(clock.now + 1 + random() * 4, () => (server.up ? this.#accept() : this.onclose({ code: 1006 })));
    }

    #accept() {
      server.sockets.add(this);
      this.onmessage({ data: 'o' });
    }

    send(text) {
      for (const each of JSON.parse(text)) {
        const frame = { ...JSON.parse(each), successful: true, error: '' };
        if (frame.channel === '/meta/ping') frame.channel = '/meta/successful';
        clock.at(clock.now + 1, () => this.onmessage({ data: `a${JSON.stringify([JSON.stringify(frame)])}` }));
      }
    }

    close() {
      server.sockets.delete(this);
    }
  }

  const global = {
    WebSocket: FakeWebSocket,
    Date: { now: () => clock.now },
    Math: { random },
    setTimeout: (fn, ms) => clock.at(clock.now + ms, fn),
    clearTimeout: (cancel) => cancel?.(),
    fetch: () =>
      new Promise((answer, fail) => {
        clock.at(clock.now + 2, () => (server.up ? answer(new Response('{"websocket":true}')) : fail(new TypeError('refused'))));
      }),
  };
  const pushes = Array.from({ length: clients }, () => new PushIt({ endpoint: 'http://pushit.test/push', channels: ['news'], global }));
  const connected = () => pushes.filter((push) => push.state.name === 'connected').length;
  await clock.runTo(clock.now + 5_000);
  if (connected() !== clients) throw new Error(`${connected()} of ${clients} were connected at all`);

  const times = [];
  for (const push of pushes) push.on('state', ({ name }) => name === 'connected' && times.push(clock.now));
  server.up = false;
  for (const socket of [...server.sockets]) socket.onclose({ code: 1006 });
  await clock.runTo(clock.now + away);
  server.up = true;
  const back = clock.now;
  await clock.runTo(back + 35_000); // no wait is longer
  for (const push of pushes) push.close();
  return { times, back };
}

/**
 * @param {import('../test/harness.mjs').Server} server  a real one
 * @param {{clients: number, away: number, seed: number}} options
 * @returns {Promise<{times: number[], back: number}>} `back` is when the first of them was
 */
export async function realStorm(server, { clients, away, seed }) {
  const random = randomFrom(seed);
  // Only the random numbers of the clients are repeatable.
  const global = new Proxy(globalThis, {
    get(target, name) {
      if (name === 'Math') return { random };
      const value = target[name];
      return typeof value === 'function' && !/^[A-Z]/.test(name) ? value.bind(target) : value;
    },
  });
  const pushes = [];
  for (let n = 0; n < clients; n++) pushes.push(new PushIt({ endpoint: `${server.url}/push`, channels: ['news'], global }));
  try {
    await until('all are connected', () => pushes.every((push) => push.channels.length === 1));
    const back = new Map(); // when each of them was
    for (const push of pushes) push.on('subscribe', () => back.has(push) || back.set(push, Date.now()));
    await server.kill();
    await new Promise((resolve) => setTimeout(resolve, away));
    await server.start();
    await until('all are back', () => back.size === clients);
    const times = [...back.values()];
    return { times, back: Math.min(...times) };
  } finally {
    for (const push of pushes) push.close();
  }
}

/** How many publishes of a client wait for their answers at most: half of what its outbox takes. */
const UNDER_WAY = 50;

/**
 * Clients publish all the time while the server is stopped and started again, each time
 * as soon as all of them are back.
 *
 * The time that Caddy takes does not matter: a client with UNDER_WAY publishes waits.
 *
 * @param {import('../test/harness.mjs').Server} server
 * @param {{clients: number, restarts: number, every: number}} options  `every` is how many ms lie between two publishes of a client
 * @returns {Promise<{published: number, accepted: number, refused: Record<string, number>, away: number}>} `refused` by code
 */
export async function quickRestarts(server, { clients, restarts, every }) {
  const all = Array.from({ length: clients }, () => ({ push: new PushIt({ endpoint: `${server.url}/push` }), waiting: 0 }));
  const total = { published: 0, accepted: 0, refused: {}, away: 0 };
  const timer = setInterval(() => {
    for (const each of all) {
      if (each.waiting === UNDER_WAY) continue;
      each.waiting++;
      total.published++;
      const refused = ({ code }) => {
        each.waiting--;
        total.refused[code] = (total.refused[code] ?? 0) + 1;
      };
      each.push.publish('restarts', 1, refused, () => {
        each.waiting--;
        total.accepted++;
      });
    }
  }, every);
  const connected = (is) => all.every(({ push }) => (push.state.name === 'connected') === is);
  try {
    for (let n = 0; n < restarts; n++) {
      await until('all are connected', () => connected(true));
      await server.kill('SIGTERM');
      await until('all know', () => connected(false));
      await server.start();
      const back = Date.now();
      await until('all are back', () => connected(true));
      total.away = Math.max(total.away, Date.now() - back);
    }
    clearInterval(timer);
    await until('each publish has ended', () => all.every(({ waiting }) => waiting === 0));
    return total;
  } finally {
    clearInterval(timer);
    for (const { push } of all) push.close();
  }
}

/** Waits until a condition is true, for up to two minutes. */
export async function until(what, is) {
  const deadline = Date.now() + 120_000;
  while (!(await is())) {
    if (Date.now() > deadline) throw new Error(`not within two minutes: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
