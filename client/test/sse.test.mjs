// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Server-Sent Events in real browsers: EventSource comes back by itself and misses nothing,
 * Turbo changes the page, and an answer that comes word by word survives a reload.
 *
 * @module
 */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { copyFile, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { eventually, picture, Server, startBrowser, top, within, without } from './harness.mjs';
import { Proxy } from './proxy.mjs';
import { Elsewhere } from './sockjs.mjs';

const secret = 'a secret of the backend';

/** A site whose page is that one. */
async function site(t, page, files = {}) {
  const dir = await mkdtemp(join(tmpdir(), 'pushit-sse-'));
  t.after(() => rm(dir, { recursive: true, force: true }));
  await writeFile(join(dir, 'index.html'), `<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,">${page}`);
  for (const [name, from] of Object.entries(files)) await copyFile(from, join(dir, name));
  const caddyfile = join(dir, 'Caddyfile');
  await writeFile(caddyfile, `http://localhost:8080 {\n\troot ${dir}\n\tfile_server\n\tencode\n\tpushit /push {\n\t\tdefault allow\n\t\thistory 1000 1h\n\t\tapi bearer "${secret}"\n\t}\n}\n`);
  const server = await Server.start(caddyfile);
  t.after(() => server.stop());
  const proxy = await Proxy.start(() => server.port);
  t.after(() => proxy.stop());
  return { server, proxy };
}

/** Publishes as a backend does. */
async function publish(server, channel, data) {
  const response = await fetch(`${server.url}/push/publish`, {
    method: 'POST',
    headers: { Authorization: `Bearer ${secret}`, 'Content-Type': 'application/json' },
    body: JSON.stringify({ channel, data }),
  });
  assert.equal(response.status, 200, await response.text());
}

for (const name of ['chrome', 'firefox']) {
  describe(`Server-Sent Events in ${name}`, { skip: without(name) }, () => {
    test('a page that is cut off again and again gets everything once, in order', async (t) => {
      const { server, proxy } = await site(
        t,
        `<script>
          const got = { a: [], b: [] };
          let opened = 0, gaps = 0;
          const source = new EventSource('/push/sse?channel=a&channel=b&format=frame');
          source.onopen = () => opened++;
          source.onmessage = ({ data }) => { const { channel, data: n } = JSON.parse(data); got[channel].push(n); };
          source.addEventListener('/meta/gap', () => gaps++);
        </script>`,
      );
      const browser = await startBrowser(name);
      t.after(() => browser.close());
      const page = await browser.open(proxy.url);
      await page.waitForFunction(() => opened === 1);
      const cuts = 3;
      const each = 20;
      let n = 0;
      for (let cut = 1; cut <= cuts; cut++) {
        for (let i = 0; i < each; i++, n++) {
          await publish(server, 'a', n);
          await publish(server, 'b', n);
          if (i === each / 2) proxy.cut();
        }
        await page.waitForFunction((times) => opened > times, {}, cut);
      }
      await page.waitForFunction((all) => got.a.length >= all && got.b.length >= all, {}, n);
      const want = Array.from({ length: n }, (_, i) => i);
      assert.deepEqual(await page.evaluate(() => ({ got, gaps })), { got: { a: want, b: want }, gaps: 0 });
    });

    test('a stream that is refused does not come back', async (t) => {
      const { proxy } = await site(
        t,
        `<script>
          const source = new EventSource('/push/sse?channel=no//channel');
          source.onerror = () => { window.state = source.readyState; };
        </script>`,
      );
      const browser = await startBrowser(name);
      t.after(() => browser.close());
      const page = await browser.open(proxy.url);
      await page.waitForFunction(() => window.state === EventSource.CLOSED);
    });

    test('a page of another origin gets a stream with the cookies of the site, if that origin is listed', async (t) => {
      const [friend, foreign] = await Promise.all([Elsewhere.start(), Elsewhere.start()]);
      t.after(() => Promise.all([friend.stop(), foreign.stop()]));
      const dir = await mkdtemp(join(tmpdir(), 'pushit-origins-'));
      t.after(() => rm(dir, { recursive: true, force: true }));
      const caddyfile = join(dir, 'Caddyfile');
      await writeFile(
        caddyfile,
        `http://localhost:8080 {
          log
          header /login Set-Cookie "login=ann; HttpOnly"
          respond /login "Hello, Ann."
          pushit /push {
            origins ${friend.origin('localhost')}
            default allow
            connect cel \`request.cookies.login == 'ann'\`
            api bearer "${secret}"
          }
        }`,
      );
      const server = await Server.start(caddyfile);
      t.after(() => server.stop());
      const browser = await startBrowser(name);
      t.after(() => browser.close());
      const page = await browser.open(`${server.url}/login`);
      const listen = (withCredentials) =>
        page.evaluate(
          (url, options) =>
            new Promise((resolve) => {
              window.got = [];
              const source = new EventSource(url, options);
              source.onmessage = ({ data, origin }) => window.got.push({ data, origin });
              source.onopen = () => resolve('open');
              source.onerror = () => resolve(source.readyState === EventSource.CLOSED ? 'closed' : 'broken');
            }),
          `${server.url}/push/sse?channel=news`,
          { withCredentials },
        );
      const answers = (origin) =>
        server.log
          .split('\n')
          .filter((line) => line.includes('"logger":"http.log.access') && line.includes('/push/sse'))
          .map((line) => JSON.parse(line))
          .filter(({ request }) => request.headers.Origin?.[0] === origin)
          .map(({ status }) => status);

      await page.goto(friend.origin('localhost'));
      assert.equal(await listen(false), 'closed', 'without cookies nobody is logged in');
      await eventually('the access log', () => answers(friend.origin('localhost')).join() === '401');
      assert.equal(await listen(true), 'open');
      await publish(server, 'news', 'It works.');
      await page.waitForFunction(() => window.got.length > 0);
      assert.deepEqual(await page.evaluate(() => window.got), [{ data: 'It works.', origin: server.url }]);

      // The browser sends the cookies of this page too: only the origin is another one.
      await page.goto(foreign.origin('localhost'));
      for (const withCredentials of [true, false]) assert.equal(await listen(withCredentials), 'closed', 'it gets nothing, and does not come back');
      await eventually('the access log', () => answers(foreign.origin('localhost')).join() === '403,403');
      const { origin, likely_cause: cause } = JSON.parse(server.log.split('\n').find((line) => line.includes('a page of another origin was refused')));
      assert.deepEqual([origin, cause.includes('list it in origins')], [foreign.origin('localhost'), true]);
    });
  });
}

describe('Server-Sent Events', { skip: without('chrome') }, () => {
  test('<turbo-stream-source> changes the page', async (t) => {
    const { server, proxy } = await site(
      t,
      `<script src="turbo.js"></script>
      <turbo-stream-source src="/push/sse?channel=stories/5"></turbo-stream-source>
      <ul id="comments"><li>first</li></ul>`,
      { 'turbo.js': join(top, 'client/node_modules/@hotwired/turbo/dist/turbo.es2017-umd.js') },
    );
    const browser = await startBrowser();
    t.after(() => browser.close());
    const page = await browser.open(proxy.url);
    await page.waitForFunction(() => document.querySelector('turbo-stream-source').streamSource?.readyState === EventSource.OPEN);
    const append = (text) => `<turbo-stream action="append" target="comments">\n<template>\n<li>${text}</li>\n</template>\n</turbo-stream>`;
    const shown = (...want) => page.waitForFunction((list) => [...document.querySelectorAll('#comments li')].map((item) => item.textContent).join() === list, {}, want.join());
    await publish(server, 'stories/5', append('second &amp; <b>bold</b>'));
    await shown('first', 'second & bold');
    proxy.cut();
    await publish(server, 'stories/5', append('third'));
    await shown('first', 'second & bold', 'third');
  });

  test('examples/llm: a phone that reloads in the middle shows the whole answer, each word once', async (t) => {
    const dir = await mkdtemp(join(tmpdir(), 'pushit-llm-'));
    t.after(() => rm(dir, { recursive: true, force: true }));
    const env = { BACKEND: `unix/${join(dir, 'backend')}`, PUBLISHER_SECRET: secret };
    Object.assign(process.env, env);
    const server = await Server.start('examples/llm/Caddyfile');
    t.after(() => server.stop());
    const backend = spawn(process.execPath, ['examples/llm/backend.mjs'], { cwd: top, env: { ...process.env, ...env, PUSHIT_URL: server.url, PACE: '5' }, stdio: ['ignore', 'pipe', 'inherit'] });
    t.after(async () => {
      if (backend.exitCode === null) {
        backend.kill();
        await within('the backend ending', once(backend, 'exit'));
      }
    });
    await within('the backend', once(backend.stdout, 'data')); // it says that it listens
    const browser = await startBrowser();
    t.after(() => browser.close());
    const page = await browser.open(server.url, { width: 390, height: 844 });
    const question = 'Is it so?';
    await page.$eval('#question', (input, text) => (input.value = text), question);
    await page.click('button');
    const lines = (count) => page.waitForFunction((least) => document.querySelector('#answer').textContent.split('\n').length > least, {}, count);
    for (const count of [4, 9, 15]) {
      await lines(count);
      await page.reload();
    }
    await lines(20);
    await picture(page, 'llm-390');
    assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 390);
    await page.waitForFunction(() => document.querySelector('#state').textContent === 'This is the whole answer.');
    let want = `You ask: “${question}”\n\n`;
    for (let n = 1; n <= 40; n++) {
      const divisors = Array.from({ length: n }, (_, i) => i + 1).filter((d) => n % d === 0);
      want += divisors.length === 2 ? `${n} is a prime number.\n` : `${n} can be divided by ${divisors.join(', ')}.\n`;
    }
    assert.equal(await page.$eval('#answer', (output) => output.textContent), want);
    await page.reload();
    assert.equal(await page.$eval('#answer', (output) => output.textContent), want);
    assert.deepEqual(page.complaints, []);
    await picture(page, 'llm-390-whole');
  });
});
