// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Subscribers of channels with a history, whose connections fail again and again. Each
 * gets every message, once, and in the same order as the others.
 *
 * @module
 */

import { PushIt } from '../src/pushit.js';
import { Proxy } from '../test/proxy.mjs';
import { CHANNELS, cutAtRandom, Publisher, QUICK } from './chaos.mjs';
import { randomFrom } from './report.mjs';
import { until } from './storm.mjs';

const TRANSPORTS = ['websocket', 'xhr_streaming', 'xhr'];
/** Names, a pattern, and both. */
const WANTED = [CHANNELS, ['chaos/*'], ['chaos/*', ...CHANNELS]];

/** Makes a server keep the messages of these runs. */
export function withHistory(handler) {
  handler.history = { count: 10_000, ttl: '10m' };
  handler.limits = { ...handler.limits, history_bytes: 256 << 20 };
}

/** Records the messages of each channel that a client got. */
class Reader {
  heard = new Map(CHANNELS.map((channel) => [channel, []]));
  /** The messages of each channel or pattern that a listener of its own got. */
  listeners = new Map();
  gaps = 0;

  /**
   * @param {(text: string) => void} say  is told of gaps
   * @param {Map<string, string>} [positions]  gets the position of each message
   */
  constructor(push, wanted, say, positions) {
    Object.assign(this, { push, wanted, positions });
    push.on('gap', ({ channel, reason }) => {
      this.gaps++;
      say(`    a client of ${wanted} was told of a gap on ${channel}, at ${seconds(performance.now())}: ${reason}`);
    });
    push.onMessageReceived = (channel, { payload, position }) => {
      this.heard.get(channel).push(payload);
      this.positions?.set(payload, position);
    };
    for (const name of wanted) {
      const got = new Map(CHANNELS.map((channel) => [channel, []]));
      this.listeners.set(name, got);
      push.channel(name).on('message', ({ channel, payload }) => got.get(channel).push(payload));
    }
  }

  get subscribed() {
    return this.push.channels.length === this.wanted.length;
  }
}

/**
 * Publishers and subscribers over connections that `disturb` breaks.
 *
 * @param {import('../test/harness.mjs').Server} server  with a history
 * @param {{publishers: number, subscribers: number, pause: number, seed: number, options?: object}} run
 * @param {(proxy: Proxy, random: () => number) => Promise<void>} disturb
 */
async function run(server, given, disturb) {
  const proxy = await Proxy.start(() => server.port);
  try {
    return await everybodyHears({ url: proxy.url, steady: server.url }, given, (random) => disturb(proxy, random));
  } finally {
    await proxy.stop();
  }
}

/**
 * Publishers and subscribers, while `disturb` breaks connections.
 *
 * @param {{url: string, steady: string}} where  the URL to disturb, and one that is
 *   disturbed less, or not at all, to see the order of all messages
 * @param {{publishers: number, subscribers: number, pause: number, seed: number, options?: object, say?: (text: string, uuid?: string) => void}} run
 *   `pause` is how many ms a publisher waits at most between two messages; `say` is told of
 *   gaps, how many were refused, and of each message that was accepted, and that nobody got
 * @param {(random: () => number, readers: Reader[]) => Promise<void>} disturb
 */
export async function everybodyHears({ url, steady }, { publishers, subscribers, pause, seed, options = QUICK, say = () => {} }, disturb) {
  const random = randomFrom(seed);
  const pushes = [];
  const client = (given) => {
    pushes.push(new PushIt({ endpoint: `${url}/push`, outboxMessages: 10_000, outboxBytes: 10e6, ...options, ...given }));
    return pushes.at(-1);
  };
  const by = (n) => ({ transports: [TRANSPORTS[n % 3]] });
  try {
    const witness = new Reader(client({ endpoint: `${steady}/push` }), ['chaos/*'], say, new Map());
    const readers = Array.from({ length: subscribers }, (_, n) => new Reader(client(by(n)), WANTED[Math.floor(n / 3) % 3], say));
    const writers = Array.from({ length: publishers }, (_, n) => new Publisher(n, client(by(n)), random, pause));
    const all = [witness, ...readers];
    await until('all are subscribed', () => all.every((each) => each.subscribed));
    for (const each of all) each.gaps = 0; // a server may have begun before its log: nobody has missed anything yet
    for (const writer of writers) writer.start();
    await disturb(random, readers);
    for (const writer of writers) writer.stop();
    await until('each publish has ended', () => writers.every((writer) => writer.waiting === 0));
    const last = new Publisher('last', client({ endpoint: `${steady}/push` }), random);
    for (const channel of CHANNELS) last.publish(channel);
    await until('the last one is published', () => last.waiting === 0);
    const ends = (heard) => CHANNELS.every((channel) => heard.get(channel).at(-1)?.startsWith('last-'));
    // A client with a half-open connection notices that after a while.
    await until('all have heard the last', () => all.every((each) => ends(each.heard) && [...each.listeners].every(([name, heard]) => (name === 'chaos/*' ? ends(heard) : heard.get(name).at(-1)?.startsWith('last-')))));
    return verdict(witness, readers, [...writers, last], say);
  } finally {
    for (const push of pushes) push.close();
  }
}

