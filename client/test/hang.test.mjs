// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import net from 'node:net';
import { test } from 'node:test';
import { eventually, Server } from './harness.mjs';

/** So few that the log tells of each. */
const CLIENTS = 8;

/** A session of a client that polls. */
class Session {
  constructor(server) {
    this.server = server;
    this.path = `/push/000/${randomUUID()}`;
  }

  async post(to, frames) {
    const body = frames && JSON.stringify(frames.map((frame) => JSON.stringify({ uuid: randomUUID(), ...frame })));
    const response = await fetch(`${this.server.url}${this.path}/${to}`, { method: 'POST', body, headers: body && { 'Content-Type': 'text/plain' } });
    assert.ok(response.ok, `${to}: ${response.status}`);
    return response.text();
  }

  async open() {
    assert.equal(await this.post('xhr'), 'o\n');
    await this.post('xhr_send', [{ channel: '/meta/connect', agentId: randomUUID() }, { channel: '/meta/subscribe', data: { channel: 'room' } }]);
    for (let answers = ''; !answers.includes('/meta/subscribe'); ) answers += await this.post('xhr');
  }

  /** Asks for frames, and leaves. */
  async askAndLeave() {
    const socket = net.connect(this.server);
    socket.end(`POST ${this.path}/xhr HTTP/1.1\r\nHost: localhost:${this.server.port}\r\nContent-Length: 0\r\n\r\n`);
    await once(socket, 'finish');
    socket.destroy();
    await once(socket, 'close');
  }
}

test('clients that leave while the server hangs are gone when it goes on', async (t) => {
  const server = await Server.start('Caddyfile.example');
  t.after(() => server.stop());
  const reasons = () => [...server.log.matchAll(/"agent gone".*"reason":"([^"]*)"/g)].map(([, reason]) => reason);
  for (let round = 1; ; round++) {
    const begin = performance.now();
    const sessions = Array.from({ length: CLIENTS }, () => new Session(server));
    await Promise.all(sessions.map((session) => session.open()));
    await sessions[0].post('xhr_send', [{ channel: 'room', data: 'this waits for all' }]);
    server.signal('SIGSTOP');
    await Promise.all(sessions.map((session) => session.askAndLeave()));
    server.signal('SIGCONT');
    await fetch(server.url); // it comes after all the requests to receive
    const took = performance.now() - begin;
    await eventually('the end of all sessions', () => reasons().length === round * CLIENTS);
    // Sessions expire, too: five seconds after they opened, or two after the server has hung. If
    // the machine was as slow as that, another round decides.
    if (took > 1_900 && round < 5) continue;
    assert.deepEqual(reasons().slice(-CLIENTS), Array(CLIENTS).fill('the client cancelled the request'));
    return;
  }
});
