// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { beforeEach, describe, test } from 'node:test';
import { PushIt } from '../src/pushit.js';
import { settle, World } from './world.mjs';

/** @type {World} */
let world;
beforeEach(() => {
  world = new World();
});

const refusal = (promise) =>
  promise.then(
    () => assert.fail('nothing was refused'),
    (error) => ({ code: error.code, message: error.message, retry: error.retry }),
  );
const names = (push) => push.states.map(({ name }) => name);

describe('connecting', () => {
  test('opens a SockJS session with a unique id, and connects', async () => {
    const push = await world.open({ credentials: { token: 't' } });
    const urls = [world.socket.url];
    await world.socket.raw('o');
    const [{ channel, uuid, agentId, data }] = world.socket.sent;
    assert.deepEqual({ channel, agentId, data }, { channel: '/meta/connect', agentId: push.agentId, data: { credentials: { token: 't' } } });
    for (const id of [uuid, agentId]) assert.match(id, /^[A-Za-z0-9_-]{20,64}$/);
    await world.socket.answer('/meta/connect');
    assert.deepEqual(names(push), ['connecting', 'connected']);
    assert.deepEqual(push.told, ['connect']);
    await world.open();
    urls.push(world.socket.url);
    for (const url of urls) assert.match(url, /^wss:\/\/example\.com\/push\/0\/[a-z0-9-]{20,64}\/websocket$/);
    assert.notEqual(urls[0], urls[1]);
  });

  test('credentials may be a function, which is called at each attempt', async () => {
    let asked = 0;
    const push = await world.open({ credentials: async () => ({ token: ++asked }) });
    await world.socket.accept();
    await world.socket.lose();
    await world.tick(1000);
    await world.socket.raw('o');
    assert.deepEqual(world.socket.sent[0].data, { credentials: { token: 2 } });
    assert.equal(push.state.name, 'connecting');
  });

  test('without credentials the connect frame has none', async () => {
    await world.connected();
    assert.deepEqual(world.socket.sent[0].data, {});
  });

  test('credentials that fail are asked for again; those that never come end the attempt', async () => {
    let fail = () => Promise.reject(new Error('the token service is away'));
    const push = await world.open({ credentials: () => fail() });
    assert.equal(world.sockets.length, 0);
    assert.deepEqual(push.state, { name: 'disconnected', code: 0, reason: 'no credentials: the token service is away', retryAt: world.now + 500 });
    fail = () => new Promise(() => {});
    await world.tick(500);
    assert.equal(push.state.name, 'connecting');
    await world.tick(45_000);
    assert.equal(push.state.reason, 'no credentials in time');
    fail = () => {
      throw Object.assign(new Error('logged out'), { retry: false });
    };
    await world.tick(10_000);
    assert.deepEqual(push.state, { name: 'closed', code: 0, reason: 'no credentials: logged out' });
  });

  test('the endpoint is the given one, or where the script came from', async () => {
    for (const [endpoint, want] of [
      ['/push', 'https://example.com/push'],
      ['live/', 'https://example.com/live'],
      [new URL('http://other.example:8080/push/?x#y'), 'http://other.example:8080/push'],
      ['wss://other.example/push', 'https://other.example/push'],
      ['ws://other.example/', 'http://other.example'],
      [undefined, 'https://example.com/push'],
    ]) {
      const push = await world.open({ endpoint });
      assert.equal(push.endpoint, want);
      push.close();
    }
    PushIt._script = 'https://cdn.example/live/v1/pushit.mjs?v=abc';
    try {
      assert.equal((await world.open({ endpoint: undefined })).endpoint, 'https://cdn.example/live/v1');
      for (const made of ['https://example.com/assets/index-3f2a.js', 'http://localhost:5173/node_modules/.vite/deps/pushit.mjs', 'http://localhost/node_modules/@pushit/client/dist/pushit.mjs']) {
        PushIt._script = made;
        assert.throws(() => new PushIt({ global: world }), { name: 'TypeError', message: 'say where the endpoint is: new PushIt({ endpoint: "/push" })' });
        assert.equal((await world.open({ endpoint: '/push' })).endpoint, 'https://example.com/push');
      }
      PushIt._script = 'file:///app/node_modules/pushit/dist/pushit.mjs';
      assert.throws(() => new PushIt({ global: { Date, Math, setTimeout, clearTimeout } }), { name: 'TypeError', message: /https:\/\/example.com\/push/ });
      assert.throws(() => new PushIt({ endpoint: '/push', global: { Date, Math, setTimeout, clearTimeout } }), { message: /https:\/\/example.com\/push/ });
    } finally {
      PushIt._script = undefined;
    }
  });

  test('a client can be made without connecting', async () => {
    let asked = 0;
    const push = await world.open({ connect: false, channels: ['a'], credentials: () => ++asked });
    const done = push.channel('b').publish(1);
    for (const type of ['online', 'pageshow', 'pagehide']) await world.event(type);
    await world.hide();
    await world.hide(false);
    await world.tick(60_000);
    assert.deepEqual(push.state, { name: 'disconnected' });
    assert.deepEqual([push.states, push.told, world.sockets.length, asked], [[], [], 0, 0]);
    push.connect();
    await settle();
    await world.socket.accept();
    assert.deepEqual(names(push), ['connecting', 'connected']);
    assert.deepEqual(world.socket.about, ['connect', 'subscribe a', 'b']);
    await world.socket.taken(world.socket.sent.at(-1).uuid);
    await done;

    push.close();
    const other = await world.open({ connect: false });
    assert.equal(world.timers, 0, 'nor does it wait for anything');
    other.close();
    assert.equal(other.state.name, 'closed');
    assert.equal((await refusal(other.subscribe('a'))).code, 'closed');
    const stop = new AbortController();
    const third = await world.open({ connect: false, signal: stop.signal });
    stop.abort();
    assert.equal(third.state.name, 'closed');
  });

  test('unknown options are errors', () => {
    assert.throws(() => new PushIt({ endpont: '/push' }), { name: 'TypeError', message: /endpont/ });
    assert.throws(() => new PushIt({ endpoint: '/push', global: world, transports: ['carrier pigeon'] }), { message: /carrier pigeon/ });
    assert.throws(() => new PushIt({ endpoint: '/push', global: world, transports: [] }), { message: /no transport/ });
  });

  test('subscribes are sent with the connect, as many as the server holds', async () => {
    const channels = Array.from({ length: 100 }, (_, n) => `c/${n}`);
    const push = await world.open({ channels });
    await world.socket.raw('o');
    assert.equal(world.socket.sent.length, 31);
    await world.socket.answer('/meta/connect');
    assert.equal(world.socket.sent.length, 101);
    assert.ok(world.socket.messages <= 8, `${world.socket.messages} messages`);
    await world.socket.subscribed();
    assert.deepEqual(push.channels, channels);
  });

  test('a refused connect is final only if it is denied', async () => {
    const push = await world.open({ channels: ['a'] });
    await world.socket.raw('o');
    await world.socket.answer('/meta/connect', { successful: false, error: 'ask later', code: 'unavailable', retry: 2000 });
    await world.socket.refused(world.socket.sent[1].uuid, { error: 'ask later' }); // one error for each frame that waited, and none about the channel
    await world.socket.receive({ channel: '/meta/close', code: 4503, error: 'ask later', retry: 2000 });
    assert.deepEqual(push.state, { name: 'disconnected', code: 4503, reason: 'ask later', retryAt: world.now + 2500 });
    await world.tick(2500);
    await world.socket.raw('o');
    assert.deepEqual(world.socket.about, ['connect', 'subscribe a']);
    await world.socket.answer('/meta/connect', { successful: false, error: 'not you', code: 'denied' });
    await world.socket.receive({ channel: '/meta/close', code: 4401, error: 'not you', retry: false });
    assert.deepEqual(push.state, { name: 'closed', code: 4401, reason: 'not you' });
    assert.ok(push.told.includes('denied not you'));
    await world.tick(1e6);
    assert.equal(world.sockets.length, 2);
    assert.equal(world.timers, 0);
  });

  test('a refused connect counts also when the connection breaks before it is closed', async () => {
    for (const [code, state, credentials] of [
      ['denied', 'closed'],
      ['expired', 'disconnected', () => 'a fresh one'],
      ['expired', 'closed', 'always the same'],
      ['what is this', 'disconnected'],
    ]) {
      const push = await world.open({ credentials });
      await world.socket.raw('o');
      await world.socket.answer('/meta/connect', { successful: false, error: 'no', code });
      await world.socket.lose();
      assert.deepEqual([push.state.name, push.state.reason], [state, 'no'], code);
      push.close();
    }
  });

  test('a server may take 45 s for its answer', async () => {
    const push = await world.open();
    await world.socket.raw('o');
    await world.tick(44_999);
    assert.equal(push.state.name, 'connecting');
    await world.tick(1);
    assert.equal(push.state.reason, 'no answer in time');
    assert.ok(world.socket.closed);
  });
});

