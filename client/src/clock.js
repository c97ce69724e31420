// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/** If a timer is late by this many ms, its page was frozen or throttled. */
const SLEPT = 2_000;

/**
 * Runs fn at a deadline. If the timer is late, the awaited event may have come in time
 * without being handled yet. Then fn waits a moment longer.
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
  }, Math.min(ms, 2 ** 31 - 1)); // timers allow no more
  return () => env.clearTimeout(timer);
}
