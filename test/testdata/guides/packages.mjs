// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * With `node --import`, programs anywhere in the repository find the packages of client/.
 *
 * @module
 */

import { register } from 'node:module';

const client = new URL('../../../client/', import.meta.url).href;
const hooks = `export const resolve = (name, context, next) => next(name, context).catch((error) => {
  if (error.code !== 'ERR_MODULE_NOT_FOUND') throw error;
  return next(name, { ...context, parentURL: ${JSON.stringify(client)} });
});`;
register(`data:text/javascript,${encodeURIComponent(hooks)}`);
