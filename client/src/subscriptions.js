// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

import { makeBackoff } from './backoff.js';
import { matches } from './frames.js';
import { closed, Refusal } from './refusal.js';

/**
 * What this page is subscribed to, or wants to be, by name or pattern. The page
 * wants a subscription while it holds it, by subscribing, and while somebody
 * listens to it. Others the server begins by itself (PROTOCOL.md, R43); they end
 * with the session.
 *
 * A subscription has `_name`; `_held`; `_users`, who listen; `_waiting`, whom to tell
 * how it goes; `_asked` and `_on`, of this session; `_leaving`, what to do when it is
 * over; `_position`, up to where it has been read.
 *
 * @typedef {(refusal?: Error, answer?: object) => void} Done  called once
 *
 * @param {import('./pushit.js').PushIt} push
 */
export function makeSubscriptions(push) {
  const subs = new Map();

  return {
    /** @returns {string[]} those that are there */
    _names: () => [...subs.values()].filter((sub) => sub._on).map((sub) => sub._name),

    /** The page wants it. @param {Done} done */
    _subscribe(name, done) {
      const sub = of(name);
      sub._held = true;
      if (sub._on && !sub._leaving) queueMicrotask(() => done(undefined, { data: { channel: name } }));
      else sub._waiting.push(done);
      want(sub);
    },

    /**
     * Somebody listens.
     *
     * @param {{_message: (message: object) => void, _end?: (refusal?: Error) => void}} user  `_end`: nothing will come any more
     * @returns {() => void} stops it
     */
    _use(name, user) {
      const sub = of(name);
      sub._users.add(user);
      want(sub);
      return () => {
        if (sub._users.delete(user) && !wanted(sub) && has(sub)) unsubscribe(name);
      };
    },

    _unsubscribe: unsubscribe,

    /** Asks for what this session has not been asked for, at most so many. */
    _resubscribe(session, most = Infinity) {
      for (const sub of subs.values()) if (!sub._asked && !sub._on && most-- > 0) ask(session, sub);
    },

    _begun: begun,

    /** The server has ended a subscription (R44). */
    _ended(frame) {
      const sub = subs.get(frame.data.channel);
      if (!sub) return;
      sub._on = false;
      push._emit('unsubscribe', { ...frame, channel: sub._name });
      lacks(push._session, sub, new Refusal(frame.error, frame.code, sub._name, '', frame.retry));
    },

    /** A message for who listens. */
    _message(message) {
      for (const sub of [...subs.values()]) {
        if (!matches(sub._name, message.channel)) continue;
        if (sub._name === message.channel) sub._position = message.position ?? sub._position;
        for (const user of [...sub._users]) if (sub._users.has(user)) user._message(message);
      }
    },

    /** The session has ended, and with it what it was subscribed to. */
    _lost() {
      for (const sub of [...subs.values()]) {
        sub._on = sub._asked = false;
        if (sub._leaving) queueMicrotask(sub._leaving); // who is told may do anything, and this is no time for it
        else if (!wanted(sub)) subs.delete(sub._name);
      }
    },

    /** There will be no other session, unless the page connects again; then what it wants is asked for again. */
    _close(reason) {
      for (const sub of subs.values()) end(sub, closed(reason, sub._name));
    },
  };

  function of(name) {
    if (!subs.has(name)) subs.set(name, { _name: name, _users: new Set(), _waiting: [] });
    return subs.get(name);
  }

  function has(sub) {
    return subs.get(sub._name) === sub;
  }

  function wanted(sub) {
    return sub._held || sub._users.size;
  }

  function want(sub) {
    const session = push._session;
    if (session && !sub._asked && (!sub._on || sub._leaving)) ask(session, sub);
    sub._leaving = undefined;
  }

  function ask(session, sub) {
    const channel = sub._name;
    sub._asked = true;
    session._ask('/meta/subscribe', { channel, position: sub._position }, (frame, refusal) => {
      if (!has(sub)) {
        if (!refusal && !subs.has(channel)) session._ask('/meta/unsubscribe', { channel }, () => {});
        return;
      }
      sub._asked = false;
      if (refusal && !sub._on) return lacks(session, sub, refusal);
      begun(frame);
      for (const done of sub._waiting.splice(0)) done(undefined, frame);
    });
  }

  /** A subscription has begun: because it was asked for, or because the server wants it. */
  function begun(frame) {
    const sub = of(frame.data.channel);
    sub._on = true;
    sub._backoff?._reset();
    sub._position = frame.position ?? sub._position;
    push._emit('subscribe', { ...frame, channel: sub._name });
  }

  /** It cannot be had: for good, or for now. */
  function lacks(session, sub, refusal) {
    if (refusal.final || !wanted(sub)) return drop(sub, refusal);
    push._error(refusal);
    sub._backoff ??= makeBackoff(push._options);
    push._options.global.setTimeout(() => has(sub) && !session._over && want(sub), (refusal.retry || 0) + sub._backoff._next());
  }

  /** Nobody has it any more, and all who care are told: why, where it was not their wish. */
  function drop(sub, refusal) {
    subs.delete(sub._name);
    if (!end(sub, refusal) && refusal && sub._users.size) push._error(refusal);
    sub._users.clear();
  }

  /** @returns {number} how many were told */
  function end(sub, refusal) {
    const told = [...sub._users].map((user) => user._end).filter(Boolean);
    for (const done of sub._waiting.splice(0)) told.push(() => done(refusal ?? closed('unsubscribed', sub._name)));
    return told.map((each) => each(refusal)).length;
  }

  /** @param {Done} [done] */
  function unsubscribe(name, done) {
    const sub = subs.get(name);
    const session = push._session;
    const gone = () => {
      if (sub?._leaving === gone) drop(sub);
      else if (sub) sub._on = false;
      done?.(undefined, { data: { channel: name } });
    };
    if (sub) sub._leaving = gone;
    if (!session || !sub) return queueMicrotask(gone);
    session._ask('/meta/unsubscribe', { channel: name }, (frame, refusal) => {
      if (!refusal) return gone();
      if (sub._leaving === gone) sub._leaving = undefined;
      (done ?? push._error)(refusal);
    });
  }
}