describe('reconnecting', () => {
  test('attempts are spread over their windows, at the same point of each', async () => {
    for (const [random, want] of [
      [0, [0, 1000, 1500, 2250]],
      [1, [1000, 1500, 2250, 3375]],
      [0.5, [500, 1250, 1875, 2813]],
    ]) {
      world = new World();
      world.random = random;
      world.onRequest = ({ fail }) => fail(new TypeError('no network'));
      const push = await world.open();
      for (const ms of want) {
        if (ms === 0) {
          await world.socket.lose();
          assert.deepEqual(names(push).slice(-1), ['connecting'], 'at once');
          continue;
        }
        await world.socket.lose();
        assert.equal(push.state.retryAt - world.now, ms);
        await world.tick(ms);
      }
    }
  });

  test('no wait is longer than 30 s', async () => {
    world.onRequest = ({ fail }) => fail(new TypeError('no network'));
    const push = await world.open();
    for (let n = 0; n < 20; n++) {
      await world.socket.lose();
      const wait = push.state.retryAt - world.now;
      assert.ok(wait <= 30_000, `${wait}`);
      await world.tick(wait);
    }
    await world.socket.lose();
    assert.equal(push.state.retryAt - world.now, 30_000);
    assert.equal(push.state.reason, 'the server cannot be reached');
  });

  test('after a connection that held for 5 s the waits begin anew, after a shorter one they do not', async () => {
    const push = await world.open();
    const waits = [];
    for (const held of [0, 0, 5000, 4999]) {
      await world.socket.accept();
      world.sleep(held);
      await world.socket.lose();
      waits.push(push.state.retryAt - world.now);
      await world.tick(waits.at(-1));
    }
    assert.deepEqual(waits, [500, 1250, 500, 1250]);
  });

  test('/meta/close says when to come back, and no attempt comes earlier', async () => {
    const push = await world.connected();
    const states = [];
    push.onDisconnect = (state) => states.push(state);
    await world.socket.receive({ channel: '/meta/close', code: 4503, error: 'restarting', retry: 8000 });
    assert.ok(world.socket.closed);
    assert.deepEqual(push.state, { name: 'disconnected', code: 4503, reason: 'restarting', retryAt: world.now + 8500 });
    assert.deepEqual(states, [push.state]);
    push.connect();
    assert.equal(push.state.retryAt, world.now + 8000);
    await world.event('online');
    await world.tick(7999);
    assert.equal(world.sockets.length, 1);
    await world.tick(1);
    assert.equal(world.sockets.length, 2);
  });

  const goes = (retry, code = 4503) => world.socket.receive({ channel: '/meta/close', code, error: 'the server is going away', retry });

  test('after a restart, clients with something to send come back first', async () => {
    for (const random of [0, 0.5, 1]) {
      for (const [retry, first] of [[1000, 1000], [1001, 1000.25], [2000, 1250], [9000, 3000], [61_000, 16_000], [300, 300]]) {
        world = new World();
        world.random = random;
        const quiet = await world.connected({ channels: ['a'] });
        await world.socket.subscribed();
        await goes(retry);
        assert.equal(quiet.state.retryAt, world.now + retry + 1000 * random);
        quiet.close();

        const busy = await world.connected();
        busy.publish('a', 1);
        await settle();
        await goes(retry);
        assert.equal(busy.state.retryAt, world.now + Math.ceil(first), `${retry}`);
        assert.equal(busy.states.filter(({ name }) => name === 'disconnected').length, 1);
        const before = world.sockets.length;
        await world.tick(Math.ceil(first) - 1);
        assert.equal(world.sockets.length, before);
        await world.tick(1);
        assert.equal(world.sockets.length, before + 1);
      }
    }
  });

  test('a client that publishes while it waits comes back early, too', async () => {
    const push = await world.connected();
    await goes(9000);
    const since = world.now;
    await world.tick(1000);
    push.publish('a', 1);
    assert.deepEqual(push.state, { name: 'disconnected', code: 4503, reason: 'the server is going away', retryAt: since + 3000 });
    push.publish('a', 2);
    await world.tick(1999);
    assert.equal(world.sockets.length, 1);
    await world.tick(1);
    assert.equal(world.sockets.length, 2);
    await world.socket.accept();
    assert.deepEqual(world.socket.about, ['connect', 'a', 'a']);
    for (const { uuid } of world.socket.sent.slice(1)) await world.socket.taken(uuid);
    await goes(9000);
    await world.tick(4000);
    push.publish('a', new Map(), () => {});
    await settle();
    assert.equal(world.sockets.length, 2, 'what cannot be sent is nothing to send');
    push.publish('a', 3);
    await settle();
    assert.equal(world.sockets.length, 3, 'its time was over');

    // One notice counts once: the next attempts are as after any loss.
    world.onRequest = ({ fail }) => fail(new TypeError('no network'));
    await world.socket.lose();
    push.publish('a', 4);
    assert.equal(push.state.retryAt, world.now + 1250);
    push.connect();
    await settle();
    assert.equal(world.sockets.length, 4, 'and nothing is in the way of connect()');
  });

  test('after all other close codes, retry holds whatever there is to send', async () => {
    for (const code of [4400, 4403, 4408, 4410, 4413, 4429, 4430]) {
      world = new World();
      const push = await world.connected();
      push.publish('a', 1);
      await settle();
      await goes(9000, code);
      push.publish('a', 2);
      assert.equal(push.state.retryAt, world.now + 9500, String(code));
    }
    world = new World();
    const push = await world.open();
    push.publish('a', 1);
    await world.socket.raw('o');
    await world.socket.answer('/meta/connect', { successful: false, error: 'ask later', code: 'unavailable', retry: 9000 });
    await goes(9000);
    push.publish('a', 2);
    assert.equal(push.state.retryAt, world.now + 9500, 'a connect that was refused');
    for (const end of [() => world.socket.lose(), () => world.socket.lose(4503), () => goes(0)]) {
      world = new World();
      const lost = await world.connected();
      lost.publish('a', 1);
      await settle();
      await end();
      lost.publish('a', 2);
      assert.equal(lost.state.retryAt, world.now + 500, 'without a time to come back');
    }
  });

  test('a hidden or closed page does not come back early', async () => {
    const push = await world.connected();
    await world.hide();
    await goes(9000);
    push.publish('a', 1);
    await world.tick(20_000);
    assert.equal(push.state.retryAt, undefined);
    assert.equal(world.sockets.length, 1);
    push.close();
    push.publish('a', 2);
    await world.tick(20_000);
    assert.equal(world.sockets.length, 1);
  });

  test('six quick restarts lose no publish', async () => {
    for (const random of [0, 0.3, 0.7, 1]) {
      world = new World();
      world.random = random;
      let up = true;
      world.onSocket = (socket) => queueMicrotask(() => up || socket.lose());
      world.onRequest = ({ fail }) => fail(new TypeError('no network'));
      const push = await world.connected();
      const codes = [];
      let accepted = 0;
      const answer = async () => {
        for (const frame of world.socket.sent) {
          if (frame.channel !== 'a' || frame.done) continue;
          frame.done = true;
          await world.socket.taken(frame.uuid);
        }
      };
      const publish = async () => {
        push.publish('a', 1, ({ code }) => codes.push(code), () => accepted++);
        await world.tick(50);
        if (up && push.state.name === 'connecting') await world.socket.accept();
        if (push.state.name === 'connected') await answer();
      };
      for (let restart = 0; restart < 6; restart++) {
        for (let n = 0; n < 4; n++) await publish();
        await goes(1000 + Math.ceil(1000 * random));
        up = false;
        for (let n = 0; n < 30; n++) await publish(); // for 1.5 s
        up = true;
        let n = 0;
        while (push.state.name !== 'connected') assert.ok(n++ < 60, `restart ${restart}: not within 3 s`, await publish());
      }
      await answer();
      assert.deepEqual(codes, []);
      assert.ok(accepted > 200);
    }
  });

  test('only denied, or a retry of false, is final', async () => {
    for (const [code, retry, state] of [
      [1000, undefined, 'disconnected'], [4400, 1000, 'disconnected'], [4401, false, 'closed'], [4403, 100, 'disconnected'],
      [4403, false, 'closed'], [4408, 0, 'disconnected'], [4410, false, 'closed'], [4410, 0, 'disconnected'], [4413, 0, 'disconnected'],
      [4429, 1000, 'disconnected'], [4430, 1000, 'disconnected'], [4503, 0, 'disconnected'], [4999, 'what?', 'disconnected'],
    ]) {
      world = new World();
      const push = await world.connected();
      await world.socket.receive({ channel: '/meta/close', code, error: 'why', retry });
      assert.deepEqual([push.state.name, push.state.code, push.state.reason], [state, code, 'why'], `${code} ${retry}`);
      await world.tick(4_000);
      assert.equal(world.sockets.length, state === 'closed' ? 1 : 2, `${code} ${retry}`);
    }
  });

  test('without a notice, the code and the reason of the close frame are reported', async () => {
    const push = await world.connected();
    await world.socket.raw('c[4430,"too slow"]');
    assert.deepEqual([push.state.code, push.state.reason], [4430, 'too slow']);
    await world.tick(1000);
    await world.socket.accept();
    await world.socket.lose(4403, 'cut');
    assert.deepEqual([push.state.code, push.state.reason], [4403, 'cut']);
    await world.tick(5000);
    await world.socket.accept();
    await world.socket.lose();
    assert.deepEqual([push.state.code, push.state.reason], [1006, 'the connection was lost']);
  });

  test('an invalid frame ends the session, but raises no error in the page', async () => {
    const push = await world.open();
    for (const garbage of ['<html>', '', 'x', 'a', 'a{}', 'a["{"]', 'a["1"]', 'a["null"]', 'a["{}"]', 'a[1]', 'c', new ArrayBuffer(2)]) {
      await world.socket.accept();
      await world.socket.raw(garbage);
      assert.deepEqual([push.state.name, push.state.reason], ['disconnected', 'the server sent an invalid message'], String(garbage));
      await world.tick(push.state.retryAt - world.now);
    }
  });

  test('unknown frames and keys are ignored', async () => {
    const push = await world.connected();
    await world.socket.raw('h');
    await world.socket.receive({ channel: '/meta/news', uuid: 'x', much: 1 }, { channel: '/meta/successful', uuid: 'x' });
    assert.equal(push.state.name, 'connected');
    assert.deepEqual(push.told, []);
  });

  test('an error that answers no frame is reported', async () => {
    const push = await world.connected();
    await world.socket.refused('???', { error: 'not JSON', code: 'invalid' });
    assert.deepEqual(push.told, ['error invalid not JSON']);
  });
});

