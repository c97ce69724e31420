// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

import { after } from './clock.js';
import { all, call, stoppable } from './emitter.js';
import { id } from './id.js';
import { closed, Refusal } from './refusal.js';

/** The server recognizes a repetition for two minutes (R33). Older publishes must not be repeated. */
const OLDEST = 110_000;

/** These may be empty. Of other objects without properties, such as a Map, JSON would store nothing. */
const PLAIN = /^(Object|Array|Null|String|Number|Boolean)$/;

function json(key, value) {
  const kind = Object.prototype.toString.call(value).slice(8, -1);
  if (ArrayBuffer.isView(value) || (typeof value === 'object' && !PLAIN.test(kind) && !Object.keys(value)[0])) throw new TypeError(`a ${kind} is no JSON`);
  return value;
}

/**
 * The publishes, and questions for history, without an answer, in their order. Each is sent in each session,
 * with the same uuid, until one answers it, and ends exactly once.
 *
 * @param {import('./pushit.js').PushIt} push
 */
export function makeOutbox(push) {
  const { global: env, outboxMessages, outboxBytes, outboxAge } = push._options;
  const entries = new Map();
  const age = Math.min(outboxAge, OLDEST);
  let bytes = 0;
  const each = (fn) => [...entries.values()].forEach(fn);

  return {
    /**
     * @param {{channel: string, data: any, uuid?: string, signal?: AbortSignal, echo?: boolean, history?: boolean, _about?: string}} message  `_about`: the channel that a refusal names
     * @param {(refusal: Error) => void} [onError]
     * @param {(answer: object) => void} [onSuccess]
     * @returns {{_uuid: string, _later: (error: string, code: string) => void}} the entry;
     * `_later` ends it, after the caller has returned
     */
    _add({ channel, data, uuid = id(), signal, echo, history, _about: about = channel }, onError, onSuccess) {
      const undo = [];
      let over = false;
      const end = (refusal, answer) => {
        if (over) return;
        over = true;
        all(undo);
        if (refusal) call(onError ?? push._error, refusal);
        else call(onSuccess, answer);
      };
      const fail = (error, code) => end(new Refusal(error, code, about, uuid));
      const later = (error, code) => queueMicrotask(() => (code ? fail(error, code) : end(error)));
      let text = '';
      try {
        text = JSON.stringify({ channel, uuid, data, echo, history }, json);
      } catch (error) {
        later(error.message, 'invalid');
      }
      const entry = { _uuid: uuid, _channel: about, _text: text, _until: env.Date.now() + age, _end: end, _fail: fail, _later: later };
      const size = text.length;
      if (entries.has(uuid)) later('this uuid waits for an answer', 'invalid');
      else if (entries.size >= outboxMessages || bytes + size > outboxBytes) later('too much waits for an answer', 'limit');
      else if (text) {
        entries.set(uuid, entry);
        bytes += size;
        undo.push(
          () => {
            entries.delete(uuid);
            bytes -= size;
          },
          after(env, age, () => fail('no answer in time', 'timeout')),
          stoppable(signal, () => over || queueMicrotask(() => end(signal.reason || new Refusal('aborted')))),
        );
      }
      return entry;
    },

    /** Handles the server's answer, if it is to one of these. */
    _answered(frame, refusal) {
      const entry = entries.get(frame.uuid);
      if (entry && refusal) refusal.channel = entry._channel;
      entry?._end(refusal, frame);
      return entry;
    },

    /** Sends the publishes that this session has not sent yet. */
    _flush(session) {
      each((entry) => {
        if (entry._sent) return;
        if (env.Date.now() > entry._until) return entry._fail('no answer in time', 'timeout');
        entry._sent = true;
        session._send(entry._text);
      });
    },

    /** Reports whether a publish waits for an answer. */
    _some: () => entries.size,

    /** Reports whether the session still has to answer one. */
    _owed: () => [...entries.values()].some((entry) => entry._sent),

    /**
     * The session has ended. Some codes mean that the server does not accept something in
     * flight. To send it again would end the next session, too.
     */
    _lost(code) {
      each((entry) => {
        if (entry._sent && (code === 4400 || code === 4413)) entry._later('the server does not take this', 'invalid');
        entry._sent = false;
      });
    },

    _close() {
      each((entry) => entry._end(closed(push, entry._channel, entry._uuid)));
    },
  };
}
