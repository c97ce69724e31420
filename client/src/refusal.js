// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/** The refusals that the page knows already. */
export const told = new WeakSet();

/** Why the server, or the connection itself, refused something (PROTOCOL.md, R7 and R8). */
export class Refusal extends Error {
  /**
   * @param {string} message
   * @param {string} [code]
   * @param {string} [channel]  that it is about
   * @param {string} [uuid]  of the publish that it is about
   * @param {number | false} [retry]
   */
  constructor(message, code = 'unavailable', channel, uuid, retry) {
    super(message);
    this.name = 'Refusal';
    this.code = code;
    this.channel = channel;
    this.uuid = uuid;
    this.retry = code === 'denied' ? false : retry;
    /** Whether it is useless to repeat it. An unknown code counts as `unavailable`. */
    this.final = this.retry === false || code === 'invalid';
  }
}

/**
 * Returns why something is refused, or ends, when the connection is closed: the reason of
 * the denial, or else that of the state.
 *
 * @param {import('./pushit.js').PushIt} push
 */
export function closed({ state, _denied: denied }, channel, uuid) {
  const refusal = new Refusal(state.reason, denied?.code ?? 'closed', channel, uuid, denied && false);
  if (denied) told.add(refusal); // the page got the denial once
  return refusal;
}