describe('the page and the browser', () => {
  test('while offline it waits longer, and tries at once when the page or the browser says so', async () => {
    const push = await world.connected();
    world.navigator.onLine = false;
    await world.socket.lose();
    assert.equal(push.state.retryAt - world.now, 30_000);
    await world.tick(29_999);
    assert.equal(world.sockets.length, 1);
    await world.tick(1);
    assert.equal(world.sockets.length, 2, 'the browser may be wrong');
    await world.socket.lose();
    assert.equal(push.state.name, 'disconnected');
    push.connect();
    await settle();
    assert.equal(world.sockets.length, 3);
    await world.socket.lose();
    world.navigator.onLine = true;
    await world.event('online');
    assert.equal(world.sockets.length, 4);
    await world.socket.accept();
    assert.equal(push.state.name, 'connected');
  });

  test('showing the page again and again does not delay the attempt', async () => {
    const push = await world.connected();
    world.navigator.onLine = false;
    await world.socket.lose();
    for (let n = 0; n < 6; n++) {
      await world.tick(10_000);
      await world.hide(n % 2 === 0);
    }
    assert.equal(world.sockets.length, 2);
    push.close();
  });

  test('a fixed token that has expired is sent once, and not again', async () => {
    const push = await world.connected({ credentials: 'fixed' });
    const sub = push.subscribe('a');
    await settle();
    await world.socket.answer('/meta/subscribe', { successful: false, error: 'over', code: 'expired' });
    assert.deepEqual(await refusal(sub), { code: 'expired', message: 'over', retry: false });
    await world.tick(20_000);
    assert.equal(world.socket.about.filter((about) => about === 'subscribe a').length, 1);
  });

  test('a state is reported once, in whole ms', async () => {
    world.random = 0.123;
    const push = await world.connected();
    world.hide();
    await world.socket.lose();
    for (let n = 0; n < 3; n++) await world.event('online');
    assert.deepEqual(names(push).slice(-2), ['connected', 'disconnected']);
    world.document.hidden = false;
    await world.event('visibilitychange', world.document);
    await world.socket.lose();
    await world.tick(1);
    assert.ok(push.states.every(({ retryAt }) => retryAt === undefined || Number.isInteger(retryAt)));
  });

  test('everything that a denial ends has its reason, and the denial is reported once', async () => {
    const push = await world.open({ channels: ['a', 'b'], credentials: 'expired long ago' });
    const pending = [push.subscribe('c'), push.channel('d').publish(1)];
    await world.socket.raw('o');
    await world.socket.answer('/meta/connect', { successful: false, error: 'your token has expired', code: 'expired' });
    await world.socket.receive({ channel: '/meta/close', code: 4401, error: 'your token has expired', retry: 1000 });
    assert.equal(push.state.name, 'closed');
    for (const later of [...pending, push.subscribe('e'), push.channel('f').publish(1)]) {
      assert.deepEqual(await refusal(later), { code: 'expired', message: 'your token has expired', retry: false });
    }
    push.publish('g', 1);
    await settle();
    assert.deepEqual(push.told.filter((line) => line.startsWith('error')), ['error expired your token has expired']);
    assert.equal(world.timers, 0);
  });

  const errors = (push) => push.told.filter((line) => line.startsWith('error'));
  const reader = (push) => push.channel('loop')[Symbol.asyncIterator]().next();

  test('a denial during a session is reported once, and is the reason of everything that is refused later', async () => {
    for (const [code, why] of [[4403, 'you were banned'], [4401, 'another time'], [4410, 'this endpoint is gone']]) {
      world = new World();
      const push = await world.connected({ channels: ['a'] });
      await world.socket.subscribed();
      const pending = [push.subscribe('b'), push.channel('b').publish(1), reader(push)];
      push.publish('b', 2);
      await settle();
      await world.socket.receive({ channel: '/meta/close', code, error: why, retry: false });
      assert.deepEqual(push.state, { name: 'closed', code, reason: why });
      for (let n = 0; n < 2; n++) {
        for (const later of [...pending.splice(0), push.subscribe('c'), push.channel('d').publish(1), reader(push)]) {
          assert.deepEqual(await refusal(later), { code: 'denied', message: why, retry: false }, String(code));
        }
        push.publish('e', 1);
        push.subscribe('f');
        push.channel('g').on('message', () => {});
        await settle();
      }
      assert.deepEqual(push.told, ['disconnect closed', `error denied ${why}`, `denied ${why}`]);
      assert.equal(world.timers, 0);
    }
  });

  test('the end of the credentials is reported once, and is the reason of everything that is refused later', async () => {
    let loggedOut = false;
    const credentials = () => {
      if (loggedOut) throw Object.assign(new Error('logged out'), { retry: false });
    };
    const why = { code: 'denied', message: 'no credentials: logged out', retry: false };
    for (const when of ['at a refresh', 'at an attempt']) {
      world = new World();
      loggedOut = false;
      const push = await world.open({ credentials });
      await world.socket.accept({ expires: 10_000 });
      push.told.length = 0;
      loggedOut = true;
      const pending = push.channel('a').publish(1);
      await settle();
      if (when === 'at an attempt') await world.socket.lose();
      await world.tick(8000);
      assert.deepEqual(push.state, { name: 'closed', code: 0, reason: why.message }, when);
      assert.ok(world.sockets.length < 2 && (when === 'at an attempt' || world.socket.closed));
      for (const later of [pending, push.subscribe('b'), push.channel('c').publish(1), reader(push)]) assert.deepEqual(await refusal(later), why, when);
      push.publish('d', 1);
      await settle();
      assert.deepEqual(errors(push), [`error denied ${why.message}`]);
      assert.equal(world.timers, 0);

      // connect() asks again, and is refused again: this is a second refusal.
      push.connect();
      const after = push.subscribe('e');
      assert.deepEqual(await refusal(after), why);
      assert.deepEqual(push.state, { name: 'closed', code: 0, reason: why.message });
      assert.equal(errors(push).length, 2);
      loggedOut = false;
      push.connect();
      await settle();
      await world.socket.accept();
      assert.equal(push.state.name, 'connected');
      const [about] = [push.subscribe('f')];
      await settle();
      await world.socket.subscribed();
      await about;
    }
  });

  test('frames that waited for a refused connect cause no further errors', async () => {
    const push = await world.open({ channels: ['a', 'b', 'c'] });
    await world.socket.raw('o');
    const waiting = world.socket.sent.slice(1);
    await world.socket.answer('/meta/connect', { successful: false, error: 'not you', code: 'denied' });
    for (const { uuid, data } of waiting) await world.socket.receive({ channel: '/meta/subscribe', uuid, data, successful: false, error: 'not you', code: 'denied' });
    await world.socket.receive({ channel: '/meta/close', code: 4401, error: 'not you', retry: 1000 });
    assert.equal(push.state.name, 'closed');
    assert.deepEqual(errors(push), ['error denied not you']);
  });

  test('a connection that the page closes is not denied', async () => {
    const push = await world.connected();
    push.close();
    assert.deepEqual(await refusal(push.subscribe('a')), { code: 'closed', message: 'closed by the page', retry: undefined });
    assert.deepEqual(await refusal(reader(push)), { code: 'closed', message: 'closed by the page', retry: undefined });
    assert.deepEqual(push.told.filter((line) => line.startsWith('denied')), []);
  });

  test('a page that is shown again tries at once, a hidden one does not', async () => {
    const push = await world.connected();
    for (const [away, back] of [[() => world.hide(), () => world.hide(false)]]) {
      await away();
      await world.socket.lose();
      assert.deepEqual(push.state, { name: 'disconnected', code: 1006, reason: 'the connection was lost', retryAt: undefined });
      const before = world.sockets.length;
      await world.tick(1e6);
      assert.equal(world.sockets.length, before);
      await back();
      assert.equal(world.sockets.length, before + 1);
      await world.socket.accept();
    }
  });

  test('an attempt that is due while the page is hidden waits', async () => {
    const push = await world.connected();
    await world.socket.lose();
    await world.hide();
    await world.tick(60_000);
    assert.equal(world.sockets.length, 1);
    assert.equal(push.state.retryAt, undefined);
    await world.hide(false);
    assert.equal(world.sockets.length, 2);
  });

  test('the first attempt does not wait for the page to be shown, nor do those with background: true', async () => {
    await world.hide();
    await world.open();
    assert.equal(world.sockets.length, 1);
    await world.open({ background: true });
    await world.socket.accept();
    await world.socket.lose();
    await world.tick(1000);
    assert.equal(world.sockets.length, 3);
  });

  test('an endpoint on the same machine is tried although the machine is offline', async () => {
    world.navigator.onLine = false;
    for (const [endpoint, want] of [['http://localhost:8080/push', 2], ['http://127.0.0.1/push', 2], ['http://[::1]:8080/', 2], ['http://local.example/push', 1]]) {
      world.sockets = [];
      const push = await world.open({ endpoint });
      await world.socket.accept();
      await world.socket.lose();
      await world.tick(1000);
      assert.equal(world.sockets.length, want, endpoint);
      push.close();
    }
  });

  test('a page that is left closes the connection, and opens it when the browser shows the page again', async () => {
    const push = await world.connected();
    await world.event('pagehide');
    assert.ok(world.socket.closed);
    assert.equal(push.state.name, 'disconnected');
    await world.hide(); // this event comes after the other
    await world.hide(false);
    await world.tick(60_000);
    assert.equal(world.sockets.length, 1);
    await world.event('pageshow');
    assert.equal(world.sockets.length, 2);
  });

  test('a page that is left during an attempt gives the attempt up', async () => {
    for (const until of ['opening', 'examining', 'waiting']) {
      world = new World();
      const push = await world.open();
      if (until !== 'opening') await world.socket.lose();
      if (until === 'waiting') world.requests[0].fail(new TypeError('no'));
      await settle();
      await world.event('pagehide');
      await world.tick(60_000);
      assert.equal(world.sockets.length, 1, until);
      assert.equal(push.state.name, 'disconnected', until);
      assert.equal(world.timers, 0, until);
      await world.event('pageshow');
      assert.equal(world.sockets.length, 2, until);
    }
  });

  test('it works without a document, as in a worker, and without events, as in Node.js', async () => {
    for (const gone of [['document'], ['document', 'navigator', 'location', 'sessionStorage', 'addEventListener']]) {
      world = new World();
      for (const name of gone) Object.defineProperty(world, name, { value: undefined });
      const push = await world.connected({ endpoint: 'https://example.com/push' });
      assert.equal(push.state.name, 'connected');
      push.close();
    }
  });

  test('it works where storage is forbidden', async () => {
    Object.defineProperty(world, 'sessionStorage', {
      get() {
        throw new DOMException('no', 'SecurityError');
      },
    });
    assert.equal((await world.connected()).state.name, 'connected');
  });
});

