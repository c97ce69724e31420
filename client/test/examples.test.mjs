// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, describe, test } from 'node:test';
import { promisify } from 'node:util';
import { caddyBinary, eventually, picture, Server, startBrowser, top, within, without } from './harness.mjs';
import { freePort } from './process.mjs';

const skip = without('chrome');
const widths = [1000, 400];

/** Waits until the list begins with lines that match, the newest first. */
async function logs(page, ...wanted) {
  await page.waitForFunction(
    (patterns) => {
      const lines = [...document.querySelectorAll('.log li')].map((item) => item.textContent.replace(/\s+/g, ' '));
      return patterns.every((pattern, n) => new RegExp(pattern).test(lines[n]));
    },
    {},
    wanted.map(({ source }) => source),
  );
}

const connected = (page) => page.waitForSelector('#state[data-state="connected"]');
const complaints = async (page) => [...page.complaints, ...(await page.evaluate(() => window.violations))];

/** Takes a picture at each width, and checks that nothing is wider than the page. */
async function pictures(page, name) {
  for (const width of widths) {
    await page.setViewport({ width, height: 800 });
    await picture(page, `${name}-${width}`);
    assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), width, `${name} at ${width}`);
  }
}

describe('the examples', { skip }, () => {
  let browser;
  before(async () => {
    browser = await startBrowser();
  });
  after(() => browser?.close());

  test('cursors: pointers come and go, flowers stay', async (t) => {
    const server = await Server.start('examples/cursors/Caddyfile');
    t.after(() => server.stop());
    const open = async (name, options) => {
      const page = await browser.open(server.url, options);
      await connected(page);
      await page.$eval('#name', (input) => (input.value = ''));
      await page.type('#name', name);
      await page.$eval('#name', (input) => input.blur());
      return page;
    };
    const who = (page, words) => page.waitForFunction((want) => document.querySelector('#who').textContent === want, {}, words);
    const ada = await open('Ada', { width: 1200, height: 760 });
    await who(ada, 'Only you are here');
    await ada.mouse.click(700, 500);
    await ada.waitForSelector('.flower');
    const grace = await open('Grace Hopper', { width: 390, height: 780, dark: true });
    await who(grace, 'Ada and you are here');
    await who(ada, 'Grace Hopper and you are here');
    await grace.waitForSelector('.flower'); // planted before
    await ada.mouse.move(300, 300);
    await ada.mouse.move(840, 380, { steps: 12 });
    const pointer = (page, name, left, top) =>
      page.waitForFunction(
        (...[want, ...place]) => {
          const found = [...document.querySelectorAll('.pointer')].find((each) => each.textContent.trim() === want);
          return found && ['left', 'top'].every((side, i) => Math.abs(Number.parseFloat(found.style[side]) - place[i]) < 0.5);
        },
        {},
        name,
        left,
        top,
      );
    const box = await ada.$eval('#board', (board) => board.getBoundingClientRect().toJSON());
    await pointer(grace, 'Ada', 70, ((380 - box.top) / box.height) * 100);
    const small = await grace.$eval('#board', (board) => board.getBoundingClientRect().toJSON());
    await grace.mouse.move(195, small.top + small.height / 2);
    await pointer(ada, 'Grace Hopper', 50, 50);
    await grace.mouse.click(100, small.top + 200);
    await ada.waitForFunction(() => document.querySelectorAll('.flower').length === 2);
    await grace.mouse.move(250, small.top + 300, { steps: 3 });
    await pointer(ada, 'Grace Hopper', (250 / 390) * 100, (300 / small.height) * 100);
    assert.equal(await ada.$$eval('.pointer', (all) => all.length), 1, 'a page shows its own pointer');
    await picture(ada, 'cursors-desktop-light');
    await picture(grace, 'cursors-phone-dark');
    for (const page of [ada, grace]) {
      assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), await page.evaluate(() => innerWidth));
      assert.deepEqual(await complaints(page), []);
    }
    await grace.close();
    await ada.waitForFunction(() => !document.querySelector('.pointer'));
    await who(ada, 'Only you are here');
    // Only flowers are kept.
    const kept = await ada.evaluate(async () => {
      const { PushIt } = await import('/push/pushit.mjs');
      const { messages } = await new PushIt().history('boards/meadow', { last: 200 });
      return messages.map(({ data }) => data.flower);
    });
    assert.deepEqual(kept, [true, true]);
    const dark = await open('Linus', { width: 1200, height: 760, dark: true });
    await dark.waitForFunction(() => document.querySelectorAll('.flower').length === 2);
    await picture(dark, 'cursors-desktop-dark');
    await dark.setViewport({ width: 390, height: 780 });
    await picture(dark, 'cursors-phone-dark-2');
    assert.equal(await dark.evaluate(() => document.documentElement.scrollWidth), 390);
  });

  describe('live news from a backend', () => {
    const SECRET = 'a secret of this test 7f3a';
    const login = { username: 'editor', password: 'extra, extra' };
    const authorization = `Basic ${btoa(`${login.username}:${login.password}`)}`;
    let dir;
    let server;
    let newsroom;

    before(async () => {
      dir = await mkdtemp(join(tmpdir(), 'pushit-news-'));
      Object.assign(process.env, { PUBLISHER_SECRET: SECRET, NEWSROOM: `unix/${join(dir, 'newsroom')}` });
      server = await Server.start('examples/news/Caddyfile', () => {}, { editor: login.password });
      newsroom = spawn(process.execPath, ['examples/news/newsroom.mjs'], { cwd: top, env: { ...process.env, PUSHIT_URL: `${server.url}/push` }, stdio: ['ignore', 'ignore', 'pipe'] });
      await within('starting the newsroom', new Promise((resolve) => createInterface({ input: newsroom.stderr }).on('line', (line) => /listening/.test(line) && resolve())));
    });
    after(async () => {
      delete process.env.PUBLISHER_SECRET;
      delete process.env.NEWSROOM;
      if (newsroom) {
        const ended = once(newsroom, 'exit');
        newsroom.kill();
        await within('ending the newsroom', ended);
      }
      await server?.stop();
      await rm(dir, { recursive: true, force: true });
    });

    const titles = (page) => page.$$eval('#news h2', (all) => all.map((title) => title.textContent));
    const shows = (page, title) => page.waitForFunction((want) => document.querySelector('#news h2')?.textContent === want, {}, title);
    const live = (page) => page.waitForSelector('#state[data-state="connected"]');
    const post = (headers, fields) => fetch(`${server.url}/editor/publish`, { method: 'POST', headers: { 'Sec-Fetch-Site': 'same-origin', ...headers }, body: new URLSearchParams(fields), redirect: 'manual' });

    test('news that the editor publishes are shown live, and to later visitors', async () => {
      const reader = await browser.open(server.url);
      await live(reader);
      await reader.waitForSelector('#empty:not([hidden])');
      const editor = await browser.open(`${server.url}/editor/`, { login });
      const write = async (title, text) => {
        await editor.$eval('#title', (input, value) => (input.value = value), title);
        await editor.$eval('#text', (area, value) => (area.value = value), text);
        await Promise.all([editor.waitForNavigation(), editor.click('button')]);
      };
      await write('It works', 'A backend has published this.');
      await editor.waitForSelector('#published', { visible: true });
      await shows(reader, 'It works');
      assert.equal(await reader.$eval('#news p', (text) => text.textContent), 'A backend has published this.');
      await write('<img src=x onerror=window.pwned=1>', '');
      await shows(reader, '<img src=x onerror=window.pwned=1>');
      const late = await browser.open(server.url);
      await late.waitForFunction(() => document.querySelectorAll('#news li').length === 2);
      assert.deepEqual(await titles(late), ['<img src=x onerror=window.pwned=1>', 'It works']);
      assert.equal(await late.$eval('#older', (button) => button.hidden), true);
      for (const [page, name] of [[late, 'news'], [editor, 'news-editor']]) await pictures(page, name);
      for (const page of [reader, late, editor]) assert.deepEqual(await complaints(page), []);
      assert.equal(await late.evaluate(() => window.pwned), undefined);
    });

    test('older news come page by page, and after a loss what was missed', async () => {
      for (let n = 1; n <= 25; n++) assert.equal((await post({ Authorization: authorization }, { title: `News ${n}` })).status, 303);
      const reader = await browser.open(server.url);
      await reader.waitForFunction(() => document.querySelectorAll('#news li').length === 20);
      assert.deepEqual((await titles(reader)).slice(0, 2), ['News 25', 'News 24']);
      await reader.click('#older');
      await reader.waitForFunction(() => document.querySelectorAll('#news li').length > 24);
      assert.deepEqual((await titles(reader)).slice(0, 25), Array.from({ length: 25 }, (_, n) => `News ${25 - n}`));
      assert.equal(await reader.$eval('#older', (button) => button.hidden), true);
    });

    test('nobody else publishes, and no page knows the secret', async () => {
      assert.equal((await post({}, { title: 'x' })).status, 401, 'without the password');
      assert.equal((await post({ Authorization: authorization, 'Sec-Fetch-Site': 'cross-site' }, { title: 'x' })).status, 403, 'from another site');
      assert.equal((await post({ Authorization: authorization }, { title: ' ' })).status, 400);
      assert.equal((await post({ Authorization: authorization }, { title: 'x', text: 'x'.repeat(20_000) })).status, 413);
      const publish = (headers) => fetch(`${server.url}/push/publish`, { method: 'POST', headers: { 'Content-Type': 'application/json', ...headers }, body: '{"channel":"news","data":1}' });
      assert.equal((await publish({})).status, 401);
      assert.equal((await publish({ Authorization: 'Bearer wrong' })).status, 403);
      const reader = await browser.open(server.url);
      await live(reader);
      const refused = await reader.evaluate(async () => {
        const { PushIt } = await import('/push/pushit.mjs');
        return new PushIt().channel('news').publish('x').then(() => '', ({ code }) => code);
      });
      assert.equal(refused, 'denied');
      for (const name of await readdir(join(top, 'examples/news'), { recursive: true })) {
        const text = await readFile(join(top, 'examples/news', name), 'utf8').catch(() => '');
        assert.ok(!text.includes(SECRET));
      }
      for (const path of ['/', '/news.js', '/editor/', '/push/info']) assert.ok(!(await (await fetch(server.url + path, { headers: { Authorization: authorization } })).text()).includes(SECRET), path);
    });

    test('one command starts it, and Ctrl+C ends all of it', async (t) => {
      const port = await freePort();
      const env = { ...process.env, NEWSROOM: `unix/${join(dir, 'other')}`, PORT: port, HOME: dir, XDG_DATA_HOME: dir, XDG_CONFIG_HOME: dir };
      env.CADDY_ADMIN = `unix/${join(dir, 'admin')}`;
      env.CADDY = await caddyBinary();
      env.EDITOR_HASH = (await promisify(execFile)(env.CADDY, ['hash-password', '--algorithm', 'bcrypt', '--bcrypt-cost', '4', '--plaintext', login.password])).stdout.trim();
      delete env.PUBLISHER_SECRET; // it makes one that both get
      const started = spawn('sh', ['examples/news/start.sh'], { cwd: top, env, stdio: 'ignore', detached: true });
      const ended = once(started, 'exit');
      t.after(() => {
        try {
          process.kill(-started.pid, 'SIGKILL');
        } catch {
          // all of it has ended
        }
      });
      const fields = new URLSearchParams({ title: 'One command' });
      const headers = { Authorization: authorization, 'Sec-Fetch-Site': 'same-origin' };
      const publish = () => fetch(`http://localhost:${port}/editor/publish`, { method: 'POST', headers, body: fields, redirect: 'manual' });
      await eventually('publishing', async () => (await publish()).status === 303);
      process.kill(-started.pid, 'SIGINT');
      await within('the end of the script', ended);
      await eventually('the end of all it has started', () => {
        try {
          process.kill(-started.pid, 0);
          return false;
        } catch {
          return true;
        }
      });
    });
  });

  describe('one page for each thing', () => {
    let server;
    before(async () => {
      server = await Server.start('examples/features/Caddyfile');
    });
    after(() => server?.stop());

    async function open(name) {
      const page = await browser.open(`${server.url}/${name}`);
      if (name !== 'credentials.html') await connected(page);
      return page;
    }

    async function good(page, name) {
      await pictures(page, `features-${name}`);
      assert.deepEqual(await complaints(page), []);
    }

    test('messages', async () => {
      const [one, two] = [await open(''), await open('index.html')];
      await one.type('[name=text]', 'hello');
      await one.keyboard.press('Enter');
      await logs(one, /^news: hello/);
      await logs(two, /^news: hello/);
      assert.equal(await two.$eval('nav [aria-current]', (link) => link.textContent), 'Messages');
      await good(one, 'messages');
    });

    test('loops', async () => {
      const page = await open('loops.html');
      await page.click('#read');
      for (let n = 0; n < 5; n++) {
        await page.click('#publish');
        await page.waitForFunction((count) => [...document.querySelectorAll('.log li')].filter((item) => /^read \d/.test(item.textContent)).length === count, {}, n + 1);
      }
      await page.waitForFunction(() => [...document.querySelectorAll('.log li')].some((item) => /^the loop is over/.test(item.textContent)));
      await good(page, 'loops');
      await page.click('#read');
      await page.click('#stop');
      await page.waitForFunction(() => [...document.querySelectorAll('.log li')].filter((item) => /^the loop is over/.test(item.textContent)).length === 2);
    });

    test('patterns', async () => {
      const page = await open('patterns.html');
      for (const button of await page.$$('[data-channel]')) await button.click();
      await logs(page, /^rooms\/garden\/pond: somebody/, /^rooms\/kitchen: somebody/);
      await good(page, 'patterns');
    });

    test('states', async () => {
      const page = await open('states.html');
      await logs(page, /"connected"/, /"connecting"/);
      await page.click('#close');
      await logs(page, /"closed".*closed by the page/);
      await page.click('#connect');
      await connected(page);
      await good(page, 'states');
    });

    test('credentials', async () => {
      const page = await open('credentials.html');
      await logs(page, /^denied: /);
      await page.waitForSelector('#state[data-state="closed"]');
      await good(page, 'credentials');
      await page.$eval('[name=word]', (input) => (input.value = 'open sesame, please'));
      await page.click('#form button');
      await connected(page);
      await logs(page, /^let in/);
    });

    test('the outbox', async () => {
      const page = await open('outbox.html');
      await server.kill();
      await page.waitForSelector('#state[data-state="disconnected"]');
      await page.click('#publish');
      await logs(page, /^letter 3 is published/);
      await server.start();
      const arrived = () => page.$$eval('.log li', (items) => items.map((item) => item.textContent).filter((text) => /arrived/.test(text)).map((text) => text.match(/\d+/)[0]));
      await page.waitForFunction(() => [...document.querySelectorAll('.log li')].filter((item) => /arrived/.test(item.textContent)).length === 3);
      assert.deepEqual(await arrived(), ['3', '2', '1']);
      await pictures(page, 'features-outbox');
    });

    test('in a worker', async () => {
      const page = await open('worker.html');
      await page.click('#publish');
      await logs(page, /^\d+:\d+/);
      await good(page, 'worker');
    });
  });
});
