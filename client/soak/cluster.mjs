// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Three Caddys over three NATS servers, a load balancer that sends no client to the same
 * Caddy twice in a row, and faults of all of them. All agents must get every message, once
 * and in the same order, and see who is here.
 *
 * @module
 */

import { everybodyHears, seconds, withHistory } from './missed.mjs';

/** How long a member is listed after it left, in ms. */
const LINGER = 1_000;
/** How long it takes until a machine that does not answer counts as down, in ms. */
const DOWN = 3_000;

/** How long presence may take after a fault, in ms. */
export const PRESENCE_LIMIT = DOWN + LINGER;

/** Has the Caddys keep what this run publishes, and list who is subscribed. */
export function forCluster(handler) {
  withHistory(handler);
  handler.presence = { linger: `${LINGER}ms` };
}

const pass = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Resolves when all agree, and tells how long that took. `late` is called once, if it takes longer than that. */
async function agreed(is, limit, late = limit, isLate = () => {}) {
  const begin = performance.now();
  let said = false;
  while (!is()) {
    const took = performance.now() - begin;
    if (took > limit) return Infinity;
    if (took > late && !said) {
      said = true;
      isLate();
    }
    await pass(20);
  }
  return performance.now() - begin;
}

/**
 * Tells lists apart that differ, or have not as many members as there are.
 *
 * @returns lines about them, and the members that are odd: all of them if nobody knows which
 */
function differences(lists) {
  const all = lists.map((list) => new Set([...list].map(({ uuid }) => uuid)));
  const everybody = new Set(all.flatMap((uuids) => [...uuids]));
  const odd = [...everybody].filter((uuid) => !all.every((uuids) => uuids.has(uuid)));
  const lines = [
    `    there are ${lists.length}, and the lists count ${lists.map((list) => list.count).join(', ')}`,
    ...odd.map((uuid) => `    ${uuid} is in the lists ${all.flatMap((uuids, n) => (uuids.has(uuid) ? [n] : [])).join(', ')}`),
  ];
  return { lines, odd: everybody.size > lists.length ? [...everybody] : odd };
}

/**
 * @typedef {import('../test/cluster.mjs').Cluster} Cluster
 * @typedef {(cluster: Cluster, random: () => number, scale: number) => Promise<void>} Fault
 */

const one = (all, random) => all[Math.floor(random() * all.length)];

async function restart(what, signal, away) {
  await what.kill(signal);
  await pass(away);
  await what.start();
}

async function hold(what, away) {
  what.signal('SIGSTOP');
  await pass(away);
  what.signal('SIGCONT');
}

async function part(links, how, away) {
  for (const link of links) link[how] = true;
  await pass(away);
  for (const link of links) link[how] = false;
}

/** Pulls cables. What they held back goes on when TCP tries it again, after as long as they were out, at most. */
async function unplug(cables, away) {
  await Promise.all(cables.map((cable) => cable.pull()));
  await pass(away);
  await Promise.all(cables.map((cable) => cable.plug()));
}

/** The faults, by name. `scale` 1 means up to about six seconds. @type {Record<string, Fault>} */
export const FAULTS = {
  'a Caddy is killed': (c, random, scale) => restart(one(c.nodes, random), 'SIGKILL', random() * 3_000 * scale),
  'a Caddy is stopped in order': (c, random, scale) => restart(one(c.nodes, random), 'SIGTERM', random() * 3_000 * scale),
  'a Caddy hangs': (c, random, scale) => hold(one(c.nodes, random), random() * 6_500 * scale),
  'a Caddy is reloaded': (c, random) => one(c.nodes, random).reload(),
  'all Caddys are restarted, one after the other': async (c, random, scale) => {
    for (const node of c.nodes) await restart(node, 'SIGTERM', random() * 1_000 * scale);
  },
  'a NATS server is killed': (c, random, scale) => restart(one(c.nats, random), 'SIGKILL', random() * 5_000 * scale),
  'a NATS server is stopped in order': (c, random, scale) => restart(one(c.nats, random), 'SIGTERM', random() * 3_000 * scale),
  'a NATS server hangs': (c, random, scale) => hold(one(c.nats, random), random() * 6_500 * scale),
  'a Caddy is cut off from NATS': (c, random, scale) => part(one(c.links, random), 'held', random() * 6_000 * scale),
  'a Caddy loses its connections to NATS': (c, random, scale) => part(one(c.links, random), 'down', random() * 3_000 * scale),
  'a NATS server is cut off from the others': (c, random, scale) => part(one(c.routes, random), 'held', random() * 6_000 * scale),
  'connections of clients are cut': async (c, random) => {
    for (let n = 0; n < 10; n++) c.balancer.cutOne(random);
  },
};

