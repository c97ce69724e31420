// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Long runs of the client against a real server: `make soak` starts them. Each check
 * prints a line. If one fails, the exit status is 1.
 *
 *     node --experimental-websocket soak/main.mjs [storm] [chaos] [missed] [jitter] [reload] [present] [cluster] [embedded]
 *
 * (Node.js 20 has a WebSocket only with that flag; later ones have it anyway.)
 *
 *   SEED              repeats what is random in an earlier run
 *   CLUSTER_MINUTES   how long cluster goes on (15), and EMBEDDED_MINUTES embedded (3)
 *   CLUSTER_FAULTS    only those faults of cluster and embedded whose names have one of these
 *                     texts in them, as in `Caddy hangs,killed`
 *
 * @module
 */

import { Server } from '../test/harness.mjs';
import { Cluster } from '../test/cluster.mjs';
import { Namespace } from '../test/namespace.mjs';
import { chaos } from './chaos.mjs';
import { CABLE_FAULTS, clusterChaos, EMBEDDED_FAULTS, FAULTS, forCluster, named, PRESENCE_LIMIT } from './cluster.mjs';
import { cutsWithHistory, jitter, withHistory } from './missed.mjs';
import { present } from './present.mjs';
import { reloads } from './reload.mjs';
import { randomFrom, Report } from './report.mjs';
import { realStorm, simulatedStorm } from './storm.mjs';

const report = new Report();
const only = process.argv.slice(2);
const wanted = (name) => only.length === 0 || only.includes(name);
const seed = Number(process.env.SEED) || 1 + Math.floor(Math.random() * 2 ** 31);
report.note(`node ${process.version}; SEED=${seed} repeats what is random here`);

if (wanted('storm')) {
  console.log('\nclient: the server restarts, and all come back');
  for (const away of [0, 1_000, 5_000, 20_000, 60_000, 600_000]) {
    const { times, back } = await simulatedStorm({ clients: 2_000, away, seed });
    report.exactly(2_000, `simulated, away for ${away / 1000} s: clients that are back`, times.length);
    report.slots(5, 15, `simulated, away for ${away / 1000} s`, times, back);
  }
  await withServer(async (server) => {
    const { times, back } = await realStorm(server, { clients: 200, away: 8_000, seed });
    report.exactly(200, 'real: clients that are back', times.length);
    report.slots(2.5, 20, 'real', times, back);
  });
}

if (wanted('chaos')) {
  console.log('\nclient: connections are cut at random');
  await withServer(async (server) => {
    const result = await chaos(server, { publishers: 20, subscribers: 20, cuts: 200, between: 200, seed });
    report.note(`${result.published} published, ${result.accepted} accepted, ${result.delivered} delivered in ${result.runs} subscriptions`);
    report.atLeast(200, 'subscriptions', result.runs);
    report.exactly(0, 'publishes that did not end exactly once', result.endedOtherwise);
    report.exactly(0, 'accepted messages that were not published', result.unheard);
    report.exactly(0, 'messages that who was subscribed did not get', result.lost);
    report.exactly(0, 'messages that came twice', result.doubled);
    report.exactly(0, 'messages out of order', result.reordered);
  });
}

if (wanted('missed')) {
  console.log('\nclient: connections are cut at random, and the channels have a history');
  await withServer(async (server) => exact(await cutsWithHistory(server, { publishers: 20, subscribers: 20, cuts: 200, between: 200, seed })), withHistory);
}

if (wanted('jitter')) {
  console.log('\nclient: the network is gone for 2 s, again and again for three minutes, and the channels have a history');
  await withServer(async (server) => {
    const result = await jitter(server, { publishers: 5, subscribers: 18, lasts: 180_000, away: 2_000, between: 4_000, seed, options: {} });
    report.atLeast(20, 'times that the network was gone', result.drops);
    exact(result);
  }, withHistory);
}

if (wanted('reload')) {
  console.log('\nclient: the server is reloaded, over HTTP/1.1');
  const result = await reloads({ reloads: 60, browsers: ['chrome', 'firefox'], every: 100 });
  report.note(`${result.participants} programs and pages, ${result.sent} published; ${result.late} sessions ended because they did not poll in time`);
  for (const fault of result.faults) report.note(fault);
  report.exactly(0, 'publishes that failed', result.failed);
  report.exactly(0, 'connections that were lost', result.gaps);
  report.exactly(0, 'messages lost', result.lost);
  report.exactly(0, 'messages that came twice', result.doubled);
  report.exactly(0, 'messages out of order', result.reordered);
}

