// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { picture, Server, startBrowser, without } from './harness.mjs';

describe('a single-page application', () => {
  let server;

  before(async () => {
    server = await Server.start('examples/spa/Caddyfile');
  });

  after(() => server?.stop());

  test('a deep link is index.html, and paths below /push are still for pushit', async () => {
    const get = async (path) => {
      const response = await fetch(server.url + path);
      return { status: response.status, type: response.headers.get('content-type'), body: await response.text() };
    };
    const index = await get('/');
    assert.match(index.type, /^text\/html/);
    for (const path of ['/stories/2', '/any/page/you/like', '/pushover']) assert.deepEqual(await get(path), index);
    assert.match((await get('/app.js')).type, /javascript/);

    const info = await get('/push/info');
    assert.equal(info.status, 200);
    assert.match(info.type, /^application\/json/);
    assert.equal(JSON.parse(info.body).websocket, true);
    assert.notEqual((await get('/push')).body, index.body);
  });

  test('its pages exchange messages', { skip: without('chrome') }, async (t) => {
    const browser = await startBrowser();
    t.after(() => browser.close());
    const open = async (path) => {
      const page = await browser.open(server.url + path);
      await page.waitForSelector('#state[data-connected="true"]');
      return page;
    };
    const [one, two] = [await open('/stories/2'), await open('/stories/2')];
    assert.equal(await one.$eval('#channel', (code) => code.textContent), 'claps/stories/2');
    await one.click('#clap');
    const claps = (page, count) =>
      page.waitForFunction((n) => document.querySelector('#claps').textContent.endsWith(`: ${n}`), {}, count);
    await claps(one, 1);
    await claps(two, 1);

    await one.click('nav a[href="/stories/1"]');
    await one.waitForFunction(() => document.querySelector('#page').textContent === 'stories/1');
    await one.click('#clap');
    await claps(one, 1); // only the claps of its own page
    await two.click('#clap');
    await claps(two, 2);
    await picture(two, 'spa');
    assert.equal(new URL(one.url()).pathname, '/stories/1');
    const violations = await Promise.all([one, two].map((page) => page.evaluate(() => window.violations)));
    assert.deepEqual([...one.complaints, ...two.complaints, ...violations.flat()], []);
  });
});
