// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, mock, test } from 'node:test';
import { Connection, id } from '../../examples/chat/connection.js';

/** A WebSocket whose server is the test. */
class FakeSocket {
  /** @type {FakeSocket[]} */
  static all = [];
  sent = [];
  closed = false;

  constructor(url) {
    this.url = String(url);
    FakeSocket.all.push(this);
  }

  send(text) {
    this.sent.push(JSON.parse(text));
  }

  close() {
    this.closed = true;
  }

  /** The server sends a frame. */
  receive(frame) {
    this.onmessage?.({ data: JSON.stringify(frame) });
  }

  /** The server accepts the connection, and lets it connect. */
  accept() {
    this.onopen();
    this.answer('/meta/connect', { successful: true, error: '' });
  }

  /** The server answers the last frame it got on the channel. */
  answer(channel, answer) {
    const { uuid } = this.sent.findLast((frame) => frame.channel === channel);
    this.receive({ channel, uuid, ...answer });
  }

  channels() {
    return this.sent.map((frame) => frame.data?.channel ?? frame.channel);
  }
}

describe('the connection of the chat', () => {
  let states;
  let listeners;
  let random;
  const last = () => FakeSocket.all.at(-1);
  const now = () => mock.timers.tick(0);

  beforeEach(() => {
    FakeSocket.all = [];
    states = [];
    listeners = {};
    random = 1;
    mock.timers.enable({ apis: ['setTimeout', 'Date'], now: 1_000_000 });
    mock.method(Math, 'random', () => random);
    const listen = (type, listener, { signal }) => {
      listeners[type] = listener;
      signal.addEventListener('abort', () => delete listeners[type]);
    };
    globalThis.WebSocket = FakeSocket;
    globalThis.document = { baseURI: 'https://example.com/chat/', hidden: false, addEventListener: listen };
    globalThis.addEventListener = listen;
  });

  afterEach(() => {
    mock.timers.reset();
    mock.restoreAll();
    for (const name of ['WebSocket', 'document', 'addEventListener']) delete globalThis[name];
  });

  async function connect(options) {
    const connection = new Connection('push/websocket', { onState: (state) => states.push(state), ...options });
    await Promise.resolve();
    return connection;
  }

  /** The wait that the connection has announced, in ms. */
  const wait = () => states.at(-1).until - Date.now();

  test('ids are 22 safe characters, and no two are equal', () => {
    const ids = Array.from({ length: 1000 }, id);
    for (const each of ids) assert.match(each, /^[A-Za-z0-9_-]{22}$/);
    assert.equal(new Set(ids).size, ids.length);
  });

  test('connects, subscribes, publishes', async () => {
    const connection = await connect({ credentials: () => ({ token: 't' }) });
    const got = [];
    connection.subscribe('stories/*', (message) => got.push(message.data));
    const published = connection.publish('stories/5', 'early');
    assert.equal(last().url, 'wss://example.com/chat/push/websocket');
    assert.deepEqual(last().sent, []);
    last().accept();
    assert.deepEqual(last().channels(), ['/meta/connect', 'stories/*', 'stories/5']);
    assert.deepEqual(last().sent[0].data, { credentials: { token: 't' } });
    assert.equal(new Set(last().sent.map((frame) => frame.agentId)).size, 1);
    last().receive({ channel: 'stories/5', uuid: 'm', data: 'early' });
    last().receive({ channel: 'storiesX/5', uuid: 'n', data: 'not mine' });
    last().receive({ channel: '/meta/successful', uuid: last().sent[2].uuid });
    await published;
    assert.deepEqual(got, ['early']);
    assert.deepEqual(states.map(({ name }) => name), ['connecting', 'connected']);
  });

  test('without credentials it sends none', async () => {
    await connect();
    last().onopen();
    assert.deepEqual(last().sent[0].data, {});
  });

  test('a lost publish is sent again with its uuid, after the subscriptions', async () => {
    const connection = await connect();
    connection.subscribe('a', () => {});
    last().accept();
    const published = connection.publish('a', 1);
    const first = last().sent.at(-1);
    last().onclose({ reason: '' });
    assert.equal(states.at(-1).reason, 'The connection was lost.');
    mock.timers.tick(500);
    last().accept();
    assert.deepEqual(last().channels(), ['/meta/connect', 'a', 'a']);
    assert.deepEqual(last().sent.at(-1), first);
    last().receive({ channel: '/meta/successful', uuid: first.uuid });
    await published;
    last().onclose({ reason: '' });
    mock.timers.tick(30_000);
    last().accept();
    assert.equal(last().sent.length, 2, 'what was answered is not sent again');
  });

  test('a refusal tells its reason, its code and when to come back', async () => {
    const connection = await connect();
    last().accept();
    for (const [answer, want] of [
      [{ code: 'denied', retry: 5 }, false],
      [{ code: 'limit', retry: 50 }, 50],
      [{ code: 'invalid' }, undefined],
    ]) {
      const published = connection.publish('a', 1);
      last().receive({ channel: '/meta/error', uuid: last().sent.at(-1).uuid, error: 'why', ...answer });
      await assert.rejects(published, { name: 'Refusal', message: 'why', code: answer.code, retry: want });
    }
  });

  test('a subscription that cannot be had now is asked for again', async () => {
    const connection = await connect();
    const answers = [];
    const unsubscribe = connection.subscribe('a', () => {}, (refusal) => answers.push(refusal?.code));
    last().accept();
    last().answer('/meta/subscribe', { successful: false, error: 'later', code: 'unavailable', retry: 100 });
    mock.timers.tick(99);
    assert.equal(last().sent.length, 2);
    mock.timers.tick(1);
    assert.equal(last().sent.length, 3);
    last().answer('/meta/subscribe', { successful: false, error: 'no', code: 'denied', retry: 100 });
    mock.timers.tick(100_000);
    assert.equal(last().sent.filter((frame) => frame.channel === '/meta/subscribe').length, 2);
    assert.deepEqual(answers, ['unavailable', 'denied']);
    unsubscribe();
  });

  test('waits longer each time, at random, up to 30 s', async () => {
    await connect();
    const waits = [];
    for (let n = 0; n < 9; n++) {
      last().onclose({ reason: '' });
      waits.push(wait());
      mock.timers.tick(wait());
    }
    assert.deepEqual(waits, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
    random = 0.1;
    last().onclose({ reason: '' });
    assert.equal(wait(), 3000);
  });

  test('a steady connection starts anew, one that fails at once does not', async () => {
    await connect();
    const waits = [];
    for (const held of [0, 0, 5001, 0]) {
      last().accept();
      mock.timers.setTime(Date.now() + held);
      last().onclose({ reason: '' });
      waits.push(wait());
      mock.timers.tick(wait());
    }
    assert.deepEqual(waits, [500, 1000, 500, 1000]);
  });

  test('/meta/close says when to come back, and nothing comes earlier', async () => {
    const connection = await connect();
    last().accept();
    last().receive({ channel: '/meta/close', code: 4503, error: 'restarting', retry: 8000 });
    assert.ok(last().closed);
    assert.equal(states.at(-1).reason, 'restarting');
    assert.equal(wait(), 8500);
    connection.hurry();
    assert.equal(wait(), 8000);
    mock.timers.tick(7999);
    assert.equal(FakeSocket.all.length, 1);
    mock.timers.tick(1);
    assert.equal(FakeSocket.all.length, 2);
  });

  test('/meta/close with retry false is the end, until it is opened again', async () => {
    const connection = await connect();
    last().accept();
    const published = connection.publish('a', 1);
    last().receive({ channel: '/meta/close', code: 4403, error: 'not you', retry: false });
    assert.deepEqual(states.at(-1), { name: 'closed', reason: 'not you' });
    await assert.rejects(published, { message: 'not you', code: 'closed' });
    await assert.rejects(connection.publish('a', 2), { code: 'closed' });
    mock.timers.tick(100_000);
    assert.equal(FakeSocket.all.length, 1);
    assert.deepEqual(listeners, {});
    connection.open();
    assert.equal(FakeSocket.all.length, 2);
  });

  test('a refused connect is the end when it is denied, not when it is unavailable', async () => {
    await connect();
    last().onopen();
    last().answer('/meta/connect', { successful: false, error: 'ask later', code: 'unavailable', retry: 2000 });
    assert.equal(states.at(-1).name, 'waiting');
    mock.timers.tick(2500);
    last().onopen();
    last().answer('/meta/connect', { successful: false, error: 'no', code: 'denied' });
    assert.equal(states.at(-1).name, 'closed');
  });

  test('back in view or online it tries at once', async () => {
    await connect();
    for (const type of ['online', 'visibilitychange']) {
      last().onclose({ reason: '' });
      const before = FakeSocket.all.length;
      listeners[type]();
      now();
      assert.equal(FakeSocket.all.length, before + 1, type);
    }
  });

  test('a server that owes an answer for 15 s is given up', async () => {
    const connection = await connect();
    mock.timers.tick(15_000);
    assert.equal(states.at(-1).name, 'waiting', 'opening');
    mock.timers.tick(500);
    last().accept();
    mock.timers.tick(60_000);
    assert.equal(states.at(-1).name, 'connected', 'nothing is owed');
    connection.publish('a', 1);
    mock.timers.tick(14_999);
    last().receive({ channel: 'b', uuid: 'x', data: null }); // a sign of life
    mock.timers.tick(14_999);
    assert.equal(states.at(-1).name, 'connected');
    mock.timers.tick(1);
    assert.equal(states.at(-1).reason, 'The server does not answer.');
    assert.ok(last().closed);
  });

  test('a server may take 45 s to let it connect', async () => {
    await connect();
    last().onclose({ reason: '' });
    listeners.online();
    now();
    last().onopen();
    mock.timers.tick(44_999);
    assert.equal(states.at(-1).name, 'connecting');
    mock.timers.tick(1);
    assert.equal(states.at(-1).reason, 'The server does not answer.');
  });

  test('what waits for an answer is bounded', async () => {
    const connection = await connect();
    for (let n = 0; n < 100; n++) connection.publish('a', n);
    await assert.rejects(connection.publish('a', 100), { code: 'limit' });
  });

  test('the last subscriber of a channel unsubscribes', async () => {
    const connection = await connect();
    last().accept();
    const undo = [connection.subscribe('a', () => {}), connection.subscribe('a', () => {})];
    undo[0]();
    undo[0]();
    assert.equal(last().sent.at(-1).channel, '/meta/subscribe');
    undo[1]();
    assert.equal(last().sent.at(-1).channel, '/meta/unsubscribe');
  });

  test('closed by the page it stays closed', async () => {
    const connection = await connect();
    last().accept();
    connection.close();
    listeners.online?.();
    mock.timers.tick(100_000);
    assert.equal(FakeSocket.all.length, 1);
    assert.equal(states.at(-1).name, 'closed');
  });
});
