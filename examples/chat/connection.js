// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * A connection to a pushit endpoint that comes back by itself: JSON objects over
 * the browser's own WebSocket, at `<path>/websocket`. Nothing to install or
 * build; copy the file and use it. PROTOCOL.md says what the frames mean.
 *
 *     const connection = new Connection('push/websocket');
 *     connection.subscribe('stories/5', (message) => console.log(message.data));
 *     connection.publish('stories/5', { title: 'Hello' });
 *
 * @module
 */

/** How long the server may owe an answer before the connection counts as dead, in ms. */
const ANSWER_WITHIN = 15_000;
/** The same for /meta/connect: after a restart the server may have many logins to look at. */
const CONNECT_WITHIN = 45_000;
/** The first wait before reconnecting is at most this long, in ms; each further one twice as long … */
const FIRST_WAIT = 500;
/** … up to this, in ms. */
const LONGEST_WAIT = 30_000;
/** A connection that held for this long starts again at the first wait, in ms. */
const STEADY_AFTER = 5_000;
/** How many publishes may wait for their answers. */
const MOST_UNANSWERED = 100;

/**
 * @typedef {{channel: string, uuid: string, data: any}} Message
 *
 * @typedef {{name: 'connecting'}
 *   | {name: 'connected'}
 *   | {name: 'waiting', until: number, reason: string}
 *   | {name: 'closed', reason: string}} State
 *   `until` is when the next attempt comes (ms, as Date.now() counts). A closed
 *   connection stays closed until open() is called.
 */

/**
 * Makes an id that nobody else makes: 128 random bits as 22 characters of A-Z,
 * a-z, 0-9, - and _. (crypto.randomUUID does not exist on plain-http pages.)
 *
 * @returns {string}
 */
export function id() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return btoa(String.fromCharCode(...bytes)).replaceAll('+', '-').replaceAll('/', '_').slice(0, 22);
}

/** Why the server, or the connection, did not do what it was asked. */
export class Refusal extends Error {
  /** @param {{error: string, code?: string, retry?: number | false}} answer */
  constructor({ error, code = 'invalid', retry }) {
    super(error);
    this.name = 'Refusal';
    /** `denied`, `unavailable`, `invalid`, `limit`, `expired`, or `closed` from the connection itself. */
    this.code = code;
    /** In how many ms trying again makes sense; false: never; undefined: not said. */
    this.retry = code === 'denied' ? false : retry;
  }
}

export class Connection {
  #url;
  #credentials;
  #onState;
  #agentId = id();

  /** @type {State} */
  #state = { name: 'connecting' };
  /** @type {WebSocket | null} */
  #socket = null;
  #subscriptions = new Set();
  /**
   * Frames without an answer, by uuid, in the order in which they were sent. Those
   * that `last` are publishes: they are sent again on the next connection.
   * @type {Map<string, {frame: object, last: boolean, done: (refusal: Refusal | null) => void}>}
   */
  #unanswered = new Map();

  #attempts = 0; // failures in a row
  #connectedAt = 0;
  #notBefore = 0; // the server asked not to come back earlier
  #retryTimer = 0;
  #answerTimer = 0;
  #listening = new AbortController();

  /**
   * Opens a connection.
   *
   * @param {string | URL} url  the endpoint, relative to the page: `push/websocket` for `pushit /push`
   * @param {object} [options]
   * @param {() => any} [options.credentials]  asked at each connect, so that a token may be fresh
   * @param {(state: State) => void} [options.onState]  told about each change
   */
  constructor(url, { credentials = () => undefined, onState = () => {} } = {}) {
    this.#url = new URL(url, document.baseURI);
    this.#url.protocol = this.#url.protocol.replace('http', 'ws'); // https becomes wss
    this.#credentials = credentials;
    this.#onState = onState;
    queueMicrotask(() => this.open()); // so that the caller has the connection when onState is first called
  }

  /** @returns {State} */
  get state() {
    return this.#state;
  }

