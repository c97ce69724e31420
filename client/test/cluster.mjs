// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Several machines on this one: servers of NATS, links to them that fail, Caddys that
 * share a broker, and a load balancer before them that sends no client to the same
 * Caddy twice in a row.
 *
 *   PUSHIT_NATS_SERVER     the nats-server to use; without it, it is built in test/
 *   PUSHIT_CADDY_EMBEDDED  the Caddy with a NATS server in it; without it, it is built in contrib/embedded-nats
 *
 * @module
 */

import { Buffer } from 'node:buffer';
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import http from 'node:http';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { Server, top, within } from './harness.mjs';
import { Namespace } from './namespace.mjs';
import { freePort, Process } from './process.mjs';

const run = promisify(execFile);

/** The maximum time until a NATS server lets clients in, in ms. */
const DEADLINE = 60_000;

async function natsBinary() {
  if (process.env.PUSHIT_NATS_SERVER) return process.env.PUSHIT_NATS_SERVER;
  const path = join(top, '.build', 'nats-server');
  await run('go', ['build', '-C', join(top, 'test'), '-o', path, 'github.com/nats-io/nats-server/v2']);
  return path;
}

async function embeddedBinary() {
  if (process.env.PUSHIT_CADDY_EMBEDDED) return process.env.PUSHIT_CADDY_EMBEDDED;
  const path = join(top, '.build', 'caddy-embedded');
  await run('go', ['build', '-C', join(top, 'contrib', 'embedded-nats'), '-o', path, './cmd/caddy']);
  return path;
}

/**
 * A TCP connection in the way of another: it can hold everything back, refuse and cut, and
 * lose messages of NATS that are republished, as NATS itself may.
 */
export class Link {
  /** The share of live messages that are lost. */
  loses = 0;
  /** How many were. */
  lost = 0;
  #server;
  #sockets = new Set();
  #held = false;
  #down = false;
  #waiting = [];

  /**
   * @param {string} host  where to listen
   * @param {() => {host: string, port: number}} target
   * @param {() => number} random
   */
  static async start(host, target, random = Math.random) {
    const link = new Link();
    link.#server = net.createServer((client) => link.#open(client, target(), random));
    await new Promise((resolve, reject) => {
      link.#server.once('error', reject);
      link.#server.listen(0, host, resolve);
    });
    link.host = host;
    link.port = link.#server.address().port;
    return link;
  }

  get address() {
    return `${this.host}:${this.port}`;
  }

  #open(client, target, random) {
    if (this.#down) {
      client.resetAndDestroy();
      return;
    }
    const server = net.connect(target.port, target.host);
    const filter = new LiveFilter(() => {
      const lose = this.loses > 0 && random() < this.loses;
      if (lose) this.lost++;
      return lose;
    });
    for (const [from, to, change] of [
      [client, server, (chunk) => chunk],
      [server, client, (chunk) => (this.loses > 0 || filter.busy ? filter.pass(chunk) : chunk)],
    ]) {
      this.#sockets.add(from);
      from.setNoDelay(true);
      from.on('error', () => {}); // the event close follows
      from.on('data', (chunk) => this.#pass(() => to.destroyed || to.write(change(chunk))));
      from.on('close', () => {
        this.#sockets.delete(from);
        this.#pass(() => to.destroy());
      });
    }
  }

  #pass(fn) {
    if (this.#held) this.#waiting.push(fn);
    else fn();
  }

