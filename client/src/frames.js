// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

export const GARBAGE = 'the server sent an invalid message';

/** Reports whether a frame belongs to the protocol, and is not a message (PROTOCOL.md, R29). */
export const isMeta = (channel) => channel.startsWith('/meta/');

/** Reports whether a subscription to the pattern, or name, gets the messages of the channel (R11). */
export const matches = (pattern, channel) =>
  pattern === channel || pattern === '*' || (pattern.endsWith('/*') && channel.startsWith(pattern.slice(0, -1)));

/** Adds `payload`, the name of a message's data for the page. */
export const unwrap = (message) => (message.payload = message.data);

/**
 * Reads a frame.
 *
 * @param {unknown} text  JSON; some sockets deliver it parsed
 * @returns {{channel: string} & Record<string, any>}
 */
export function decode(text) {
  const frame = typeof text === 'string' ? JSON.parse(text) : text;
  if (typeof frame?.channel !== 'string') throw new TypeError(GARBAGE);
  return frame;
}

/**
 * Passes on the contents of one SockJS message (R3).
 *
 * @param {string} line
 * @param {{_open: () => void, _frame: (text: unknown) => void, _close: (code: number, reason: string) => void}} on
 */
export function unpack(line, on) {
  const rest = () => JSON.parse(line.slice(1));
  if (line === 'o') on._open();
  else if (line[0] === 'a') rest().forEach(on._frame);
  else if (line[0] === 'c') on._close(...rest());
  else if (line[0] !== 'h') throw new TypeError(GARBAGE);
}
