// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * npm's sockjs-client in Chromium, through Caddy, while two processes keep the processors
 * busy. Sessions of five echoes over each transport, all of which must succeed.
 *
 *   node soak/sockjs.mjs [sessions over each transport, 100]
 *
 * Each figure is a line, PASS or FAIL. The exit status is 1 if one fails, and 2 if nothing
 * could be measured.
 *
 * @module
 */

import { spawn } from 'node:child_process';
import { cpus } from 'node:os';
import { startBrowser } from '../test/harness.mjs';
import { startSite, transports } from '../test/sockjs.mjs';

const sessions = Number(process.argv[2] ?? 100);
const ECHOES = 5;
/** How long a session may take, in ms. It is long, because only success counts. */
const DEADLINE = 60_000;
const BUSY = 2;
/** How long everything may take, in ms. The busy processes end after that in any case. */
const LIMIT = 15 * 60_000;

/** Starts a process that keeps a processor busy. */
function startBusy() {
  const child = spawn(process.execPath, ['-e', `const end = Date.now() + ${LIMIT}; while (Date.now() < end);`], { stdio: 'ignore' });
  process.once('exit', () => child.kill('SIGKILL'));
  return child;
}

/** @returns {Promise<string[]>} the reason of each session that failed */
async function run(page, transport) {
  const failures = [];
  for (let n = 0; n < sessions; n++) {
    try {
      const { transport: used, got } = await page.evaluate((...args) => echoes(...args), '/push', transport, ECHOES, DEADLINE);
      const want = JSON.stringify([...Array(ECHOES).keys()]);
      if (used !== transport) failures.push(`${used} was used`);
      else if (JSON.stringify(got) !== want) failures.push(`got ${JSON.stringify(got)}`);
    } catch (error) {
      failures.push(error.message.split('\n')[0]);
    }
  }
  return failures;
}

async function main() {
  if (!(sessions > 0)) throw new Error(`${process.argv[2]} is no number of sessions`);
  let failed = false;
  let browser;
  let server;
  const busy = [];
  try {
    server = await startSite('\t\ttransports websocket xhr_streaming xhr eventsource htmlfile jsonp');
    browser = await startBrowser();
    for (let n = 0; n < BUSY; n++) busy.push(startBusy());
    console.log(`\nsockjs-client: sessions of ${ECHOES} echoes in Chromium through Caddy, beside ${BUSY} busy processes on ${cpus().length} processors`);
    for (const transport of transports) {
      const page = await browser.open(server.url);
      const begin = performance.now();
      const failures = await run(page, transport);
      await page.close();
      failed ||= failures.length > 0;
      const seconds = ((performance.now() - begin) / 1000).toFixed(1);
      console.log(`${failures.length ? 'FAIL' : 'PASS'} ${sessions - failures.length} of ${sessions} sessions over ${transport}, in ${seconds} s`);
      for (const why of failures.slice(0, 5)) console.log(`     ${why}`);
    }
  } finally {
    for (const child of busy) child.kill('SIGKILL');
    await browser?.close();
    await server?.stop();
  }
  return failed ? 1 : 0;
}

const timer = setTimeout(() => {
  console.error(`sockjs: not done within ${LIMIT / 60_000} minutes`);
  process.exit(2);
}, LIMIT);
try {
  process.exitCode = await main();
} catch (error) {
  console.error(`sockjs: ${error.message}`);
  process.exitCode = 2;
}
clearTimeout(timer);