  /** Holds everything back silently, as a network that is gone does. Later it goes on. */
  set held(on) {
    this.#held = on;
    if (!on) for (const fn of this.#waiting.splice(0)) fn();
  }

  /** Cuts what is open, and refuses what comes, until it is switched off. */
  set down(on) {
    this.#down = on;
    if (on) for (const socket of this.#sockets) socket.resetAndDestroy();
  }

  async stop() {
    const closed = new Promise((resolve) => this.#server.close(resolve));
    this.down = true;
    this.#waiting = [];
    await closed;
  }
}

/** Takes live messages out of what a NATS server sends: MSG and HMSG of subjects with `.l.` in them. */
class LiveFilter {
  #rest = Buffer.alloc(0);
  #lose;

  constructor(lose) {
    this.#lose = lose;
  }

  /** Whether it has the beginning of a message. */
  get busy() {
    return this.#rest.length > 0;
  }

  pass(chunk) {
    let data = this.#rest.length > 0 ? Buffer.concat([this.#rest, chunk]) : chunk;
    const out = [];
    for (;;) {
      const end = data.indexOf('\r\n');
      if (end < 0) break;
      const line = data.toString('latin1', 0, end);
      const words = line.split(/\s+/);
      const payload = words[0] === 'MSG' || words[0] === 'HMSG' ? Number(words.at(-1)) + 2 : 0;
      const length = end + 2 + payload;
      if (data.length < length) break;
      const live = payload > 0 && /^pushit\.[^.]+\.l\./.test(words[1]);
      if (!live || !this.#lose()) out.push(data.subarray(0, length));
      data = data.subarray(length);
    }
    this.#rest = data;
    return Buffer.concat(out);
  }
}

/** A NATS server with JetStream, at the same address and with the same files when it starts again. */
export class NatsServer extends Process {
  constructor(binary, dir, host, port, config, command = []) {
    super();
    Object.assign(this, { binary, dir, host, port, config, command });
  }

  async start() {
    const path = join(this.dir, 'nats.conf');
    await writeFile(path, this.config);
    const child = this.launch([...this.command, this.binary, '-c', path], { stdio: ['ignore', 'ignore', 'pipe'] });
    child.stderr.pipe(createWriteStream(join(this.dir, 'log'), { flags: 'a' }));
    await within('the start of a NATS server', this.#greets(), DEADLINE);
  }

  /** Waits until it lets clients in. */
  async #greets() {
    for (;;) {
      const greeted = await new Promise((resolve) => {
        const socket = net.connect(this.port, this.host);
        socket.once('data', () => resolve(true));
        socket.once('error', () => resolve(false));
        socket.once('close', () => resolve(false));
      });
      if (greeted) return;
      if (!this.running) throw new Error(`a NATS server ended at its start:\n${await this.log()}`);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  async kill(signal = 'SIGKILL') {
    this.signal(signal);
    await within('the end of a NATS server', this.exited);
  }

  log() {
    return readFile(join(this.dir, 'log'), 'utf8').catch(() => '');
  }
}

/**
 * A load balancer that knows nothing of sessions: each request goes to the next server that
 * takes the connection.
 */
export class Balancer {
  /** How many requests each server got. @type {number[]} */
  requests;
  #next = 0;
  #server;
  #sockets = new Set();

  /** @param {{host: string, port: number}[]} targets */
  static async start(targets) {
    const balancer = new Balancer();
    balancer.targets = targets;
    balancer.requests = targets.map(() => 0);
    const server = http.createServer({ keepAlive: true });
    server.on('connection', (socket) => {
      balancer.#sockets.add(socket);
      socket.on('error', () => {});
      socket.on('close', () => balancer.#sockets.delete(socket));
    });
    server.on('request', (request, response) => balancer.#request(request, response));
    server.on('upgrade', (request, socket, head) => balancer.#upgrade(request, socket, head));
    await new Promise((resolve, reject) => {
      server.once('error', reject);
      server.listen(0, '127.0.0.1', resolve);
    });
    balancer.#server = server;
    balancer.url = `http://localhost:${server.address().port}`;
    return balancer;
  }

  /** Connects to the next server that takes it. @returns {Promise<net.Socket>} */
  async #connect() {
    let failed;
    for (let n = 0; n < this.targets.length; n++) {
      const at = this.#next++ % this.targets.length;
      const socket = net.connect(this.targets[at]);
      try {
        await new Promise((resolve, reject) => {
          socket.once('connect', resolve);
          socket.once('error', reject);
        });
        this.requests[at]++;
        socket.removeAllListeners('error');
        socket.on('error', () => {});
        return socket;
      } catch (error) {
        failed = error;
      }
    }
    throw failed;
  }

  async #request(request, response) {
    let socket;
    try {
      socket = await this.#connect();
    } catch {
      response.writeHead(502).end();
      return;
    }
    if (response.destroyed) {
      socket.destroy();
      return;
    }
    const { method, url: path, headers } = request;
    // Each connection is for one request: nobody would use it again.
    const forwarded = { ...headers, connection: 'close', 'x-forwarded-for': '127.0.0.1' };
    const upstream = http.request({ createConnection: () => socket, method, path, headers: forwarded }, (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      response.flushHeaders();
      answer.pipe(response);
      answer.on('error', () => response.destroy());
    });
    upstream.on('error', () => (response.headersSent ? response.destroy() : response.writeHead(502).end()));
    response.on('close', () => upstream.destroy());
    request.pipe(upstream);
  }

  async #upgrade(request, socket, head) {
    let upstream;
    try {
      upstream = await this.#connect();
    } catch {
      socket.end('HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n');
      return;
    }
    const lines = [`${request.method} ${request.url} HTTP/1.1`];
    for (let n = 0; n < request.rawHeaders.length; n += 2) lines.push(`${request.rawHeaders[n]}: ${request.rawHeaders[n + 1]}`);
    upstream.write(`${lines.join('\r\n')}\r\n\r\n`);
    upstream.write(head);
    socket.pipe(upstream).pipe(socket);
    socket.on('close', () => upstream.destroy());
    upstream.on('close', () => socket.destroy());
  }

  /** Cuts a random connection of a client. */
  cutOne(random = Math.random) {
    const all = [...this.#sockets];
    all[Math.floor(random() * all.length)]?.resetAndDestroy();
  }

  async stop() {
    const closed = new Promise((resolve) => this.#server.close(resolve));
    for (const socket of this.#sockets) socket.destroy();
    await closed;
  }
}

/**
 * Three Caddys over three NATS servers. Each Caddy reaches the NATS servers over links of its
 * own, and so do the NATS servers each other. They are on 127.0.0.1 to 127.0.0.3, or each in
 * a network namespace.
 */
export class Cluster {
  nats = [];
  nodes = [];
  /** The links of each Caddy, one to each NATS server. @type {Link[][]} */
  links = [];
  /** The links of each NATS server: those from it, and those to it. @type {Link[][]} */
  routes = [];
  /**
   * The cables of each Caddy that lead to NATS, and to clients, and those of each NATS server;
   * empty without namespaces.
   */
  cables = { back: [], front: [], nats: [] };
  #namespaces = [];

  /**
   * @param {{size?: number, engines?: number, apart?: boolean, random?: () => number, change?: (handler: object) => void}} [options]
   *   `apart` puts each process in a network namespace
   */
  static async start({ size = 3, engines = 3, apart = false, random = Math.random, change = () => {} } = {}) {
    const cluster = new Cluster();
    try {
      await cluster.#start(size, engines, apart, random, change);
    } catch (error) {
      await cluster.stop();
      throw error;
    }
    return cluster;
  }

  /**
   * Finds a place for a process.
   *
   * @returns where it listens, where links from it do, and what its command line begins with
   */
  async #place(n, apart, ...kinds) {
    if (!apart) return { host: `127.0.0.${n + 1}`, near: `127.0.0.${n + 1}`, command: [] };
    const namespace = await Namespace.start();
    this.#namespaces.push(namespace);
    const cables = [];
    for (const kind of kinds) {
      cables.push(await namespace.cable());
      this.cables[kind].push(cables.at(-1));
    }
    return { host: cables[0].far, near: cables.at(-1).near, command: namespace.command };
  }

  async #start(size, engines, apart, random, change) {
    const binary = await natsBinary();
    this.dir = await mkdtemp(join(tmpdir(), 'pushit-cluster-'));
    this.routes = Array.from({ length: engines }, () => []);
    const places = [];
    for (let n = 0; n < engines; n++) {
      const place = await this.#place(n, apart, 'nats');
      // In a namespace there is nobody else.
      places.push({ ...place, port: apart ? 4222 : await freePort(place.host), cluster: apart ? 6222 : await freePort(place.host) });
    }
    for (const [n, { host, near, command, port, cluster }] of places.entries()) {
      const routes = [];
      for (let to = 0; to < engines; to++) {
        if (to === n) continue;
        const link = await Link.start(near, () => ({ host: places[to].host, port: places[to].cluster }));
        this.routes[n].push(link);
        this.routes[to].push(link);
        routes.push(`nats://${link.address}`);
      }
      const dir = join(this.dir, `nats-${n}`);
      await mkdir(dir);
      const config = [
        `server_name: "n${n}"`,
        `listen: "${host}:${port}"`,
        `jetstream { store_dir: "${dir}", max_file_store: 4GB }`,
        engines > 1 ? `cluster { name: test, listen: "${host}:${cluster}", no_advertise: true, ping_interval: "1s", routes: [${routes.map((route) => `"${route}"`)}] }` : '',
      ].join('\n');
      this.nats.push(new NatsServer(binary, dir, host, port, config, command));
    }
    await Promise.all(this.nats.map((each) => each.start()));
    // The Caddys begin one after the other: the first one makes the stream.
    for (let n = 0; n < size; n++) {
      const { host, near, command } = await this.#place(n, apart, 'front', 'back');
      this.links.push(await Promise.all(this.nats.map(({ host, port }) => Link.start(near, () => ({ host, port }), random))));
      const node = await Server.start('examples/cluster/Caddyfile', change, {}, {
        host,
        command,
        env: { PUSHIT_NATS: this.links[n].map(({ address }) => `nats://${address}`).join(' '), PUSHIT_NODE: `node-${n + 1}` },
      });
      this.nodes.push(node);
    }
    this.balancer = await Balancer.start(this.nodes);
  }

  /**
   * Three Caddys with a NATS server in each, which reach each other over links. There are no
   * other NATS servers.
   *
   * @param {{random?: () => number, change?: (handler: object) => void}} [options]
   */
  static async startEmbedded({ change = () => {} } = {}) {
    const cluster = new Cluster();
    try {
      await cluster.#startEmbedded(change);
    } catch (error) {
      await cluster.stop();
      throw error;
    }
    return cluster;
  }

  async #startEmbedded(change) {
    const binary = await embeddedBinary();
    const hosts = ['127.0.0.1', '127.0.0.2', '127.0.0.3'];
    const ports = await Promise.all(hosts.map(freePort));
    const secret = randomBytes(32).toString('hex');
    this.routes = hosts.map(() => []);
    const configs = [];
    for (const [n, host] of hosts.entries()) {
      const machines = [];
      for (const [to, target] of hosts.entries()) {
        let address = `${target}:${ports[to]}`;
        if (to !== n) {
          const link = await Link.start(host, () => ({ host: target, port: ports[to] }));
          this.routes[n].push(link);
          this.routes[to].push(link);
          ({ address } = link);
        }
        machines.push({ name: `web${to + 1}`, address });
      }
      configs.push({ engine: 'nats', node: `web${n + 1}`, embedded: { machines, secret } });
    }
    // None is ready without another one.
    this.nodes = await Promise.all(
      hosts.map((host, n) =>
        Server.start(
          'examples/cluster/embedded/Caddyfile',
          (handler) => {
            handler.broker = configs[n];
            change(handler);
          },
          {},
          { host, binary, env: { NODE: `web${n + 1}`, PUSHIT_CLUSTER_SECRET: secret } },
        ),
      ),
    );
    this.balancer = await Balancer.start(this.nodes);
  }

  async stop() {
    await this.balancer?.stop();
    await Promise.all(this.nodes.map((node) => node.stop()));
    await Promise.all(this.nats.map((each) => each.kill()));
    await Promise.all([...new Set([...this.links.flat(), ...this.routes.flat()])].map((link) => link.stop()));
    await Promise.all(this.#namespaces.map((namespace) => namespace.stop()));
    if (this.dir) await rm(this.dir, { recursive: true, force: true });
  }
}
