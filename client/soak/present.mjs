// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Programs and real pages come, go, lose their connections, are reloaded, frozen and killed,
 * all in one room. After each round, every list of members must be right: nobody is missing,
 * and nobody is listed who has left.
 *
 * @module
 */

import { createHmac } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PushIt } from '../src/pushit.js';
import { Server, startBrowser } from '../test/harness.mjs';
import { Proxy } from '../test/proxy.mjs';
import { randomFrom } from './report.mjs';
import { until } from './storm.mjs';

const SECRET = 'a secret that only this run knows';

const CADDYFILE = `
http://:8080 {
	root DIR
	pushit /push {
		connect jwt {
			secret "${SECRET}"
		}
		subscribe allow
		publish deny
		heartbeat 3s
		channel room {
			presence {
				linger LINGERs
				members 100000
			}
		}
		limits {
			agents_per_ip unlimited
			unconnected_per_ip unlimited
		}
	}
	file_server
}
`;

// A page that was frozen may stay hidden. It comes back all the same, because it works in the
// background.
const PAGE = `<!doctype html><title>present</title><script type="module">
import { PushIt } from '/push/pushit.mjs';
const push = new PushIt({ background: true, credentials: () => location.hash.slice(1) });
const list = push.channel('room').presence();
window.sees = () => push.state.name === 'connected' && Object.fromEntries([...list].map(({ user, tabs }) => [user, tabs]));
</script>`;

