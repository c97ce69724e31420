// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/** Hosts that are there also while the machine is offline. */
const LOOPBACK = /\/\/(localhost|127\.|\[::1)/;

/**
 * What happens to the page, or worker, around a connection. Where there is no page,
 * nothing does.
 *
 * @param {typeof import('./options.js').defaults} options
 * @param {string} endpoint
 * @param {() => void} wake  called when attempts may be made again, and when a connection may have died unnoticed
 * @param {() => void} leave  called when the page is left, perhaps to come back
 */
export function watchPage({ global: env, background }, endpoint, wake, leave) {
  const { document, navigator } = env;
  const local = LOOPBACK.test(endpoint);
  let listening;
  let left = false;

  /** Tells that this is not the time for an attempt; a call of wake says when it is. */
  const blocked = () => left || (document?.hidden && !background);

  /** The browser says that the machine is offline. It may be wrong, with a VPN for example. */
  const offline = () => navigator?.onLine === false && !local;

  const happened = ({ type }) => {
    if (type === 'pagehide') {
      left = true; // and if the browser keeps the page, it must not hold a connection
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