describe('dead connections', () => {
  test('after 35 s of silence it asks the server, and ends the session 15 s later', async () => {
    const push = await world.connected();
    await world.tick(34_000);
    await world.socket.raw('h');
    await world.tick(34_999);
    assert.deepEqual(world.socket.about, ['connect']);
    await world.tick(1);
    assert.deepEqual(world.socket.about, ['connect', 'ping']);
    await world.tick(14_999);
    assert.equal(push.state.name, 'connected');
    await world.tick(1);
    assert.equal(push.state.reason, 'no answer in time');
    assert.ok(world.socket.closed);
  });

  test('any frame is a sign of life', async () => {
    const push = await world.connected();
    await world.tick(35_000);
    for (const life of ['h', 'a["{\\"channel\\":\\"x\\",\\"uuid\\":\\"1\\"}"]', 'h']) {
      await world.socket.raw(life);
      await world.tick(14_999);
      assert.equal(push.state.name, 'connected');
      await world.tick(1); // an answer is missing, so the client pings again
    }
    assert.equal(world.socket.about.filter((each) => each === 'ping').length, 4);
    await world.tick(15_000);
    assert.equal(push.state.name, 'disconnected');
  });

  test('while an answer is missing, it asks the server after 15 s', async () => {
    const push = await world.connected();
    push.publish('a', 1);
    await world.tick(15_000);
    assert.deepEqual(world.socket.about, ['connect', 'a', 'ping']);
    await world.tick(15_000);
    assert.equal(push.state.name, 'disconnected');
  });

  test('a page that was frozen asks the server before it ends the session', async () => {
    const push = await world.connected();
    world.sleep(3_600_000);
    await world.tick(1);
    assert.equal(push.state.name, 'connected');
    await world.tick(2_000);
    assert.deepEqual(world.socket.about, ['connect', 'ping']);
    world.sleep(3_600_000); // it freezes again before the answer arrives
    await world.tick(1);
    assert.equal(push.state.name, 'connected');
    await world.socket.raw('h');
    await world.tick(2_000);
    assert.equal(push.state.name, 'connected');
  });

  test('a page that is shown again asks at once, and waits only 5 s', async () => {
    const push = await world.connected();
    world.sleep(4_000);
    await world.hide(false);
    assert.deepEqual(world.socket.about, ['connect'], 'something came just now');
    world.sleep(4_000);
    await world.hide(false);
    assert.deepEqual(world.socket.about, ['connect', 'ping']);
    await world.event('online');
    assert.deepEqual(world.socket.about, ['connect', 'ping'], 'once is enough');
    await world.tick(4_999);
    assert.equal(push.state.name, 'connected');
    await world.tick(1);
    assert.equal(push.state.name, 'disconnected');
  });
});

