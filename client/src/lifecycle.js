// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/** Hosts that can be reached while the machine is offline. */
const LOOPBACK = /\/\/(localhost|127\.|\[::1)/;

/**
 * Watches the page, or the worker, around a connection. Without a page it does nothing.
 *
 * @param {typeof import('./options.js').defaults} options
 * @param {string} endpoint
 * @param {() => void} wake  called when attempts may be made again, and when a connection
 * may be dead
 * @param {() => void} leave  called when the visitor leaves the page, perhaps to come back
 */
export function watchPage({ global: env, background }, endpoint, wake, leave) {
  const { document, navigator } = env;
  const local = LOOPBACK.test(endpoint);
  let listening;
  let left = false;

  /** Reports that an attempt must wait. A call of wake ends the wait. */
  const blocked = () => left || (document?.hidden && !background);

  /** The browser says that the machine is offline. It may be wrong, for example with a VPN. */
  const offline = () => navigator?.onLine === false && !local;

  const happened = ({ type }) => {
    if (type === 'pagehide') {
      left = true; // if the browser keeps the page, it must not hold a connection
      leave();
    } else {
      if (type === 'pageshow') left = false;
      if (!blocked()) wake();
    }
  };

  return {
    _blocked: blocked,
    _offline: offline,
    _listen() {
      listening = new AbortController();
      for (const type of ['online', 'pageshow', 'pagehide']) env.addEventListener?.(type, happened, listening);
      document?.addEventListener('visibilitychange', happened, listening);
    },
    _stop() {
      listening?.abort();
    },
  };
}
