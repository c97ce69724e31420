// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

import { sentence } from './transport/fetch.js';

/** What to write if the endpoint cannot be found. */
const say = (endpoint) => new TypeError(`say where the endpoint is: new PushIt({ endpoint: "${endpoint}" })`);

/**
 * Finds the endpoint: the given one, or the one that served the script, or the default of
 * the Caddyfile. A bundled script does not come from an endpoint. In Node.js there is no
 * page that an address could be relative to.
 *
 * @param {string | URL | undefined} given  relative to the page
 * @param {string | undefined} script  the URL of this script
 * @param {typeof globalThis} env
 * @returns {string} without a slash at its end
 */
export function endpointOf(given, script, env) {
  const [, folder] = /^(https?:.*)\/pushit\.m?js(?:\?|$)/.exec(script) ?? [];
  const base = env.document?.baseURI ?? env.location?.href;
  if (!base && !/^(https?|wss?):/.test(given ?? folder)) throw say('https://example.com/push');
  if (!given && script && (!folder || /\/node_modules\//.test(folder))) throw say('/push');
  const url = new URL(given ?? folder ?? '/push', base);
  return `${url.origin.replace(/^ws/, 'http')}${url.pathname}`.replace(/\/+$/, '');
}

/**
 * Asks the endpoint what is wrong if no session could be opened.
 *
 * @param {typeof globalThis} env
 * @param {string} endpoint
 * @param {AbortSignal} signal
 * @returns {Promise<string>} the mistake; empty if a session should be possible
 */
export async function inspect(env, endpoint, signal) {
  const url = `${endpoint}/info`;
  try {
    const response = await env.fetch(url, { credentials: 'include', cache: 'no-store', signal });
    if (!response.ok) return await sentence(response);
    const text = await response.text();
    if (/"websocket"/.test(text)) return '';
    return `${url} is ${/^\s*</.test(text) ? 'an HTML page' : 'something else'}, not pushit`;
  } catch {
    return 'the server cannot be reached';
  }
}
