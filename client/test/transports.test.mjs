// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { beforeEach, describe, test } from 'node:test';
import { settle, World } from './world.mjs';

/** @type {World} */
let world;
beforeEach(() => {
  world = new World();
});

const INFO = '{"websocket":true,"origins":["*:*"],"cookie_needed":false,"entropy":1}';

/** Also lets streams flow. */
async function flow() {
  for (let n = 0; n < 10; n++) {
    await settle();
    await new Promise((resolve) => setImmediate(resolve));
  }
}

/** A server of SockJS over HTTP. The test writes its answers. */
class Answer {
  constructor(request) {
    this.request = request;
    const body = new ReadableStream({ start: (controller) => (this.controller = controller) });
    request.answer(new Response(body));
    request.signal.addEventListener('abort', () => this.controller.error(request.signal.reason));
  }

  async write(text) {
    this.controller.enqueue(new TextEncoder().encode(text));
    await flow();
  }

  async bytes(list) {
    this.controller.enqueue(Uint8Array.from(list));
    await flow();
  }

  async end() {
    this.controller.close();
    await flow();
  }
}

const at = (request) => request.url.split('/').pop().replace(/[?].*/, '');
const pending = (name) => world.requests.findLast((request) => at(request) === name);
const frames = (request) => JSON.parse(request.body).map((each) => JSON.parse(each));
const array = (...list) => `a${JSON.stringify(list.map((each) => JSON.stringify(each)))}\n`;

describe('which transport', () => {
  test('WebSocket gets a second attempt, then the next transport is tried, and remembered', async () => {
    world.onSocket = (socket) => setImmediate(() => socket.lose());
    world.onRequest = (request) => at(request) === 'info' && request.answer(new Response(INFO));
    const push = await world.open();
    await flow();
    await flow();
    assert.equal(world.sockets.length, 2);
    assert.deepEqual(world.requests.map(at), ['info', 'info', 'xhr_streaming']);
    const stream = new Answer(pending('xhr_streaming'));
    await stream.write('h'.repeat(2048) + '\no\n');
    const [{ uuid }] = frames(pending('xhr_send'));
    pending('xhr_send').answer(new Response(null, { status: 204 }));
    await stream.write(array({ channel: '/meta/connect', uuid, successful: true, error: '' }));
    assert.equal(push.state.name, 'connected');
    push.close();

    await world.open();
    await flow();
    assert.equal(world.sockets.length, 2, 'another page of this tab knows');
    assert.equal(world.requests.filter((request) => at(request) === 'xhr_streaming').length, 2);
  });

  test('it gives up a transport that stalls', async () => {
    world.onRequest = (request) => at(request) === 'info' && request.answer(new Response(INFO));
    const push = await world.open();
    await world.tick(10_000);
    await flow();
    assert.equal(world.sockets.length, 2);
    await world.tick(4_000);
    await flow();
    assert.equal(world.requests.filter((request) => at(request) === 'xhr_streaming').length, 1);
    new Answer(pending('xhr_streaming')); // a proxy holds everything back
    await world.tick(10_000);
    await flow();
    await world.tick(4_000);
    await flow();
    assert.equal(at(world.requests.at(-1)), 'xhr');
    await world.tick(10_000);
    await flow();
    await world.tick(4_000);
    await flow();
    assert.equal(push.state.name, 'disconnected', 'none of them');
    assert.equal(push.state.reason, 'no connection in time');
    const before = world.sockets.length;
    await world.tick(1_000);
    assert.equal(world.sockets.length, before + 1, 'and from the beginning');
  });

  test('a server that is down, or has just started, does not change the transport', async () => {
    let up = false;
    world.onSocket = (socket) => up || setImmediate(() => socket.lose());
    world.onRequest = (request) => (up ? request.answer(new Response(INFO)) : request.fail(new TypeError('refused')));
    const push = await world.open();
    await flow();
    assert.equal(push.state.reason, 'the server cannot be reached');
    world.onRequest = (request) => {
      up = true;
      request.answer(new Response(INFO));
    };
    await world.tick(500);
    await flow();
    await world.socket.accept();
    assert.equal(push.state.name, 'connected');
    assert.deepEqual(new Set(world.requests.map(at)), new Set(['info']));
  });

  test('it says what is wrong if /info is something else', async () => {
    for (const [response, want] of [
      [() => new Response('<!doctype html><title>Shop</title>'), 'https://example.com/push/info is an HTML page, not pushit'],
      [() => new Response(' \n<html>'), 'https://example.com/push/info is an HTML page, not pushit'],
      [() => new Response('{}'), 'https://example.com/push/info is something else, not pushit'],
      [() => new Response('Pages of this origin may not use this endpoint.\n', { status: 403, headers: { 'Content-Type': 'text/plain; charset=UTF-8' } }), 'Pages of this origin may not use this endpoint.'],
      [() => new Response('<h1>Not Found</h1>', { status: 404, headers: { 'Content-Type': 'text/html' } }), 'HTTP 404'],
      [() => new Response(null, { status: 502 }), 'HTTP 502'],
    ]) {
      world = new World();
      world.onSocket = (socket) => setImmediate(() => socket.lose());
      world.onRequest = (request) => request.answer(response());
      const push = await world.open();
      await flow();
      assert.deepEqual([push.state.name, push.state.reason], ['disconnected', want]);
      assert.ok(push.state.retryAt, 'and tries again');
    }
  });

  test('it does not wait for an /info that never comes', async () => {
    const push = await world.open();
    await world.socket.lose();
    await world.tick(4_000);
    assert.equal(push.state.reason, 'the server cannot be reached');
    assert.ok(world.requests[0].signal.aborted);
  });

  test('WebSocket is not tried where the browser has none', async () => {
    world.WebSocket = undefined;
    await world.open();
    assert.equal(at(world.requests[0]), 'xhr_streaming');
  });

  test('a WebSocket that only reports an error has failed', async () => {
    const push = await world.connected();
    world.socket.onerror();
    assert.deepEqual([push.state.name, push.state.code], ['disconnected', 1006]);
  });

  test('a WebSocket whose constructor throws has failed', async () => {
    world.WebSocket = class {
      constructor() {
        throw new DOMException('mixed content', 'SecurityError');
      }
    };
    world.onRequest = (request) => request.fail(new TypeError('no'));
    const push = await world.open();
    assert.equal(push.state.name, 'disconnected');
  });
});

