// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * The fixtures of PROTOCOL.md, the same that the tests of the server read.
 *
 * @module
 */

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { matches } from '../src/frames.js';
import { id } from '../src/id.js';
import { settle, World } from './world.mjs';

const path = fileURLToPath(new URL('../../hub/testdata/frames.json', import.meta.url));
const fixtures = JSON.parse(await readFile(path, 'utf8'));
const protocol = await readFile(join(path, '..', '..', '..', 'PROTOCOL.md'), 'utf8');
const of = (direction) => fixtures.filter((fixture) => fixture.direction === direction);

/** A client that is connected and has asked for something with the uuid. `ended` says how that ended. */
async function asked(channel, uuid, data, options = {}) {
  const world = new World();
  const push = await world.connected({ since: options.since });
  const ended = [];
  const tell = [(error) => ended.push(error), (answer) => ended.push(answer)];
  if (channel === '/meta/subscribe') push.subscribe(data.channel, ...tell);
  else if (channel === '/meta/unsubscribe') {
    push.subscribe(data.channel);
    await settle();
    await world.socket.subscribed();
    push.unsubscribe(data.channel, ...tell);
  } else if (channel === '/meta/history') push.history(data.channel, data).then(tell[1], tell[0]);
  else push.publish({ channel, uuid, data, ...options }, ...tell);
  await settle();
  return { world, push, ended, sent: world.socket.sent.at(-1) };
}

/** The client loses its connection and comes back. Returns the frame that it sends last. */
async function back(world) {
  await world.socket.lose();
  for (const { length } = world.sockets; world.sockets.length === length; ) await world.tick(500);
  await world.socket.accept();
  return world.socket.sent.at(-1);
}

const wanted = ({ code, reason, retry, retryMicroseconds }) => ({
  code: code ?? 'unavailable',
  message: reason,
  retry: retry === false || code === 'denied' ? false : retryMicroseconds ? Math.ceil(retryMicroseconds / 1000) : undefined,
});
const told = ({ code, message, retry }) => ({ code, message, retry });

