// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * A transport is a function that opens a session and returns what writes to it.
 * What happens to the session it tells in events, until `_close`, which it may
 * tell more than once, also after it was closed.
 *
 * @typedef {object} Events
 * @property {() => void} _open  the session is open; SockJS says so itself, in a line
 * @property {(line: string) => void} _line  a message of SockJS came
 * @property {(text: unknown) => void} _frame  a frame came
 * @property {(code?: number, reason?: string, retry?: number) => void} _close  the session has ended; `retry` in ms
 *
 * @typedef {object} Session
 * @property {(texts: string[]) => Promise<void> | void} _send  sends frames; a promise says when it takes more
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
