// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Publishers and subscribers whose connections are cut at random, again and again.
 * Subscribers lose no accepted message, get none twice or out of order, and each
 * publish ends once.
 *
 * @module
 */

import { PushIt } from '../src/pushit.js';
import { Proxy } from '../test/proxy.mjs';
import { randomFrom } from './report.mjs';
import { until } from './storm.mjs';

export const CHANNELS = ['chaos/0', 'chaos/1', 'chaos/2', 'chaos/3'];
export const QUICK = { firstWait: 50, longestWait: 500, silence: 1000, answerWithin: 1000, openWithin: 2000, connectWithin: 5000 };

/**
 * @param {import('../test/harness.mjs').Server} server
 * @param {{publishers: number, subscribers: number, cuts: number, between: number, seed: number}} options
 *   `between` is how many ms lie between two cuts, on average
 */
export async function chaos(server, { publishers, subscribers, cuts, between, seed }) {
  const random = randomFrom(seed);
  const proxy = await Proxy.start(() => server.port);
  const pushes = [];
  const start = (options) => {
    pushes.push(new PushIt(options));
    return pushes.at(-1);
  };
  const client = (options) => start({ endpoint: `${proxy.url}/push`, ...QUICK, ...options });
  const steady = () => start({ endpoint: `${server.url}/push` });
  const transports = ['websocket', 'xhr_streaming', 'xhr'];
  const transportOf = (n) => ({ transports: [transports[n % 3]] });
  try {
    const witness = new Subscriber(steady());
    const readers = Array.from({ length: subscribers }, (_, n) => new Subscriber(client(transportOf(n)), n % 2 ? ['chaos/*'] : CHANNELS));
    const writers = Array.from({ length: publishers }, (_, n) => new Publisher(n, client(transportOf(n)), random));
    const all = [witness, ...readers];
    await until('all are subscribed', () => all.every((each) => each.subscribed));
    for (const writer of writers) writer.start();

    await cutAtRandom(proxy, random, cuts, between);

    for (const writer of writers) writer.stop();
    await until('each publish has ended', () => writers.every((writer) => writer.waiting === 0));
    await until('all are subscribed again', () => all.every((each) => each.subscribed));
    const last = new Publisher('last', steady(), random);
    // A client with a half-open connection notices that after a while, and gets the next message.
    let said = -Infinity;
    await until('all have heard the last', () => {
      if (performance.now() - said > 2_000) {
        said = performance.now();
        for (const channel of CHANNELS) last.publish(channel);
      }
      return all.every((each) => CHANNELS.every((channel) => each.last(channel)?.startsWith('last-')));
    });
    await until('each last one has ended', () => last.waiting === 0);
    await until('all have heard the same', () => all.every((each) => CHANNELS.every((channel) => each.last(channel) === witness.last(channel))));
    return verdict(witness, readers, [...writers, last]);
  } finally {
    for (const push of pushes) push.close();
    await proxy.stop();
  }
}

/** Cuts connections: one, or all, or only on the server's side. Or delays what is on its way. */
export async function cutAtRandom(proxy, random, cuts, between) {
  for (let n = 0; n < cuts; n++) {
    await new Promise((resolve) => setTimeout(resolve, random() * 2 * between));
    const kind = random();
    if (kind < 0.7) proxy.cutOne(random);
    else if (kind < 0.9) proxy.halfOpen(random);
    else if (kind < 0.95) proxy.cut();
    else {
      proxy.stalled = true;
      setTimeout(() => (proxy.stalled = false), 300);
    }
  }
}

export class Publisher {
  /**
   * By name: the channel, the uuid, when it was sent, and when it ended, how often it ended, whether
   * it was accepted, at which position, or refused with which code, and in how many sessions it was
   * sent.
   */
  sent = new Map();
  waiting = 0;
  #n = 0;
  #sessions = 0;
  #timer;

