// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * A short version of soak/cluster.mjs: three real Caddys, and real NATS.
 *
 * @module
 */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CABLE_FAULTS, clusterChaos, forCluster } from '../soak/cluster.mjs';
import { randomFrom } from '../soak/report.mjs';
import { Cluster } from './cluster.mjs';
import { Namespace } from './namespace.mjs';

test('machines and NATS servers fail, and all agents get all messages and see all members', async (t) => {
  const seed = 1 + Math.floor(Math.random() * 2 ** 31);
  // Not every user may make network namespaces, also where CI is set.
  const missing = await Namespace.missing();
  t.diagnostic(missing ? `no cables are pulled: ${missing}` : 'each process is in a network namespace');
  const cluster = await Cluster.start({ engines: 1, apart: !missing, random: randomFrom(seed), change: forCluster });
  t.after(() => cluster.stop());
  const faults = ['a Caddy is killed', 'a Caddy hangs', 'a Caddy is reloaded', 'a NATS server is killed', 'a Caddy is cut off from NATS', ...Object.keys(missing ? {} : CABLE_FAULTS)];
  const result = await clusterChaos(cluster, { publishers: 6, subscribers: 9, lasts: 8_000, seed, scale: 0.3, faults, say: (text) => t.diagnostic(text) });
  const { published, accepted, delivered, wanted, faults: count, lost, presence, ...rest } = result;
  t.diagnostic(`seed ${seed}: ${published} published, ${accepted} accepted, ${delivered} of ${wanted} delivered; ${count} faults, ${lost} live messages did not reach a Caddy`);
  assert.ok(accepted > 20 && wanted > accepted && lost > 0 && count > 1);
  assert.ok(cluster.balancer.requests.every((n) => n > 10), `requests to each Caddy: ${cluster.balancer.requests}`);
  assert.equal(delivered, wanted);
  assert.ok(presence.every(Number.isFinite), `who is here is not agreed upon: ${presence}`);
  assert.deepEqual(rest, { endedOtherwise: 0, unheard: 0, missed: 0, doubled: 0, reordered: 0, gaps: 0 });
});
