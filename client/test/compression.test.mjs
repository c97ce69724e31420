// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Compressed messages: browsers offer permessage-deflate by themselves, and understand what the
 * server makes of it, as the server understands them.
 *
 * @module
 */

import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { Server, startBrowser, without } from './harness.mjs';

/** Starts a site whose pushit has that line. */
async function site(t, line) {
  const dir = await mkdtemp(join(tmpdir(), 'pushit-compression-'));
  t.after(() => rm(dir, { recursive: true, force: true }));
  await writeFile(join(dir, 'index.html'), '<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,">');
  const caddyfile = join(dir, 'Caddyfile');
  await writeFile(caddyfile, `http://localhost:8080 {\n\troot ${dir}\n\tfile_server\n\tpushit /push {\n\t\tdefault allow\n\t\t${line}\n\t}\n}\n`);
  const server = await Server.start(caddyfile);
  t.after(() => server.stop());
  return server;
}

/** In a page: publishes messages of many sizes, and returns what came back, and what was agreed on. */
async function echo(path) {
  const ws = new WebSocket(`ws://${location.host}${path}`);
  const sockJS = path.endsWith('/0/a/websocket');
  const frames = [];
  let came = () => {};
  let closed = () => {};
  ws.onclose = ({ code }) => closed(new Error(`closed with ${code}`));
  ws.onmessage = ({ data }) => {
    if (sockJS && data[0] !== 'a') return;
    frames.push(...(sockJS ? JSON.parse(data.slice(1)).map((text) => JSON.parse(text)) : [JSON.parse(data)]));
    came();
  };
  await new Promise((resolve, reject) => {
    ws.onopen = resolve;
    ws.onerror = () => reject(new Error('it does not open'));
  });
  const send = (frame) => ws.send(sockJS ? JSON.stringify([JSON.stringify(frame)]) : JSON.stringify(frame));
  const next = async (channel) => {
    for (;;) {
      const refused = frames.find((frame) => frame.error);
      if (refused) throw new Error(JSON.stringify(refused));
      const at = frames.findIndex((frame) => frame.channel === channel);
      if (at >= 0) return frames.splice(at, 1)[0];
      await new Promise((resolve, reject) => {
        came = resolve;
        closed = reject;
      });
    }
  };
  send({ channel: '/meta/connect', uuid: '1', agentId: 'a' });
  await next('/meta/connect');
  send({ channel: '/meta/subscribe', uuid: '2', data: { channel: 'news' } });
  await next('/meta/subscribe');
  const wrong = [];
  for (const size of [0, 1, 200, 300, 1_000, 20_000, 60_000]) {
    const texts = ['x'.repeat(size), Array.from({ length: size / 4 }, (_, n) => `ü${n % 977}\u2028`).join('').slice(0, size / 3)];
    for (const data of texts) {
      send({ channel: 'news', uuid: crypto.randomUUID(), data });
      const { data: got } = await next('news');
      if (got !== data) wrong.push(size);
    }
  }
  ws.close();
  return { extensions: ws.extensions, wrong };
}

for (const name of ['chrome', 'firefox']) {
  describe(`compressed messages in ${name}`, { skip: without(name) }, () => {
    test('come as they were sent', async (t) => {
      const browser = await startBrowser(name);
      t.after(() => browser.close());
      for (const [line, want] of [['compression', /^permessage-deflate/], ['', /^$/]]) {
        const server = await site(t, line);
        const page = await browser.open(server.url);
        for (const path of ['/push/websocket', '/push/0/a/websocket']) {
          const { extensions, wrong } = await page.evaluate(echo, path);
          assert.match(extensions, want, path);
          assert.deepEqual(wrong, [], path);
        }
      }
    });
  });
}
