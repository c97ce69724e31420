// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * The requests of PROTOCOL.md: publishing, and listening with Server-Sent Events. The
 * fixtures are the same that the tests of the server read.
 *
 * @module
 */

import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { Server, top, within } from './harness.mjs';

const { pushit, sessions } = JSON.parse(await readFile(join(top, 'hub/testdata/requests.json'), 'utf8'));

/** The events of a response, read as the HTML standard says. */
async function* eventsOf(body) {
  let rest = '';
  let event = { name: '', data: [] };
  let id = '';
  let retry;
  for await (const text of body.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + text).split('\n');
    rest = lines.pop();
    for (const line of lines) {
      const [, field, value] = /^([^:]*):? ?(.*)$/.exec(line);
      if (field === 'event') event.name = value;
      else if (field === 'data') event.data.push(value);
      else if (field === 'id') id = value;
      else if (field === 'retry') retry = Number(value);
      if (line !== '') continue;
      if (event.data.length > 0) yield { name: event.name || 'message', data: event.data.join('\n'), id, retry };
      event = { name: '', data: [] };
    }
  }
}

/** What a program and a page do in one session. */
class Requester {
  #server;
  #values = new Map();
  #leave = new AbortController();
  #events;

  constructor(server) {
    this.#server = server;
  }

  /** Compares values: "*" stands for any string or number, "$name" for one that is the same wherever it stands. */
  #like(got, want) {
    if (typeof want === 'string' && want.startsWith('$')) {
      if (!this.#values.has(want)) this.#values.set(want, got);
      assert.ok(got !== '' && ['string', 'number'].includes(typeof got), `${want} is ${got}`);
      return assert.equal(got, this.#values.get(want));
    }
    if (want === '*') return assert.ok(got !== '' && ['string', 'number'].includes(typeof got), `${got}`);
    if (want === null || typeof want !== 'object') return assert.equal(got, want);
    assert.deepEqual(Object.keys(got).sort(), Object.keys(want).sort());
    for (const key of Object.keys(want)) this.#like(got[key], want[key]);
  }

  async #post({ post, type, header = {}, status, answer, lines }) {
    const headers = new Headers({ 'Authorization': 'Bearer the-secret-of-a-backend', 'Content-Type': type ?? 'application/json' });
    for (const [name, value] of Object.entries(header)) value ? headers.set(name, value) : headers.delete(name);
    const response = await fetch(`${this.#server.url}/push/publish`, { method: 'POST', headers, body: type ? post : JSON.stringify(post) });
    const text = await response.text();
    assert.equal(response.status, status, text);
    if (answer) this.#like(JSON.parse(text), answer);
    if (!lines) return;
    this.#like(
      text
        .trimEnd()
        .split('\n')
        .map((line) => JSON.parse(line)),
      lines,
    );
  }

  async #listen({ listen, header = {}, status }) {
    this.leave();
    this.#leave = new AbortController();
    const query = listen.replace(/\$\w+/g, (name) => encodeURIComponent(this.#values.get(name)));
    const headers = Object.fromEntries(Object.entries(header).map(([name, value]) => [name, this.#values.get(value) ?? value]));
    const response = await fetch(`${this.#server.url}/push/sse?${query}`, { headers, signal: this.#leave.signal });
    assert.equal(response.status, status);
    if (status === 200) this.#events = eventsOf(response.body);
    else assert.match(await response.text(), /^[^\n]+\.\n$/, 'one sentence');
  }

  async #event({ name, text, data, id, retry }) {
    const { value: got, done } = await within('an event', this.#events.next());
    assert.ok(!done, 'the stream has ended');
    assert.equal(got.name, name);
    if (text !== undefined) assert.equal(got.data, text);
    if (data) this.#like(JSON.parse(got.data), data);
    if (id) this.#like(got.id, id);
    if (retry) assert.equal(got.retry, JSON.parse(got.data).retry);
  }

  async step(step) {
    if (step.post) return this.#post(step);
    if (step.listen !== undefined) return this.#listen(step);
    if (step.event) return this.#event(step.event);
    if (step.end) return assert.ok((await within('the end', this.#events.next())).done);
    assert.ok(step.stop, 'it is nothing that there is');
    this.#server.signal('SIGTERM');
  }

  leave() {
    this.#leave.abort();
  }
}

describe('requests', () => {
  let server;
  let dir;
  before(async () => {
    dir = await mkdtemp(join(tmpdir(), 'pushit-requests-'));
    const caddyfile = join(dir, 'Caddyfile');
    await writeFile(caddyfile, `http://localhost:8080 {\n\tpushit /push {\n${pushit.map((line) => `\t\t${line}`).join('\n')}\n\t}\n\trespond "a site"\n}\n`);
    server = await Server.start(caddyfile);
  });
  after(async () => {
    await server?.stop();
    await rm(dir, { recursive: true, force: true });
  });

  for (const { rule, name, steps } of sessions) {
    test(`${rule} ${name}`, async (t) => {
      const requester = new Requester(server);
      t.after(() => requester.leave());
      for (const [i, step] of steps.entries()) {
        await requester.step(step).catch((error) => assert.fail(`step ${i + 1}: ${error.message}`));
      }
    });
  }
});
