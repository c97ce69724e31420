// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

import { call, stoppable } from './emitter.js';
import { Presence } from './presence.js';
import { Refusal } from './refusal.js';

/**
 * A channel or a pattern.
 *
 * @param {import('./pushit.js').PushIt} push
 * @param {string} name
 * @param {AbortSignal} [whole]  ends everything that this object begins
 */
export function makeChannel(push, name, whole) {
  const use = (user) => push._subscriptions._use(name, user);
  return {
    name,
    subscribe: (...callbacks) => push.subscribe(name, ...callbacks),
    unsubscribe: (...callbacks) => push.unsubscribe(name, ...callbacks),
    history: (options) => push.history(name, { signal: whole, ...options }),

    publish(data, options) {
      let msgId;
      const answer = new Promise((resolve, reject) => {
        msgId = push.publish({ signal: whole, ...options, channel: name, data }, reject, () => resolve(msgId));
      });
      return Object.assign(quiet(answer), { uuid: msgId });
    },

    presence: ({ signal = whole } = {}) => new Presence(push, name, signal),

    on(type, fn, { signal = whole } = {}) {
      if (type !== 'message') throw new TypeError(`no event ${type}`);
      return stoppable(signal, use({ _message: (message) => call(fn, message) }));
    },

    [Symbol.asyncIterator]() {
      const messages = [];
      const readers = []; // loops that wait for a message
      let over = false;
      let failure;
      const look = () => readers.splice(0).forEach((reader) => reader());
      const end = (refusal) => {
        if (over) return;
        over = true;
        failure = refusal;
        leave();
        stop();
        look();
      };
      const leave = use({
        _end: end,
        _message(message) {
          if (messages.length < push._options.buffer) messages.push(message);
          else end(new Refusal('too much waits for a reader', 'limit', name));
          look();
        },
      });
      let stop = leave;
      stop = stoppable(whole, () => end());
      return {
        async next() {
          while (!messages.length) {
            if (failure) throw failure;
            if (over) return { done: true };
            await new Promise((resolve) => readers.push(resolve));
          }
          return { value: messages.shift() };
        },
        async return(value) {
          messages.length = 0;
          end();
          return { value, done: true };
        },
        [Symbol.asyncIterator]() {
          return this;
        },
      };
    },
  };
}

/** A promise that is not awaited causes no error. */
export function quiet(promise) {
  promise.catch(() => {});
  return promise;
}
