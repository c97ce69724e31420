// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Real servers and real browsers for the tests. There are no fixed ports and no sleeps:
 * each wait ends with an event or a deadline. Each process that is started here is ended
 * here, by its id.
 *
 *   PUSHIT_CADDY        the Caddy to test; without it, it is built from ./cmd/caddy
 *   CHROMIUM, FIREFOX   the browsers' executables
 *   CHROMIUM_SHELL      Chromium without windows, which takes half the processor time; without
 *                       it, and where Debian's is not installed, CHROMIUM is used instead
 *   PUSHIT_SCREENSHOTS  a folder for pictures of what the tests see; without it, none are taken
 *
 * @module
 */

import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { request } from 'node:http';
import { get } from 'node:https';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import puppeteer from 'puppeteer-core';
import { skipWithout } from './needs.mjs';
import { Process } from './process.mjs';

const run = promisify(execFile);

/** The top of the repository: the paths in its Caddyfiles are relative to it. */
export const top = join(dirname(fileURLToPath(import.meta.url)), '..', '..');

/** The maximum time of one action, in ms. On an idle machine each takes moments. */
const DEADLINE = 60_000;

const LOOK = 50; // ms between looks at what has to change

/**
 * Rejects if the promise takes longer than the deadline.
 *
 * @template T
 * @param {string} what  the event that is waited for
 * @param {Promise<T>} promise
 * @param {number} [ms]
 * @returns {Promise<T>}
 */
