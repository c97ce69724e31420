// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * The client in real browsers, with a real server. Between them is a proxy that cuts,
 * stalls and refuses.
 *
 * @module
 */

import assert from 'node:assert/strict';
import { Buffer } from 'node:buffer';
import { after, afterEach, before, describe, test } from 'node:test';
import { Server, startBrowser, without } from './harness.mjs';
import { Proxy } from './proxy.mjs';
import { makeSite } from './site.mjs';

const transports = ['websocket', 'xhr_streaming', 'xhr'];
/** Waits for tests. They are short, also in tabs that other tabs hide. */
const QUICK = { background: true, firstWait: 20, longestWait: 200 };
/**
 * For tests whose server falls silent. A busy machine may be silent without a fault, and
 * the page then reconnects. Only these tests tolerate that.
 */
const WATCHFUL = { silence: 400, answerWithin: 400 };

const inBrowser = (name) =>
  describe(`the client in ${name}`, { concurrency: 1, skip: without(name) }, () => {
    let site;
    let server;
    let proxy;
    let browser;
    let pages = [];

    before(async () => {
      site = await makeSite();
      server = await Server.start(site.caddyfile);
      proxy = await Proxy.start(() => server.port);
      browser = await startBrowser(name, { windows: true });
    });

    after(async () => {
      await browser?.close();
      await proxy?.stop();
      await server?.stop();
      await site?.remove();
    });

    afterEach(async () => {
      for (const page of pages.splice(0)) await page.close().catch(() => {});
      Object.assign(proxy, { upgrades: 'pass', buffer: false, stalled: false });
      proxy.requests.length = 0;
    });

    /** Opens a page, connects with the options, and waits until it is connected and subscribed. */
    async function open(options = {}, { url = proxy.url, wait = true } = {}) {
      const page = await browser.open(`${url}/index.html`);
      pages.push(page);
      await start(page, options, wait);
      return page;
    }

    async function start(page, options = {}, wait = true) {
      await page.waitForFunction(() => window.ready);
      await page.evaluate((given) => start(given), { channels: ['news'], ...QUICK, ...options });
      if (wait) await subscribed(page);
    }

    const is = (page, state) => page.waitForFunction((want) => push.state.name === want, { polling: 20 }, state);
    const subscribed = (page) => page.waitForFunction(() => push.state.name === 'connected' && push.channels.includes('news'), { polling: 20 });
    const ended = (page, what) => page.waitForFunction((want) => window.ended.includes(want), { polling: 20 }, what);
    const say = (page, ...args) => page.evaluate((...given) => void say(...given), ...args);

    /**
     * Publishes from a page until another page, or the page itself, gets the message. A
     * message may be missed while one of them reconnects; then it is published again.
     */
    async function talk(page, listener = page) {
      for (let attempt = 1; ; attempt++) {
        const data = `hello ${Math.random()}`;
        await subscribed(listener);
        const before = await listener.evaluate(() => states.length);
        await say(page, data);
        await ended(page, data);
        const outcome = await listener.waitForFunction(
          (want, n) => (got.includes(want) ? 'heard' : states.length > n && 'missed'),
          { polling: 20 },
          data,
          before,
        );
        if ((await outcome.jsonValue()) === 'heard') {
          assert.equal(await listener.evaluate((want) => got.filter((each) => each === want).length, data), 1);
          return;
        }
        assert.ok(attempt < 20, 'nothing is heard, whenever it is said');
      }
    }

    /**
     * Repeats an action until the page notices it. Between two polls there is nothing to
     * cut, and a poll that no server has read is repeated silently.
     */
    async function noticed(page, fault) {
      const before = await page.evaluate(() => states.length);
      const end = Date.now() + 60_000;
      for (;;) {
        await fault();
        try {
          return await page.waitForFunction((n) => states.length > n, { polling: 20, timeout: 2000 }, before);
        } catch (error) {
          if (error.name !== 'TimeoutError' || Date.now() > end) throw error;
        }
      }
    }

    // A page over HTTP/2 opens its WebSocket over HTTP/1.1, because the server does not offer
    // WebSocket over HTTP/2. If GODEBUG makes Go offer it, pushit refuses, and the client falls
    // back. Only Chromium can be told to trust the certificate.
    for (const GODEBUG of name === 'chrome' ? ['', 'http2xconnect=1'] : []) {
      test(`over HTTP/2 ${GODEBUG}`, async () => {
        const secure = await makeSite({ secure: true });
        const over = await Server.start(secure.caddyfile, undefined, {}, { env: { GODEBUG }, secure: true });
        try {
          const page = await browser.open(`${over.url}/index.html`, { trusting: true });
          pages.push(page);
          await start(page);
          await talk(page);
          assert.equal(await page.evaluate(() => performance.getEntriesByType('navigation')[0].nextHopProtocol), 'h2');
          const fellBack = await page.evaluate(() => performance.getEntriesByType('resource').some(({ name: url }) => url.includes('/xhr_send')));
          assert.equal(fellBack, GODEBUG !== '');
        } finally {
          await over.stop();
          await secure.remove();
        }
      });
    }

    for (const transport of transports) {
      test(`${transport}: exchanges messages, and reconnects after a cut, a lost server, a dead connection and a stall`, async () => {
        const page = await open({ transports: [transport], openWithin: 1000, ...WATCHFUL });
        const other = await open();
        await talk(page);
        await talk(other, page);
        await talk(page, other);
        await other.evaluate(() => push.close());

        for (const [fault, mend] of [
          [() => proxy.cut()],
          [() => server.kill(), () => server.start()],
          [() => proxy.halfOpen()],
          [() => (proxy.stalled = true), () => (proxy.stalled = false)],
        ]) {
          const what = `after ${fault}`;
          let said = false;
          await noticed(page, async () => {
            await fault();
            if (!said) await say(page, what);
            said = true;
          });
          await mend?.();
          await ended(page, what); // and the message came, if the server got it after the page was subscribed again
          await subscribed(page);
          await talk(page);
          assert.ok((await page.evaluate((want) => got.filter((each) => each === want).length, what)) <= 1, what);
        }
        const used = proxy.requests.map((request) => request.split(' ')[1]);
        assert.ok(used.includes(transport), used.join());
        assert.deepEqual(await page.evaluate(() => window.violations), []);
      });
    }

    test('it streams where WebSocket is refused, polls where nothing streams, and the tab remembers that', async () => {
      proxy.upgrades = 'refuse';
      const page = await open();
      await talk(page);
      const asked = (what) => proxy.requests.filter((request) => request.endsWith(` ${what}`)).length;
      assert.deepEqual([asked('websocket'), asked('xhr_streaming'), asked('xhr')], [2, 1, 0]);
      await page.reload();
      await start(page);
      await talk(page);
      assert.equal(asked('websocket'), 2, 'the tab remembers');

      proxy.buffer = true;
      const third = await open({ openWithin: 1000 });
      await talk(third);
      assert.ok(asked('xhr') > 1);
    });

    test('it gives up a WebSocket whose request is never answered', async () => {
      proxy.upgrades = 'ignore';
      const page = await open({ openWithin: 500 });
      await talk(page);
      assert.ok(proxy.requests.includes('POST xhr_streaming'));
    });

    test('it handles each close code', async () => {
      const page = await open();
      for (const code of [4400, 4403, 4408, 4413, 4429, 4430, 4503, 4999]) {
        await page.evaluate(() => (states.length = 0));
        proxy.inject(`a${JSON.stringify([JSON.stringify({ channel: '/meta/close', code, error: `because of ${code}`, retry: 1 })])}`);
        const state = await page.waitForFunction(() => states.find(({ name }) => name === 'disconnected'), { polling: 20 }).then((handle) => handle.jsonValue());
        assert.deepEqual([state.code, state.reason], [code, `because of ${code}`]);
        await subscribed(page);
      }
      for (const code of [1000, 1001, 4400, 4403, 4408, 4413, 4429, 4430, 4503]) {
        await page.evaluate(() => (states.length = 0));
        proxy.inject(`c[${code},"closed with ${code}"]`);
        const state = await page.waitForFunction(() => states.find(({ name }) => name === 'disconnected'), { polling: 20 }).then((handle) => handle.jsonValue());
        assert.deepEqual([state.code, state.reason], [code, `closed with ${code}`]);
        await subscribed(page);
      }
      for (const code of [4401, 4403, 4410]) {
        proxy.inject(`a${JSON.stringify([JSON.stringify({ channel: '/meta/close', code, error: 'for good', retry: false })])}`);
        await is(page, 'closed');
        assert.equal(await page.evaluate(() => push.state.code), code);
        await page.evaluate(() => push.connect());
        await subscribed(page);
      }
    });

    test('the codes that the server has', async () => {
      const page = await open({ endpoint: '/guarded', credentials: { token: 'open barley, please' } }, { wait: false });
      await is(page, 'closed');
      assert.equal(await page.evaluate(() => push.state.code), 4401);

      const large = await open();
      await say(large, 'x'.repeat(10_000));
      await ended(large, `${'x'.repeat(10_000)} limit`);
      assert.ok(await large.evaluate(() => push.state.name === 'connected' && !states.some(({ code }) => code === 4413)), 'it costs only itself');
      await talk(large);

      const busy = await open({ outboxMessages: 1000 });
      await busy.evaluate(() => {
        for (let n = 0; n < 150; n++) say(`busy ${n}`);
      });
      await busy.waitForFunction(() => states.some(({ code }) => code === 4429), { polling: 20 });
      await busy.waitForFunction(() => ended.length === 150, { polling: 20 });
      await subscribed(busy);

      const going = await open();
      await server.kill('SIGTERM');
      await going.waitForFunction(() => states.some(({ code }) => code === 4503), { polling: 20 });
      await server.start();
      await subscribed(going);
      await talk(going);
    });

    test('it reconnects after invalid bytes', async () => {
      const page = await open(WATCHFUL); // some bytes may begin a frame that never ends
      for (const garbage of ['<html>', 'a["{"]', 'a[7]', '', Buffer.from('HTTP/1.1 200 OK\r\n\r\n'), Buffer.from([0x82, 0x01, 0x00]), Buffer.from([0x81, 0x01, 0xff])]) {
        const before = await page.evaluate(() => states.length);
        proxy.inject(garbage);
        await page.waitForFunction((n) => states.length > n, { polling: 20 }, before);
        await subscribed(page);
      }
      await talk(page);
    });

    test('a wrong path is reported', async () => {
      const page = await open({ endpoint: '/wrong' }, { wait: false });
      await page.waitForFunction(() => /HTTP 404/.test(push.state.reason), { polling: 20 });
      await server.kill();
      await page.waitForFunction(() => /cannot be reached/.test(push.state.reason), { polling: 20 });
      await server.start();
    });

    // Browsers keep a page for a visitor who comes back, or load it again. A page with an
    // unload listener is not kept. The test accepts both.
    for (const listens of [false, true]) {
      test(`a page that is left and shown again is connected${listens ? ', with a listener for unload' : ''}`, async (t) => {
        const page = await open();
        if (listens) await page.evaluate(() => addEventListener('unload', () => {}));
        const opened = () => proxy.requests.filter((request) => request.endsWith(' websocket')).length;
        const before = opened();
        const agent = await page.evaluate(() => push.agentId);
        await page.goto(`${proxy.url}/favicon.ico`);
        await page.waitForFunction(() => !window.push);
        await page.goBack();
        await page.waitForFunction(() => window.ready);
        const kept = await page.evaluate(() => window.push !== undefined);
        t.diagnostic(`${name} ${kept ? 'kept the page' : 'loaded the page anew'}`);
        await page.waitForFunction((persisted) => shown.at(-1) === persisted, { polling: 20 }, kept);
        if (!kept) await start(page);
        await subscribed(page);
        await talk(page);
        assert.ok(opened() > before, 'the session from before is not used again');
        const left = await page.evaluate(() => states.some(({ name, reason }) => name === 'disconnected' && reason === 'the page was left'));
        assert.equal(left, kept, 'the client that was there says that the page was left; a new one has not been left');
        assert.equal((await page.evaluate(() => push.agentId)) === agent, kept, 'a page that is loaded anew is another agent');
      });
    }

    test('a hidden page waits, and connects at once when it is shown', async (t) => {
      const page = await open({ background: false, firstWait: 20_000, longestWait: 20_000 });
      const other = await page.browserContext().newPage(); // it covers the first page
      pages.push(other);
      await other.bringToFront();
      const hides = await page.evaluate(() => document.hidden);
      t.diagnostic(`${name} ${hides ? 'hides' : 'does not hide'} a tab behind another`);
      if (!hides) await setHidden(page, true);
      proxy.cut();
      await is(page, 'disconnected');
      assert.equal(await page.evaluate(() => push.state.retryAt), undefined);
      const { requests: { length } } = proxy;
      await say(page, 'seen later');
      if (hides) await page.bringToFront();
      else await setHidden(page, false);
      await ended(page, 'seen later');
      await subscribed(page);
      assert.ok(proxy.requests.length > length);
      await talk(page);
    });

    if (name === 'chrome') {
      test('it waits while offline, and connects at once when online', async () => {
        const page = await open({ background: false, firstWait: 20_000, longestWait: 20_000 }, { url: `http://pushit.test:${proxy.port}` });
        const client = await page.createCDPSession();
        const offline = (on) => client.send('Network.emulateNetworkConditions', { offline: on, latency: 0, downloadThroughput: -1, uploadThroughput: -1 });
        await client.send('Network.enable');
        await offline(true);
        await page.waitForFunction(() => !navigator.onLine);
        proxy.cut();
        await is(page, 'disconnected');
        assert.ok(await page.evaluate(() => push.state.retryAt - seen.at(-1) > 20_000), 'it tries again, but not soon');
        await offline(false);
        await subscribed(page);
        await talk(page);
      });

      test('a page that was frozen notices that its connection is gone', async () => {
        const page = await open({ background: false, silence: 30_000, answerWithin: 15_000 });
        const client = await page.createCDPSession();
        await client.send('Page.setWebLifecycleState', { state: 'frozen' });
        proxy.halfOpen();
        await client.send('Page.setWebLifecycleState', { state: 'active' });
        await setHidden(page, true);
        await page.evaluate(() => new Promise((resolve) => setTimeout(resolve, 5100))); // the client trusts a connection that was used less than 5 s ago
        await setHidden(page, false);
        await page.waitForFunction(() => states.at(-1).name !== 'connected' || states.length > 2, { polling: 20 });
        await subscribed(page);
        await talk(page);
      });
    }
  });

// These run in parallel, because most of the time they wait.
describe('browsers', { concurrency: 2 }, () => {
  inBrowser('chrome');
  inBrowser('firefox');
});

/** Hides the page, like a browser whose visitor looks at another tab. */
async function setHidden(page, hidden) {
  await page.evaluate((on) => {
    Object.defineProperty(document, 'hidden', { configurable: true, get: () => on });
    document.dispatchEvent(new Event('visibilitychange'));
  }, hidden);
}
