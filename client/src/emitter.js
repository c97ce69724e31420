// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Calls a callback of the page, if there is one. Errors in it are reported like uncaught
 * errors, and stop nothing here.
 */
export function call(fn, ...args) {
  try {
    fn?.(...args);
  } catch (error) {
    queueMicrotask(() => {
      throw error;
    });
  }
}

/**
 * Makes a signal stop something, at once if it is aborted already.
 *
 * @param {AbortSignal | undefined} signal
 * @param {() => void} stop  may be called more than once
 * @returns {() => void} also stops it
 */
export function stoppable(signal, stop) {
  if (signal?.aborted) stop();
  signal?.addEventListener('abort', stop);
  return () => {
    signal?.removeEventListener('abort', stop);
    stop();
  };
}

/** Calls all of them. */
export const all = (fns) => fns.forEach((fn) => fn());

export class Emitter {
  /** @param {string[]} types  of all events */
  constructor(types) {
    this._listeners = new Map(types.map((type) => [type, new Set()]));
  }

  /**
   * Adds a listener. A listener that is added twice is called twice. A listener that is
   * removed during an event is not called for it.
   *
   * @param {string} type
   * @param {Function} fn
   * @param {{signal?: AbortSignal}} [options]  `signal` also removes the listener
   * @returns {() => void} removes the listener
   */
  on(type, fn, { signal } = {}) {
    const listeners = this._listeners.get(type);
    if (!listeners) throw new TypeError(`no event ${type}`);
    const entry = [fn];
    listeners.add(entry);
    return stoppable(signal, () => listeners.delete(entry));
  }

  /** @returns {number} the number of listeners */
  _emit(type, event) {
    const listeners = this._listeners.get(type);
    for (const entry of [...listeners]) if (listeners.has(entry)) call(entry[0], event);
    return listeners.size;
  }
}
