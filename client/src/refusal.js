// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

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
 * What ends because there is no connection, and will not be: because the server has
 * denied it, or the page has closed it.
 *
 * @param {Refusal} [denied]  which has been told to all, once
 */
export function closed(reason, channel, denied, uuid) {
  const refusal = new Refusal(denied?.message ?? reason, denied?.code ?? 'closed', channel, uuid, denied ? false : undefined);
  if (denied) Object.defineProperty(refusal, '_told', { value: true });
  return refusal;
}
