// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

import { after } from './clock.js';
import { decode, GARBAGE, isMeta, unpack } from './frames.js';
import { id } from './id.js';
import { Refusal } from './refusal.js';

/**
 * The maximum number of characters of frames in one message, unless a single frame has
 * more. It fits a server with the lowest possible limits.
 */
const BATCH = 2_500;
/** How long the server may take, in ms, to close a session that it has refused. */
const CLOSES_WITHIN = 2_000;
const NO_ANSWER = 'no answer in time';

/**
 * One session with the server, from its opening to its end. It sends frames and finds their
 * answers, receives frames, and watches whether the server still answers.
 *
 * @param {import('./pushit.js').PushIt} push
 * @param {() => void} onOpen
 * @param {(code: number, reason: string | undefined, retry: number | false, refusal?: Refusal) => void} onClose  called once
 */
export function makeSession(push, onOpen, onClose) {
  const { global: env, silence, answerWithin, connectWithin } = push._options;
  /** The callbacks that wait for an answer, by uuid. @type {Map<string, (frame: object, refusal?: Refusal) => void>} */
  const answers = new Map();
  let queue = []; // frames, as text, for the next message
  let socket;
  let busy; // a message is being sent
  let heard = 0; // the time of the last sign of life
  let probed = 0; // the time of a request for one since then
  let within; // how long the answer may take
  let watched = false;
  let refused; // the refusal to connect
  let stop = () => {}; // the timer
  const now = () => env.Date.now();
  const fixed = typeof push._options.credentials !== 'function'; // the same credentials would be refused again

  /** It also has `_over`: it has ended; and `_blame`: if it ends now, the transport is the reason. */
  const session = { _start, _send, _ask, _limit, _refused, _watch, _wake, _end };
  return session;

  /** Opens a transport, which may take that many ms. */
  function _start(transport, ms) {
    session._blame = true;
    _limit(ms, 'no connection in time');
    const events = {
      _open: guarded(() => {
        session._blame = false;
        _limit(connectWithin, NO_ANSWER);
        onOpen();
      }),
      _frame: guarded((text) => {
        alive();
        receive(decode(text));
      }),
      _line: guarded((line) => {
        alive();
        unpack(line, events);
      }),
      _close: _end,
    };
    try {
      socket = transport(events);
    } catch (error) {
      _end(0, error.message);
    }
  }

  /** Wraps fn: it runs unless the session has ended, and an error in it ends the session. */
  function guarded(fn) {
    return (...args) => {
      try {
        if (!session._over) return fn(...args);
      } catch {
        _end(0, GARBAGE);
      }
    };
  }

  /** Sends a frame. Frames of the same moment are joined. */
  function _send(text) {
    if (queue.push(text) < 2) queueMicrotask(flush);
  }

  function flush() {
    while (queue[0] && !busy && !session._over) {
      let length = 0;
      const most = queue.findIndex((text) => (length += text.length) > BATCH);
      const frames = queue.splice(0, most < 0 ? queue.length : most || 1);
      busy = guarded(socket._send)(frames)?.then(() => {
        busy = false;
        flush();
      });
    }
    if (watched) _watch();
  }

  /** Sends a frame whose answer must come from this session. */
  function _ask(channel, data, answered, agentId) {
    const uuid = id();
    answers.set(uuid, answered);
    _send(JSON.stringify({ channel, uuid, agentId, data }));
  }

  function receive(frame) {
    const { channel, uuid, error, code, retry, data } = frame;
    const meta = isMeta(channel);
    if (channel === '/meta/close') return _end(code, error, retry);
    if (refused) return; // each frame that waits is refused for the same reason (R22)
    const refusal =
      meta && (channel === '/meta/error' || frame.successful === false) ? new Refusal(error, code, data?.channel, uuid, fixed && code === 'expired' ? false : retry) : undefined;
    const answered = meta && answers.get(uuid);
    if (!answered) return push._receive(frame, refusal);
    answers.delete(uuid);
    answered(frame, refusal);
  }

  /** The server has refused to connect. It will close the session, and say when to come back. */
  function _refused(refusal) {
    refused = refusal;
    answers.clear();
    _limit(CLOSES_WITHIN, refusal.message);
  }

  /** Ends the session at a time, unless another limit comes first. */
  function _limit(ms, reason) {
    stop();
    if (!session._over) stop = after(env, ms, () => _end(0, reason));
  }

  function alive() {
    heard = now();
    probed = 0;
  }

  /** From here on the session is watched. After a long silence the client asks the server for an answer. */
  function _watch() {
    if (session._over) return;
    watched = true;
    stop();
    const due = probed ? probed + within : heard + (answers.size || push._outbox._owed() ? answerWithin : silence);
    if (due > now()) stop = after(env, due - now(), _watch);
    else if (probed) _end(0, NO_ANSWER);
    else probe(answerWithin);
  }

  /** Asks for a sign of life. */
  function probe(ms) {
    probed = now();
    within = ms;
    _ask('/meta/ping', undefined, () => {});
  }

  /** A page that has slept does not know that its connection is dead. */
  function _wake(ms) {
    if (watched && !probed && now() - heard > ms) probe(ms);
  }

  /**
   * @param {number} [code]  0 if there is none
   * @param {string} [reason]
   * @param {number | false} [retry]  how long to stay away, in ms; false: for good
   */
  function _end(code = 0, reason, retry) {
    if (session._over) return;
    session._over = true;
    stop();
    try {
      socket?._close();
    } catch {
      // the transport is closed then
    }
    onClose(code, reason || refused?.message, refused?.retry === false ? false : (retry ?? refused?.retry ?? 0), refused);
  }
}
