// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { startBrowser, without } from './harness.mjs';
import { Elsewhere, startSite, transports } from './sockjs.mjs';

/** Sessions over each transport. make soak has ten times as many, on a busy machine. */
const SESSIONS = 10;
const DEADLINE = 30_000;

/** Chromium's complaint about how sockjs-client makes its frame for htmlfile. */
const known = /document\.domain mutation is ignored/;

const all = '\t\ttransports websocket xhr_streaming xhr eventsource htmlfile jsonp';

describe('sockjs-client in chrome', { skip: without('chrome') }, () => {
  let browser;
  let server;
  let elsewhere;
  before(async () => {
    browser = await startBrowser();
    elsewhere = await Elsewhere.start();
    server = await startSite(all, (handler) => {
      handler.origins = [elsewhere.origin('listed.localhost')];
    });
  });
  after(async () => {
    await browser?.close();
    await server?.stop();
    await elsewhere?.stop();
  });

  for (const transport of transports) {
    test(`sessions of five echoes over ${transport}`, async () => {
      const page = await browser.open(server.url);
      for (let n = 0; n < SESSIONS; n++) {
        const result = await page.evaluate((...args) => echoes(...args), '/push', transport, 5, DEADLINE);
        assert.deepEqual(result, { transport, got: [0, 1, 2, 3, 4] });
      }
      assert.deepEqual(page.complaints.filter((text) => !known.test(text)), []);
      await page.close();
    });
  }

  for (const transport of ['websocket', 'xhr-streaming', 'xhr-polling', 'eventsource']) {
    test(`a page of a listed origin has sessions over ${transport}`, async () => {
      const page = await browser.open(elsewhere.origin('listed.localhost'));
      const result = await page.evaluate((...args) => echoes(...args), `${server.url}/push`, transport, 5, DEADLINE);
      assert.deepEqual(result, { transport, got: [0, 1, 2, 3, 4] });
      assert.deepEqual(page.complaints.filter((text) => !known.test(text)), []);
      await page.close();
    });
  }

  test('without websocket it uses another transport', async (t) => {
    const fallback = await startSite('\t\ttransports eventsource xhr');
    t.after(() => fallback.stop());
    const page = await browser.open(fallback.url);
    const used = await page.evaluate(
      () =>
        new Promise((resolve, reject) => {
          const socket = startSockJS('/push');
          socket.onopen = () => {
            resolve(socket.transport);
            socket.close();
          };
          socket.onclose = ({ reason }) => reject(new Error(reason));
        }),
    );
    assert.equal(used, 'eventsource');
  });
});
