// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * The client in WebKit, the engine of Safari, through the WebDriver of WebKitGTK. The test
 * checks that it works there.
 *
 *   WEBKIT_DRIVER  the driver's executable
 *
 * @module
 */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { describe, test } from 'node:test';
import { eventually, Server, within } from './harness.mjs';
import { skipWithout } from './needs.mjs';
import { freePort } from './process.mjs';
import { Proxy } from './proxy.mjs';
import { makeSite } from './site.mjs';

const driver = process.env.WEBKIT_DRIVER || '/usr/bin/WebKitWebDriver';

/** MiniBrowser, the browser of WebKitGTK, is in no PATH. */
function miniBrowser() {
  for (const dir of ['/usr/lib', ...(existsSync('/usr/lib') ? readdirSync('/usr/lib').map((name) => `/usr/lib/${name}`) : [])]) {
    for (const version of ['4.1', '4.0', '6.0']) {
      for (const place of [`${dir}/webkit2gtk-${version}/MiniBrowser`, `${dir}/webkitgtk-${version}/MiniBrowser`]) if (existsSync(place)) return place;
    }
  }
  return '';
}

const skip = skipWithout({ WebKitWebDriver: driver, Xvfb: '/usr/bin/Xvfb', MiniBrowser: miniBrowser() });

/** Starts a program that ends with the test. */
function start(t, program, args, options = {}) {
  const child = spawn(program, args, { stdio: ['ignore', 'ignore', 'ignore'], ...options });
  const gone = new Promise((resolve) => {
    child.once('exit', resolve);
    child.once('error', resolve);
  });
  t.after(async () => {
    child.kill('SIGKILL');
    await gone;
  });
  return child;
}

/** @returns {Promise<string>} a virtual screen */
async function screen(t) {
  const xvfb = start(t, '/usr/bin/Xvfb', ['-displayfd', '3', '-screen', '0', '1000x800x24', '-nolisten', 'tcp'], { stdio: ['ignore', 'ignore', 'ignore', 'pipe'] });
  const number = new Promise((resolve) => xvfb.stdio[3].once('data', (data) => resolve(String(data).trim())));
  return `:${await within('starting Xvfb', number)}`;
}

class WebDriver {
  static async start(t) {
    const env = { ...process.env, DISPLAY: await screen(t), GDK_BACKEND: 'x11', LIBGL_ALWAYS_SOFTWARE: '1', WEBKIT_DISABLE_COMPOSITING_MODE: '1', NO_AT_BRIDGE: '1' };
    const port = await freePort();
    const web = new WebDriver();
    t.after(() => web.#end()); // before the driver ends: what is registered first is called first
    start(t, driver, [`--port=${port}`, '--host=127.0.0.1'], { env });
    web.url = `http://127.0.0.1:${port}`;
    await within('WebKitWebDriver', web.#there());
    const capabilities = { alwaysMatch: { 'webkitgtk:browserOptions': { binary: miniBrowser(), args: ['--automation'] } } };
    const { sessionId } = await within('starting WebKit', web.#post('/session', { capabilities }));
    web.url += `/session/${sessionId}`;
    return web;
  }

  async #end() {
    if (this.url) await fetch(this.url, { method: 'DELETE' }).catch(() => {});
  }

  async #there() {
    for (;;) {
      if (await fetch(`${this.url}/status`).then((response) => response.ok, () => false)) return;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  async #post(path, body) {
    const response = await fetch(this.url + path, { method: 'POST', body: JSON.stringify(body) });
    const { value } = await response.json();
    if (!response.ok) throw new Error(`${path}: ${value.error} ${value.message}`);
    return value;
  }

  open(url) {
    return this.#post('/url', { url });
  }

  run(script, ...args) {
    return this.#post('/execute/sync', { script, args });
  }

  /** Waits until an expression is true. */
  async until(expression) {
    const is = async () => {
      while (!(await this.run(`return Boolean(${expression})`))) await new Promise((resolve) => setTimeout(resolve, 50));
    };
    try {
      await within(expression, is());
    } catch (error) {
      throw new Error(`${error.message}: ${await this.run('return JSON.stringify([window.states, window.ended, window.got])')}`);
    }
  }
}

describe('the client in WebKit', { skip }, () => {
  test('connects, talks, is cut and comes back, on each transport', async (t) => {
    const site = await makeSite();
    t.after(() => site.remove());
    const server = await Server.start(site.caddyfile);
    t.after(() => server.stop());
    const proxy = await Proxy.start(() => server.port);
    t.after(() => proxy.stop());
    const web = await WebDriver.start(t);

    for (const transport of ['websocket', 'xhr_streaming', 'xhr']) {
      await web.open(`${proxy.url}/index.html?${transport}`);
      await web.until('window.ready');
      await web.run('start(arguments[0])', { channels: ['news'], transports: [transport], background: true, firstWait: 20, longestWait: 200 });
      await web.until('push.channels.includes("news")');
      await web.run('say("hello")');
      await web.until('ended.includes("hello") && got.includes("hello")');
      // Between two polls there is nothing to cut.
      const before = await web.run('return states.length');
      await eventually('the loss', () => {
        proxy.cut();
        return web.run('return states.length > arguments[0]', before);
      });
      await web.run('say("again")');
      await web.until('ended.includes("again") && got.includes("again") && push.state.name === "connected"');
      assert.deepEqual(await web.run('return got'), ['hello', 'again']);
      await web.run('push.close()');
      assert.ok(proxy.requests.some((request) => request.endsWith(` ${transport}`)));
    }
  });
});