  /**
   * Subscribes to a channel, or with `stories/*` or `*` to all that match, now
   * and after each reconnect.
   *
   * @param {string} channel
   * @param {(message: Message) => void} onMessage
   * @param {(refusal: Refusal | null) => void} [onAnswer]  told what the server says to it, each time
   * @returns {() => void} unsubscribes
   */
  subscribe(channel, onMessage, onAnswer = () => {}) {
    const subscription = { channel, onMessage, onAnswer };
    this.#subscriptions.add(subscription);
    if (this.#state.name === 'connected') this.#sendSubscribe(channel);
    return () => {
      if (!this.#subscriptions.delete(subscription) || this.#subscribers(channel).length > 0) return;
      if (this.#state.name === 'connected') this.#ask('/meta/unsubscribe', { channel }, () => {});
    };
  }

  /**
   * Publishes data on a channel. Without a connection it waits for the next; when
   * the connection is lost before the answer it is sent again under the same
   * uuid, by which the server knows it as a repetition.
   *
   * @param {string} channel
   * @param {any} data  anything JSON can say
   * @param {string} [uuid]  the message's; give the one of a refused message to try it again
   * @returns {Promise<void>} rejects with a Refusal
   */
  publish(channel, data, uuid = id()) {
    return new Promise((resolve, reject) => {
      if (this.#state.name === 'closed') {
        reject(new Refusal({ error: 'There is no connection.', code: 'closed' }));
      } else if (this.#unanswered.size >= MOST_UNANSWERED) {
        reject(new Refusal({ error: 'Too many messages wait for their answer.', code: 'limit' }));
      } else {
        const frame = { channel, uuid, agentId: this.#agentId, data };
        const done = (refusal) => (refusal ? reject(refusal) : resolve());
        this.#unanswered.set(uuid, { frame, last: true, done });
        if (this.#state.name === 'connected') this.#send(frame);
      }
    });
  }

  /** Connects, if it is closed or waiting. */
  open() {
    if (this.#socket) return;
    clearTimeout(this.#retryTimer);
    this.#listening.abort();
    this.#listening = new AbortController();
    const { signal } = this.#listening;
    addEventListener('online', () => this.hurry(), { signal });
    document.addEventListener('visibilitychange', () => document.hidden || this.hurry(), { signal });

    this.#become({ name: 'connecting' });
    this.#socket = new WebSocket(this.#url);
    this.#socket.onopen = () => this.#connect();
    this.#socket.onmessage = ({ data }) => this.#receive(JSON.parse(data));
    this.#socket.onclose = ({ reason }) => {
      const connected = this.#state.name === 'connected';
      this.#lost(reason || (connected ? 'The connection was lost.' : 'The server cannot be reached.'));
    };
    this.#awaitAnswer();
  }

  /** Closes it for good. */
  close() {
    this.#lost('Closed by this page.', false);
  }

  /**
   * Stops waiting and tries at once, or as soon as the server wishes. A connection
   * that seems to be up is tested: a phone that has slept does not know that its
   * connection is gone until it asks for something.
   */
  hurry() {
    if (this.#state.name === 'waiting') {
      this.#retryAt(Math.max(Date.now(), this.#notBefore), this.#state.reason);
    } else if (this.#state.name === 'connected') {
      this.#sendSubscriptions(); // harmless: to subscribe again changes nothing
    }
  }

  #connect() {
    const credentials = this.#credentials();
    clearTimeout(this.#answerTimer);
    this.#answerTimer = 0;
    this.#awaitAnswer(CONNECT_WITHIN);
    this.#ask('/meta/connect', credentials === undefined ? {} : { credentials }, (refusal) => {
      if (refusal) return this.#lost(refusal.message, refusal.retry);
      this.#connectedAt = Date.now();
      this.#become({ name: 'connected' });
      this.#sendSubscriptions();
      for (const { frame, last } of this.#unanswered.values()) if (last) this.#send(frame);
    });
  }

  #sendSubscriptions() {
    for (const channel of new Set([...this.#subscriptions].map((s) => s.channel))) this.#sendSubscribe(channel);
  }

  #sendSubscribe(channel) {
    const socket = this.#socket;
    this.#ask('/meta/subscribe', { channel }, (refusal) => {
      for (const subscription of this.#subscribers(channel)) subscription.onAnswer(refusal);
      if (!refusal?.retry) return;
      setTimeout(() => {
        if (this.#socket === socket && this.#subscribers(channel).length > 0) this.#sendSubscribe(channel);
      }, refusal.retry);
    });
  }

  #subscribers(channel) {
    return [...this.#subscriptions].filter((s) => s.channel === channel);
  }

  /** Sends a frame whose answer counts for this connection only. */
  #ask(channel, data, done) {
    const frame = { channel, uuid: id(), agentId: this.#agentId, data };
    this.#unanswered.set(frame.uuid, { frame, last: false, done });
    this.#send(frame);
  }

  #send(frame) {
    this.#socket.send(JSON.stringify(frame));
    this.#awaitAnswer();
  }

  #awaitAnswer(within = ANSWER_WITHIN) {
    this.#answerTimer ||= setTimeout(() => this.#lost('The server does not answer.'), within);
  }

  #receive(frame) {
    clearTimeout(this.#answerTimer); // whatever came, the server lives
    this.#answerTimer = 0;
    switch (frame.channel) {
      case '/meta/connect':
      case '/meta/subscribe':
      case '/meta/unsubscribe':
      case '/meta/successful':
      case '/meta/error':
        this.#answered(frame);
        break;
      case '/meta/close':
        this.#lost(frame.error, frame.retry);
        break;
      default:
        for (const { channel, onMessage } of this.#subscriptions) {
          if (matches(channel, frame.channel)) onMessage(frame);
        }
    }
    if (this.#socket && this.#unanswered.size > 0) this.#awaitAnswer();
  }

  #answered(frame) {
    const asked = this.#unanswered.get(frame.uuid);
    this.#unanswered.delete(frame.uuid);
    const refused = frame.channel === '/meta/error' || frame.successful === false;
    if (asked) asked.done(refused ? new Refusal(frame) : null);
    else if (refused) console.warn(`pushit: ${frame.error}`);
  }

  /**
   * The connection is gone, or given up.
   *
   * @param {string} reason
   * @param {number | false} [retry]  at least how long to stay away, in ms; false: for good
   */
  #lost(reason, retry = 0) {
    const socket = this.#socket;
    this.#socket = null;
    if (socket) {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close();
    }
    clearTimeout(this.#answerTimer);
    clearTimeout(this.#retryTimer);
    this.#answerTimer = 0;
    for (const [uuid, { last, done }] of this.#unanswered) {
      if (last && retry !== false) continue; // for the next connection
      this.#unanswered.delete(uuid);
      if (last) done(new Refusal({ error: reason, code: 'closed' }));
    }
    if (retry === false) {
      this.#listening.abort();
      this.#become({ name: 'closed', reason });
      return;
    }
    if (this.#state.name === 'connected' && Date.now() - this.#connectedAt > STEADY_AFTER) this.#attempts = 0;
    // Full jitter: when a server restarts, its pages must not all come back at the same moment.
    const wait = Math.random() * Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** this.#attempts);
    this.#attempts++;
    this.#notBefore = Date.now() + retry;
    this.#retryAt(this.#notBefore + wait, reason);
  }

  #retryAt(until, reason) {
    clearTimeout(this.#retryTimer);
    this.#retryTimer = setTimeout(() => this.open(), until - Date.now());
    this.#become({ name: 'waiting', until, reason });
  }

  #become(state) {
    this.#state = state;
    this.#onState(state);
  }
}

/** Tells whether a subscription to the pattern gets what is published on the channel. */
function matches(pattern, channel) {
  return pattern === channel || pattern === '*' || (pattern.endsWith('/*') && channel.startsWith(pattern.slice(0, -1)));
}
