// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * What tests need on the machine. If a program is missing, its tests are skipped. With CI
 * set, their file fails instead, because nobody reads which tests were skipped.
 *
 * @module
 */

import { existsSync } from 'node:fs';

/**
 * Returns why tests must be skipped, for their option `skip`, or false.
 *
 * @param {Record<string, string>} programs  paths, by the name for the message
 * @param {Record<string, string | undefined>} [env]
 * @returns {string | false}
 */
export function skipWithout(programs, env = process.env) {
  const missing = Object.keys(programs).filter((name) => !existsSync(programs[name]));
  if (missing.length === 0) return false;
  const why = `there is no ${missing.join(', no ')}; .ci/tools installs what is missing`;
  if (env.CI) throw new Error(`${why} (CI is set, so the tests are not skipped)`);
  return why;
}
