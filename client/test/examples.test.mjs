// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { picture, Server, startBrowser, without } from './harness.mjs';

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

  test('the debug page publishes, subscribes and tells', async (t) => {
    const server = await Server.start('examples/debug/Caddyfile');
    t.after(() => server.stop());
    const page = await browser.open(server.url);
    await connected(page);
    await page.click('#subscribe button');
    await page.waitForFunction(() => document.querySelector('#subscriptions bdi')?.textContent === 'stories/*');
    await page.$eval('#post textarea', (area) => (area.value = '{"text": "<img src=x>", "n": [1, 2]}'));
    await page.click('#post button');
    await page.waitForSelector('.log .taken');
    await page.waitForFunction(() => /"<img src=x>"/.test(document.querySelector('.log .message pre').textContent));
    await page.$eval('#subscribe input', (input) => (input.value = 'no good'));
    await page.click('#subscribe button');
    await logs(page, /^refused no good .*invalid/);
    await pictures(page, 'debug');
    await page.click('#subscriptions button');
    await page.waitForFunction(() => !document.querySelector('#subscriptions bdi'));
    await page.click('#close');
    await page.waitForSelector('#state[data-state="closed"]');
    await page.click('#connect');
    await connected(page);
    assert.deepEqual(await complaints(page), []);
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
