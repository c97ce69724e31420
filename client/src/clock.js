// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/** A timer that comes this much too late, in ms, has slept: its page was frozen or throttled. */
const SLEPT = 2_000;

/**
 * Runs fn after a time, for deadlines. When the timer comes late, what it waits
 * for may have come in time and not been looked at yet: it gets a moment more.
 *
 * @param {typeof globalThis} env
 * @param {number} ms
 * @param {() => void} fn
 * @returns {() => void} stops it
 */
export function after(env, ms, fn) {
  const due = env.Date.now() + ms;
  let timer = env.setTimeout(() => {
    if (env.Date.now() - due > SLEPT) timer = env.setTimeout(fn, SLEPT);
    else fn();
  }, Math.min(ms, 2 ** 31 - 1)); // more is not possible
  return () => env.clearTimeout(timer);
}
