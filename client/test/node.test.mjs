// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/** The client in Node.js, in processes of its own: what keeps them alive, and what does not. */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createServer } from 'node:net';
import { createInterface } from 'node:readline';
import { after, before, describe, test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { dist } from '../build.mjs';
import { Server, within } from './harness.mjs';

/**
 * Runs a script that has PushIt in a process of its own.
 *
 * @returns {{lines: AsyncIterator<string>, exited: Promise<number | string>, kill: () =>
 * void}}  its output; its exit code, or the signal that ended it
 */
function start(text) {
  const imports = `import { PushIt } from ${JSON.stringify(String(pathToFileURL(`${dist}/node.mjs`)))};\n`;
  const child = spawn(process.execPath, ['--experimental-websocket', '--no-warnings', '--input-type=module', '--eval', imports + text], { stdio: ['ignore', 'pipe', 'inherit'] });
  const exited = new Promise((resolve) => child.once('exit', (code, signal) => resolve(code ?? signal)));
  return { lines: createInterface({ input: child.stdout })[Symbol.asyncIterator](), exited, kill: () => child.kill('SIGKILL') };
}

async function line(child, want) {
  assert.equal((await within(want, child.lines.next())).value, want);
}

/** Prints each state, once. */
const states = "let last; push.on('state', ({ name }) => { if (last !== name) console.log(last = name); });\n";

describe('a process of Node.js', () => {
  let server;
  before(async () => {
    // A process that exits only after the server sends something exits too late.
    server = await Server.start('Caddyfile.example', (handler) => Object.assign(handler, { heartbeat: '5m' }));
  });
  after(() => server?.stop());

  for (const transport of ['websocket', 'xhr_streaming', 'xhr']) {
    const options = () => `endpoint: '${server.url}/push', transports: ['${transport}'], channels: ['news']`;

    test(`${transport}: stays alive while it is connected`, async (t) => {
      const child = start(`const push = new PushIt({ ${options()} });\n${states}push.on('subscribe', () => push.publish('news', 'hello'));\npush.onMessageReceived = () => setImmediate(() => console.log('still here'));`);
      t.after(child.kill);
      for (const want of ['connecting', 'connected', 'still here']) await line(child, want);
      child.kill();
      assert.equal(await child.exited, 'SIGKILL');
    });

    test(`${transport}: with unref it exits by itself`, async (t) => {
      // A timer keeps the process alive until it is connected, and for some time after.
      const child = start(`const push = new PushIt({ ${options()}, unref: true });\n${states}const other = setInterval(() => {}, 1000);\npush.on('subscribe', () => push.publish('news', 'hello'));\npush.onMessageReceived = () => { console.log('heard'); clearInterval(other); };`);
      t.after(child.kill);
      for (const want of ['connecting', 'connected', 'heard']) await line(child, want);
      assert.equal(await within('its end', child.exited), 0);
    });
  }

  test('unref does not affect the sockets of other requests', async (t) => {
    const child = start(`
      const options = { endpoint: '${server.url}/push', transports: ['xhr_streaming'], channels: ['news'] };
      const one = new PushIt({ ...options, unref: true });
      const push = new PushIt(options);
      ${states}
      push.on('subscribe', () => one.publish('news', 'hello'));
      push.onMessageReceived = () => setImmediate(() => setImmediate(() => console.log('still here')));`);
    t.after(child.kill);
    for (const want of ['connecting', 'connected', 'still here']) await line(child, want);
    child.kill();
    assert.equal(await child.exited, 'SIGKILL');
  });

  test('with unref it exits while the client waits for its next attempt', async (t) => {
    const taken = createServer();
    await new Promise((resolve) => taken.listen(0, '127.0.0.1', resolve));
    const { port } = taken.address();
    await new Promise((resolve) => taken.close(resolve)); // no server listens there now
    const child = start(`const push = new PushIt({ endpoint: 'http://127.0.0.1:${port}/push', unref: true, firstWait: 3_600_000, longestWait: 3_600_000 });\n${states}push.publish('news', 1);`);
    t.after(child.kill);
    for (const want of ['connecting', 'disconnected']) await line(child, want);
    assert.equal(await within('its end', child.exited), 0);
  });

  test('a client with connect: false does nothing until connect is called', async (t) => {
    const child = start(`const push = new PushIt({ endpoint: '${server.url}/push', connect: false, channels: ['news'] });\n${states}process.on('beforeExit', () => console.log(push.state.name));`);
    t.after(child.kill);
    await line(child, 'disconnected');
    assert.equal(await within('its end', child.exited), 0);
  });
});