for (const path of ['xhr_streaming', 'xhr']) {
  describe(path, () => {
    let push;
    let answer;

    /** Answers the request to receive, and lets the client connect. */
    async function connect() {
      push = await world.open({ transports: [path] });
      await listen();
      await say('o\n');
      const [{ uuid }] = frames(pending('xhr_send'));
      pending('xhr_send').answer(new Response(null, { status: 204 }));
      await say(array({ channel: '/meta/connect', uuid, successful: true, error: '' }));
    }

    async function listen() {
      await flow();
      answer = new Answer(pending(path));
    }

    /** Sends something to the client: a stream continues, a poll is repeated. */
    async function say(text) {
      await answer.write(text);
      if (path === 'xhr') {
        await answer.end();
        await listen();
      }
    }

    test('connects, receives and sends', async () => {
      await connect();
      assert.equal(push.state.name, 'connected');
      const got = [];
      push.onMessageReceived = (channel, { payload }) => got.push(payload);
      await say('h\n');
      await say(array({ channel: 'a', uuid: 'm', data: 'ä€😀' }, { channel: 'a', uuid: 'n', data: 2 }));
      assert.deepEqual(got, ['ä€😀', 2]);
      const { url, method } = pending(path);
      assert.match(url, new RegExp(`^https://example\\.com/push/0/[a-z0-9-]{20,}/${path}[?]n=\\d+$`));
      assert.equal(method, 'POST');
      assert.equal(new Set(world.requests.map((request) => request.url.replace(/[^/]+$/, ''))).size, 1, 'one session');
    });

    test('reads a message in many pieces, cut anywhere', async () => {
      await connect();
      const got = [];
      push.onMessageReceived = (channel, { payload }) => got.push(payload);
      for (const byte of new TextEncoder().encode(array({ channel: 'a', uuid: 'm', data: 'ä€😀' }))) await answer.bytes([byte]);
      assert.deepEqual(got, ['ä€😀']);
    });

    test('sends frames in one POST at a time, in order', async () => {
      await connect();
      const sends = () => world.requests.filter((request) => at(request) === 'xhr_send').slice(1);
      push.publish('a', 1);
      await flow();
      push.publish('a', 2);
      await flow();
      push.publish('a', 3);
      await flow();
      assert.deepEqual(sends().map((request) => frames(request).map(({ data }) => data)), [[1]]);
      sends()[0].answer(new Response(null, { status: 204 }));
      await flow();
      assert.deepEqual(sends().map((request) => frames(request).map(({ data }) => data)), [[1], [2, 3]]);
    });

    test('makes the next request when an answer ends', async () => {
      await connect();
      const before = world.requests.filter((request) => at(request) === path).length;
      await answer.write('h\n');
      await answer.end();
      assert.equal(world.requests.filter((request) => at(request) === path).length, before + 1);
      assert.equal(push.state.name, 'connected');
    });

    test('ends the session after c[…], an error, an empty answer or a failed POST', async () => {
      for (const [break_, want] of [
        [() => answer.write('c[2010,"Another connection still open"]\n'), 'Another connection still open'],
        [() => answer.controller.error(new TypeError('network')), 'the connection was lost'],
        [() => answer.end(), path === 'xhr' ? 'the connection was lost' : undefined],
        [() => answer.write('<html>\n'), 'the server sent an invalid message'],
        [
          async () => {
            push.publish('a', 1);
            await flow();
            pending('xhr_send').answer(new Response('no such session', { status: 404, headers: { 'Content-Type': 'text/plain' } }));
            await flow();
            assert.equal(push.state.name, 'connected', 'the stream may know why');
            await world.tick(2_000);
          },
          'no such session',
        ],
        [
          async () => {
            push.publish('a', 1);
            await flow();
            for (let n = 0; n < 4; n++) {
              assert.equal(push.state.name, 'connected', 'it is made three times more');
              pending('xhr_send').fail(new TypeError('network'));
              await flow();
            }
          },
          'the connection was lost',
        ],
      ]) {
        if (!want) continue; // the stream had lines before its end
        world = new World();
        await connect();
        const { signal } = pending(path);
        await break_();
        await flow();
        assert.deepEqual([push.state.name, push.state.reason], ['disconnected', want]);
        assert.ok(signal.aborted);
        push.close();
      }
    });

    test('repeats a request to receive after a network error, with the same number', async () => {
      await connect();
      const receives = () => world.requests.filter((request) => at(request) === path);
      const before = receives().length;
      await answer.write('h\n');
      await answer.end();
      for (let n = 0; n < 3; n++) {
        pending(path).fail(new TypeError('network'));
        await flow();
      }
      const urls = receives().slice(before).map(({ url }) => url);
      assert.equal(urls.length, 4);
      assert.match(urls[0], new RegExp(`[?]n=${before + 1}$`));
      assert.equal(new Set(urls).size, 1, urls.join());
      answer = new Answer(pending(path));
      await say('h\n');
      assert.equal(push.state.name, 'connected');
      await answer.end();
      for (let n = 0; n < 4; n++) {
        pending(path).fail(new TypeError('network'));
        await flow();
      }
      assert.deepEqual([push.state.name, push.state.reason], ['disconnected', 'the connection was lost']);
    });

    test('repeats a POST after a network error, with the same number', async () => {
      await connect();
      const sends = () => world.requests.filter((request) => at(request) === 'xhr_send');
      push.publish('a', 1);
      await flow();
      pending('xhr_send').fail(new TypeError('network'));
      await flow();
      const [first, again] = sends().slice(-2);
      assert.deepEqual([again.url, again.body], [first.url, first.body]);
      assert.match(first.url, /[?]n=2$/);
      pending('xhr_send').answer(new Response(null, { status: 204 }));
      await flow();
      push.publish('a', 2);
      await flow();
      assert.match(pending('xhr_send').url, /[?]n=3$/);
      assert.equal(push.state.name, 'connected');
    });

    test('repeats once what a proxy could not pass on', async () => {
      await connect();
      const all = (name) => world.requests.filter((request) => at(request) === name);
      const bad = () => new Response('Bad Gateway', { status: 502 });
      push.publish('a', 1);
      await flow();
      pending('xhr_send').answer(bad());
      await flow();
      const [first, again] = all('xhr_send').slice(-2);
      assert.deepEqual([again.url, again.body], [first.url, first.body]);
      again.answer(new Response(null, { status: 204 }));
      await answer.write('h\n');
      await answer.end();
      pending(path).answer(bad());
      await flow();
      const [asked, repeated] = all(path).slice(-2);
      assert.equal(repeated.url, asked.url);
      assert.equal(push.state.name, 'connected');
      const count = all(path).length;
      repeated.answer(bad());
      await flow();
      assert.deepEqual([push.state.name, push.state.reason], ['disconnected', 'Bad Gateway']);
      assert.equal(all(path).length, count, 'but not for ever');
    });

    test('fails only the frames of a POST that the server refuses, and at once', async () => {
      for (const status of [400, 413, 415]) {
        world = new World();
        await connect();
        const big = push.channel('a').publish('x'.repeat(5_000));
        const small = push.channel('a').publish('y');
        await flow();
        pending('xhr_send').answer(new Response('Too much.\n', { status, headers: { 'Content-Type': 'text/plain' } }));
        await flow();
        await assert.rejects(big, { code: status === 413 ? 'limit' : 'invalid', message: 'Too much.', final: true });
        const [{ uuid, data }] = frames(pending('xhr_send'));
        assert.equal(data, 'y');
        pending('xhr_send').answer(new Response(null, { status: 204 }));
        await say(array({ channel: '/meta/successful', uuid }));
        await small;
        assert.equal(push.state.name, 'connected');
        push.close();
      }
    });

    test('prefers the reason in the stream to the answer of a POST', async () => {
      push = await world.open({ transports: [path] });
      await listen();
      await say('o\n');
      const [{ uuid }] = frames(pending('xhr_send'));
      pending('xhr_send').answer(new Response('There is no such session.\n', { status: 404, headers: { 'Content-Type': 'text/plain' } }));
      await flow();
      await answer.write(array({ channel: '/meta/connect', uuid, successful: false, error: 'not you', code: 'denied' }, { channel: '/meta/close', code: 4401, error: 'not you', retry: false }));
      assert.deepEqual(push.state, { name: 'closed', code: 4401, reason: 'not you' });
      await world.tick(10_000);
      assert.equal(world.timers, 0);
    });

    test('does not repeat a request at once after an empty answer', async () => {
      push = await world.open({ transports: [path] });
      await listen();
      await answer.end();
      assert.equal(world.requests.filter((request) => at(request) === path).length, 1);
      push.close();
    });

    test('waits as long as a full server says', async () => {
      push = await world.open({ transports: [path] });
      pending(path).answer(new Response('More than enough.\n', { status: 503, headers: { 'Retry-After': '7', 'Content-Type': 'text/plain' } }));
      await flow();
      assert.deepEqual(push.state, { name: 'disconnected', code: 503, reason: 'More than enough.', retryAt: world.now + 7500 });
    });

    test('close ends all requests', async () => {
      await connect();
      push.close();
      assert.ok(pending(path).signal.aborted);
      await flow();
      assert.equal(world.timers, 0);
    });
  });
}

