// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Makes a unique id: 128 random bits as at most 27 characters of a-z, 0-9 and -.
 * (crypto.randomUUID does not exist on pages over plain HTTP.)
 *
 * @returns {string}
 */
export const id = () => Array.from(crypto.getRandomValues(new BigUint64Array(2)), (n) => n.toString(36)).join('-');
