// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Calls what a page has given, if it has. Its mistakes are the page's: they end up
 * where uncaught errors do, and stop nothing here.
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
 * Has a signal stop something, at once if it is aborted already.
 *
 * @param {AbortSignal | undefined} signal
 * @param {() => void} stop  may be called more than once
 * @returns {() => void} stops it, too
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
  /** @param {string[]} types  of events that there are */
  constructor(types) {
    this._listeners = new Map(types.map((type) => [type, new Set()]));
  }

  /**
   * Listens. A listener that is added twice is called twice; one that is removed
   * while an event is told is not called any more.
   *
   * @param {string} type
   * @param {Function} fn
   * @param {{signal?: AbortSignal}} [options]  `signal` stops listening, too
   * @returns {() => void} stops listening
   */
  on(type, fn, { signal } = {}) {
    const listeners = this._listeners.get(type);
    if (!listeners) throw new TypeError(`no event ${type}`);
    const entry = [fn];
    listeners.add(entry);
    return stoppable(signal, () => listeners.delete(entry));
  }

  /** @returns {number} how many were there to listen */
  _emit(type, event) {
    const listeners = this._listeners.get(type);
    for (const entry of [...listeners]) if (listeners.has(entry)) call(entry[0], event);
    return listeners.size;
  }
}
