// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * The package in Node.js. It also implements `unref`: only in Node.js does a pending
 * operation keep the process alive.
 */

import { PushIt as Base } from './package.js';

/** undici, which implements fetch and WebSocket in Node.js, reports each request here when it is sent. */
const SENT = 'undici:client:sendHeaders';

/** The requests whose sockets must not keep the process alive, by URL. All URLs differ, because each session has its id. */
let urls;

/** Makes the socket of the next request for the URL not keep the process alive. Returns a function that undoes it. */
function letGo(url) {
  if (!urls) {
    urls = new Set();
    // fetch and WebSocket have no option for it, but their socket has. Here the socket is
    // known.
    process.getBuiltinModule?.('node:diagnostics_channel').subscribe(SENT, ({ request, socket }) => {
      if (urls.has(request.origin + request.path)) socket.unref();
    });
  }
  urls.add(url);
  return () => urls.delete(url);
}

/** globalThis, but nothing that it begins keeps the process alive. */
function unreferenced(env) {
  const own = {
    setTimeout(...args) {
      const timer = env.setTimeout(...args);
      timer.unref?.();
      return timer;
    },

    fetch(url, init) {
      const forget = letGo(url); // first, because a request over a kept connection is sent at once
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