describe('publishing', () => {
  test('the uuid is there at once, and one callback is called, once', async () => {
    const push = await world.connected();
    const told = [];
    const listen = (name) => [(error) => told.push(`${name} ${error.code}`), (answer) => told.push(`${name} ${answer.uuid === ids[name]}`)];
    const ids = {};
    ids.a = push.publish({ channel: 'a', data: { x: 1 } }, ...listen('a'));
    ids.b = push.publish('b', 2, ...listen('b'));
    for (const id of Object.values(ids)) assert.equal(typeof id, 'string');
    await settle();
    assert.deepEqual(world.socket.sent.slice(1), [
      { channel: 'a', uuid: ids.a, data: { x: 1 } },
      { channel: 'b', uuid: ids.b, data: 2 },
    ]);
    assert.equal(world.socket.messages, 2, 'those of one moment travel together');
    await world.socket.taken(ids.a);
    await world.socket.taken(ids.a);
    await world.socket.refused(ids.a);
    await world.socket.refused(ids.b, { code: 'limit', retry: 20 });
    assert.deepEqual(told, ['a true', 'b limit']);
  });

  test('a handle publishes with a promise', async () => {
    const push = await world.connected();
    const a = push.channel('a');
    const sent = a.publish(1);
    const { uuid } = sent;
    await settle();
    await world.socket.taken(uuid);
    assert.equal(await sent, uuid);
    const refused = a.publish(2, { uuid: 'mine' });
    await settle();
    await world.socket.refused('mine', { error: 'not now', code: 'limit', retry: 20 });
    assert.deepEqual(await refusal(refused), { code: 'limit', message: 'not now', retry: 20 });
    await assert.rejects(refused, (error) => error instanceof PushIt.Refusal && error.uuid === 'mine' && error.channel === 'a' && !error.final);
  });

  test('a refusal without a callback raises no unhandled rejection', async (t) => {
    const unhandled = [];
    const listener = (error) => unhandled.push(error);
    process.on('unhandledRejection', listener);
    t.after(() => process.off('unhandledRejection', listener));
    const push = await world.connected();
    push.publish('a', 1);
    push.channel('a').publish(2);
    push.subscribe('a');
    push.subscribe('b', () => {});
    await settle();
    const { uuid } = world.socket.sent[1];
    await world.socket.refused(uuid);
    push.close();
    await new Promise((resolve) => setImmediate(resolve));
    assert.deepEqual(unhandled, []);
    assert.deepEqual(push.told.filter((each) => each.startsWith('error')), ['error denied no', 'error closed closed by the page']);
  });

  test('a refusal without an error listener is written to the console', async (t) => {
    const warned = [];
    t.mock.method(console, 'warn', (...words) => warned.push(words));
    const push = new PushIt({ endpoint: '/push', global: world });
    await settle();
    await world.socket.accept();
    push.publish('a', 1);
    push.publish('a', 1, () => {});
    await settle();
    for (const { uuid } of world.socket.sent.slice(1)) await world.socket.refused(uuid);
    assert.equal(warned.length, 1);
    assert.equal(warned[0][1].message, 'no');
  });

  test('without a connection publishes wait, in order, and keep their uuid until they are answered', async () => {
    const push = await world.open({ channels: ['a'] });
    const done = [];
    const ids = [1, 2, 3].map((n) => push.publish('a', n, (error) => done.push(error.code), () => done.push(n)));
    await world.socket.accept();
    assert.deepEqual(world.socket.about, ['connect', 'subscribe a', 'a', 'a', 'a']);
    const first = world.socket.sent.slice(2);
    await world.socket.taken(ids[0]);
    await world.socket.lose();
    ids.push(push.publish('a', 4, undefined, () => done.push(4)));
    await world.tick(500);
    await world.socket.accept();
    assert.deepEqual(world.socket.about, ['connect', 'subscribe a', 'a', 'a', 'a']);
    assert.deepEqual(world.socket.sent.slice(2, 4), first.slice(1));
    for (const id of ids.slice(1)) await world.socket.taken(id);
    assert.deepEqual(done, [1, 2, 3, 4]);
    await world.socket.lose();
    await world.tick(1500);
    await world.socket.accept();
    assert.deepEqual(world.socket.about, ['connect', 'subscribe a'], 'what was answered is not sent again');
  });

  test('the outbox is bounded in number, size and time', async () => {
    const push = await world.open({ outboxMessages: 3, outboxBytes: 300, outboxAge: 10_000 });
    const codes = [];
    const publish = (data) => push.publish('a', data, (error) => codes.push(error.code));
    for (let n = 0; n < 4; n++) publish(n);
    assert.deepEqual(codes, [], 'nobody is called before publish returns');
    await settle();
    assert.deepEqual(codes, ['limit']);
    await world.tick(10_000);
    assert.deepEqual(codes, ['limit', 'timeout', 'timeout', 'timeout']);
    publish('x'.repeat(300));
    await settle();
    assert.equal(codes.pop(), 'limit');
    publish('x'.repeat(100));
    publish('x'.repeat(200));
    await settle();
    assert.equal(codes.pop(), 'limit');
    await world.tick(10_000);
    publish('x'.repeat(200));
    await settle();
    assert.deepEqual(codes, ['limit', 'timeout', 'timeout', 'timeout', 'timeout'], 'what is over takes no room');
  });

  test('publishes that end because the page closes are not reported as errors', async (t) => {
    const warn = t.mock.method(console, 'warn', () => {});
    const push = new PushIt({ endpoint: '/push', global: world, channels: ['a', 'b'] });
    push.publish('c', 1);
    await settle();
    push.close();
    await settle();
    assert.equal(warn.mock.callCount(), 0);
  });

  test('a publish that is older than the server remembers is not sent again, however long the page slept', async () => {
    const push = await world.connected({ outboxAge: 1e9 });
    const codes = [];
    push.publish('a', 1, (error) => codes.push(error.code));
    await settle();
    await world.socket.lose();
    world.sleep(110_001);
    push.connect();
    await settle();
    await world.socket.accept();
    assert.deepEqual(codes, ['timeout']);
    assert.deepEqual(world.socket.about, ['connect']);
  });

  test('after 4400 and 4413, publishes in flight fail, and the others are kept', async () => {
    for (const code of [4400, 4413]) {
      for (const notice of [true, false]) {
        world = new World();
        const push = await world.connected();
        const codes = [];
        push.publish('a', 'poison', (error) => codes.push(error.code));
        await settle();
        if (notice) await world.socket.receive({ channel: '/meta/close', code, error: 'why', retry: 0 });
        else await world.socket.lose(code, 'why');
        assert.deepEqual(codes, ['invalid'], String(code));
        push.publish('a', 'good', (error) => codes.push(error.code));
        await world.tick(500);
        await world.socket.accept();
        assert.deepEqual(world.socket.sent.slice(1).map(({ data }) => data), ['good']);
        assert.deepEqual(codes, ['invalid']);
      }
    }
  });

  test('data that is not JSON, and a uuid that is in use, fail', async () => {
    const push = await world.connected();
    const codes = [];
    const circle = {};
    circle.circle = circle;
    for (const data of [circle, 1n]) push.publish('a', data, (error) => codes.push(error.code));
    const lost = [new Map(), new Set(), new Blob([]), new ArrayBuffer(1), new Uint8Array(1), new DataView(new ArrayBuffer(1))];
    for (const data of lost) {
      const named = data.constructor.name;
      for (const whole of [data, { deep: [data] }]) assert.equal((await refusal(push.channel('a').publish(whole))).message, `a ${named} is no JSON`);
    }
    push.publish({ channel: 'a', data: 1, uuid: 'u' }, () => codes.push('first'));
    push.publish({ channel: 'a', data: 2, uuid: 'u' }, (error) => codes.push(error.code));
    await settle();
    assert.deepEqual(codes, ['invalid', 'invalid', 'invalid']);
    assert.equal(world.socket.sent.length, 2);
  });

  test('a callback about the end of a session may publish and subscribe', async () => {
    const push = await world.connected({ channels: ['a', 'b'] });
    await world.socket.subscribed();
    const done = [];
    push.publish('x', 'poison', () => push.publish('x', 'in its place', undefined, () => done.push('published')));
    push.unsubscribe('a', undefined, () => push.subscribe('a', undefined, () => done.push('subscribed')));
    push.unsubscribe('b', undefined, () => push.connect());
    await settle();
    await world.socket.lose(4413);
    assert.equal(world.sockets.length, 2);
    await world.socket.accept();
    await world.socket.subscribed();
    await world.socket.taken(world.socket.sent.find(({ channel }) => channel === 'x').uuid);
    assert.deepEqual(done, ['subscribed', 'published']);
    await world.tick(30_000);
    assert.equal(world.sockets.length, 2);
  });

  test('a callback about the end of a session may close the connection', async () => {
    const push = await world.connected();
    push.publish('x', 'poison', () => push.close());
    await settle();
    await world.socket.lose(4400);
    await world.tick(60_000);
    assert.equal(push.state.name, 'closed');
    assert.equal(world.sockets.length, 1);
  });

  test('a signal ends a publish', async () => {
    const push = await world.open();
    const codes = [];
    const stop = new AbortController();
    push.publish({ channel: 'a', data: 1, signal: stop.signal }, (error) => codes.push(error.name));
    push.publish({ channel: 'a', data: 2, signal: AbortSignal.abort() }, (error) => codes.push(error.name));
    push.publish({ channel: 'a', data: 2, signal: AbortSignal.abort(null) }, (error) => codes.push(error.message));
    const handle = push.channel('a', { signal: stop.signal });
    const third = handle.publish(3);
    stop.abort();
    await assert.rejects(third, { name: 'AbortError' });
    await settle();
    assert.deepEqual(codes, ['AbortError', 'aborted', 'AbortError']);
    await world.socket.accept();
    assert.deepEqual(world.socket.about, ['connect']);
  });

  test('a frame longer than a batch is sent alone, and short frames share messages', async () => {
    const push = await world.connected();
    push.publish('a', 'x'.repeat(10_000));
    for (let n = 0; n < 40; n++) push.publish('b', n);
    await settle();
    assert.equal(world.socket.sent.length, 42);
    assert.ok(world.socket.messages <= 4, `${world.socket.messages}`);
  });

  test('close ends everything, and nothing begins after it', async () => {
    const push = await world.connected();
    const told = [];
    push.publish('a', 1, (error) => told.push(`publish ${error.code}`));
    push.subscribe('b', (error) => told.push(`subscribe ${error.code}`));
    push.close();
    push.close();
    assert.deepEqual(push.state, { name: 'closed', code: 1000, reason: 'closed by the page' });
    push.publish('a', 2, (error) => told.push(`publish ${error.code}`));
    push.subscribe('c', (error) => told.push(`subscribe ${error.code}`));
    await settle();
    assert.deepEqual(told, ['publish closed', 'subscribe closed', 'publish closed', 'subscribe closed']);
    assert.equal(world.timers, 0);
    await world.event('online');
    await world.event('pageshow');
    await world.tick(1e6);
    assert.equal(world.sockets.length, 1);
    push.connect();
    await settle();
    await world.socket.accept();
    assert.deepEqual(world.socket.about, ['connect', 'subscribe b'], 'what the page held it still wants');
  });

  test('an aborted signal closes the connection, also before it has begun', async () => {
    const stop = new AbortController();
    const push = await world.connected({ signal: stop.signal });
    stop.abort();
    assert.equal(push.state.name, 'closed');
    assert.equal((await world.open({ signal: stop.signal })).state.name, 'closed');
    assert.equal(world.sockets.length, 1);
  });
});

