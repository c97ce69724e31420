// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

import { makeBackoff } from './backoff.js';
import { after } from './clock.js';
import { call } from './emitter.js';
import { inspect } from './endpoint.js';
import { id } from './id.js';
import { watchPage } from './lifecycle.js';
import { Refusal } from './refusal.js';
import { makeSession } from './session.js';
import { given } from './transport/given.js';
import { transports } from './transport/transport.js';

/** How many subscribes are sent with the connect, before its answer. The server holds 32 frames (R21). */
const ALONG = 30;
/** How long, in ms, a transport that has just failed may take at its second attempt, and /info to answer. */
const AGAIN_WITHIN = 4_000;
/** How long the server may take for a sign of life when the page comes back, in ms. A visitor is waiting. */
const AWAKE_WITHIN = 5_000;
/** The minimum wait before an attempt, in ms, while the browser says that the machine is offline. */
const OFFLINE_WAIT = 30_000;
/** The code with which a server that stops ends sessions, and the beginning of its window to come back, in ms (R34). */
const GOING = 4503;
const FIRST = 1_000;
/** The part of that window for clients with something to send. */
const EARLY = 0.25;

/**
 * Keeps one session open with the server: attempts, transports, connecting and refreshing.
 * It is always in one of four states:
 *
 *     connecting   → connected     the server lets it
 *                  → disconnected  it failed; at `retryAt` comes the next attempt
 *     connected    → disconnected
 *     disconnected → connecting
 *     any          → closed        the page, or the server, wants it so
 *     closed       → connecting    only if the page wants it so
 *
 * @param {import('./pushit.js').PushIt} push
 */
