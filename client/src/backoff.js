// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

const GROWTH = 1.5;

/**
 * How long to wait before each attempt, so that those who lose a server together
 * do not come back together.
 *
 * The time after the loss is laid out in windows, each half as long again as the
 * one before, up to a longest; there is one attempt in each window, at a random
 * point of it: full jitter. The point is drawn once for all windows. If it were
 * drawn for each, those whose attempt in a window failed would crowd into the
 * next one's beginning when the server comes back; so they arrive evenly,
 * whenever that is.
 *
 * @param {typeof import('./options.js').defaults} options
 */
export function makeBackoff({ firstWait, longestWait, global: env }) {
  let attempts = 0;
  let point;
  const length = (n) => (n < 0 ? 0 : Math.min(longestWait, firstWait * GROWTH ** n));
  return {
    _reset() {
      attempts = 0;
    },
    /** @returns {number} ms from now to the next attempt */
    _next() {
      if (!attempts) point = env.Math.random();
      return length(attempts - 1) * (1 - point) + length(attempts++) * point;
    },
  };
}