/** Says what is known of a message that was accepted, and that nobody got. */
function describe(name, { channel, uuid, at, ended, position, sessions }, witness) {
  const others = [...witness.positions].filter(([, place]) => position && place === position).map(([other]) => other);
  return [
    `${name} on ${channel} was accepted, and nobody got it: uuid ${uuid}`,
    `sent at ${seconds(at)}, in ${sessions} sessions, and accepted at ${seconds(ended)}`,
    `its position is ${position ?? 'not known'}, where ${others.join(', ') || 'nothing'} came`,
  ].join('; ');
}

/** A time, as clusterChaos says it. */
export const seconds = (time) => `${(time / 1000).toFixed(2)} s`;

function verdict(witness, readers, writers, say) {
  const result = { published: 0, accepted: 0, delivered: 0, wanted: 0, endedOtherwise: 0, unheard: 0, missed: 0, doubled: 0, reordered: 0, gaps: witness.gaps };
  const sent = new Map(writers.flatMap((writer) => [...writer.sent]));
  const refused = new Map();
  for (const { ends, accepted, code } of sent.values()) {
    result.published++;
    if (accepted) result.accepted++;
    else refused.set(code, (refused.get(code) ?? 0) + 1);
    if (ends !== 1) result.endedOtherwise++;
  }
  say(`refused: ${[...refused].map(([code, count]) => `${count} as ${code}`).join(', ') || 'none'}`);
  /** Compares what a client got with what was published. */
  const compare = (got, order) => {
    const heard = new Set(got);
    const missed = order.filter((name) => !heard.has(name)).length;
    result.wanted += order.length;
    result.delivered += order.length - missed;
    result.missed += missed;
    result.doubled += got.length - heard.size;
    // Without those that came twice, and those that did not come, it is the same list.
    const rest = order.filter((name) => heard.has(name));
    result.reordered += [...heard].filter((name, n) => name !== rest[n]).length;
  };
  for (const channel of CHANNELS) {
    const order = witness.heard.get(channel);
    const all = new Set(order);
    result.doubled += order.length - all.size;
    for (const [name, message] of sent) {
      if (!message.accepted || message.channel !== channel || all.has(name)) continue;
      result.unheard++;
      say(describe(name, message, witness), message.uuid);
    }
    for (const reader of readers) {
      compare(reader.heard.get(channel), order);
      for (const [name, heard] of reader.listeners) if (name === channel || name === 'chaos/*') compare(heard.get(channel), order);
    }
  }
  for (const reader of readers) result.gaps += reader.gaps;
  return result;
}

/** Connections are cut at random. @param {{publishers: number, subscribers: number, cuts: number, between: number, seed: number}} options */
export const cutsWithHistory = (server, { cuts, between, ...rest }) => run(server, { pause: 200, ...rest }, (proxy, random) => cutAtRandom(proxy, random, cuts, between));

/**
 * The network fails at random, for `away` ms each time: nothing gets through, or
 * connections break, and no new ones open.
 *
 * @param {{publishers: number, subscribers: number, lasts: number, away: number, between: number, seed: number, options?: object}} run
 *   `lasts` is how many ms all of it takes; `between`, how many lie between two drops, on average
 * @returns also `drops`, how many there were
 */
export async function jitter(server, { lasts, away, between, ...rest }) {
  let drops = 0;
  const pass = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
  const result = await run(server, { pause: 500, ...rest }, async (proxy, random) => {
    const end = performance.now() + lasts;
    while (performance.now() < end) {
      await pass(random() * 2 * between);
      drops++;
      if (random() < 0.3) {
        proxy.stalled = true;
        await pass(away);
        proxy.stalled = false;
      } else {
        await proxy.down();
        await pass(away);
        await proxy.up();
      }
    }
  });
  return { drops, ...result };
}