describe('the client reads each frame of the server', () => {
  for (const { rule, name, made, receive } of of('to agent')) {
    test(`${rule} ${name}`, async () => {
      const frame = JSON.parse(receive);
      assert.ok(protocol.includes(`id="${rule.toLowerCase()}"`));
      switch (made.by) {
        case 'message': {
          const { world, push } = await asked('x', 'u');
          const got = [];
          push.onMessageReceived = (channel, { uuid, payload }) => got.push({ channel, uuid, payload });
          await world.socket.receive(frame);
          assert.deepEqual(got, [{ channel: made.channel, uuid: made.uuid, payload: JSON.parse(made.data) }]);
          if (made.position) {
            // Whatever the positions before were, nothing is missing, and the client goes on after this one.
            const { world, push, sent } = await asked('/meta/subscribe', 'u', { channel: made.channel });
            const gaps = [];
            push.on('gap', ({ reason }) => gaps.push(reason));
            await world.socket.receive({ channel: sent.channel, uuid: sent.uuid, data: sent.data, successful: true, error: '', position: 'first' });
            await world.socket.receive(frame);
            assert.deepEqual([gaps, (await back(world)).data.position], [[], made.position]);
          }
          break;
        }
        case 'published':
        case 'error': {
          const { world, push, ended } = await asked('stories/5', frame.uuid === '???' ? 'other' : frame.uuid, 1);
          push.on('error', (error) => ended.push(error));
          await world.socket.receive(frame);
          assert.equal(ended.length, 1);
          if (made.refusal) assert.deepEqual(told(ended[0]), wanted(made.refusal));
          else assert.equal(ended[0].uuid, made.uuid);
          break;
        }
        case 'connected': {
          const world = new World();
          const push = await world.open();
          await world.socket.raw('o');
          await world.socket.receive({ ...frame, uuid: world.socket.sent[0].uuid });
          assert.equal(push.state.name, made.refusal ? 'connecting' : 'connected');
          await world.socket.lose();
          const denied = made.refusal?.code === 'denied';
          assert.deepEqual([push.state.name, push.state.reason], [denied ? 'closed' : 'disconnected', made.refusal?.reason ?? 'the connection was lost']);
          break;
        }
        case 'subscribed': {
          const to = JSON.parse(made.to);
          const { world, push, ended, sent } = await asked(to.channel, to.uuid, { channel: to.data?.channel ?? 'c' });
          push.on('error', (error) => ended.push(error));
          await world.socket.receive({ ...frame, uuid: sent.uuid, data: sent.data });
          assert.equal(ended.length, 1);
          if ('recovered' in made) {
            const gaps = [];
            push.on('gap', ({ reason }) => gaps.push(reason));
            const again = await back(world);
            assert.deepEqual(again.data, to.data);
            await world.socket.receive({ ...frame, uuid: again.uuid });
            assert.deepEqual(gaps, made.recovered ? [] : [made.why]);
          }
          if (made.refusal) assert.deepEqual(told(ended[0]), wanted(made.refusal));
          else assert.equal(ended[0].data.channel, to.data.channel);
          break;
        }
        case 'missed': {
          const { world, push, sent } = await asked('/meta/subscribe', 'u', { channel: made.channel });
          await world.socket.receive({ channel: sent.channel, uuid: sent.uuid, data: sent.data, successful: true, error: '', position: 'first' });
          const gaps = [];
          push.on('gap', (gap) => gaps.push(gap));
          await world.socket.receive(frame);
          assert.deepEqual(gaps, [{ channel: made.channel, reason: made.why }]);
          assert.equal((await back(world)).data.position, made.position);
          break;
        }
        case 'history': {
          const to = JSON.parse(made.to);
          const { world, ended, sent } = await asked(to.channel, to.uuid, to.data);
          await world.socket.receive({ ...frame, uuid: sent.uuid });
          const [{ messages, before, position }] = ended;
          const data = JSON.parse(made.data);
          assert.deepEqual({ messages, before, position }, { messages: [{ channel: made.channel, uuid: made.uuid, data, payload: data }], before: made.before, position: made.position });
          break;
        }
        case 'presence': {
          const world = new World();
          const push = await world.connected();
          const list = push.channel(made.channel).presence();
          await settle();
          const { uuid, data } = world.socket.sent.at(-1);
          const members = [{ user: 'ann', tabs: 2 }, { uuid: '30313233-3435-3637-3839-616263646566', tabs: 1 }];
          await world.socket.receive({ channel: '/meta/subscribe', uuid, data, successful: true, error: '', presence: { number: frame.number - 1, count: 2, members } });
          await world.socket.receive(frame);
          if (frame.reset) assert.equal(world.socket.sent.at(-1).channel, '/meta/presence');
          else assert.deepEqual([list.count, list.listed], [frame.count, frame.listed ?? true]);
          if (frame.joined) assert.deepEqual([...list], [...frame.changed, ...frame.joined]);
          break;
        }
        case 'members': {
          const world = new World();
          const push = await world.connected();
          const told = [];
          push.on('error', ({ code, channel }) => told.push({ code, channel }));
          const { channel } = JSON.parse(made.to);
          const to = frame.data.channel;
          if (channel === '/meta/presence') {
            push.subscribe(to);
            await settle();
            await world.socket.subscribed();
          }
          const list = push.channel(to).presence();
          await settle();
          const ask = world.socket.sent.at(-1);
          assert.deepEqual([ask.channel, ask.data], [channel, JSON.parse(made.to).data]);
          await world.socket.receive({ ...frame, uuid: ask.uuid });
          assert.deepEqual([[...list], list.count], [frame.presence.members ?? [], frame.presence.count ?? 0]);
          assert.deepEqual(told, made.refusal ? [{ code: made.refusal.code, channel: to }] : []);
          assert.ok(push.channels.includes(to), 'the subscription holds');
          break;
        }
        case 'unwatched': {
          const world = new World();
          const push = await world.connected();
          const told = [];
          push.on('error', ({ code, channel }) => told.push({ code, channel }));
          const list = push.channel(made.channel).presence();
          await settle();
          const { uuid, data } = world.socket.sent.at(-1);
          await world.socket.receive({ channel: '/meta/subscribe', uuid, data, successful: true, error: '', presence: { number: 1, count: 1, members: [{ user: 'ann', tabs: 1 }] } });
          assert.equal(list.count, 1);
          await world.socket.receive(frame);
          assert.deepEqual([list.count, [...list], told], [0, [], [{ code: made.refusal.code, channel: made.channel }]]);
          break;
        }
        case 'close': {
          const world = new World();
          const push = await world.connected();
          await world.socket.receive(frame);
          const { retry, reason, retryMicroseconds = 0 } = made.refusal;
          const { name, code, reason: got, retryAt } = push.state;
          assert.deepEqual([name, code, got], [retry === false ? 'closed' : 'disconnected', made.closeCode, reason]);
          if (retryAt) assert.equal(retryAt - world.now, retryMicroseconds / 1000 + 500);
          break;
        }
        default:
          assert.fail(`nothing says ${made.by}`);
      }
    });
  }
});

