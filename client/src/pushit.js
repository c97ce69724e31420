// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

import { makeChannel, quiet } from './channel.js';
import { makeConnection } from './connection.js';
import { call, Emitter, stoppable } from './emitter.js';
import { endpointOf } from './endpoint.js';
import { isMeta, unwrap } from './frames.js';
import { id } from './id.js';
import { withDefaults } from './options.js';
import { makeOutbox } from './outbox.js';
import { closed, Refusal, told } from './refusal.js';
import { makeSubscriptions } from './subscriptions.js';

/** A connection to pushit that reconnects by itself. pushit.d.ts documents it. */
export class PushIt extends Emitter {
  static Refusal = Refusal;

  constructor(given) {
    super(['message', 'state', 'error', 'subscribe', 'unsubscribe', 'gap']);
    const options = (this._options = withDefaults(given));
    this.endpoint = endpointOf(options.endpoint, PushIt._script, options.global);
    this.agentId = id();
    this.state = { name: options.connect ? 'connecting' : 'disconnected' };
    /** Reports a refusal that no callback gets to the error listeners, or else on the console. */
    this._error = (refusal) => told.has(refusal) || this._emit('error', refusal) || (this._closed() && refusal.code === 'closed') || console.warn('pushit:', refusal);
    this._session = undefined; // the session that is connected
    this._outbox = makeOutbox(this);
    this._subscriptions = makeSubscriptions(this);
    this._connection = makeConnection(this);
    for (const channel of options.channels) this.subscribe(channel);
    stoppable(options.signal, () => this.close());
    // Connect later, so that the page can set its callbacks first.
    if (options.connect) queueMicrotask(() => this._closed() || this.connect());
  }

  get channels() {
    return this._subscriptions._names();
  }

  publish(message, ...rest) {
    if (typeof message === 'string') message = { channel: message, data: rest.shift() };
    return this._post(message, ...rest);
  }

  history(channel, { last, before, signal } = {}) {
    return quiet(
      new Promise((resolve, reject) => {
        this._post({ channel: '/meta/history', data: { channel, last, before }, signal, _about: channel }, reject, (page) => {
          page.messages.forEach(unwrap);
          resolve(page);
        });
      }),
    );
  }

  subscribe(channel, onError, onSuccess) {
    return this._promise(onError, onSuccess, (done) => {
      if (this._closed()) queueMicrotask(() => done(closed(this, channel)));
      else this._subscriptions._subscribe(channel, done);
    });
  }

  unsubscribe(channel, onError, onSuccess) {
    return this._promise(onError, onSuccess, (done) => this._subscriptions._unsubscribe(channel, done));
  }

  channel(name, { signal } = {}) {
    return makeChannel(this, name, signal);
  }

  connect() {
    this._connection._connect();
  }

  close() {
    this._connection._shut();
  }

  _closed() {
    return this.state.name === 'closed';
  }

  _flush() {
    if (this._session) this._outbox._flush(this._session);
  }

  /** Puts a frame that needs an answer into the outbox. Returns its uuid. */
  _post(...frame) {
    const entry = this._outbox._add(...frame);
    if (this._closed()) entry._later(closed(this, entry._channel, entry._uuid));
    else {
      this._flush();
      this._connection._hurry();
    }
    return entry._uuid;
  }

  _receive(frame, refusal) {
    const { channel } = frame;
    if (!isMeta(channel)) {
      unwrap(frame);
      this._subscriptions._message(frame);
      call(this.onMessageReceived, channel, frame);
      this._emit('message', frame);
    } else if (this._outbox._answered(frame, refusal)) {
      // its callbacks have been called
    } else if (channel === '/meta/presence') this._subscriptions._members(frame, refusal);
    else if (refusal) this._error(refusal);
    else if (channel === '/meta/subscribe') this._subscriptions._begun(frame);
    else if (channel === '/meta/unsubscribe') this._subscriptions._ended(frame);
  }

  /** Starts something that ends with done(refusal, answer), for callbacks and as a promise. */
  _promise(onError, onSuccess, start) {
    return quiet(
      new Promise((resolve, reject) => {
        start((refusal, answer) => {
          if (refusal) {
            call(onError ?? this._error, refusal);
            reject(refusal);
          } else {
            call(onSuccess, answer);
            resolve(answer);
          }
        });
      }),
    );
  }
}
