// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * A world without a network. The test decides the time, the random numbers and what the
 * server sends. It replaces what the client takes from globalThis, for each test, so that
 * many clients can run side by side.
 *
 * @module
 */

import { PushIt } from '../src/pushit.js';

/** Runs everything that does not wait for a timer. */
export async function settle() {
  for (let n = 0; n < 30; n++) await null;
}

export class World extends EventTarget {
  /** @type {FakeSocket[]} */
  sockets = [];
  /** @type {{url: string, method: string, body?: string, signal?: AbortSignal, answer: (response: Response) => void, fail: (error: Error) => void}[]} */
  requests = [];
  random = 0.5;
  navigator = { onLine: true };
  Math = { random: () => this.random };
  Date = { now: () => this.#now };
  location = { href: 'https://example.com/page' };
  document = Object.assign(new EventTarget(), { hidden: false, baseURI: 'https://example.com/page' });
  sessionStorage = storage();
  #now = 1_000_000;
  #timers = new Map();
  #last = 0;

  WebSocket = (() => {
    const world = this;
    return class extends FakeSocket {
      constructor(url) {
        super(url);
        world.sockets.push(this);
        world.onSocket?.(this);
      }
    };
  })();

  fetch = (url, { method = 'GET', body, signal } = {}) =>
    new Promise((answer, fail) => {
      signal?.addEventListener('abort', () => fail(signal.reason));
      const request = { url, method, body, signal, answer, fail };
      this.requests.push(request);
      this.onRequest?.(request);
    });

  setTimeout = (fn, ms = 0) => {
    this.#timers.set(++this.#last, { at: this.#now + Math.max(0, ms), fn });
    return this.#last;
  };

  clearTimeout = (timer) => this.#timers.delete(timer);

  /** The number of timers: a closed client has none. */
  get timers() {
    return this.#timers.size;
  }

  get now() {
    return this.#now;
  }

  get socket() {
    return this.sockets.at(-1);
  }

  /** Lets time pass, so that timers fire. */
  async tick(ms) {
    const until = this.#now + ms;
    await settle();
    for (;;) {
      let next;
      for (const [id, timer] of this.#timers) if (timer.at <= until && (!next || timer.at < next.at)) next = { id, ...timer };
      if (!next) break;
      this.#timers.delete(next.id);
      this.#now = Math.max(this.#now, next.at);
      next.fn();
      await settle();
    }
    this.#now = until;
  }

  /** The machine sleeps: the clock goes on, and no timer fires. */
  sleep(ms) {
    this.#now += ms;
  }

  async event(type, target = this) {
    target.dispatchEvent(new Event(type));
    await settle();
  }

  async hide(hidden = true) {
    this.document.hidden = hidden;
    await this.event('visibilitychange', this.document);
  }

  /** Makes a client in this world, and records its events. */
  async open(options = {}) {
    const push = new PushIt({ endpoint: '/push', global: this, ...options });
    push.told = [];
    push.states = [];
    push.on('state', (state) => push.states.push(state));
    push.on('error', (error) => push.told.push(`error ${error.code} ${error.message}`));
    push.onConnect = () => push.told.push('connect');
    push.onDisconnect = (state) => push.told.push(`disconnect ${state.name}`);
    push.onConnectionDenied = (reason) => push.told.push(`denied ${reason}`);
    await settle();
    return push;
  }

  /** Likewise, and lets it connect. */
  async connected(options) {
    const push = await this.open(options);
    await this.socket.accept();
    push.told.length = 0;
    return push;
  }
}

function storage() {
  const items = new Map();
  return { getItem: (key) => items.get(key) ?? null, setItem: (key, value) => void items.set(key, value) };
}

/** A WebSocket with SockJS frames. The test is its server. */
export class FakeSocket {
  /** The frames that it got, in order, and the number of messages that they came in. */
  sent = [];
  messages = 0;
  closed = false;

  constructor(url) {
    this.url = String(url);
  }

  send(text) {
    this.messages++;
    this.sent.push(...JSON.parse(text).map((each) => JSON.parse(each)));
  }

  close() {
    this.closed = true;
  }

  /** Sends SockJS frames to the client. */
  async raw(data) {
    this.onmessage?.({ data });
    await settle();
  }

  async receive(...frames) {
    await this.raw(`a${JSON.stringify(frames.map((frame) => JSON.stringify(frame)))}`);
  }

  /** Opens the session and lets the client connect. */
  async accept(rest = {}) {
    await this.raw('o');
    await this.answer('/meta/connect', rest);
  }

  /** Answers the last frame on the channel, or the named one. */
  async answer(channel, rest = {}, of = (frame) => frame.channel === channel) {
    const { uuid, data } = this.sent.findLast(of);
    await this.receive({ channel, uuid, data, successful: true, error: '', ...rest });
  }

  /** Answers each subscribe that has no answer yet. */
  async subscribed() {
    for (const frame of this.sent.filter(({ channel, done }) => channel === '/meta/subscribe' && !done)) {
      frame.done = true;
      await this.receive({ channel: frame.channel, uuid: frame.uuid, data: frame.data, successful: true, error: '' });
    }
  }

  async taken(uuid) {
    await this.receive({ channel: '/meta/successful', uuid });
  }

  async refused(uuid, rest) {
    await this.receive({ channel: '/meta/error', uuid, error: 'no', code: 'denied', ...rest });
  }

  /** The connection breaks, or cannot be opened. */
  async lose(code = 1006, reason = '') {
    this.onclose?.({ code, reason });
    await settle();
  }

  /** The channels of the frames, in order. */
  get about() {
    return this.sent.map(({ channel, data }) => (channel.startsWith('/meta/') ? `${channel.slice(6)} ${data?.channel ?? ''}`.trim() : channel));
  }
}
