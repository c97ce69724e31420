// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Sites for the tests of npm's sockjs-client. Caddy serves their pages beside the endpoint,
 * or a server of another origin does.
 *
 * @module
 */

import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Server } from './harness.mjs';

const sockjs = createRequire(import.meta.url).resolve('sockjs-client/dist/sockjs.min.js');

/** The transports of sockjs-client that need no page of the server in a frame. */
export const transports = ['websocket', 'xhr-streaming', 'xhr-polling', 'eventsource', 'htmlfile', 'jsonp-polling'];

const page = `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<link rel="icon" href="data:,">
<title>sockjs-client</title>
<script src="sockjs.min.js"></script>
<script src="session.js"></script>
`;

/**
 * A session of echoes. It connects, subscribes, and publishes one message after the other;
 * each waits until the previous one has come back and was acknowledged. Resolves with the
 * messages, and rejects if the session ends early, or at the deadline.
 */
const session = `'use strict';
/** Opens a session. Without a timeout, sockjs-client gives up a transport after less than a second. */
function startSockJS(url, options) {
  return new SockJS(url, null, { timeout: 30_000, ...options });
}
function echoes(url, transport, count, ms) {
  return new Promise((resolve, reject) => {
    const channel = 'echo/' + crypto.randomUUID();
    const socket = startSockJS(url, { transports: [transport] });
    const got = [];
    let sent = 0;
    let open = 0; // what is missing for the last publish: the message, the acknowledgement
    const timer = setTimeout(() => fail('not within ' + ms + ' ms'), ms);
    const send = (to, data) => socket.send(JSON.stringify({ channel: to, uuid: crypto.randomUUID(), agentId: 'page', data }));
    function end(settle, value) {
      clearTimeout(timer);
      socket.onclose = socket.onmessage = null;
      socket.close();
      settle(value);
    }
    const fail = (why) => end(reject, new Error(transport + ': ' + why + ', after ' + JSON.stringify(got)));
    function next() {
      if (sent === count) return end(resolve, { transport: socket.transport, got });
      open = 2;
      send(channel, sent++);
    }
    socket.onopen = () => send('/meta/connect', {});
    socket.onclose = (event) => fail('closed with ' + event.code + ' ' + event.reason);
    socket.onmessage = ({ data }) => {
      const frame = JSON.parse(data);
      switch (frame.channel) {
        case '/meta/connect':
        case '/meta/subscribe':
          if (!frame.successful) return fail(data);
          return frame.channel === '/meta/connect' ? send('/meta/subscribe', { channel }) : next();
        case channel:
          got.push(frame.data);
          break;
        case '/meta/successful':
          break;
        default:
          return fail(data);
      }
      if (--open === 0) next();
    };
  });
}
`;

/** The files of the page, by name. */
async function files() {
  return { 'index.html': page, 'session.js': session, 'sockjs.min.js': await readFile(sockjs, 'utf8') };
}

/**
 * Starts Caddy with the page and, in the same site, an endpoint at /push.
 *
 * @param {string} [options]  in the block of pushit
 * @param {(handler: object) => void} [change]  changes the pushit handler's JSON
 * @returns {Promise<Server>}
 */
export async function startSite(options = '', change = () => {}) {
  const dir = await mkdtemp(join(tmpdir(), 'pushit-sockjs-'));
  for (const [name, text] of Object.entries(await files())) await writeFile(join(dir, name), text);
  const caddyfile = join(dir, 'Caddyfile');
  const block = options && ` {\n${options}\n\t}`;
  await writeFile(caddyfile, `http://localhost:8080 {\n\tlog\n\troot ${dir}\n\tpushit /push${block}\n\tfile_server\n}\n`);
  let server;
  try {
    server = await Server.start(caddyfile, change);
  } catch (error) {
    await rm(dir, { recursive: true, force: true });
    throw error;
  }
  const stop = server.stop.bind(server);
  server.stop = async () => {
    await stop();
    await rm(dir, { recursive: true, force: true });
  };
  return server;
}

/** A site of another origin with the page. */
export class Elsewhere {
  #server;

  /** @returns {Promise<Elsewhere>} */
  static async start() {
    const all = await files();
    const site = new Elsewhere();
    site.#server = createServer((request, response) => {
      const text = all[new URL(request.url, 'http://localhost').pathname.slice(1) || 'index.html'];
      const kind = { html: 'text/html', js: 'text/javascript' }[/\w+$/.exec(request.url)?.[0]] ?? 'text/html';
      response.writeHead(text === undefined ? 404 : 200, { 'Content-Type': `${kind}; charset=utf-8` });
      response.end(text);
    });
    await new Promise((resolve, reject) => {
      site.#server.once('error', reject);
      site.#server.listen(0, '127.0.0.1', resolve);
    });
    return site;
  }

  /** Its origin with that name, which must lead to this machine. */
  origin(host) {
    return `http://${host}:${this.#server.address().port}`;
  }

  async stop() {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}
