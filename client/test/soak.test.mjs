// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Short versions of soak/.
 *
 * @module
 */

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { chaos } from '../soak/chaos.mjs';
import { cutsWithHistory, jitter, withHistory } from '../soak/missed.mjs';
import { present } from '../soak/present.mjs';
import { reloads } from '../soak/reload.mjs';
import { sharesOf } from '../soak/report.mjs';
import { quickRestarts, realStorm, simulatedStorm } from '../soak/storm.mjs';
import { Server, without } from './harness.mjs';

describe('a server restarts', () => {
  test('2,000 clients come back evenly', async (t) => {
    const { times, back } = await simulatedStorm({ clients: 2_000, away: 3_000, seed: 1 });
    assert.equal(times.length, 2_000);
    const shares = sharesOf(times, back);
    const good = shares.every((share) => share >= 5 && share <= 15);
    t.diagnostic(`${good ? 'PASS' : 'FAIL'} each tenth of the time: ${shares.map((share) => share.toFixed(1)).join(' ')} % (limit 5 to 15 %)`);
    assert.ok(good);
  });

  test('and real ones are all back', async (t) => {
    const server = await Server.start('Caddyfile.example');
    t.after(() => server.stop());
    const { times } = await realStorm(server, { clients: 50, away: 0, seed: 1 });
    assert.equal(times.length, 50);
  });

  test('six restarts in a row lose no publish', async (t) => {
    const server = await Server.start('Caddyfile.example');
    t.after(() => server.stop());
    const { published, accepted, refused, away } = await quickRestarts(server, { clients: 6, restarts: 6, every: 70 });
    t.diagnostic(`${published} published, ${accepted} accepted; away for at most ${away} ms after the server was back`);
    assert.deepEqual(refused, {});
    assert.equal(accepted, published);
    assert.ok(published > 300);
  });
});

test('connections are cut at random, and nothing is lost, doubled or out of order', async (t) => {
  const server = await Server.start('Caddyfile.example');
  t.after(() => server.stop());
  const { published, accepted, delivered, runs, ...faults } = await chaos(server, { publishers: 6, subscribers: 6, cuts: 30, between: 100, seed: 1 });
  t.diagnostic(`${published} published, ${accepted} accepted, ${delivered} delivered in ${runs} subscriptions`);
  assert.ok(accepted > 0 && runs > 30);
  assert.deepEqual(faults, { endedOtherwise: 0, unheard: 0, doubled: 0, reordered: 0, lost: 0 });
});

describe('channels with a history', () => {
  let server;
  before(async () => {
    server = await Server.start('Caddyfile.example', withHistory);
  });
  after(() => server?.stop());

  /** Reports the figures. Nothing may be lost, and enough must have been published to mean something. */
  function exact(t, { published, accepted, delivered, wanted, drops, ...faults }) {
    t.diagnostic(`${delivered === wanted ? 'PASS' : 'FAIL'} ${published} published, ${accepted} accepted, ${delivered} of ${wanted} delivered (limit: all)`);
    assert.ok(accepted > 50 && wanted > accepted);
    assert.equal(delivered, wanted);
    assert.deepEqual(faults, { endedOtherwise: 0, unheard: 0, missed: 0, doubled: 0, reordered: 0, gaps: 0 });
  }

  test('connections are cut at random, and every message arrives exactly once, in order', async (t) => {
    exact(t, await cutsWithHistory(server, { publishers: 6, subscribers: 9, cuts: 40, between: 100, seed: 1 }));
  });

  test('the network fails at random, and every message is delivered', async (t) => {
    const result = await jitter(server, { publishers: 4, subscribers: 9, pause: 200, lasts: 5_000, away: 300, between: 400, seed: 1 });
    assert.ok(result.drops > 2);
    exact(t, result);
  });
});

test('the server is reloaded over HTTP/1.1, and nothing is lost or doubled', async (t) => {
  const run = () => reloads({ reloads: 8, browsers: ['chrome', 'firefox'].filter((name) => !without(name)), every: 100 });
  let result = await run();
  // A page that was late lost its session, so the figures say nothing about the reloads.
  for (let n = 0; n < 2 && result.late > 0 && result.faults.length > 0; n++) result = await run();
  const { participants, sent, late, faults, ...counts } = result;
  t.diagnostic(`${participants} programs and pages, ${sent} published; ${late} sessions ended because they did not poll in time`);
  assert.ok(sent > participants);
  assert.deepEqual({ faults, ...counts }, { faults: [], failed: 0, gaps: 0, lost: 0, doubled: 0, reordered: 0 });
});

test('programs and pages come and go, and every list of members is right', async (t) => {
  const browsers = ['chrome', 'firefox'].filter((name) => !without(name));
  const { lists, slowest, ...faults } = await present({ agents: 40, watchers: 4, pages: 2 * browsers.length, browsers, rounds: 2, linger: 1, seed: 1 });
  t.diagnostic(`${lists} lists; true after at most ${slowest} ms`);
  assert.ok(lists >= 8);
  assert.deepEqual(faults, { rounds: 2, ghosts: 0, missing: 0, wrong: 0 });
});
