// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { settle, World } from './world.mjs';

/** Random numbers, the same ones for the same seed. */
function chance(seed) {
  return (n) => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    return Math.floor((seed / 2 ** 32) * n);
  };
}

/** Answers frames in their order, as a server answers those of one channel. */
async function answerOne(socket, denied) {
  await settle();
  const frame = socket.sent.find(({ done, channel }) => !done && channel !== '/meta/connect');
  if (!frame) return false;
  frame.done = true;
  const { channel, uuid, data } = frame;
  if (channel === '/meta/ping') await socket.receive({ channel, uuid });
  else if (denied) await socket.receive({ channel, uuid, data, successful: false, error: 'no', code: 'unavailable', retry: 100 });
  else {
    socket.server ??= new Set();
    if (channel === '/meta/subscribe') socket.server.add(data.channel);
    else socket.server.delete(data.channel);
    await socket.receive({ channel, uuid, data, successful: true, error: '' });
  }
  return true;
}

describe('the last call wins', () => {
  test('subscribe, unsubscribe and subscribe in one step end in a subscription', async () => {
    const world = new World();
    const push = await world.connected();
    const wishes = [push.subscribe('a'), push.unsubscribe('a'), push.subscribe('a')];
    while (await answerOne(world.socket)) await settle();
    await Promise.all(wishes);
    assert.deepEqual(push.channels, ['a']);
    assert.deepEqual([...world.socket.server], ['a']);
  });

  test('a listener that stops while another begins does not take its messages', async () => {
    const world = new World();
    const push = await world.connected();
    const got = [];
    push.on('gap', () => got.push('gap'));
    push.channel('a').on('message', () => got.push('first'))();
    push.channel('a').on('message', () => got.push('second'));
    await settle();
    while (await answerOne(world.socket)) await settle();
    assert.deepEqual([...world.socket.server], ['a']);
    await world.socket.receive({ channel: 'a', uuid: 'm', data: 1 });
    assert.deepEqual(got, ['second']);
  });

  test('calls before the connect is answered count, too', async () => {
    const world = new World();
    const push = await world.open();
    push.subscribe('a');
    await world.socket.raw('o');
    const un = push.unsubscribe('a');
    const again = push.subscribe('a');
    await world.socket.answer('/meta/connect');
    while (await answerOne(world.socket)) await settle();
    await Promise.all([un, again]);
    assert.deepEqual([...world.socket.server], ['a']);
    assert.deepEqual(push.channels, ['a']);
  });

  test('an unanswered subscribe that an unsubscribe followed fails when the connection breaks', async () => {
    const world = new World();
    const push = await world.connected();
    const first = push.subscribe('a');
    const un = push.unsubscribe('a');
    await settle();
    await world.socket.lose();
    await un;
    await assert.rejects(first, { code: 'closed' });
  });

  test('the last call wins in random orders of calls, answers and losses', async () => {
    for (let seed = 1; seed <= 300; seed++) {
      const world = new World();
      const next = chance(seed);
      const push = await world.connected();
      const channels = ['a', 'b'];
      const wants = { a: { held: false, users: [] }, b: { held: false, users: [] } };
      const promises = [];
      for (let n = 0; n < 40; n++) {
        const name = channels[next(2)];
        const want = wants[name];
        switch (next(8)) {
          case 0:
          case 1:
            want.held = true;
            promises.push(push.subscribe(name));
            break;
          case 2:
            want.held = false;
            want.users = [];
            promises.push(push.unsubscribe(name));
            break;
          case 3:
            want.users.push(push.channel(name).on('message', () => {}));
            break;
          case 4: {
            want.users.shift()?.();
            break;
          }
          case 5:
            await answerOne(world.socket, next(6) === 0);
            break;
          case 6:
            await settle();
            break;
          case 7:
            if (next(4)) break;
            await settle();
            await world.socket.lose();
            while (push.state.name !== 'connecting') await world.tick(500);
            await world.socket.accept();
        }
      }
      for (let round = 0; round < 20; round++) {
        await world.tick(1_000);
        while (await answerOne(world.socket)) await settle();
      }
      const server = [...(world.socket.server ?? [])].sort();
      // An unsubscribe also removes all listeners. If it is refused, nothing changes.
      for (const name of channels) {
        const wanted = wants[name].held || wants[name].users.length > 0;
        if (wanted) assert.ok(server.includes(name), `seed ${seed}: ${name} is wanted, and not subscribed`);
      }
      assert.deepEqual([...push.channels].sort(), server, `seed ${seed}: the client believes otherwise than the server`);
      const ends = await Promise.race([Promise.allSettled(promises), settle().then(() => settle())]);
      assert.ok(ends, `seed ${seed}: a promise is never settled`);
      push.close();
    }
  });
});

describe('gaps', () => {
  test('a channel that is subscribed again reports a gap, a new one does not', async () => {
    const world = new World();
    const push = await world.connected({ channels: ['a'] });
    const gaps = [];
    push.on('gap', ({ channel }) => gaps.push(channel));
    await world.socket.subscribed();
    push.subscribe('b');
    await settle();
    await world.socket.subscribed();
    assert.deepEqual(gaps, []);
    await world.socket.lose();
    await world.tick(1_000);
    await world.socket.accept();
    await world.socket.subscribed();
    assert.deepEqual(gaps, ['a', 'b']);
  });
});
