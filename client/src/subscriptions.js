// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

import { makeBackoff } from './backoff.js';
import { matches } from './frames.js';
import { closed, Refusal } from './refusal.js';

/**
 * The subscriptions of this page, or those that it wants, by name or pattern. The page
 * wants a subscription while it holds it (by subscribing), and while a listener uses it.
 * The server makes others by itself (PROTOCOL.md, R43), which end with the session.
 *
 * A subscription has `_name`; `_held`; `_users`, its listeners; `_on`, as the server's last
 * answer says; `_leaving`, the page's last wish was to end it; `_asked`, a frame about it
 * has no answer yet; `_waiting` and `_leavers`, the callbacks for when it is on, and when
 * it is not; `_position`, up to which it has been read; `_was`, it has been on before.
 *
 * The last wish counts. Only one frame about a subscription is under way. After its answer
 * the next one is sent, if the wish has changed.
 *
 * @typedef {(refusal?: Error, answer?: object) => void} Done  called once
 *
 * @param {import('./pushit.js').PushIt} push
 */
export function makeSubscriptions(push) {
  const subs = new Map();

  return {
    /** @returns {string[]} the subscriptions that are on */
    _names: () => [...subs.values()].filter((sub) => sub._on).map((sub) => sub._name),

    /** Subscribes for the page. */
    _subscribe(name, done) {
      const sub = of(name);
      sub._held = true;
      sub._waiting.push(done);
      want(sub);
    },

    /**
     * Adds a listener.
     *
     * @param {{_message?: (message: object) => void, _end?: (refusal?: Error) => void, _members?: (part?: object, begins?: boolean, refusal?: Error) => void}} user
     * `_end`: no message will come; `_members`: what comes about the members of the channel
     * @returns {() => void} removes it
     */
    _use(name, user) {
      const sub = of(name);
      sub._users.add(user);
      want(sub);
      if (sub._on && !sub._asked) user._members?.(undefined, true);
      if (push._closed()) queueMicrotask(() => sub._users.has(user) && user._end?.(closed(push, name)));
      return () => {
        if (sub._users.delete(user) && !wanted(sub) && has(sub)) leave(sub);
      };
    },

    /** Ends the subscription and all its listeners, because the page says so. */
    _unsubscribe(name, done) {
      const sub = of(name);
      sub._leavers.push(done);
      leave(sub);
    },

    /**
     * Asks for what this session has not been asked for, at most so many. What matches the
     * most comes first: its position moves with each message that comes for the others.
     */
    _resubscribe(session, most = Infinity) {
      for (const sub of [...subs.values()].sort((a, b) => breadth(b) - breadth(a))) if (!sub._asked && !sub._on && !sub._leaving && most-- > 0) ask(session, sub);
    },

    _begun: begun,

    /** The server has ended a subscription (R44). */
    _ended(frame) {
      const sub = subs.get(frame.data.channel);
      if (!sub) return;
      sub._on = false;
      push._emit('unsubscribe', { ...frame, channel: sub._name });
      if (!sub._asked) lacks(push._session, sub, new Refusal(frame.error, frame.code, sub._name, '', frame.retry));
    },

    /** Passes a message to its listeners. */
    _message(message) {
      for (const sub of [...subs.values()]) {
        if (!matches(sub._name, message.channel)) continue;
        if (sub._on) sub._position = message.position ?? sub._position;
        for (const user of [...sub._users]) if (sub._users.has(user)) user._message?.(message);
      }
    },

    /** A frame about the members of a channel. */
    _members(frame, refusal) {
      const sub = subs.get(frame.data?.channel);
      if (sub) members(sub, frame, false, refusal);
    },

    /** The session has ended, and its subscriptions with it. */
    _lost() {
      for (const sub of subs.values()) {
        sub._asked = sub._on = false;
        if (sub._leaving) next(sub);
        else if (!wanted(sub)) subs.delete(sub._name);
      }
    },

    /** There will be no other session, unless the page connects again. Then the client asks again for what the page wants. */
    _close() {
      for (const sub of subs.values()) end(sub, closed(push, sub._name));
    },
  };

  function of(name) {
    if (!subs.has(name)) subs.set(name, { _name: name, _users: new Set(), _waiting: [], _leavers: [] });
    return subs.get(name);
  }

  /** Sorts names before patterns, and long patterns before those that match more. */
  function breadth({ _name: name }) {
    return name.endsWith('*') && 999 - name.length;
  }

  function has(sub) {
    return subs.get(sub._name) === sub;
  }

  function watchers(sub) {
    return [...sub._users].filter((user) => user._members);
  }

  /** Passes a part of the list to those that show the members. `begins`: the subscription begins. */
  function members(sub, part, begins, refusal) {
    for (const user of watchers(sub)) user._members(part, begins, refusal);
  }

  function wanted(sub) {
    return sub._held || sub._users.size;
  }

  function want(sub) {
    sub._leaving = false;
    next(sub);
  }

  function leave(sub) {
    sub._leaving = true;
    next(sub);
  }

  /** Asks for what the page wants. If the page has it already, reports that after the caller has returned. */
  function next(sub, session = push._session) {
    if (sub._asked) return;
    if (session && !sub._on === !sub._leaving) return ask(session, sub);
    queueMicrotask(() => {
      if (sub._asked || !has(sub)) return;
      if (sub._leaving) return drop(sub);
      tell(sub, sub._leavers); // a later wish has replaced theirs
      if (sub._on) tell(sub, sub._waiting);
    });
  }

  /** @param {Done[]} waiting */
  function tell(sub, waiting, refusal, frame = { data: { channel: sub._name } }) {
    for (const done of waiting.splice(0)) refusal ? done(refusal) : done(undefined, frame);
  }

  function ask(session, sub) {
    const { _name: channel, _on: on, _position: position } = sub;
    sub._asked = true;
    session._ask(`/meta/${on ? 'un' : ''}subscribe`, { channel, ...(!on && { presence: watchers(sub)[0] && true, ...(position ? { position } : { since: push._options.since }) }) }, (frame, refusal) => {
      sub._asked = false;
      if (!on) {
        if (refusal && !sub._on) return lacks(session, sub, refusal);
        if (!refusal) begun(frame);
        tell(sub, sub._waiting, undefined, frame);
      } else if (refusal) {
        sub._leaving = false;
        if (sub._leavers[0]) tell(sub, sub._leavers, refusal);
        else push._error(refusal);
      } else {
        sub._on = sub._was = false;
        tell(sub, sub._leavers);
      }
      next(sub, session);
    });
  }

  /** A subscription has begun, because the page asked for it or because the server wants it. */
  function begun(frame) {
    const sub = of(frame.data.channel);
    sub._on = true;
    sub._backoff?._reset();
    sub._position = frame.position ?? sub._position;
    push._emit('subscribe', { ...frame, channel: sub._name });
    if (sub._was && !frame.recovered) push._emit('gap', { channel: sub._name, reason: frame.reason });
    sub._was = true;
    members(sub, frame.presence, true);
  }

  /** The server has refused it: for good, or for now. */
  function lacks(session, sub, refusal) {
    if (refusal.final || sub._leaving || !wanted(sub)) return drop(sub, refusal);
    push._error(refusal);
    sub._backoff ??= makeBackoff(push._options);
    push._options.global.setTimeout(() => has(sub) && !session._over && next(sub, session), (refusal.retry || 0) + sub._backoff._next());
  }

  /** It has ended. Tells all listeners, and why, unless they wanted it. */
  function drop(sub, refusal) {
    subs.delete(sub._name);
    if (!end(sub, refusal) && refusal && sub._users.size) push._error(refusal);
    sub._users.clear();
    tell(sub, sub._leavers);
  }

  /** @returns {number} the number of callbacks */
  function end(sub, refusal) {
    const told = [...sub._users].map((user) => user._end).filter(Boolean);
    for (const done of sub._waiting.splice(0)) told.push(() => done(refusal ?? new Refusal('unsubscribed', 'closed', sub._name)));
    return told.map((each) => each(refusal)).length;
  }
}
