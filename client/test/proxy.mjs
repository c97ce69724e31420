// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * An HTTP proxy between a page and its server. It cuts and stalls connections, keeps dead
 * ones open, refuses WebSocket, and holds back streams.
 *
 * @module
 */

import { Buffer } from 'node:buffer';
import http from 'node:http';
import net from 'node:net';

export class Proxy {
  /** How to treat a request for a WebSocket: pass it on, answer it with 403, or ignore it. @type {'pass' | 'refuse' | 'ignore'} */
  upgrades = 'pass';
  /** Holds answers back until they are complete. */
  buffer = false;
  /** Answers all requests with this status, if it is not 0. */
  refuse = 0;
  /** The requests that came, such as `POST xhr_send`, with the last part of their paths. @type {string[]} */
  requests = [];
  port = 0;
  #target;
  #server;
  #sockets = new Set(); // of clients
  #webSockets = new Set(); // those that are WebSockets
  #upstream = new Set();
  #stalled = false;
  #held = []; // actions that wait for the end of a stall

  /** @param {() => number} target  returns the port to pass on to */
  static async start(target) {
    const proxy = new Proxy();
    proxy.#target = target;
    await proxy.up();
    return proxy;
  }

  get url() {
    return `http://localhost:${this.port}`;
  }

  /** Listens, later again at the same port. */
  async up() {
    this.#server = http.createServer({ keepAlive: true });
    this.#server.on('connection', (socket) => this.#track(this.#sockets, socket));
    this.#server.on('request', (...args) => this.#pass(() => this.#request(...args)));
    this.#server.on('upgrade', (...args) => this.#pass(() => this.#upgrade(...args)));
    await new Promise((resolve, reject) => {
      this.#server.once('error', reject);
      this.#server.listen(this.port, '127.0.0.1', resolve);
    });
    this.port = this.#server.address().port;
  }

  /** Refuses connections, and cuts the open ones. */
  async down() {
    const closed = new Promise((resolve) => this.#server.close(resolve));
    this.cut();
    await closed;
  }

  /** Cuts all connections, like a router that restarts. */
  cut() {
    for (const socket of [...this.#sockets, ...this.#upstream]) socket.resetAndDestroy();
  }

  /** Cuts a random connection, if there is one. */
  cutOne(random = Math.random) {
    const all = [...this.#sockets];
    all[Math.floor(random() * all.length)]?.resetAndDestroy();
  }

  /** Ends connections on the server's side only, all or one. The clients do not notice. */
  halfOpen(random) {
    const all = [...this.#upstream];
    for (const socket of random ? all.slice(Math.floor(random() * all.length)).slice(0, 1) : all) {
      socket.removeAllListeners('close');
      socket.removeAllListeners('data');
      socket.destroy();
    }
  }

  /** Sends data over each WebSocket: text, or invalid bytes. */
  inject(data) {
    for (const socket of this.#webSockets) socket.write(typeof data === 'string' ? textFrame(data) : data);
  }

  /** Holds everything back silently until it is switched off. Then passes on what was held. */
  set stalled(on) {
    this.#stalled = on;
    if (!on) for (const pass of this.#held.splice(0)) pass();
  }

  #pass(fn) {
    if (this.#stalled) this.#held.push(fn);
    else fn();
  }

  get webSockets() {
    return this.#webSockets.size;
  }

  #track(set, socket) {
    set.add(socket);
    socket.on('close', () => set.delete(socket));
    socket.on('error', () => {}); // the event close follows
  }

  #note(request) {
    this.requests.push(`${request.method} ${request.url.split('?')[0].split('/').pop()}`);
  }

  #request(request, response) {
    this.#note(request);
    if (this.refuse) {
      response.writeHead(this.refuse).end();
      return;
    }
    const { method, url: path, headers } = request;
    const upstream = http.request({ host: '127.0.0.1', port: this.#target(), method, path, headers, agent: false }, (answer) => {
      const chunks = [];
      const head = () => response.headersSent || response.writeHead(answer.statusCode, answer.headers);
      if (!this.buffer) head();
      if (!this.buffer) response.flushHeaders();
      answer.on('data', (chunk) => this.#pass(() => (this.buffer ? chunks.push(chunk) : response.write(chunk))));
      answer.on('end', () =>
        this.#pass(() => {
          head();
          response.end(Buffer.concat(chunks));
        }),
      );
      answer.on('error', () => response.destroy());
    });
    upstream.on('socket', (socket) => this.#track(this.#upstream, socket));
    upstream.on('error', () => response.destroy());
    response.on('close', () => upstream.destroy());
    request.pipe(upstream);
  }

  #upgrade(request, socket, head) {
    this.#note(request);
    if (this.upgrades === 'ignore') return;
    if (this.upgrades === 'refuse') {
      socket.end('HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n');
      return;
    }
    const upstream = net.connect(this.#target(), '127.0.0.1');
    this.#track(this.#upstream, upstream);
    this.#track(this.#webSockets, socket);
    const lines = [`${request.method} ${request.url} HTTP/1.1`];
    for (let n = 0; n < request.rawHeaders.length; n += 2) lines.push(`${request.rawHeaders[n]}: ${request.rawHeaders[n + 1]}`);
    upstream.write(`${lines.join('\r\n')}\r\n\r\n`);
    upstream.write(head);
    socket.on('data', (chunk) => this.#pass(() => upstream.destroyed || upstream.write(chunk)));
    upstream.on('data', (chunk) => this.#pass(() => socket.destroyed || socket.write(chunk)));
    socket.on('close', () => upstream.destroy());
    upstream.on('close', () => socket.end());
  }

  async stop() {
    await this.down();
  }
}

/** A WebSocket message of a server (RFC 6455, section 5.2). */
function textFrame(text) {
  const payload = Buffer.from(text);
  const length = payload.length < 126 ? Buffer.from([payload.length]) : Buffer.from([126, payload.length >> 8, payload.length & 255]);
  return Buffer.concat([Buffer.from([0x81]), length, payload]);
}
