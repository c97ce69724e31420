// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * The status page, as an operator sees it who is logged in.
 *
 * @module
 */

import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { PushIt } from '../dist/node.mjs';
import { picture, Server, startBrowser, within, without } from './harness.mjs';

const login = { username: 'alice', password: 'secret of alice' };
const CADDYFILE = `
http://:8080 {
	basic_auth /push/debug* {
		alice $2a$14$Zkx19XLiW6VYouLHR5NmfOFU0z2GTNmpkT/5qqR7hx4IjWJPDhjvG
	}
	pushit /push {
		connect {
			optional bearer "open sesame, please"
			allow
		}
		subscribe allow
		publish cel \`agent.claims.size() >= 0 && channel != "announcements"\` "only the editors write here"
		channel staff {
			subscribe deny
		}
		channel news {
			history 100 1h
			presence
			conflate
		}
		debug {
			deny @off-duty "you are off duty"
			user alice
		}
		@off-duty header Cookie *off-duty*
	}
	respond "the site" 200
}
`;

describe('the status page', { skip: without('chrome') }, () => {
  let dir;
  let server;
  let browser;
  const agents = [];

  before(async () => {
    dir = await mkdtemp(join(tmpdir(), 'pushit-status-'));
    await writeFile(join(dir, 'Caddyfile'), CADDYFILE);
    server = await Server.start(join(dir, 'Caddyfile'), undefined, { alice: login.password });
    browser = await startBrowser();
  });

  after(async () => {
    for (const agent of agents) agent.close();
    await browser?.close();
    await server?.stop();
    await rm(dir, { recursive: true, force: true });
  });

  /** Waits until an element of the page has such a text. */
  const sees = (page, selector, pattern) =>
    page.waitForFunction(
      (where, source) => [...document.querySelectorAll(where)].some((element) => new RegExp(source).test(element.innerText.replace(/\s+/g, ' '))),
      {},
      selector,
      pattern.source,
    );

  /** Has the page ask for the state at once, as it does when the network is back. */
  const hurry = (page) => page.evaluate(() => dispatchEvent(new Event('online')));

  test('shows channels, agents and refusals, and has a console behind all gates', async () => {
    const agent = new PushIt({ endpoint: `${server.url}/push`, channels: ['news', 'rooms/*'] });
    agents.push(agent);
    await within('the subscription', agent.subscribe('news'));
    await within('a refusal', agent.subscribe('staff').catch(() => {}));
    await within('a publish', agent.channel('news').publish({ n: 1 }));

    const page = await browser.open(`${server.url}/push/debug`, { width: 1200, height: 900, login });
    await page.waitForSelector('#live[data-state="live"]');
    await sees(page, '#channels tr', /^news 1 1 1$/);
    await sees(page, '#agents tr', /websocket.*news/);
    await sees(page, '#refusals li', /denied subscribe staff/);
    await page.click('#channels button');
    await sees(page, '#in-channel', /in (news|rooms)/);

    await page.$eval('#subscribe input', (input) => (input.value = 'news'));
    await page.click('#connect-button');
    await page.waitForSelector('#console-state[data-state="connected"]');
    await page.click('#frames');
    await page.click('#subscribe button');
    await sees(page, '#subscriptions button', /^news$/);
    await page.$eval('#publish textarea', (area) => (area.value = '{"text": "<img src=x>"}'));
    await page.click('#publish button');
    await sees(page, '#log .message pre', /<img src=x>/);
    await sees(page, '#log .frame', /sent.*news/);
    await page.$eval('#subscribe input', (input) => (input.value = 'announcements'));
    await page.click('#publish button');
    await sees(page, '#log .refused', /publish refused.*denied: only the editors write here/);
    await hurry(page);
    await sees(page, '#refusals li', /publish announcements/);
    await picture(page, 'status-1200-light');

    await page.setViewport({ width: 390, height: 844 });
    assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 390);
    await picture(page, 'status-390-light');

    // The gate refuses, and allows again.
    await page.evaluate(() => (document.cookie = 'off-duty=1'));
    await hurry(page);
    await page.waitForSelector('#live[data-state="refused"]');
    await sees(page, '#notice', /^You may not see this page any more. You are off duty.$/);
    await picture(page, 'status-390-refused');
    await page.evaluate(() => (document.cookie = 'off-duty=; max-age=0'));
    await hurry(page);
    await page.waitForSelector('#live[data-state="live"]');

    // The server goes away, and comes back.
    await server.kill();
    await hurry(page);
    await page.waitForSelector('#live[data-state="away"]');
    await sees(page, '#notice', /does not answer/);
    await picture(page, 'status-390-away');
    await server.start();
    await page.waitForSelector('#live[data-state="live"]');
    assert.deepEqual(await page.evaluate(() => window.violations), []);
    const unexpected = page.complaints.filter((text) => !/ERR_CONNECTION_REFUSED|WebSocket connection|Failed to load resource/.test(text));
    assert.deepEqual(unexpected, []);
  });
});