if (wanted('present')) {
  console.log('\nclient: programs and pages come, go, are reloaded, frozen and killed, and all show who is here');
  const result = await present({ agents: 1_000, watchers: 20, pages: 20, browsers: ['chrome', 'firefox'], rounds: 10, linger: 5, seed, say: (text) => report.note(text) });
  report.note(`${result.rounds} rounds; the lists of a round were true after at most ${(result.slowest / 1000).toFixed(1)} s`);
  report.atLeast(300, 'lists that were compared', result.lists);
  report.exactly(0, 'ghosts', result.ghosts);
  report.exactly(0, 'members that were missing', result.missing);
  report.exactly(0, 'lists that were wrong', result.wrong);
}

if (wanted('cluster')) {
  const minutes = Number(process.env.CLUSTER_MINUTES) || 15;
  console.log(`\nclient: three Caddys, three NATS servers, and all that can happen to them, for ${minutes} minutes`);
  const missing = await Namespace.missing();
  if (missing) report.note(`no cables are pulled: ${missing}`);
  const faults = Object.keys({ ...FAULTS, ...(missing ? {} : CABLE_FAULTS) });
  const cluster = await Cluster.start({ apart: !missing, random: randomFrom(seed), change: forCluster });
  try {
    const result = await clusterChaos(cluster, { publishers: 12, subscribers: 18, lasts: minutes * 60_000, seed, faults: named(faults, process.env.CLUSTER_FAULTS), say: (text) => report.note(text) });
    report.note(`${result.lost} live messages did not reach a Caddy; requests to each: ${cluster.balancer.requests.join(', ')}`);
    report.atLeast(minutes * 4, 'faults', result.faults);
    exact(result);
    sameMembers(result);
  } finally {
    await cluster.stop();
  }
}

if (wanted('embedded')) {
  const minutes = Number(process.env.EMBEDDED_MINUTES) || 3;
  console.log(`\nclient: three Caddys with a NATS server in each, and all that can happen to them, for ${minutes} minutes`);
  const cluster = await Cluster.startEmbedded({ change: forCluster });
  try {
    const result = await clusterChaos(cluster, { publishers: 12, subscribers: 18, lasts: minutes * 60_000, seed, faults: named(EMBEDDED_FAULTS, process.env.CLUSTER_FAULTS), say: (text) => report.note(text) });
    report.note(`requests to each: ${cluster.balancer.requests.join(', ')}`);
    report.atLeast(minutes * 3, 'faults', result.faults);
    exact(result);
    sameMembers(result);
  } finally {
    await cluster.stop();
  }
}

process.exit(report.failures === 0 ? 0 : 1);

/** All see who is here soon after each fault. */
function sameMembers({ presence }) {
  report.atMost(PRESENCE_LIMIT, 'ms until all see the same members, after a fault and once all are subscribed', Math.round(Math.max(...presence)));
}

/** All clients have all messages, once and in order. */
function exact({ published, accepted, delivered, wanted: all, ...faults }) {
  report.note(`${published} published, ${accepted} accepted, ${delivered} of ${all} delivered`);
  report.atLeast(1, 'messages to deliver', all);
  report.exactly('100 %', 'delivered', `${delivered === all ? 100 : ((delivered / all) * 100).toFixed(3)} %`);
  report.exactly(0, 'publishes that did not end exactly once', faults.endedOtherwise);
  report.exactly(0, 'accepted messages that were not published', faults.unheard);
  report.exactly(0, 'messages that somebody missed', faults.missed);
  report.exactly(0, 'messages that came twice', faults.doubled);
  report.exactly(0, 'messages out of order', faults.reordered);
  report.exactly(0, 'gaps that were told', faults.gaps);
}

async function withServer(fn, change) {
  const server = await Server.start('Caddyfile.example', change);
  try {
    await fn(server);
  } finally {
    await server.stop();
  }
}
