// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Pages and programs that publish and subscribe over HTTP/1.1 while `caddy reload` runs
 * again and again. Each reload closes the connections that browsers keep open, some of
 * them just when a request is sent.
 *
 * @module
 */

import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PushIt } from '../src/pushit.js';
import { Server, startBrowser } from '../test/harness.mjs';
import { until } from './storm.mjs';

const CADDYFILE = `
http://:8080 {
	root DIR
	pushit /push {
		limits {
			publishes_per_second 1000
			frames_per_second 1000
		}
	}
	file_server
}
`;

/**
 * What each of them does, here or in a page.
 *
 * @param {typeof PushIt} Client
 */
function participant(Client, name, options, every) {
  const me = { sent: 0, accepted: 0, failed: [], got: [], gaps: 0, subscribed: false };
  me.state = () => ({ ...me, got: me.got.length });
  me.all = () => me.got;
  const push = new Client(options);
  push.on('gap', () => me.gaps++);
  push.on('error', (error) => me.failed.push(`${error.code}: ${error.message}`));
  push.onMessageReceived = (_, { payload }) => me.got.push(payload);
  push.subscribe('reload', undefined, () => (me.subscribed = true));
  let timer;
  me.start = () => {
    timer = setInterval(() => {
      push.publish(
        { channel: 'reload', data: `${name} ${++me.sent}` },
        (error) => me.failed.push(`${error.code}: ${error.message}`),
        () => me.accepted++,
      );
    }, every);
  };
  me.stop = () => clearInterval(timer);
  me.close = () => push.close();
  return me;
}

/** One in this process. */
class Program {
  constructor(name, options, every) {
    this.name = name;
    this.me = participant(PushIt, name, options, every);
  }
  async call(what) {
    return this.me[what]();
  }
}

/** One in a browser. */
class InPage {
  constructor(name, page) {
    this.name = name;
    this.page = page;
  }
  static async open(browser, url, name, options, every) {
    const page = await browser.open(`${url}/index.html`);
    await page.evaluate(
      async (source, ...args) => {
        const { PushIt: Client } = await import('/push/pushit.mjs');
        window.me = new Function(`return (${source})`)()(Client, ...args);
      },
      participant.toString(),
      name,
      options,
      every,
    );
    return new InPage(name, page);
  }
  call(what) {
    return this.page.evaluate((name) => JSON.parse(JSON.stringify(me[name]() ?? null)), what);
  }
}

/**
 * @param {{reloads: number, browsers: ('chrome' | 'firefox')[], every: number}} options
 *   `every` is how many ms lie between two messages of each participant
 * @returns also `late`, how many sessions ended because the machine was so busy that they did
 *   not poll in time
 */
export async function reloads({ reloads: times, browsers: names, every }) {
  const dir = await mkdtemp(join(tmpdir(), 'pushit-reload-'));
  const caddyfile = join(dir, 'Caddyfile');
  await writeFile(caddyfile, CADDYFILE.replace('DIR', dir));
  await writeFile(join(dir, 'index.html'), '<!doctype html><title>reload</title>');
  await writeFile(join(dir, 'favicon.ico'), '');
  const browsers = [];
  let server;
  try {
    server = await Server.start(caddyfile);
    await server.kill();
    await server.start(); // at the port that it has now, which a reload must not change
    const all = [];
    for (const name of names) browsers.push(await startBrowser(name));
    for (const transport of ['websocket', 'xhr_streaming', 'xhr']) {
      const options = { transports: [transport], background: true };
      all.push(new Program(`node ${transport}`, { ...options, endpoint: `${server.url}/push` }, every));
      for (const [n, browser] of browsers.entries()) all.push(await InPage.open(browser, server.url, `${names[n]} ${transport}`, options, every));
    }
    const states = () => Promise.all(all.map((each) => each.call('state')));
    const reach = async (what, holds) => {
      let now;
      await until(what, async () => holds((now = await states())));
      return now;
    };
    await reach('all are subscribed', (now) => now.every((each) => each.subscribed));
    for (const each of all) await each.call('start');
    let before = (await states()).map((each) => each.accepted);
    for (let n = 1; n <= times; n++) {
      const now = await reach(`each was heard after reload ${n - 1}`, (list) => list.every((each, i) => each.accepted > before[i] || each.failed.length > 0));
      before = now.map((each) => each.accepted);
      await server.reload();
    }
    for (const each of all) await each.call('stop');
    const settled = (list) => list.every((each) => each.accepted + each.failed.length >= each.sent);
    const sent = (await reach('each publish has ended', settled)).map((each) => each.sent);
    const total = sent.reduce((a, b) => a + b);
    await reach('all has arrived', (list) => list.every((each) => each.got >= total)).catch(() => {}); // what is missing is counted
    const last = await states();
    const got = await Promise.all(all.map((each) => each.call('all')));
    const late = server.log.split('made no request to receive in time').length - 1;
    for (const each of all) await each.call('close');
    const result = { participants: all.length, sent: total, late, failed: 0, gaps: 0, lost: 0, doubled: 0, reordered: 0, faults: [] };
    for (const [i, each] of last.entries()) {
      const seen = new Map();
      const high = new Map();
      for (const text of got[i]) {
        const [who, n] = [text.slice(0, text.lastIndexOf(' ')), Number(text.slice(text.lastIndexOf(' ') + 1))];
        if (seen.has(text)) result.doubled++;
        seen.set(text, true);
        if (n < (high.get(who) ?? 0)) result.reordered++;
        high.set(who, Math.max(n, high.get(who) ?? 0));
      }
      const lost = total - seen.size;
      result.lost += lost;
      result.gaps += each.gaps;
      result.failed += each.failed.length;
      if (lost || each.gaps || each.failed.length) result.faults.push(`${all[i].name}: ${lost} lost, ${each.gaps} gaps, failed: ${[...new Set(each.failed)].join('; ')}`);
    }
    return result;
  } finally {
    for (const browser of browsers) await browser.close();
    await server?.stop();
    await rm(dir, { recursive: true, force: true });
  }
}