describe('subscribing', () => {
  test('callbacks and the promise report the result', async () => {
    const push = await world.connected();
    const told = [];
    const yes = push.subscribe('a', () => told.push('no'), (answer) => told.push(answer.data.channel));
    const no = push.subscribe('b', (error) => told.push(error.message));
    await settle();
    await world.socket.answer('/meta/subscribe', {}, (frame) => frame.data?.channel === 'a');
    await world.socket.answer('/meta/subscribe', { successful: false, error: 'not yours', code: 'denied' }, (frame) => frame.data?.channel === 'b');
    assert.equal((await yes).data.channel, 'a');
    assert.deepEqual(await refusal(no), { code: 'denied', message: 'not yours', retry: false });
    assert.deepEqual(told, ['a', 'not yours']);
    assert.deepEqual(push.channels, ['a']);
    await push.subscribe('a');
    assert.equal(world.socket.sent.length, 3, 'it is there');
  });

  test('a refused subscribe is repeated, unless the refusal is final', async () => {
    const push = await world.connected();
    const answers = [];
    const done = push.subscribe('a', (error) => answers.push(error.code));
    await settle();
    const asked = () => world.socket.sent.filter(({ channel }) => channel === '/meta/subscribe').length;
    await world.socket.answer('/meta/subscribe', { successful: false, error: 'later', code: 'unavailable', retry: 3000 });
    assert.deepEqual(push.told, ['error unavailable later']);
    await world.tick(3499);
    assert.equal(asked(), 1);
    await world.tick(1);
    assert.equal(asked(), 2);
    await world.socket.answer('/meta/error', { successful: undefined, error: 'later', code: 'limit' }, ({ channel }) => channel === '/meta/subscribe');
    await world.tick(1250);
    assert.equal(asked(), 3);
    assert.deepEqual(answers, []);
    await world.socket.answer('/meta/subscribe', { successful: false, error: 'no', code: 'denied', retry: 100 });
    assert.equal((await refusal(done)).code, 'denied');
    await world.tick(10_000);
    assert.equal(asked(), 3);
    await world.socket.lose();
    await world.tick(5000);
    await world.socket.accept();
    assert.deepEqual(world.socket.about, ['connect'], 'nor on the next connection');
  });

  test('a second attempt belongs to its session', async () => {
    const push = await world.connected();
    push.subscribe('a');
    await settle();
    await world.socket.answer('/meta/subscribe', { successful: false, error: 'later', code: 'unavailable', retry: 10_000 });
    await world.socket.lose();
    await world.tick(1000);
    await world.socket.accept();
    await world.socket.subscribed();
    await world.tick(11_000);
    assert.equal(world.socket.about.filter((each) => each === 'subscribe a').length, 1);
  });

  test('messages come to callback, events, handles and loops', async () => {
    const push = await world.connected();
    const got = [];
    push.onMessageReceived = (channel, { uuid, payload, data }) => got.push(['callback', channel, uuid, payload, data]);
    push.on('message', ({ channel }) => got.push(['event', channel]));
    push.channel('a').on('message', ({ payload }) => got.push(['a', payload]));
    push.channel('a/*').on('message', ({ payload }) => got.push(['a/*', payload]));
    await settle();
    await world.socket.subscribed();
    await world.socket.receive({ channel: 'a', uuid: 'm', data: { x: 1 } });
    assert.deepEqual(got, [['a', { x: 1 }], ['callback', 'a', 'm', { x: 1 }, { x: 1 }], ['event', 'a']]);
    got.length = 0;
    await world.socket.receive({ channel: 'a/b', uuid: 'm', data: 2 });
    assert.deepEqual(got.map(([name]) => name), ['a/*', 'callback', 'event']);
  });

  test('a refusal is reported once: to the caller, else to loops, else to error listeners', async () => {
    for (const [begin, want] of [
      [(push) => push.subscribe('a', () => {}), []],
      [(push) => push.subscribe('a'), ['error denied no']],
      [(push) => push.channel('a').on('message', () => {}), ['error denied no']],
      [(push) => (push.channel('a').on('message', () => {}), push.subscribe('a', () => {})), []],
      [(push) => void push.channel('a')[Symbol.asyncIterator]().next().catch(() => {}), []],
    ]) {
      world = new World();
      const push = await world.connected();
      begin(push);
      await settle();
      await world.socket.answer('/meta/subscribe', { successful: false, error: 'no', code: 'denied' });
      assert.deepEqual(push.told, want, String(begin));
    }
  });

  test('listening subscribes, and the last to stop unsubscribes', async () => {
    const push = await world.connected();
    const a = push.channel('a');
    const offs = [a.on('message', () => {}), a.on('message', () => {})];
    await settle();
    await world.socket.subscribed();
    offs[0]();
    offs[0]();
    await settle();
    assert.deepEqual(world.socket.about, ['connect', 'subscribe a']);
    offs[1]();
    await settle();
    assert.deepEqual(world.socket.about, ['connect', 'subscribe a', 'unsubscribe a']);
    await world.socket.answer('/meta/unsubscribe');
    assert.deepEqual(push.channels, []);
    push.subscribe('a');
    a.on('message', () => {})();
    await settle();
    assert.equal(world.socket.about.at(-1), 'subscribe a', 'the page holds it');
  });

  test('a listener that stops before the answer unsubscribes after it', async () => {
    const push = await world.open();
    const off = push.channel('a').on('message', () => {});
    await world.socket.raw('o');
    off();
    await world.socket.answer('/meta/connect');
    await world.socket.subscribed();
    assert.deepEqual(world.socket.about, ['connect', 'subscribe a', 'unsubscribe a']);
  });

  test('a refused unsubscribe changes nothing', async () => {
    const push = await world.connected({ channels: ['a'] });
    await world.socket.subscribed();
    const no = push.unsubscribe('a');
    await settle();
    await world.socket.answer('/meta/unsubscribe', { successful: false, error: 'stay', code: 'denied' });
    assert.equal((await refusal(no)).message, 'stay');
    assert.deepEqual(push.channels, ['a']);
    const yes = push.unsubscribe('a');
    await settle();
    await world.socket.answer('/meta/unsubscribe');
    await yes;
    assert.deepEqual(push.channels, []);
    await push.unsubscribe('never heard of');
  });

  test('it unsubscribes also without a connection, or while the connection breaks', async () => {
    const push = await world.connected({ channels: ['a', 'b'] });
    await world.socket.subscribed();
    const a = push.unsubscribe('a');
    await world.socket.lose();
    await a;
    await push.unsubscribe('b');
    await world.tick(1000);
    await world.socket.accept();
    assert.deepEqual(world.socket.about, ['connect']);
  });

  test('a subscribe during an unsubscribe wins', async () => {
    const push = await world.connected({ channels: ['a'] });
    await world.socket.subscribed();
    push.unsubscribe('a');
    const again = push.subscribe('a');
    await settle();
    assert.equal(world.socket.about.at(-1), 'unsubscribe a');
    await world.socket.answer('/meta/unsubscribe');
    assert.equal(world.socket.about.at(-1), 'subscribe a');
    await world.socket.subscribed();
    await again;
    assert.deepEqual(push.channels, ['a']);
  });

  test('the server may begin and end subscriptions', async () => {
    const push = await world.connected({ channels: ['b', 'c'] });
    const events = [];
    push.on('subscribe', ({ channel }) => events.push(`+${channel}`));
    push.on('unsubscribe', ({ channel, code }) => events.push(`-${channel} ${code}`));
    await world.socket.subscribed();
    await world.socket.receive({ channel: '/meta/subscribe', uuid: 'theirs', data: { channel: 'users/bob' }, successful: true, error: '' });
    assert.deepEqual(push.channels, ['b', 'c', 'users/bob']);
    await push.subscribe('users/bob');
    const end = (channel, code) =>
      world.socket.receive({ channel: '/meta/unsubscribe', uuid: `end-${channel}`, data: { channel }, successful: true, error: 'over', code });
    await end('b', 'denied');
    await end('c', 'expired');
    await end('nothing', 'denied');
    assert.deepEqual(events, ['+b', '+c', '+users/bob', '-b denied', '-c expired']);
    assert.deepEqual(push.channels, ['users/bob']);
    await world.tick(500);
    assert.equal(world.socket.about.at(-1), 'subscribe c', 'what has expired can be had again');
    await world.socket.subscribed();
    assert.deepEqual(push.channels, ['c', 'users/bob']);
  });

  test('subscriptions that the server began end with the session, unless the page wants them', async () => {
    const push = await world.connected();
    const begin = (channel) => world.socket.receive({ channel: '/meta/subscribe', uuid: 'theirs', data: { channel }, successful: true, error: '' });
    await begin('a');
    await begin('b');
    await push.subscribe('b');
    await world.socket.lose();
    await world.tick(1000);
    await world.socket.raw('o');
    await world.socket.answer('/meta/connect');
    assert.deepEqual(world.socket.about, ['connect', 'subscribe b']);
    await begin('b');
    await world.socket.answer('/meta/subscribe', { successful: false, error: 'no', code: 'denied' });
    assert.deepEqual(push.channels, ['b'], 'a no to what is there changes nothing');
  });

  test('the first subscribe asks for earlier messages, and recovered messages are no gap', async () => {
    const push = await world.connected({ channels: ['a'], since: 50 });
    const gaps = [];
    push.on('gap', (gap) => gaps.push(gap));
    assert.deepEqual(world.socket.sent.at(-1).data, { channel: 'a', since: 50 });
    await world.socket.answer('/meta/subscribe', { position: '7-1', recovered: true });
    for (const [recovered, want] of [[true, []], [false, [{ channel: 'a', reason: 'count' }]]]) {
      await world.socket.lose();
      for (const { length } = world.sockets; world.sockets.length === length; ) await world.tick(500);
      await world.socket.raw('o');
      await world.socket.answer('/meta/connect');
      assert.deepEqual(world.socket.sent.at(-1).data, { channel: 'a', position: '7-1' });
      await world.socket.answer('/meta/subscribe', { position: '7-1', recovered, ...(recovered ? {} : { reason: 'count' }) });
      assert.deepEqual(gaps, want);
    }
  });

  test('history is answered once, over reconnects', async () => {
    const push = await world.connected();
    const first = push.history('news', { last: 2, before: '7-3' });
    const second = push.channel('stories/*').history();
    await settle();
    const asks = () => world.socket.sent.filter(({ channel }) => channel === '/meta/history');
    assert.deepEqual(asks().map(({ data }) => data), [{ channel: 'news', last: 2, before: '7-3' }, { channel: 'stories/*' }]);
    const message = { channel: 'news', uuid: 'm1', data: { n: 1 }, position: '7-1' };
    await world.socket.answer('/meta/history', { messages: [message], before: '7-1', position: '9-9' }, (frame) => frame.data?.channel === 'news');
    const page = await first;
    assert.deepEqual(page.messages, [{ ...message, payload: { n: 1 } }]);
    assert.deepEqual([page.before, page.position], ['7-1', '9-9']);
    const { uuid } = asks()[1];
    await world.socket.lose();
    await world.tick(1000);
    await world.socket.accept();
    assert.deepEqual(asks().map((each) => each.uuid), [uuid], 'the one without an answer is asked again');
    await world.socket.answer('/meta/history', { messages: [], reason: 'none' });
    assert.deepEqual((await second).messages, []);
    assert.deepEqual(push.channels, []);
    assert.deepEqual(push.told.filter((line) => line.startsWith('message')), []);
  });

  test('history can be refused, aborted and closed, and its refusal names the channel', async () => {
    const push = await world.connected();
    const no = push.history('news');
    await settle();
    await world.socket.answer('/meta/history', { successful: false, error: 'members only', code: 'denied' });
    await assert.rejects(no, { code: 'denied', message: 'members only', channel: 'news' });
    const stop = new AbortController();
    const stopped = push.channel('news', { signal: stop.signal }).history({ last: 1 });
    stop.abort(new Error('enough'));
    await assert.rejects(stopped, { message: 'enough' });
    await world.socket.lose();
    const late = push.history('late');
    await world.tick(90_000);
    await assert.rejects(late, { code: 'timeout', channel: 'late' });
    const open = push.history('open');
    push.close();
    await assert.rejects(open, { code: 'closed', channel: 'open' });
    await assert.rejects(push.history('after'), { code: 'closed' });
    assert.deepEqual(push.told.filter((line) => line.startsWith('error')), []);
  });

  test('wider patterns are subscribed to first, and missing messages do not move a position', async () => {
    const push = await world.connected({ channels: ['*', 'p/*', 'p/x', 'p/q/*', 'a'] });
    const asked = () => world.socket.about.filter((each) => each.startsWith('subscribe'));
    assert.deepEqual(asked(), ['*', 'p/*', 'p/q/*', 'p/x', 'a'].map((name) => `subscribe ${name}`));
    for (const name of ['p/x', 'a', '*']) await world.socket.answer('/meta/subscribe', { position: '7-1' }, (frame) => frame.data?.channel === name);
    // The answer about p/* has not arrived yet, nor have the missing messages of p/*.
    await world.socket.receive({ channel: 'p/x', uuid: 'm', data: 1, position: '7-5' });
    await world.socket.lose();
    await world.tick(1000);
    await world.socket.raw('o');
    const positions = Object.fromEntries(world.socket.sent.filter(({ channel }) => channel === '/meta/subscribe').map(({ data }) => [data.channel, data.position]));
    assert.deepEqual(positions, { 'p/x': '7-5', a: '7-1', 'p/q/*': undefined, 'p/*': undefined, '*': '7-5' });
  });

  test('a subscribe after a reconnect has the position', async () => {
    const push = await world.connected({ channels: ['a', 'b', 'p/*'] });
    await world.socket.answer('/meta/subscribe', { position: '7-1' }, (frame) => frame.data?.channel === 'a');
    await world.socket.subscribed();
    await world.socket.receive({ channel: 'b', uuid: 'm', data: 1, position: '9-4' }, { channel: 'p/x', uuid: 'n', data: 1, position: '3-3' });
    await world.socket.lose();
    await world.tick(1000);
    await world.socket.raw('o');
    assert.deepEqual(world.socket.sent.slice(1).map(({ data }) => data), [{ channel: 'p/*', position: '3-3' }, { channel: 'a', position: '7-1' }, { channel: 'b', position: '9-4' }]);
    assert.equal(push.state.name, 'connecting');
  });
});

