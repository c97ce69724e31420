// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/** The refusals that the page has been told of already. */
export const told = new WeakSet();

/** Why the server, or the connection itself, did not do what it was asked (PROTOCOL.md, R7 and R8). */
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
    /** Trying the same again is of no use. A code that nobody knows is as good as `unavailable`. */
    this.final = this.retry === false || code === 'invalid';
  }
}

/**
 * Why something cannot be had, or ends, when the connection is closed: with the
 * reason of the denial, where there was one, else with that of the state.
 *
 * @param {import('./pushit.js').PushIt} push
 */
export function closed({ state, _denied: denied }, channel, uuid) {
  const refusal = new Refusal(state.reason, denied?.code ?? 'closed', channel, uuid, denied && false);
  if (denied) told.add(refusal); // all have been told of the denial, once
  return refusal;
}