describe('each frame of the client follows the protocol', () => {
  const accepted = of('to server').filter(({ expect }) => expect.kind);
  const kinds = { subscribe: '/meta/subscribe', unsubscribe: '/meta/unsubscribe', history: '/meta/history' };

  for (const { rule, name, send, expect } of accepted) {
    test(`${rule} ${name}`, async () => {
      const { kind, uuid, to, data = 'null', credentials } = expect;
      if (kind === 'connect') {
        const world = new World();
        const presented = credentials && JSON.parse(credentials);
        await world.open({ credentials: presented });
        await world.socket.raw('o');
        const [{ channel, data }] = world.socket.sent;
        assert.deepEqual({ channel, data }, { channel: '/meta/connect', data: credentials ? { credentials: presented } : {} });
      } else if (kind === 'ping') {
        const world = new World();
        await world.connected();
        await world.tick(35_000);
        assert.deepEqual(Object.keys(world.socket.sent[1]), ['channel', 'uuid']);
        assert.equal(world.socket.sent[1].channel, '/meta/ping');
      } else if (kind === 'presence') {
        const world = new World();
        const push = await world.connected();
        push.channel(to).presence();
        await settle();
        const ask = world.socket.sent.at(-1);
        const { next } = JSON.parse(send).data;
        await world.socket.receive({ channel: '/meta/subscribe', uuid: ask.uuid, data: ask.data, successful: true, error: '', presence: next ? { number: 1, count: 2, members: [], next } : undefined });
        const sent = world.socket.sent.at(-1);
        assert.deepEqual({ channel: sent.channel, data: sent.data }, { channel: '/meta/presence', data: next ? { channel: to, next } : { channel: to } });
      } else if (kinds[kind]) {
        const want = data === 'null' ? { channel: to } : JSON.parse(data);
        const { world, push, sent: first } = await asked(kinds[kind], uuid, want, { since: want.since });
        let sent = first;
        if (kind === 'subscribe' && want.position) {
          await world.socket.receive({ ...sent, successful: true, error: '', position: want.position });
          assert.equal(push.state.name, 'connected');
          sent = await back(world);
        }
        assert.deepEqual({ channel: sent.channel, data: sent.data }, { channel: kinds[kind], data: want });
      } else {
        const { echo, history } = expect;
        const options = JSON.parse(JSON.stringify({ echo, history }));
        const { sent } = await asked(to, uuid, JSON.parse(data), options);
        assert.deepEqual(sent, { channel: to, uuid, data: JSON.parse(data), ...options });
      }
    });
  }

  test('R12 its ids are valid', () => {
    const valid = /^[A-Za-z0-9_-]{1,64}$/;
    for (const { text, valid: want } of of('id')) assert.equal(valid.test(text), want, text);
    const ids = Array.from({ length: 1000 }, id);
    for (const each of ids) assert.match(each, valid);
    assert.equal(new Set(ids).size, ids.length);
  });
});

/** How long a client may take to do what a fixture says, in ms: it refreshes and reconnects without help. */
const MOST = 900_000;

/** A client whose server is a fixture. */
class Held {
  world = new World();
  told = [];
  /** The client's uuids, by those of the fixture. */
  #uuids = new Map();
  #wanted = new Set();
  /** The subscriptions whose frame has no answer yet, and the frames that wait for that answer. */
  #asked = new Map();
  #sockets = 0;
  #matched = 0;