describe('a given socket', () => {
  class Socket {
    sent = [];
    readyState = 0;
    send(text) {
      this.sent.push(JSON.parse(text));
    }
    close() {
      this.closed = true;
    }
    async receive(data) {
      this.onmessage({ data });
      await settle();
    }
  }

  test('is used once', async () => {
    const socket = new Socket();
    const push = await world.open({ socket });
    socket.onopen();
    await settle();
    const { uuid, channel } = socket.sent[0];
    assert.equal(channel, '/meta/connect');
    await socket.receive(JSON.stringify({ channel, uuid, successful: true, error: '' }));
    assert.equal(push.state.name, 'connected');
    const got = [];
    push.onMessageReceived = (name, { payload }) => got.push(payload);
    await socket.receive({ channel: 'a', uuid: 'm', data: 1 }); // as old sockets deliver messages
    assert.deepEqual(got, [1]);
    socket.onclose({ code: 1006 });
    assert.deepEqual(push.state, { name: 'closed', code: 1006, reason: 'the connection was lost' });
    assert.equal(world.sockets.length + world.requests.length, 0);
  });

  test('may be open already', async () => {
    const socket = new Socket();
    socket.readyState = 1;
    await world.open({ socket });
    assert.equal(socket.sent.length, 1);
  });

  test('may be made for each attempt, at the endpoint', async () => {
    const made = [];
    const push = await world.open({
      socket(endpoint) {
        assert.equal(endpoint, 'https://example.com/push');
        made.push(new Socket());
        return made.at(-1);
      },
    });
    made[0].onclose();
    assert.equal(push.state.name, 'disconnected');
    await world.tick(500);
    assert.equal(made.length, 2);
    assert.equal(world.requests.length, 0, 'nobody else is asked');
    push.close();
    assert.ok(made[1].closed);
  });

  test('may throw', async () => {
    const push = await world.open({
      socket() {
        throw new Error('no sockets today');
      },
    });
    assert.equal(push.state.reason, 'no sockets today');
    const socket = new Socket();
    socket.readyState = 1;
    socket.send = () => {
      throw new Error('InvalidStateError');
    };
    const other = await world.open({ socket: () => socket });
    assert.equal(other.state.name, 'disconnected');
    push.close();
  });
});