/** More faults, of machines that have cables. @type {Record<string, Fault>} */
export const CABLE_FAULTS = {
  'the cable from a Caddy to NATS is pulled': ({ cables }, random, scale) => unplug([one(cables.back, random)], random() * 6_000 * scale),
  'the cable of a NATS server is pulled': ({ cables }, random, scale) => unplug([one(cables.nats, random)], random() * 6_000 * scale),
  'all cables of a Caddy are pulled': ({ cables }, random, scale) => {
    const at = Math.floor(random() * cables.back.length);
    return unplug([cables.back[at], cables.front[at]], random() * 3_000 * scale);
  },
};

/** The faults of Caddys with a NATS server in each. */
export const EMBEDDED_FAULTS = [
  'a Caddy is killed', 'a Caddy is stopped in order', 'a Caddy hangs', 'a Caddy is reloaded',
  'all Caddys are restarted, one after the other', 'a NATS server is cut off from the others', 'connections of clients are cut',
];

/** Returns those of the faults whose names have one of the texts in them, which commas separate. Without texts it is all. */
export function named(faults, texts = '') {
  const wanted = texts.split(',').map((text) => text.trim()).filter(Boolean);
  const chosen = faults.filter((name) => wanted.length === 0 || wanted.some((text) => name.includes(text)));
  if (chosen.length === 0) throw new Error(`no fault is called like that: there are ${faults.join('; ')}`);
  return chosen;
}

/** Passes on what is said of a message or a member, and what the Caddys have logged about it. */
function report(cluster, text, uuid, say) {
  if (text) say(text);
  for (const [n, node] of cluster.nodes.entries()) {
    for (const line of node.log.split('\n')) if (uuid && line.includes(uuid)) say(`    Caddy ${n + 1}: ${line}`);
  }
}

/**
 * @param {Cluster} cluster
 * @param {{publishers: number, subscribers: number, lasts: number, seed: number, loses?: number, scale?: number, faults?: string[], say?: (text: string) => void}} options
 *   `lasts` is how many ms it goes on; `loses`, the share of live messages that do not
 *   reach a Caddy; `scale`, how long faults take
 * @returns what everybodyHears does, and `faults`, how many there were; `presence`, how many
 *   ms it took after each until all see the same members, after they were all subscribed
 */
export async function clusterChaos(cluster, { publishers, subscribers, lasts, seed, loses = 0.02, scale = 1, faults = Object.keys(FAULTS), say = () => {} }) {
  const presence = [];
  let count = 0;
  for (const links of cluster.links) for (const link of links) link.loses = loses;
  const { url } = cluster.balancer;
  const result = await everybodyHears({ url, steady: url }, { publishers, subscribers, pause: 400, seed, say: (text, uuid) => report(cluster, text, uuid, say) }, async (random, readers) => {
    const lists = readers.filter((reader) => reader.wanted.length > 1).map((reader) => reader.push.channel(reader.wanted.at(-1)).presence());
    const names = (list) => [...list].map(({ uuid }) => uuid).sort().join();
    const here = () => lists.every((list) => list.count === lists.length && names(list) === names(lists[0]));
    const end = performance.now() + lasts;
    // Each once, in a random order, and then again.
    let left = [];
    while (performance.now() < end || count < 2) {
      if (left.length === 0) left = [...faults];
      const [name] = left.splice(Math.floor(random() * left.length), 1);
      say(`${name}, at ${seconds(performance.now())}`);
      await { ...FAULTS, ...CABLE_FAULTS }[name](cluster, random, scale);
      count++;
      const back = await agreed(() => readers.every((reader) => reader.subscribed), 60_000);
      let late = [];
      const took = await agreed(here, PRESENCE_LIMIT + 30_000, DOWN, () => {
        const { lines, odd } = differences(lists);
        for (const line of lines) say(line);
        late = odd;
      });
      presence.push(took);
      for (const uuid of late) report(cluster, '', uuid, say);
      say(`  all were subscribed after ${Math.round(back)} ms, and seen after ${Math.round(took)} ms more`);
      await pass(random() * 2_000 * scale);
    }
    for (const list of lists) list.close();
  });
  const lost = cluster.links.flat().reduce((sum, link) => sum + link.lost, 0);
  return { faults: count, lost, presence, ...result };
}