  async open() {
    this.push = await this.world.open();
    const { push, told } = this;
    push.on('message', ({ channel, uuid, payload }) => told.push({ message: channel, uuid, data: payload }));
    push.on('subscribe', ({ channel }) => told.push({ subscribed: channel }));
    push.on('unsubscribe', ({ channel }) => told.push({ unsubscribed: channel }));
    push.on('gap', ({ channel }) => told.push({ gap: channel }));
    push.on('error', ({ code }) => told.push({ error: code }));
    push.on('state', ({ name, code }) => name === 'disconnected' && code >= 4000 && told.push({ disconnected: code }));
  }

  /** Lets time pass, with heartbeats, until a condition is true. */
  async until(is, ms = MOST) {
    for (let n = 0; !is(); n++) {
      assert.ok(n * 1000 < ms, 'the client does not do what the fixture says');
      await this.world.tick(1000);
      if (n % 10 === 0) await this.world.socket.raw('h');
    }
  }

  /** The frames that the client has sent and no step has compared yet, without pings. */
  #sent() {
    if (this.#sockets !== this.world.sockets.length) return [];
    return this.world.socket.sent.slice(this.#matched).filter(({ channel }) => channel !== '/meta/ping');
  }

  /** Makes the client send a frame, unless it has sent it already. About one subscription it sends one frame at a time. */
  async send(frame) {
    const { channel, data } = frame;
    const waiting = this.#asked.get(data?.channel);
    if (!/^\/meta\/(un)?subscribe$/.test(channel)) return this.#sends(frame);
    if (!waiting) {
      this.#asked.set(data.channel, []);
      return this.#sends(frame);
    }
    assert.equal(channel, '/meta/unsubscribe');
    this.push.unsubscribe(data.channel);
    await settle();
    assert.deepEqual(this.#sent(), []);
    waiting.push(frame);
  }

  async #sends({ channel, uuid, data }) {
    const { push, told, world } = this;
    if (channel === '/meta/connect' && !(this.#sockets === world.sockets.length && push.state.name === 'connected')) {
      await this.until(() => world.sockets.length > this.#sockets);
      this.#sockets = world.sockets.length;
      this.#matched = 0;
      this.#asked.clear();
      await world.socket.raw('o');
    } else if (channel === '/meta/connect' || this.#sent().length > 0) {
      // it refreshes when it is time, or has done so already
    } else if (channel === '/meta/subscribe') {
      // The client asks again for its subscriptions without help.
      if (!this.#wanted.has(data.channel)) push.subscribe(data.channel);
      this.#wanted.add(data.channel);
    } else if (channel === '/meta/unsubscribe') push.unsubscribe(data.channel);
    else push.publish({ channel, uuid, data }, ({ code }) => told.push({ refused: uuid, code }), () => told.push({ published: uuid }));
    await settle();
    await this.until(() => this.#sent().length > 0);
    const [sent] = this.#sent();
    this.#matched = world.socket.sent.indexOf(sent) + 1;
    this.#uuids.set(uuid, sent.uuid);
    assert.deepEqual({ channel: sent.channel, data: sent.data }, { channel, data });
  }

  async receive(frame) {
    const uuid = frame.uuid === '*' ? id() : (this.#uuids.get(frame.uuid) ?? frame.uuid);
    await this.world.socket.receive(frame.uuid === undefined ? frame : { ...frame, uuid });
    const waiting = this.#uuids.has(frame.uuid) && this.#asked.get(frame.data?.channel);
    if (!waiting) return;
    this.#asked.delete(frame.data.channel);
    for (const next of waiting) await this.send(next);
  }
}

describe('a whole session has the same state here as in the server', () => {
  for (const { rule, name, steps } of of('session')) {
    test(`${rule} ${name}`, async () => {
      const held = new Held();
      await held.open();
      for (const [n, { send, receive, wait, lost, told = [] }] of steps.entries()) {
        if (send) await held.send(JSON.parse(send));
        else if (receive) await held.receive(JSON.parse(receive));
        else if (lost) await held.world.socket.lose();
        else if (wait) {
          const end = held.world.now + wait;
          await held.until(() => held.world.now >= end);
        }
        assert.deepEqual(held.told.splice(0), told, `step ${n + 1}`);
      }
    });
  }
});

describe('patterns match as the server matches them', () => {
  for (const { rule, name, pattern, channel, matches: want } of of('match')) {
    test(`${rule} ${name}`, () => assert.equal(matches(pattern, channel), want));
  }
});