describe('loops over a channel', () => {
  const message = (n) => ({ channel: 'a', uuid: `m${n}`, data: n });

  test('read messages, and unsubscribe when they end', async () => {
    const push = await world.connected();
    const got = [];
    const loop = (async () => {
      for await (const { payload } of push.channel('a')) {
        got.push(payload);
        if (payload === 3) break;
      }
    })();
    await settle();
    await world.socket.subscribed();
    await world.socket.receive(message(1), message(2));
    await world.socket.receive(message(3), message(4));
    await loop;
    await settle();
    assert.deepEqual(got, [1, 2, 3]);
    assert.equal(world.socket.about.at(-1), 'unsubscribe a');
  });

  test('go on over reconnects', async () => {
    const push = await world.connected();
    const reader = push.channel('a')[Symbol.asyncIterator]();
    const first = reader.next();
    await world.socket.lose();
    await world.tick(1000);
    await world.socket.accept();
    assert.deepEqual(world.socket.about, ['connect', 'subscribe a']);
    await world.socket.receive(message(1));
    assert.equal((await first).value.data, 1);
  });

  test('the messages that wait are bounded: the loop reads them, and then fails', async () => {
    const push = await world.connected({ buffer: 2 });
    const reader = push.channel('a')[Symbol.asyncIterator]();
    await settle();
    await world.socket.subscribed();
    await world.socket.receive(message(1), message(2), message(3), message(4));
    assert.equal((await reader.next()).value.data, 1);
    assert.equal((await reader.next()).value.data, 2);
    assert.equal((await refusal(reader.next())).code, 'limit');
    assert.equal(world.socket.about.at(-1), 'unsubscribe a');
  });

  test('end when unsubscribed, fail when refused or closed', async () => {
    const push = await world.connected();
    const next = () => push.channel('a')[Symbol.asyncIterator]().next();
    const ended = next();
    await settle();
    await world.socket.subscribed();
    push.unsubscribe('a');
    await settle();
    await world.socket.answer('/meta/unsubscribe');
    assert.equal((await ended).done, true);
    const refused = next();
    await settle();
    await world.socket.answer('/meta/subscribe', { successful: false, error: 'no', code: 'denied' });
    assert.equal((await refusal(refused)).code, 'denied');
    assert.deepEqual(push.told, [], 'the loop was told');
    const closed = next();
    push.close();
    assert.equal((await refusal(closed)).code, 'closed');
  });

  test('a signal ends them, and return does, also while a message is awaited', async () => {
    const push = await world.connected();
    const stop = new AbortController();
    const waiting = push.channel('a', { signal: stop.signal })[Symbol.asyncIterator]().next();
    stop.abort();
    assert.equal((await waiting).done, true);
    const reader = push.channel('a')[Symbol.asyncIterator]();
    const both = [reader.next(), reader.next()];
    assert.equal((await reader.return()).done, true);
    for (const each of await Promise.all(both)) assert.equal(each.done, true);
    assert.equal((await push.channel('a', { signal: stop.signal })[Symbol.asyncIterator]().next()).done, true);
  });
});

