// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * The options of a PushIt, and their defaults. README.md gives the reason for each; a test
 * compares the two.
 */
export const defaults = {
  endpoint: undefined,
  channels: [],
  credentials: undefined,
  socket: undefined,
  transports: ['websocket', 'xhr_streaming', 'xhr'],
  signal: undefined,
  since: undefined,
  connect: true,
  unref: false,
  background: false,
  firstWait: 1_000,
  longestWait: 30_000,
  steadyAfter: 5_000,
  openWithin: 10_000,
  connectWithin: 45_000,
  silence: 35_000,
  answerWithin: 15_000,
  outboxMessages: 100,
  outboxBytes: 262_144,
  outboxAge: 90_000,
  buffer: 1_000,
  global: globalThis,
};

/**
 * @param {object} given
 * @returns {typeof defaults} with defaults for missing options
 */
export function withDefaults(given = {}) {
  const options = { ...defaults };
  for (const name in given) {
    if (!(name in defaults)) throw new TypeError(`no option ${name}`);
    if (given[name] !== undefined) options[name] = given[name];
  }
  return options;
}
