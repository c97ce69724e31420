// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { settle, World } from './world.mjs';

const ann = { user: 'ann', tabs: 1, info: { name: 'Ann' } };
const bob = { user: 'bob', tabs: 1 };
const guest = { uuid: '2b1d4c0e', tabs: 1 };

/** A page that shows who is in a room. */
class Room {
  world = new World();
  told = [];

  static async enter() {
    const room = new Room();
    room.push = await room.world.connected();
    room.push.on('error', (error) => room.told.push(`error ${error.code} ${error.channel}`));
    room.list = room.push.channel('room').presence();
    for (const type of ['join', 'leave']) room.list.on(type, (member) => room.told.push(`${type} ${member.user ?? member.uuid}`));
    room.list.on('change', (list) => {
      assert.equal(list, room.list);
      room.told.push('change');
    });
    await settle();
    return room;
  }

  get last() {
    return this.world.socket.sent.at(-1);
  }

  get names() {
    return [...this.list].map(({ user, uuid, tabs }) => `${user ?? uuid} ${tabs}`).join(', ');
  }

  /** Answers the last frame that was sent. */
  async answer(presence) {
    const { channel, uuid, data } = this.last;
    await this.world.socket.receive({ channel, uuid, data, successful: true, error: '', presence });
    await this.world.tick(1);
  }

  async batch(rest) {
    await this.world.socket.receive({ channel: '/meta/presence', data: { channel: 'room' }, ...rest });
  }

  /** The events since the last call. */
  heard(...want) {
    assert.deepEqual(this.told.splice(0), want);
  }
}

