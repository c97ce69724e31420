// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * The package in Node.js. It has what the others have, and keeps the promise of
 * `unref`: in Node.js what waits keeps the process alive, and only there.
 */

import { PushIt as Base } from './package.js';

/** What undici, which is behind fetch and WebSocket of Node.js, tells of each request as it goes out. */
const SENT = 'undici:client:sendHeaders';

/** The requests that are under way and whose sockets have to be let go, by URL. No two are the same: each session has its id. */
let urls;

/** Has the socket of the next request for the URL not keep the process alive. Returns what forgets it. */
function letGo(url) {
  if (!urls) {
    urls = new Set();
    // Neither fetch nor WebSocket can be told so; but the socket can, and this is where it is told of.
    process.getBuiltinModule?.('node:diagnostics_channel').subscribe(SENT, ({ request, socket }) => {
      if (urls.has(request.origin + request.path)) socket.unref();
    });
  }
  urls.add(url);
  return () => urls.delete(url);
}

/** What globalThis has, but nothing that it begins keeps the process alive. */
function unreferenced(env) {
  const own = {
    setTimeout(...args) {
      const timer = env.setTimeout(...args);
      timer.unref?.();
      return timer;
    },

    fetch(url, init) {
      const forget = letGo(url); // before it, for over a connection that was kept it goes out at once
      return env.fetch(url, init).finally(forget);
    },

    WebSocket:
      env.WebSocket &&
      class extends env.WebSocket {
        constructor(url) {
          const forget = letGo(url.replace('ws', 'http'));
          super(url);
          for (const type of ['open', 'error']) this.addEventListener(type, forget);
        }
      },
  };
  return new Proxy(env, { get: (_, name) => own[name] ?? env[name] });
}

export class PushIt extends Base {
  constructor(options) {
    super(options?.unref ? { ...options, global: unreferenced(options.global ?? globalThis) } : options);
  }
}

export default PushIt;
export { Refusal } from './refusal.js';
