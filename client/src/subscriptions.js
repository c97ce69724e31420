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
 * A subscription has `_name`; `_held`; `_users`, who listen; `_on`, as the server's last
 * answer has it; `_flight`, the frames without an answer, in order, each with whether it
 * turns the subscription `_on` and whom it tells (`_waiting`); `_waiting`, whom the next
 * one tells; `_via`, the session that they go by; `_leaving`, the page's last wish was to
 * be rid of it; `_position`, up to where it has been read; `_was`, it has been on before.
 *
 * The last wish wins: each wish that differs from what the frames in flight lead to sends
 * another frame, and the server answers those of one channel in order (R31).
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
      want(sub, done);
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
      if (push._closed()) queueMicrotask(() => sub._users.has(user) && user._end?.(closed(push, name)));
      return () => {
        if (sub._users.delete(user) && !wanted(sub) && has(sub)) unsubscribe(name);
      };
    },

    _unsubscribe: unsubscribe,

    /** Asks for what this session has not been asked for, at most so many. */
    _resubscribe(session, most = Infinity) {
      for (const sub of subs.values()) if (!sub._flight.length && !sub._on && !sub._leaving && most-- > 0) send(session, sub, true);
    },

    _begun: begun,

    /** The server has ended a subscription (R44). */
    _ended(frame) {
      const sub = subs.get(frame.data.channel);
      if (!sub) return;
      sub._on = false;
      push._emit('unsubscribe', { ...frame, channel: sub._name });
      if (!sub._flight.length) lacks(push._session, sub, new Refusal(frame.error, frame.code, sub._name, '', frame.retry));
    },

    /** A message for who listens. */
    _message(message) {
      for (const sub of [...subs.values()]) {
        if (!matches(sub._name, message.channel)) continue;
        sub._position = message.position ?? sub._position;
        for (const user of [...sub._users]) if (sub._users.has(user)) user._message(message);
      }
    },

    /** The session has ended, and with it what it was subscribed to. */
    _lost() {
      for (const sub of [...subs.values()]) {
        const last = sub._flight.at(-1);
        for (const frame of sub._flight.splice(0)) {
          const told = frame._waiting;
          if (frame === last && frame._on) sub._waiting.unshift(...told);
          // Who is told may do anything, and this is no time for it.
          else queueMicrotask(() => tell(told, sub, frame._on && unsubscribed(sub)));
        }
        sub._on = false;
        if (sub._leaving) queueMicrotask(() => sub._leaving && has(sub) && drop(sub));
        else if (!wanted(sub)) subs.delete(sub._name);
      }
    },

    /** There will be no other session, unless the page connects again; then what it wants is asked for again. */
    _close() {
      for (const sub of subs.values()) end(sub, closed(push, sub._name));
    },
  };

  function unsubscribed(sub) {
    return new Refusal('unsubscribed', 'closed', sub._name);
  }

  function of(name) {
    if (!subs.has(name)) subs.set(name, { _name: name, _users: new Set(), _waiting: [], _flight: [] });
    return subs.get(name);
  }

  function has(sub) {
    return subs.get(sub._name) === sub;
  }

  function wanted(sub) {
    return sub._held || sub._users.size;
  }

  /** What the subscription will be when the frames in flight are answered. */
  function willBe(sub) {
    return (sub._flight.at(-1) ?? sub)._on;
  }

  /** The session to ask: before it is connected, the one that has been asked already. */
  function sessionOf(sub) {
    return sub._flight.length ? sub._via : push._session;
  }

  /** @param {Done[]} waiting */
  function tell(waiting, sub, refusal, frame = { data: { channel: sub._name } }) {
    for (const done of waiting.splice(0)) refusal ? done(refusal) : done(undefined, frame);
  }

  /** @param {Done} [done] */
  function want(sub, done) {
    const session = sessionOf(sub);
    sub._leaving = false;
    const waiting = (willBe(sub) && sub._flight.at(-1)?._waiting) || sub._waiting;
    if (done) waiting.push(done);
    if (sub._on && !sub._flight.length) queueMicrotask(() => tell(waiting, sub));
    else if (session && !willBe(sub)) send(session, sub, true);
  }

  function send(session, sub, on, done) {
    const channel = sub._name;
    const sent = { _on: on, _waiting: on ? sub._waiting.splice(0) : [] };
    if (done) sent._waiting.push(done);
    sub._via = session;
    sub._flight.push(sent);
    session._ask(`/meta/${on ? '' : 'un'}subscribe`, { channel, ...(on && (sub._position ? { position: sub._position } : { since: push._options.since })) }, (frame, refusal) => {
      sub._flight.shift();
      if (on) {
        if (refusal && !sub._on) {
          if (sub._flight.length) return tell(sent._waiting, sub, refusal);
          sub._waiting.unshift(...sent._waiting);
          return lacks(session, sub, refusal);
        }
        if (!refusal) begun(frame);
        tell(sent._waiting, sub, undefined, frame);
      } else if (refusal) {
        if (!sub._flight.length) sub._leaving = false;
        if (sent._waiting.length) tell(sent._waiting, sub, refusal);
        else push._error(refusal);
      } else {
        sub._on = sub._was = false;
        if (sub._leaving && !sub._flight.length) drop(sub);
        tell(sent._waiting, sub);
      }
    });
  }

  /** A subscription has begun: because it was asked for, or because the server wants it. */
  function begun(frame) {
    const sub = of(frame.data.channel);
    sub._on = true;
    sub._backoff?._reset();
    sub._position = frame.position ?? sub._position;
    push._emit('subscribe', { ...frame, channel: sub._name });
    if (sub._was && !frame.recovered) push._emit('gap', { channel: sub._name });
    sub._was = true;
  }

  /** It cannot be had: for good, or for now. */
  function lacks(session, sub, refusal) {
    if (refusal.final || sub._leaving || !wanted(sub)) return drop(sub, refusal);
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
    for (const done of sub._waiting.splice(0)) told.push(() => done(refusal ?? unsubscribed(sub)));
    return told.map((each) => each(refusal)).length;
  }

  /** @param {Done} [done] */
  function unsubscribe(name, done) {
    const sub = subs.get(name);
    const session = sub && sessionOf(sub);
    if (sub) sub._leaving = true;
    if (session && willBe(sub)) return send(session, sub, false, done);
    if (session && sub._flight.length) return done && sub._flight.at(-1)._waiting.push(done);
    queueMicrotask(() => {
      if (sub?._leaving && has(sub) && !sub._flight.length) drop(sub);
      done?.(undefined, { data: { channel: name } });
    });
  }
}