describe('the list of members', () => {
  test('begins with a subscribe, and continues with batches', async () => {
    const room = await Room.enter();
    assert.deepEqual(room.last.data, { channel: 'room', presence: true });
    assert.deepEqual([room.list.count, room.list.listed, room.names], [0, true, '']);
    await room.answer({ number: 7, count: 2, members: [ann, guest] });
    room.heard('join ann', 'join 2b1d4c0e', 'change');
    assert.deepEqual([room.list.count, room.names], [2, 'ann 1, 2b1d4c0e 1']);
    await room.batch({ number: 8, count: 2, joined: [bob], changed: [{ ...ann, tabs: 2 }], left: [{ uuid: '2b1d4c0e' }] });
    room.heard('join bob', 'leave 2b1d4c0e', 'change');
    assert.equal(room.names, 'ann 2, bob 1');
    await room.batch({ number: 8, count: 2, joined: [guest] });
    room.heard();
    room.list.close();
    await settle();
    assert.equal(room.last.channel, '/meta/unsubscribe');
  });

  test('is asked for if the channel is subscribed already', async () => {
    const world = new World();
    const push = await world.connected();
    push.subscribe('room');
    await settle();
    await world.socket.subscribed();
    const list = push.channel('room').presence();
    await settle();
    assert.deepEqual([world.socket.sent.at(-1).channel, world.socket.sent.at(-1).data], ['/meta/presence', { channel: 'room' }]);
    const { uuid, data } = world.socket.sent.at(-1);
    await world.socket.receive({ channel: '/meta/presence', uuid, data, successful: true, error: '', presence: { number: 1, count: 1, members: [ann] } });
    assert.equal(list.count, 1);
  });

  test('comes in pages, and may change between them', async () => {
    const room = await Room.enter();
    await room.answer({ number: 1, count: 3, members: [ann], next: '5' });
    room.heard('join ann', 'change');
    assert.equal(room.list.count, 3);
    assert.deepEqual([room.last.channel, room.last.data], ['/meta/presence', { channel: 'room', next: '5' }]);
    await room.batch({ number: 2, count: 2, left: [{ user: 'ann' }] });
    await room.answer({ number: 2, count: 2, members: [bob, guest] });
    room.heard('leave ann', 'change', 'join bob', 'join 2b1d4c0e', 'change');
  });

  test('is asked for again after a gap, and only the difference is reported', async () => {
    const room = await Room.enter();
    await room.answer({ number: 1, count: 2, members: [ann, bob] });
    room.told.length = 0;
    for (const rest of [{ number: 3, count: 2 }, { number: 4, count: 2, reset: true }]) {
      await room.batch(rest);
      assert.deepEqual([room.last.channel, room.last.data], ['/meta/presence', { channel: 'room' }]);
    }
    room.heard();
    await room.answer({ number: 5, count: 2, members: [bob, guest] });
    room.heard('join 2b1d4c0e', 'change', 'leave ann', 'change');
    // A page with another number than the list: something was missed between two pages.
    await room.batch({ number: 9, count: 2, reset: true });
    await room.answer({ number: 9, count: 2, members: [bob], next: '8' });
    await room.answer({ number: 11, count: 2, members: [guest] });
    assert.deepEqual(room.last.data, { channel: 'room' });
  });

  test('stays over a reconnect, without a leave and join', async () => {
    const room = await Room.enter();
    await room.answer({ number: 50, count: 2, members: [ann, bob] });
    room.told.length = 0;
    await room.world.socket.lose();
    await room.world.tick(1000);
    await room.world.socket.accept();
    await settle();
    assert.equal(room.names, 'ann 1, bob 1');
    const sent = room.world.socket.sent.find(({ channel }) => channel === '/meta/subscribe');
    assert.deepEqual(sent.data, { channel: 'room', presence: true });
    await room.world.socket.receive({ channel: '/meta/subscribe', uuid: sent.uuid, data: sent.data, successful: true, error: '', presence: { number: 1, count: 1, members: [ann], settles: 9000 } });
    await room.world.tick(8000);
    assert.equal(room.names, 'ann 1, bob 1'); // the server has just begun: bob may come back
    room.heard('change');
    await room.batch({ number: 2, count: 2, joined: [bob] });
    await room.world.tick(5000);
    room.heard('change');
    assert.equal(room.names, 'ann 1, bob 1');
  });

  test('loses members that do not come back when the server says so', async () => {
    const room = await Room.enter();
    await room.answer({ number: 1, count: 2, members: [ann, bob] });
    await room.batch({ number: 5, count: 1 });
    room.told.length = 0;
    await room.answer({ number: 5, count: 1, members: [ann], settles: 9000 });
    await room.world.tick(9001);
    room.heard('change', 'leave bob', 'change');
  });

  test('of a large channel is only a count, and then a list again', async () => {
    const room = await Room.enter();
    await room.answer({ number: 1, count: 1, members: [ann] });
    await room.batch({ number: 2, count: 5000, listed: false });
    assert.deepEqual([room.list.count, room.list.listed, room.names], [5000, false, '']);
    await room.batch({ number: 9, count: 4000, listed: false });
    assert.equal(room.list.count, 4000);
    await room.batch({ number: 10, count: 1, reset: true });
    await room.answer({ number: 10, count: 1, members: [bob] });
    assert.deepEqual([room.list.count, room.list.listed, room.names], [1, true, 'bob 1']);
  });

  test('is emptied by a refusal, which is reported; messages continue', async () => {
    const room = await Room.enter();
    await room.answer({ error: 'not for you', code: 'denied' });
    room.heard('change', 'error denied room');
    assert.deepEqual(room.push.channels, ['room']);
    const other = await Room.enter();
    await other.answer({ number: 1, count: 1, members: [ann] });
    other.told.length = 0;
    await other.batch({ successful: false, error: 'it has ended', code: 'unavailable', retry: 2000 });
    other.heard('change', 'error unavailable room');
    assert.equal(other.list.count, 0);
    await other.world.tick(2000);
    assert.deepEqual([other.last.channel, other.last.data], ['/meta/presence', { channel: 'room' }]);
  });

  test('waits before it asks for a page again that the server refused for now', async () => {
    const room = await Room.enter();
    await room.answer({ number: 1, count: 1, members: [ann], next: '4' });
    room.heard('join ann', 'change');
    await room.world.socket.receive({ ...room.last, successful: false, error: 'too many', code: 'limit', retry: 300 });
    await room.world.tick(299);
    assert.equal(room.world.socket.sent.filter(({ channel }) => channel === '/meta/presence').length, 1);
    await room.world.tick(1);
    assert.deepEqual([room.last.channel, room.last.data], ['/meta/presence', { channel: 'room', next: '4' }]);
    await room.answer({ number: 1, count: 2, members: [bob] });
    room.heard('join bob', 'change');
    // The answer to a subscribe says the same after a reconnect: what is shown stays.
    await room.world.socket.lose();
    await room.world.tick(1000);
    await room.world.socket.accept();
    await settle();
    const { uuid, data } = room.world.socket.sent.find(({ channel }) => channel === '/meta/subscribe');
    await room.world.socket.receive({ channel: '/meta/subscribe', uuid, data, successful: true, error: '', presence: { error: 'too many', code: 'limit', retry: 300 } });
    await room.world.tick(300);
    assert.deepEqual([room.last.channel, room.last.data], ['/meta/presence', { channel: 'room' }]);
    await room.answer({ number: 9, count: 1, members: [bob] });
    room.heard('change', 'leave ann', 'change');
  });

  test('starts no timer when a page arrives after it was closed', async () => {
    const world = new World();
    const push = await world.connected();
    push.subscribe('room');
    await settle();
    await world.socket.subscribed();
    const { timers } = world;
    const list = push.channel('room').presence();
    await settle();
    const { channel, uuid, data } = world.socket.sent.at(-1);
    assert.equal(channel, '/meta/presence');
    list.close();
    await world.socket.receive({ channel, uuid, data, successful: true, error: '', presence: { number: 1, count: 1, members: [ann], settles: 15_000 } });
    assert.equal(world.timers, timers);
    assert.equal(list.count, 0);
  });

  test('is closed by a signal', async () => {
    const world = new World();
    const push = await world.connected();
    const stop = new AbortController();
    push.channel('room', { signal: stop.signal }).presence();
    await settle();
    await world.socket.subscribed();
    stop.abort();
    await settle();
    assert.equal(world.socket.sent.at(-1).channel, '/meta/unsubscribe');
  });
});
