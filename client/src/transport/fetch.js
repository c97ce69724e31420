// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * The transports of SockJS over HTTP, with fetch. What the server has to say
 * comes in the answers to POSTs, a line each: with xhr_streaming in one that goes
 * on, with xhr in one each time. What the agent says goes in POSTs to xhr_send,
 * one after the other.
 *
 * @module
 */

/** @returns {import('./transport.js').Transport} */
const over = (path) => (env, url, on) => {
  const stop = new AbortController();

  async function post(to, body) {
    const response = await env.fetch(`${url}/${to}`, {
      method: 'POST',
      body,
      // No other type is sent to another origin without asking it first.
      headers: body && { 'Content-Type': 'text/plain' },
      credentials: 'include',
      cache: 'no-store',
      signal: stop.signal,
    });
    if (response.ok) return response;
    on._close(response.status, await sentence(response), (+response.headers.get('Retry-After') || 0) * 1000);
    throw response;
  }

  async function read() {
    const { body } = await post(path);
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let line = '';
    let empty = true;
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      const lines = (line + value).split('\n');
      line = lines.pop();
      for (const each of lines) on._line(each);
      empty &&= lines.length < 1;
    }
    if (empty) throw body; // or it would ask again and again
  }

  async function readOn() {
    while (!stop.signal.aborted) await read();
  }

  const lost = () => on._close();
  readOn().catch(lost);
  return {
    _send: (texts) => post('xhr_send', JSON.stringify(texts)).catch(lost),
    _close: () => stop.abort(),
  };
};

export const streaming = over('xhr_streaming');
export const polling = over('xhr');

/** What an HTTP answer says, if that is for people to read: pushit sends one sentence. */
export async function sentence(response) {
  const text = /^text\/plain/.test(response.headers.get('Content-Type')) && (await response.text()).slice(0, 200).trim();
  return text || `HTTP ${response.status}`;
}