export async function within(what, promise, ms = DEADLINE) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: not within ${ms} ms`)), ms);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Looks again and again, until what is wanted is so. To look may fail meanwhile.
 *
 * @param {string} what  what is waited for
 * @param {() => boolean | Promise<boolean>} look
 */
export async function eventually(what, look) {
  const late = Date.now() + DEADLINE;
  for (;;) {
    let failure = '';
    try {
      if (await look()) return;
    } catch (error) {
      failure = `: ${error.message}`;
    }
    if (Date.now() > late) throw new Error(`${what}: not within ${DEADLINE} ms${failure}`);
    await new Promise((resolve) => setTimeout(resolve, LOOK));
  }
}

/** @returns {Promise<string>} the path of a Caddy with pushit in it */
export async function caddyBinary() {
  if (process.env.PUSHIT_CADDY) return process.env.PUSHIT_CADDY;
  const path = join(top, 'client', '.build', 'caddy');
  await run('go', ['build', '-o', path, './cmd/caddy'], { cwd: top });
  return path;
}

export class Server {
  #binary;
  #dir;
  #config;
  #process = new Process();
  #log = [];
  #env;
  #secure;
  #command;
  /** The address that it listens on. */
  host;
  /** @type {number} 0 until it is known */
  port = 0;

  constructor(binary, dir, config, host, env, secure, command) {
    this.#binary = binary;
    this.#dir = dir;
    this.#config = config;
    this.#env = env;
    this.#secure = secure;
    this.#command = command;
    this.host = host;
  }

  /**
   * Starts Caddy with a Caddyfile of the repository. Only the port, the admin endpoint and
   * the cost of passwords are changed.
   *
   * @param {string} caddyfile  its path from the top of the repository
   * @param {(handler: object) => void} [change]  changes each pushit handler's JSON
   * @param {Record<string, string>} [passwords]  of accounts whose password should be quick
   * to check
   * @param {{host?: string, env?: Record<string, string>, binary?: string, secure?: boolean, command?: string[]}} [options]
   * the address to listen on, variables of the environment, another Caddy, that the site has TLS,
   * and what the command line begins with
   * @returns {Promise<Server>}
   */
  static async start(caddyfile, change = () => {}, passwords = {}, { host = '127.0.0.1', env = {}, binary, secure = false, command = [] } = {}) {
    binary ??= await caddyBinary();
    const dir = await mkdtemp(join(tmpdir(), 'pushit-caddy-'));
    const { stdout } = await run(binary, ['adapt', '--config', caddyfile], { cwd: top, env: { ...process.env, ...env } });
    const config = JSON.parse(stdout);
    config.admin = { listen: `unix/${join(dir, 'admin')}`, config: { persist: false } };
    let found = 0;
    const hashes = {};
    for (const [name, password] of Object.entries(passwords)) {
      const hashed = await run(binary, ['hash-password', '--algorithm', 'bcrypt', '--bcrypt-cost', '4', '--plaintext', password]);
      hashes[name] = hashed.stdout.trim();
    }
    walk(config, (object) => {
      // Passwords are slow to check, on purpose. A page of ten files would wait ten times.
      if (object.http_basic) object.http_basic.hash_cache = {};
      if (hashes[object.username]) object.password = hashes[object.username];
      if (object.handler !== 'pushit') return;
      found++;
      change(object);
    });
    if (found === 0) throw new Error(`${caddyfile} has no pushit handler`);
    const server = new Server(binary, dir, config, host, env, secure, command);
    try {
      await server.start();
    } catch (error) {
      await server.stop();
      throw error;
    }
    return server;
  }

  get url() {
    return `${this.#secure ? 'https' : 'http'}://${this.host === '127.0.0.1' ? 'localhost' : this.host}:${this.port}`;
  }

  /** The lines that the server has logged. */
  get log() {
    return this.#log.join('\n');
  }

  /** Starts it, later again at the same port. */
  async start() {
    for (const server of Object.values(this.#config.apps.http.servers)) server.listen = [`${this.host}:${this.port}`];
    const path = join(this.#dir, 'caddy.json');
    await writeFile(path, JSON.stringify(this.#config));
    // The port was the server's own a moment ago. One attempt fails only if another process
    // has taken it.
    for (let attempt = 1; ; attempt++) {
      try {
        return await within('starting Caddy', this.#launch(path));
      } catch (error) {
        await this.kill();
        if (attempt === 3) throw new Error(`${error.message}\n${this.log}`);
      }
    }
  }

  async #launch(path) {
    const env = { ...process.env, ...this.#env, HOME: this.#dir, XDG_CONFIG_HOME: this.#dir, XDG_DATA_HOME: this.#dir };
    const child = this.#process.launch([...this.#command, this.#binary, 'run', '--config', path], { cwd: top, env, stdio: ['ignore', 'ignore', 'pipe'] });
    await new Promise((resolve, reject) => {
      this.#process.exited.then(() => reject(new Error('Caddy ended at its start')));
      createInterface({ input: child.stderr }).on('line', (line) => {
        this.#log.push(line);
        const { msg, actual_address: address } = parsed(line);
        if (msg === 'port 0 listener') this.port = Number(address.split(':').pop());
        if (msg === 'serving initial configuration') resolve();
      });
    });
    if (this.#secure) {
      // Caddy signs the certificate a moment after it has started. Nothing here trusts it.
      await eventually(
        'the certificate',
        () => new Promise((resolve, reject) => get(this.url, { rejectUnauthorized: false, agent: false }, (answer) => resolve(answer.resume() && true)).once('error', reject)),
      );
      return;
    }
    const response = await fetch(this.url);
    // A site that asks for a login (401) is ready, too.
    if (!response.ok && response.status !== 401) throw new Error(`GET ${this.url}: ${response.status}`);
  }

  /** Loads the configuration once more, as `caddy reload --force` does. */
  async reload() {
    const status = await within(
      'reloading',
      new Promise((resolve, reject) => {
        const load = request(
          { socketPath: join(this.#dir, 'admin'), path: '/load', method: 'POST', headers: { Host: '127.0.0.1', 'Content-Type': 'application/json', 'Cache-Control': 'must-revalidate' } },
          (response) => response.resume().once('end', () => resolve(response.statusCode)),
        );
        load.once('error', reject);
        load.end(JSON.stringify(this.#config));
      }),
    );
    if (status !== 200) throw new Error(`reloading: HTTP ${status}\n${this.log}`);
  }

  /**
   * Runs a `caddy pushit` command on it.
   *
   * @returns {Promise<string>} what it printed
   */
  async pushit(...args) {
    return (await run(this.#binary, ['pushit', ...args, '--address', `unix/${join(this.#dir, 'admin')}`])).stdout;
  }

  /** Sends it a signal: SIGSTOP and SIGCONT hold it up for a while. */
  signal(name) {
    this.#process.signal(name);
  }

  /** Ends it like a crash, or with another signal. */
  async kill(signal = 'SIGKILL') {
    this.#process.signal(signal);
    await within('Caddy ending', this.#process.exited);
  }

  /** Ends it for good, and removes its files. */
  async stop() {
    await this.kill();
    await rm(this.#dir, { recursive: true, force: true });
  }
}

function parsed(line) {
  try {
    return JSON.parse(line);
  } catch {
    return {};
  }
}

function walk(value, visit) {
  if (value === null || typeof value !== 'object') return;
  visit(value);
  for (const each of Object.values(value)) walk(each, visit);
}

const chromium = process.env.CHROMIUM || '/usr/bin/chromium';
const shell = process.env.CHROMIUM_SHELL || '/usr/bin/chromium-headless-shell';
const executables = {
  chrome: !process.env.CHROMIUM && existsSync(shell) ? shell : chromium,
  windows: chromium,
  firefox: process.env.FIREFOX || '/usr/bin/firefox-esr',
};

/** Returns why tests of a browser must be skipped, or false. */
export const without = (name) => skipWithout({ [name]: executables[name === 'chrome' ? 'windows' : name] });

/**
 * Starts a browser with a fresh profile. It keeps pages for visitors who come back, as
 * browsers do, and resolves pushit.test to this machine.
 *
 * @param {'chrome' | 'firefox'} [name]
 * @param {{windows?: boolean}} [options]  `windows` is for tests that hide a page, freeze it or
 * leave it: then Chromium has windows and tabs, though nobody sees them
 * @returns {Promise<Browser>}
 */
export async function startBrowser(name = 'chrome', { windows = false } = {}) {
  const flags =
    '--host-resolver-rules=MAP\u00a0pushit.test\u00a0127.0.0.1 --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync';
  const browser = await puppeteer.launch({
    browser: name,
    executablePath: executables[windows && name === 'chrome' ? 'windows' : name],
    headless: true,
    args: name === 'chrome' ? flags.split(' ').map((flag) => flag.replaceAll('\u00a0', ' ')) : [],
    ignoreDefaultArgs: name === 'chrome' ? ['--disable-back-forward-cache'] : [],
    timeout: DEADLINE,
    protocolTimeout: 3 * DEADLINE, // a page may do much in one action
  });
  return new Browser(browser, name);
}

class Browser {
  #browser;
  #name;

  constructor(browser, name) {
    this.#browser = browser;
    this.#name = name;
  }

  /**
   * Opens a page in a profile of its own, and notes its complaints.
   *
   * @param {string} url
   * @param {{width?: number, height?: number, dark?: boolean, login?: {username: string, password: string}, trusting?: boolean}} [options]
   * `login` is the answer when the server asks for a user and a password; `trusting` accepts any
   * certificate, in Chromium
   * @returns {Promise<import('puppeteer-core').Page & {complaints: string[]}>}
   */
  async open(url, { width = 1280, height = 800, dark = false, login, trusting = false } = {}) {
    const context = await this.#browser.createBrowserContext();
    const page = await context.newPage();
    page.setDefaultTimeout(DEADLINE);
    page.complaints = [];
    page.on('console', (message) => {
      if (['error', 'warn'].includes(message.type())) page.complaints.push(`console: ${message.text()}`);
    });
    page.on('pageerror', (error) => page.complaints.push(`error: ${error.message}`));
    await page.evaluateOnNewDocument(() => {
      window.violations = [];
      document.addEventListener('securitypolicyviolation', (event) => {
        window.violations.push(`${event.effectiveDirective}: ${event.blockedURI} ${event.sample}`);
      });
    });
    const failed = []; // requests that had no answer
    page.on('requestfailed', (request) => failed.push(`${request.method()} ${request.url()}: ${request.failure()?.errorText}`));
    // Looking at each picture that is drawn would make the browser draw all the time.
    const wait = page.waitForFunction.bind(page);
    page.waitForFunction = async (what, options, ...args) => {
      try {
        return await wait(what, { polling: LOOK, ...options }, ...args);
      } catch (error) {
        error.message = [error.message, ...page.complaints, ...failed].join('\n');
        throw error;
      }
    };
    await page.setViewport({ width, height });
    if (this.#name === 'chrome') {
      await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: dark ? 'dark' : 'light' }]);
    }
    if (login) await page.authenticate(login);
    if (trusting) await (await page.createCDPSession()).send('Security.setIgnoreCertificateErrors', { ignore: true });
    await page.goto(url);
    return page;
  }

  /** Ends it as a crash does. */
  async kill() {
    const child = this.#browser.process();
    const gone = child.exitCode !== null || child.signalCode !== null || new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGKILL');
    await within('the end of the browser', gone);
  }

  async close() {
    const child = this.#browser.process();
    try {
      await within('closing the browser', this.#browser.close());
    } catch (error) {
      child?.kill('SIGKILL');
      throw error;
    }
  }
}

/** Takes a picture of the page, if pictures are wanted. */
export async function picture(page, name) {
  const dir = process.env.PUSHIT_SCREENSHOTS;
  if (!dir) return;
  await mkdir(dir, { recursive: true });
  await page.screenshot({ path: join(dir, `${name}.png`) });
}
