// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

const GROWTH = 1.5;

/**
 * Returns the wait before each attempt. Clients that lose a server together do not come
 * back together.
 *
 * The time after the loss is divided into windows. Each is longer than the previous one by
 * half, up to a maximum. There is one attempt in each window, at a random point (full
 * jitter). The point is drawn once for all windows, so clients arrive evenly when the
 * server comes back. If it were drawn for each window, clients that failed in one would
 * crowd into the beginning of the next.
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