describe('events', () => {
  test('on returns a function that removes the listener, and a signal removes it, too', async () => {
    const push = await world.connected();
    const got = [];
    const stop = new AbortController();
    const off = push.on('message', () => got.push('off'));
    push.on('message', () => got.push('signal'), { signal: stop.signal });
    push.on('message', () => got.push('never'), { signal: AbortSignal.abort() });
    const twice = () => got.push('twice');
    push.on('message', twice);
    const one = push.on('message', twice);
    const publish = () => world.socket.receive({ channel: 'x', uuid: 'm', data: 1 });
    await publish();
    assert.deepEqual(got.splice(0), ['off', 'signal', 'twice', 'twice']);
    off();
    stop.abort();
    one();
    await publish();
    assert.deepEqual(got, ['twice']);
    assert.throws(() => push.on('mesage', () => {}), { name: 'TypeError', message: /mesage/ });
    assert.throws(() => push.channel('a').on('state', () => {}), TypeError);
  });

  test('a listener that throws stops nothing, and its error is reported', async (t) => {
    const push = await world.connected();
    const thrown = [];
    const listener = (error) => thrown.push(error.message);
    const before = process.listeners('uncaughtException');
    process.removeAllListeners('uncaughtException');
    process.on('uncaughtException', listener);
    t.after(() => {
      process.removeAllListeners('uncaughtException');
      for (const each of before) process.on('uncaughtException', each);
    });
    const got = [];
    push.onMessageReceived = () => {
      throw new Error('callback');
    };
    push.on('message', () => {
      throw new Error('listener');
    });
    push.on('message', () => got.push('next'));
    push.publish('a', 1, undefined, () => {
      throw new Error('success');
    });
    await settle();
    await world.socket.receive({ channel: '/meta/successful', uuid: world.socket.sent.at(-1).uuid }, { channel: 'x', uuid: 'm' });
    await new Promise((resolve) => setImmediate(resolve));
    assert.deepEqual(got, ['next']);
    assert.deepEqual(thrown.sort(), ['callback', 'listener', 'success']);
    assert.equal(push.state.name, 'connected');
  });

  test('a listener that another one removes is not called', async () => {
    const push = await world.connected();
    const got = [];
    let off = () => {};
    push.on('message', () => off());
    off = push.on('message', () => got.push('removed'));
    await world.socket.receive({ channel: 'x', uuid: 'm' });
    assert.deepEqual(got, []);
  });

  test('a listener may close the connection', async () => {
    for (const when of ['connecting', 'connected', 'disconnected']) {
      world = new World();
      const push = new PushIt({ endpoint: '/push', global: world, channels: ['a'] });
      push.on('state', ({ name }) => name === when && push.close());
      await settle();
      await world.socket?.accept().catch(() => {});
      await world.socket?.lose();
      await world.tick(60_000);
      assert.equal(push.state.name, 'closed', when);
      assert.equal(world.timers, 0, when);
      assert.ok(world.sockets.length < 2);
    }
  });
});

describe('refreshing', () => {
  test('comes before the lease ends, with fresh credentials', async () => {
    let n = 0;
    const push = await world.open({ credentials: () => ++n });
    await world.socket.accept({ expires: 100_000 });
    await world.tick(30_000);
    await world.socket.raw('h');
    await world.tick(30_000);
    await world.socket.raw('h');
    await world.tick(19_999);
    assert.equal(n, 1);
    await world.tick(1);
    assert.equal(world.socket.sent.findLast(({ channel }) => channel === '/meta/connect').data.credentials, 2);
    await world.socket.answer('/meta/connect', { expires: 10_000 });
    assert.deepEqual(names(push), ['connecting', 'connected'], 'nobody notices');
    await world.tick(8_000);
    assert.equal(n, 3);
    await world.socket.answer('/meta/connect');
    await world.socket.lose();
    await world.tick(1_000);
    assert.equal(n, 4);
  });

  test('an unavailable refresh is repeated; after a denial the server ends the session', async () => {
    let broken = false;
    const push = await world.open({
      credentials: () => {
        if (broken) throw new Error('no token');
      },
    });
    await world.socket.accept({ expires: 10_000 });
    const asked = () => world.socket.about.filter((each) => each === 'connect').length;
    await world.tick(8000);
    await world.socket.answer('/meta/connect', { successful: false, error: 'later', code: 'unavailable', retry: 3000 });
    assert.deepEqual(push.told.splice(0), ['connect', 'error unavailable later']);
    await world.tick(2999);
    assert.equal(asked(), 2);
    await world.tick(1);
    assert.equal(asked(), 3);
    broken = true;
    await world.socket.answer('/meta/connect', { expires: 10_000 });
    await world.tick(8000);
    assert.deepEqual(push.told.splice(0), ['error undefined no token']);
    broken = false;
    await world.tick(1500);
    assert.equal(asked(), 4);
    await world.socket.answer('/meta/connect', { successful: false, error: 'another user', code: 'denied' });
    assert.equal(push.state.name, 'connected');
    await world.socket.receive({ channel: '/meta/close', code: 4403, error: 'another user', retry: 100 });
    assert.equal(push.state.name, 'disconnected');
    await world.tick(1000);
    assert.equal(world.sockets.length, 2);
  });
});
