// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

import { after } from './clock.js';
import { Emitter, stoppable } from './emitter.js';
import { Refusal } from './refusal.js';

/** How long to wait before asking again, in ms, where the server does not say. */
const AGAIN = 5_000;

/** A user, or an agent without one. */
const key = ({ user, uuid }) => uuid ?? `=${user}`;

/**
 * Lists who is in a channel (PROTOCOL.md, R70 to R76), also over reconnects. The answer to
 * a subscribe begins the list, and batches continue it. If something was missed, the client
 * asks for the list again, and removes members that are not in it any more.
 */
export class Presence extends Emitter {
  /**
   * @param {import('./pushit.js').PushIt} push
   * @param {string} name
   * @param {AbortSignal} [signal]  stops it
   */
  constructor(push, name, signal) {
    super(['join', 'leave', 'change']);
    let number; // the number of the last batch or page; undefined while there is no list
    let count = 0;
    let members = new Map();
    let doubted; // members that are not confirmed since the client asked for the list again
    let asking; // the session in which a page was asked for
    let stopTimer;
    let closed;

    const put = (member) => {
      const id = key(member);
      const before = members.get(id);
      doubted?.delete(id);
      members.set(id, member);
      if (!before) this._emit('join', member);
    };
    const drop = (id) => {
      const member = members.get(id);
      if (members.delete(id)) this._emit('leave', member);
    };
    const changed = () => this._emit('change', this);
    const later = (ms, fn) => {
      stopTimer?.();
      stopTimer = after(push._options.global, ms, fn);
    };
    const counted = (part) => {
      ({ number, count } = part);
      this.listed = part.listed !== false;
      if (!this.listed) members.clear();
    };

    const clear = () => {
      number = undefined;
      count = 0;
      members.clear();
      changed();
    };

    const refused = (refusal, next) => {
      if (refusal.code !== 'limit') {
        clear();
        push._error(refusal);
      }
      if (!refusal.final) later(refusal.retry || AGAIN, () => ask(number && next));
    };

    const ask = (next) => {
      if (asking === push._session) return;
      asking = push._session;
      asking?._ask('/meta/presence', { channel: name, next }, (frame, refusal) => {
        asking = undefined;
        if (closed) return; // no timer starts any more
        if (refusal) refused(refusal, next);
        else page(frame.presence, next);
      });
    };

    /** Asks for a page of the list; for the first one if there was none before. */
    const page = (part, next) => {
      if (part.error) return refused(new Refusal(part.error, part.code, name, '', part.retry));
      if (next && part.number !== number) return ask();
      if (!next) doubted = new Set(members.keys());
      counted(part);
      part.members?.forEach(put);
      if (part.next) ask(part.next);
      else later(part.settles | 0, () => {
        doubted.forEach(drop);
        if (doubted.size) changed();
        doubted.clear();
      });
      changed();
    };

    const stop = push._subscriptions._use(name, {
      _end: clear,
      /** Handles a part of the list: of the answer to a subscribe, or of a batch. The answer has none if the subscribe did not ask for it. */
      _members: (part, begins, refusal) => {
        if (refusal) return refused(refusal);
        if (begins) return part ? page(part) : ask();
        if (part.listed !== false) {
          if (!(part.number > number)) return;
          if (part.reset || part.number > number + 1) return ask();
        }
        counted(part);
        part.joined?.forEach(put);
        part.changed?.forEach(put);
        part.left?.forEach((member) => drop(key(member)));
        changed();
      },
    });

    this.listed = true;
    Object.defineProperty(this, 'count', { get: () => Math.max(count, members.size) });
    this[Symbol.iterator] = () => members.values();
    this.close = stoppable(signal, () => {
      closed = true;
      stopTimer?.();
      stop();
    });
  }
}
