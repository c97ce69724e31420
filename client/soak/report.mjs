// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/** Figures and their limits, a line each, in the form of the benchmarks in Go. */
export class Report {
  lines = [];
  failures = 0;

  /** @param {(line: string) => void} write */
  constructor(write = console.log) {
    this.write = write;
  }

  note(text) {
    this.write(`     ${text}`);
  }

  #figure(good, name, value, limit) {
    if (!good) this.failures++;
    this.write(`${good ? 'PASS' : 'FAIL'} ${name}: ${value} (limit ${limit})`);
  }

  exactly(want, name, value) {
    this.#figure(value === want, name, value, want);
  }

  atLeast(least, name, value) {
    this.#figure(value >= least, name, value, `at least ${least}`);
  }

  atMost(most, name, value) {
    this.#figure(value <= most, name, value, `at most ${most}`);
  }

  /** Each of ten equal slots of time has its share. */
  slots(least, most, name, times, begin) {
    const shares = sharesOf(times, begin);
    this.note(`${name}, in tenths of the ${((Math.max(...times) - begin) / 1000).toFixed(1)} s that it took: ${shares.map((share) => share.toFixed(1)).join(' ')} %`);
    const [low, high] = [Math.min(...shares), Math.max(...shares)];
    this.#figure(low >= least && high <= most, `${name}, share of each tenth of the time`, `${low.toFixed(1)} to ${high.toFixed(1)} %`, `${least} to ${most} %`);
  }
}

/** @returns {number[]} how many per cent of the times are in each tenth of the time from begin to the last of them */
export function sharesOf(times, begin) {
  const span = Math.max(...times) - begin;
  const slots = Array(10).fill(0);
  for (const time of times) slots[Math.min(9, Math.floor(((time - begin) / span) * 10))] += 100 / times.length;
  return slots;
}

/** The same numbers each time (xorshift32), so that a failure can be repeated. */
export function randomFrom(seed) {
  let state = seed >>> 0 || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
}
