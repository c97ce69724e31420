// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * The transports of SockJS over HTTP, with fetch. The server's frames come in the answers
 * to POSTs, one in each line: with xhr_streaming in one long answer, with xhr in one answer
 * each. The client's frames go in POSTs to xhr_send, one after the other.
 *
 * @module
 */

import { after } from '../clock.js';

/** How long the stream may take, in ms, to say why a session is over after a POST said only that it is. */
const SAYS_WITHIN = 2_000;

/** @returns {import('./transport.js').Transport} */
const over = (path) => (env, url, on) => {
  const stop = new AbortController();
  // Requests have numbers, so that the server recognizes one that it gets twice.
  let sent = 0;
  let asked = 0;

  async function request(to, body, again = 3) {
    const answer = env.fetch(`${url}/${to}`, {
      method: 'POST',
      body,
      // Other types are sent to another origin only after a request for permission.
      headers: body && { 'Content-Type': 'text/plain' },
      credentials: 'include',
      cache: 'no-store',
      signal: stop.signal,
    });
    // A kept connection may close at this moment, for example at a reload, and so may the
    // next one of the pool. Not all browsers repeat such a POST. If the connection is a
    // proxy's, the answer is 502.
    return again
      ? answer.then(
          (response) => (response.status === 502 ? request(to, body, 0) : response),
          (error) => (stop.signal.aborted ? Promise.reject(error) : request(to, body, again - 1)),
        )
      : answer;
  }

  async function fail(response) {
    on._close(response.status, await sentence(response), (+response.headers.get('Retry-After') || 0) * 1000);
    throw response;
  }

  async function send(texts) {
    const response = await request(`xhr_send?n=${++sent}`, JSON.stringify(texts));
    const { ok, status } = response;
    if (ok) return;
    if ([400, 413, 415].includes(status)) {
      // The answer is about these frames, so only they fail.
      const error = await sentence(response);
      for (const text of texts) on._frame({ channel: '/meta/error', uuid: JSON.parse(text).uuid, error, code: status === 413 ? 'limit' : 'invalid', retry: false });
      return;
    }
    // The stream's answer comes before the POST's, because it has the reason.
    if (status === 404) await new Promise((over) => after(env, SAYS_WITHIN, over));
    await fail(response);
  }

  async function read() {
    // A repeated request gets the answer if the server had not seen it. Otherwise frames
    // may be lost, so the server ends the session, and another session reports the gap.
    const response = await request(`${path}?n=${++asked}`);
    if (!response.ok) await fail(response);
    const { body } = response;
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let line = '';
    let empty = true;
    for (let read; !(read = await reader.read()).done; ) {
      const lines = (line + read.value).split('\n');
      line = lines.pop();
      for (const each of lines) {
        on._line(each);
        empty = false;
      }
    }
    if (empty) throw body; // otherwise it would ask again and again
  }

  async function readOn() {
    while (!stop.signal.aborted) await read();
  }

  const lost = () => on._close();
  readOn().catch(lost);
  return {
    _send: (texts) => send(texts).catch(lost),
    _close: () => stop.abort(),
  };
};

export const streaming = over('xhr_streaming');
export const polling = over('xhr');

/** Returns the text of an HTTP answer, if it is for people: pushit sends one sentence. */
export async function sentence(response) {
  const text = /^text\/plain/.test(response.headers.get('Content-Type')) && (await response.text()).slice(0, 200).trim();
  return text || `HTTP ${response.status}`;
}
