// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

import { sentence } from './transport/fetch.js';

/** What to write where nobody can know it. */
const say = (endpoint) => new TypeError(`say where the endpoint is: new PushIt({ endpoint: "${endpoint}" })`);

/**
 * Finds out where the endpoint is: where it is said to be, else where the script
 * came from, else where a Caddyfile that names no path has it. A script that a bundler
 * has made does not come from an endpoint, and in Node.js nothing is relative to a page.
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
 * Asks the endpoint whether it is one, when no session could be opened.
 *
 * @param {typeof globalThis} env
 * @param {string} endpoint
 * @param {AbortSignal} signal
 * @returns {Promise<string>} what is wrong; nothing is where a session should be possible
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