export function makeConnection(push) {
  const { _options: options, endpoint } = push;
  const { global: env, socket, credentials, firstWait } = options;
  const names = options.transports.filter((name) => name !== 'websocket' || env.WebSocket);
  const unknown = names.find((name) => !transports[name]);
  if (unknown || !(names[0] || socket)) throw new TypeError(`no transport ${unknown ?? 'for here'}`);

  const waits = makeBackoff(options);
  const page = watchPage(options, endpoint, wake, leave);
  let session; // the current session; while the client finds out why there is none, it cancels that
  let transport = Math.max(0, names.indexOf(storage())); // index of the transport
  let doubted = false; // the transport has just failed
  let started = false;
  let since; // the time when it connected
  let notBefore; // the server wants no attempt before this time
  let soon; // but accepts one, while it restarts, if there is something to send
  let timer; // the timer of the next attempt
  let offlineUntil; // the time of an attempt although the machine seems to be offline
  let stopRefreshing = () => {};

  return { _connect, _hurry, _shut };

  function now() {
    return env.Date.now();
  }

  function is(name) {
    return push.state.name === name;
  }

  function become(name, rest) {
    const before = push.state.name;
    const state = { name, ...rest };
    if (name === 'disconnected' && JSON.stringify(state) === JSON.stringify(push.state)) return;
    push.state = state;
    push._session = is('connected') ? session : undefined;
    push._emit('state', push.state);
    if (before === 'connected') call(push.onDisconnect, push.state);
  }

  /** Reads or stores the transport that worked last in this tab. Storage may be switched off. */
  function storage(name) {
    try {
      const key = `pushit ${endpoint}`;
      if (name) env.sessionStorage.setItem(key, name);
      return env.sessionStorage.getItem(key);
    } catch {
      return '';
    }
  }

  // ---- Attempts ----

  /** Makes an attempt at once, or as soon as the server allows. Opens a closed connection again. */
  function _connect() {
    if (session) return;
    if (!started || is('closed')) {
      notBefore = 0;
      page._listen();
    }
    push._denied = undefined;
    started = false; // the page asks for it, so try even if the machine seems to be offline
    retryAt(now(), undefined, true);
  }

  async function attempt() {
    let presented;
    const mine = makeSession(
      push,
      () => opened(mine, presented),
      (...end) => lost(mine, ...end),
    );
    session = mine;
    soon = offlineUntil = 0;
    become('connecting');
    mine._limit(options.connectWithin, 'no credentials in time');
    try {
      presented = await present();
    } catch (error) {
      none(mine, error);
    }
    if (mine._over) return;
    mine._start(
      (events) => {
        if (!socket) return transports[names[transport]](env, `${endpoint}/0/${id()}`, events);
        return given(typeof socket === 'function' ? socket(endpoint) : socket, events);
      },
      doubted ? Math.min(AGAIN_WITHIN, options.openWithin) : options.openWithin,
    );
  }

  function present() {
    return typeof credentials === 'function' ? credentials() : credentials;
  }

  /** There are no credentials, so the session ends. With a `retry` of `false` it is the last one. */
  function none(mine, error) {
    mine._end(0, `no credentials: ${error?.message ?? error}`, error?.retry);
  }

  function ask(mine, presented, answered) {
    mine._ask('/meta/connect', { credentials: presented }, answered, push.agentId);
  }

  /** The transport is open: connect as an agent. */
  function opened(mine, presented) {
    ask(mine, presented, (frame, refusal) => {
      if (refusal) return mine._refused(refusal);
      since = now();
      doubted = false;
      if (!socket) storage(names[transport]);
      mine._watch();
      refreshIn(mine, frame.expires);
      become('connected');
      if (mine._over) return; // a listener has closed it
      push._subscriptions._resubscribe(mine);
      call(push.onConnect);
      push._flush();
    });
    push._subscriptions._resubscribe(mine, ALONG);
  }

  // ---- Refreshing (R23, R42) ----

  /** @param {number | undefined} expires  when the lease of the connection ends, in ms from now */
  function refreshIn(mine, expires) {
    if (expires) refreshAfter(mine, expires * (0.7 + 0.2 * env.Math.random()));
  }

  function refreshAfter(mine, ms) {
    stopRefreshing();
    stopRefreshing = after(env, ms, () => refresh(mine));
  }

  async function refresh(mine) {
    const again = (error) => {
      if (mine._over || error?.retry === false) return; // the server has closed the session, or will do so
      push._error(error);
      refreshAfter(mine, Math.max(error?.retry || 0, firstWait * (1 + env.Math.random())));
    };
    try {
      const presented = await present();
      if (!mine._over) ask(mine, presented, (frame, refusal) => (refusal ? again(refusal) : refreshIn(mine, frame.expires)));
    } catch (error) {
      if (error?.retry === false) none(mine, error);
      else again(error);
    }
  }

  // ---- Losing the session ----

  /** The session has ended, before it opened or after. */
  function lost(mine, code, reason, retry, refusal) {
    const connected = is('connected');
    reason ||= connected ? 'the connection was lost' : 'no connection';
    session = push._session = undefined;
    stopRefreshing();
    push._outbox._lost(code);
    push._subscriptions._lost();
    // 1000 comes from _shut: no server sends it with a `retry` of `false`.
    if (retry === false && code !== 1000) refusal ??= new Refusal(reason, 'denied');
    if (retry === false || (socket && typeof socket !== 'function')) return close(code, reason, refusal);
    const going = connected && code === GOING; // the session was short because the server stops, not because the connection is bad
    if (going || (connected && now() - since >= options.steadyAfter)) waits._reset();
    const ms = Number(retry) || 0;
    notBefore = now() + ms;
    if (going && ms) soon = now() + Math.min(ms, FIRST + (ms - FIRST) * EARLY);
    if (mine._blame && !socket && !retry && !page._blocked() && !page._offline()) examine({ code, reason });
    else wait({ code, reason });
  }

  /**
   * The transport did not open. If the endpoint answers, a proxy may block the transport,
   * or the server has just started. So the transport gets a second attempt. Then the client
   * tries the next one.
   */
  async function examine(failed) {
    const stop = new AbortController();
    const mine = (session = { _end: () => stop.abort() });
    const cancel = after(env, AGAIN_WITHIN, mine._end);
    const wrong = await inspect(env, endpoint, stop.signal);
    cancel();
    if (session !== mine) return;
    session = undefined;
    if (wrong) {
      doubted = false;
      return wait({ ...failed, reason: wrong });
    }
    if (doubted) transport = (transport + 1) % names.length;
    doubted = !doubted;
    if (transport || doubted) attempt();
    else wait(failed);
  }

  function wait(failed) {
    retryAt(early() || Math.max(now(), notBefore) + waits._next(), failed);
  }

  /** The server takes a client back early if it has something to send. */
  function early() {
    return push._outbox._some() && soon && (notBefore = soon);
  }

  /** Looks again whether there is something to send. */
  function _hurry() {
    if (is('disconnected') && early()) retryAt(now());
  }

  /**
   * Schedules the next attempt, unless `wake` must do it later. `sure`: also if the machine
   * seems to be offline.
   */
  function retryAt(at, { code, reason } = push.state, sure = false) {
    env.clearTimeout(timer);
    if (!sure && page._offline()) at = Math.max(at, (offlineUntil ||= now() + OFFLINE_WAIT));
    at = Math.ceil(Math.max(at, notBefore));
    const ms = at - now();
    const blocked = started && page._blocked();
    started = true;
    if (ms <= 0 && !blocked) return attempt();
    if (!blocked) timer = env.setTimeout(() => retryAt(at, undefined, true), Math.min(ms, 2 ** 31 - 1));
    become('disconnected', { code, reason, retryAt: blocked ? undefined : at });
  }

  function wake() {
    if (is('disconnected')) retryAt(now());
    else session?._wake?.(AWAKE_WITHIN);
  }

  function leave() {
    env.clearTimeout(timer);
    session?._end(0, 'the page was left');
  }

  /** Closes the connection, because the page says so. */
  function _shut() {
    const reason = 'closed by the page';
    const mine = session;
    mine?._end(1000, reason, false);
    if (!is('closed')) lost(mine, 1000, reason, false); // there was no session to lose
  }

  /** @param {Refusal} [refusal]  a denial. It is reported once, and is the reason of everything that ends or is refused from now on */
  function close(code, reason, refusal) {
    env.clearTimeout(timer);
    page._stop();
    push._denied = refusal;
    become('closed', { code, reason });
    if (refusal && !push._emit('error', refusal) && !push.onConnectionDenied) push._error(refusal);
    push._outbox._close();
    push._subscriptions._close();
    if (refusal) call(push.onConnectionDenied, reason);
  }
}