  /** @param {number} [pause]  how many ms lie between two messages at most */
  constructor(id, push, random, pause = 200) {
    Object.assign(this, { id, push, random, pause });
    push.on('state', ({ name }) => name === 'connected' && this.#sessions++);
  }

  publish(channel) {
    const name = `${this.id}-${++this.#n}`;
    const message = { channel, at: performance.now(), ends: 0, accepted: false };
    const before = this.#sessions;
    this.sent.set(name, message);
    this.waiting++;
    const end = (accepted, { position, code } = {}) => {
      message.ends++;
      message.accepted ||= accepted;
      Object.assign(message, { ended: performance.now(), position, code, sessions: 1 + this.#sessions - before });
      this.waiting--;
    };
    message.uuid = this.push.publish(channel, name, (refusal) => end(false, refusal), (answer) => end(true, answer));
  }

  start() {
    const next = () => {
      this.publish(CHANNELS[Math.floor(this.random() * CHANNELS.length)]);
      this.#timer = setTimeout(next, this.random() * this.pause);
    };
    next();
  }

  stop() {
    clearTimeout(this.#timer);
  }
}

/** A subscriber keeps runs: what it heard on a channel in one subscription. */
class Subscriber {
  runs = new Map(CHANNELS.map((channel) => [channel, []]));
  #wanted;

  constructor(push, wanted = ['chaos/*']) {
    this.push = push;
    this.#wanted = wanted;
    push.on('subscribe', ({ channel: begun }) => {
      for (const channel of begun === 'chaos/*' ? CHANNELS : [begun]) this.runs.get(channel).push({ since: performance.now(), got: [] });
    });
    push.onMessageReceived = (channel, { payload }) => this.runs.get(channel).at(-1).got.push(payload);
    for (const each of wanted) push.subscribe(each);
  }

  get subscribed() {
    return this.push.channels.length === this.#wanted.length;
  }

  last(channel) {
    return this.runs.get(channel).at(-1)?.got.at(-1);
  }
}

function verdict(witness, readers, writers) {
  const result = { published: 0, accepted: 0, delivered: 0, runs: 0, endedOtherwise: 0, unheard: 0, doubled: 0, reordered: 0, lost: 0 };
  const sent = new Map(writers.flatMap((writer) => [...writer.sent]));
  for (const { ends, accepted } of sent.values()) {
    result.published++;
    if (accepted) result.accepted++;
    if (ends !== 1) result.endedOtherwise++;
  }
  for (const channel of CHANNELS) {
    const order = witness.runs.get(channel).flatMap(({ got }) => got);
    const place = new Map(order.map((name, n) => [name, n]));
    result.doubled += order.length - place.size;
    for (const [name, message] of sent) if (message.accepted && message.channel === channel && !place.has(name)) result.unheard++;
    result.reordered += outOfOrder(order);

    for (const reader of readers) {
      let next = 0; // its place in the order; nothing before it may come any more
      const runs = reader.runs.get(channel);
      for (const [n, { since, got }] of runs.entries()) {
        result.runs++;
        result.delivered += got.length;
        if (got.length === 0) continue;
        const first = place.get(got[0]) ?? NaN;
        if (!(first >= next)) result.doubled++;
        // It must get everything that was published while it was subscribed.
        for (let at = next; at < first; at++) if (sent.get(order[at]).at > since) result.lost++;
        for (const [k, name] of got.entries()) if (place.get(name) !== first + k) result[place.get(name) < first + k ? 'doubled' : 'lost']++;
        next = first + got.length;
        if (n === runs.length - 1) result.lost += order.length - next;
      }
    }
  }
  return result;
}

/** @returns {number} how many messages come before an earlier one of their publisher */
function outOfOrder(order) {
  const last = new Map();
  let count = 0;
  for (const name of order) {
    const [id, n] = name.split('-');
    if (Number(n) < (last.get(id) ?? 0)) count++;
    last.set(id, Number(n));
  }
  return count;
}
