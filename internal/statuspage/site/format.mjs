// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/** Numbers and times as people read them. */

const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat('en', { notation: 'compact', maximumSignificantDigits: 3 });

/** A count: whole up to 99,999, and shortened above. */
export const count = (n) => (n < 1e5 ? whole : short).format(n);

/** A rate in a second, with as many digits as are of use. */
export const rate = (n) => (n === 0 || n >= 10 ? count(n) : new Intl.NumberFormat('en', { maximumSignificantDigits: 2 }).format(n));

/** A number of bytes. */
export function bytes(n) {
  const units = ['B', 'kB', 'MB', 'GB', 'TB', 'PB'];
  let unit = 0;
  for (; n >= 999.5 && unit < units.length - 1; unit++) n /= 1000;
  return `${n >= 10 || unit === 0 ? Math.round(n) : n.toFixed(1)} ${units[unit]}`;
}

/** A number with the word for what is counted. */
export const some = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

/** A time in ms, in its two largest units at most. */
export function duration(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return `${hours} h ${minutes % 60} min`;
  return `${some(Math.floor(hours / 24), 'day')} ${hours % 24} h`;
}