/** @returns {string} a token for a user */
function token(user) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const text = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({ sub: user, exp: Math.floor(Date.now() / 1000) + 86_400 })}`;
  return `${text}.${createHmac('sha256', SECRET).update(text).digest('base64url')}`;
}

const same = (a, b) => a && Object.keys(a).length === Object.keys(b).length && Object.entries(b).every(([user, tabs]) => a[user] === tabs);

/**
 * @param {{agents: number, watchers: number, pages: number, browsers: ('chrome' | 'firefox')[], rounds: number, linger: number, seed: number, say?: (text: string) => void}} options
 *   `agents` are programs, `watchers` of which see the list; `linger` is in seconds; `say` is told
 *   about each round
 * @returns {Promise<{rounds: number, lists: number, ghosts: number, missing: number, wrong: number, slowest: number}>}
 *   `lists` that were compared; `slowest` is how long it took until the lists of a round were right, in ms
 */
export async function present({ agents, watchers, pages, browsers: names, rounds, linger, seed, say = () => {} }) {
  const random = randomFrom(seed);
  const pick = (list) => list[Math.floor(random() * list.length)];
  const dir = await mkdtemp(join(tmpdir(), 'pushit-present-'));
  const caddyfile = join(dir, 'Caddyfile');
  await writeFile(caddyfile, CADDYFILE.replace('DIR', dir).replace('LINGER', String(linger)));
  await writeFile(join(dir, 'index.html'), PAGE);
  await writeFile(join(dir, 'favicon.ico'), '');
  const browsers = [];
  const programs = new Set();
  const opened = new Set();
  const result = { rounds, lists: 0, ghosts: 0, missing: 0, wrong: 0, slowest: 0 };
  let server;
  let proxy;
  try {
    server = await Server.start(caddyfile);
    proxy = await Proxy.start(() => server.port);
    let users = 0;
    const enter = (watches) => {
      const user = random() < 0.3 ? `user${Math.floor(random() * agents)}` : `user${agents + users++}`; // some have several tabs
      const push = new PushIt({ endpoint: `${proxy.url}/push`, credentials: () => token(user) });
      const program = { user, push, watches };
      if (watches) {
        const list = push.channel('room').presence();
        program.sees = async () => push.state.name === 'connected' && Object.fromEntries([...list].map((member) => [member.user, member.tabs]));
      } else {
        push.subscribe('room');
      }
      programs.add(program);
    };
    const leave = (program) => {
      program.push.close();
      programs.delete(program);
    };
    const open = async (browser) => {
      const user = random() < 0.3 && programs.size > 0 ? pick([...programs]).user : `page${users++}`;
      const page = await browser.open(`${proxy.url}/index.html#${token(user)}`);
      opened.add({ user, page, browser, sees: () => page.evaluate(() => window.sees?.()) });
    };
    const close = async (each) => {
      opened.delete(each);
      await each.page.close({ runBeforeUnload: false }).catch(() => {}); // it is closed already
    };
    for (let n = 0; n < agents; n++) enter(n < watchers);
    for (const name of names) browsers.push(await startBrowser(name, { windows: true })); // pages are frozen
    for (let n = 0; n < pages; n++) await open(browsers[n % browsers.length]);
    const freeze = async ({ page, browser }, state) => {
      if (browser !== browsers[names.indexOf('chrome')]) return;
      const session = await page.createCDPSession();
      await session.send('Page.setWebLifecycleState', { state });
      await session.detach();
    };
    for (let round = 0; round < rounds; round++) {
      const frozen = [];
      for (let n = 0; n < agents / 5; n++) {
        const program = pick([...programs].filter(({ watches }) => !watches));
        leave(program);
        enter(false);
      }
      for (const each of [...opened]) {
        const dice = random();
        const replace = async () => {
          await close(each);
          await open(each.browser);
        };
        if (dice < 0.25) await each.page.reload().catch(replace); // on a busy machine, Firefox may not answer for a page
        else if (dice < 0.45) await replace();
        else if (dice < 0.6) {
          await freeze(each, 'frozen');
          frozen.push(each);
        }
      }
      if (round % 2 === 1) proxy.cut(); // all connections at once
      if (round === Math.floor(rounds / 2) && browsers.length > 0) { // a browser is killed, with all of its pages
        const at = round % browsers.length;
        const dead = browsers[at];
        const lost = [...opened].filter(({ browser }) => browser === dead);
        await dead.kill();
        for (const each of lost) opened.delete(each);
        browsers[at] = await startBrowser(names[at], { windows: true });
        for (let n = 0; n < lost.length; n++) await open(browsers[at]);
      }
      for (const each of frozen) if (opened.has(each)) await freeze(each, 'active');
      const truth = {};
      for (const { user } of [...programs, ...opened]) truth[user] = (truth[user] ?? 0) + 1;
      const observers = [...[...programs].filter(({ sees }) => sees), ...opened];
      const begun = Date.now();
      let last = [];
      const compare = async () => {
        last = await Promise.all(observers.map((each) => each.sees()));
        return last.every((list) => same(list, truth));
      };
      await until(`round ${round}: all lists are true`, compare).catch(() => {}); // what is wrong is counted
      result.slowest = Math.max(result.slowest, Date.now() - begun);
      result.lists += observers.length;
      const wrong = [];
      for (const [n, list] of last.entries()) {
        if (same(list, truth)) continue;
        result.wrong++;
        const ghosts = Object.keys(list || {}).filter((user) => !truth[user]).length;
        const missing = Object.keys(truth).filter((user) => !list?.[user]).length;
        result.ghosts += ghosts;
        result.missing += missing;
        wrong.push(`${observers[n].page ? 'a page' : 'a program'} ${list ? `has ${ghosts} ghosts, and ${missing} are missing` : 'is not connected'}`);
      }
      say(`round ${round + 1}: ${observers.length} lists, ${wrong.length > 0 ? wrong.join('; ') : `true after ${((Date.now() - begun) / 1000).toFixed(1)} s`}`);
      // Nothing changes any more by itself: a ghost that comes later would be one too.
      await new Promise((resolve) => setTimeout(resolve, 300));
    }
    return result;
  } finally {
    for (const { push } of programs) push.close();
    for (const browser of browsers) await browser.close().catch(() => {});
    await proxy?.stop();
    await server?.stop();
    await rm(dir, { recursive: true, force: true });
  }
}
