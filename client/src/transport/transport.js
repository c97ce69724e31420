// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * A transport is a function that opens a session. It returns an object that writes to it.
 * It reports events until `_close`, which may come more than once, also after the session
 * was closed.
 *
 * @typedef {object} Events
 * @property {() => void} _open  the session is open; SockJS says so itself, in a line
 * @property {(line: string) => void} _line  a message of SockJS has come
 * @property {(text: unknown) => void} _frame  a frame has come
 * @property {(code?: number, reason?: string, retry?: number) => void} _close  the session has ended; `retry` in ms
 *
 * @typedef {object} Session
 * @property {(texts: string[]) => Promise<void> | void} _send  sends frames; the promise
 * ends when it accepts more
 * @property {() => void} _close
 *
 * @typedef {(env: typeof globalThis, url: string, on: Events) => Session} Transport
 *
 * @module
 */

import { polling, streaming } from './fetch.js';
import { websocket } from './websocket.js';

/** @type {Record<string, Transport>} */
export const transports = { websocket, xhr_streaming: streaming, xhr: polling };
