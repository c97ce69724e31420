// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Compressed messages: browsers offer permessage-deflate by themselves, and understand what the
 * server makes of it, as the server understands them.
 *
 * @module
 */

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { startBrowser, without } from './harness.mjs';
import { startSite } from './sockjs.mjs';

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
      for (const [line, want] of [['\t\tcompression', /^permessage-deflate/], ['', /^$/]]) {
        const server = await startSite(line);
        t.after(() => server.stop());
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
