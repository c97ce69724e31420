// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * The backend of the example: it takes what the editor has written, and publishes it
 * with one request. It needs no package. Its settings are environment variables:
 *
 *   PUBLISHER_SECRET  what it shows to publish; required
 *   PUSHIT_URL        the endpoint; http://localhost:8080/push without it
 *   NEWSROOM          where to listen: host:port, or unix//path; 127.0.0.1:9000 without it
 *
 * @module
 */

import { randomUUID } from 'node:crypto';
import { createServer } from 'node:http';

const { PUBLISHER_SECRET, PORT = '8080', PUSHIT_URL = `http://localhost:${PORT}/push`, NEWSROOM = '127.0.0.1:9000' } = process.env;
if (!PUBLISHER_SECRET) {
  console.error('newsroom: set PUBLISHER_SECRET, as start.sh does');
  process.exit(1);
}

const MOST_BODY = 16_384; // bytes
const ATTEMPTS = 3;
// Caddy keeps a connection for 2 minutes. It does not send a form again when it finds
// out that the connection is gone, so we keep it for longer.
const KEEP_ALIVE = 150_000; // ms

/** Publishes a message. It may be sent more than once: the uuid sees to it that it is published once. */
async function publish(message) {
  const body = JSON.stringify({ uuid: randomUUID(), ...message });
  for (let attempt = 1; ; attempt++) {
    try {
      const response = await fetch(`${PUSHIT_URL}/publish`, {
        method: 'POST',
        headers: { Authorization: `Bearer ${PUBLISHER_SECRET}`, 'Content-Type': 'application/json' },
        body,
        signal: AbortSignal.timeout(5_000),
      });
      if (response.ok) return await response.json();
      const text = `HTTP ${response.status}: ${(await response.text()).trim()}`;
      if (response.status < 500 || attempt === ATTEMPTS) throw new Error(text);
    } catch (error) {
      // The network failed, or nothing came in time: nobody knows whether it was published.
      if (attempt === ATTEMPTS || /^HTTP/.test(error.message)) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, 500 * attempt));
  }
}

/**
 * Reads the form to its end, even one that is refused: an answer may be lost when the
 * connection closes while the form is still on its way.
 *
 * @returns {Promise<URLSearchParams | undefined>} what is in the form; nothing if it is too large
 */
async function form(request) {
  const chunks = [];
  let size = 0;
  for await (const chunk of request) {
    size += chunk.length;
    if (size <= MOST_BODY) chunks.push(chunk);
  }
  return size <= MOST_BODY ? new URLSearchParams(Buffer.concat(chunks).toString()) : undefined;
}

async function take(request) {
  const refuse = (status, why) => {
    throw Object.assign(new Error(why), { status });
  };
  const fields = await form(request);
  if (request.method !== 'POST' || request.url !== '/editor/publish') refuse(404, 'There is nothing here.');
  // The browser adds the editor's password by itself, so the form of another site must not get this far.
  if (request.headers['sec-fetch-site'] !== 'same-origin') refuse(403, 'Only the form of this site publishes news.');
  if (!fields) refuse(413, 'That is too much text.');
  const title = (fields.get('title') ?? '').trim();
  const text = (fields.get('text') ?? '').trim();
  if (!title || title.length > 120) refuse(400, 'Write a title of 1 to 120 characters.');
  if (text.length > 2_000) refuse(400, 'Write at most 2,000 characters of text.');
  return publish({ channel: 'news', data: { title, text, at: Date.now() } });
}

const server = createServer({ keepAliveTimeout: KEEP_ALIVE }, async (request, response) => {
  try {
    await take(request);
    response.writeHead(303, { Location: '/editor/#published' }).end();
  } catch (error) {
    if (!error.status) console.error(`newsroom: publishing failed: ${error.message}`);
    const why = error.status ? error.message : 'The news could not be published. Try again in a moment.';
    response.writeHead(error.status ?? 502, { 'Content-Type': 'text/plain; charset=utf-8' }).end(`${why}\n`);
  }
});

const [, path] = /^unix\/(\/.*)/.exec(NEWSROOM) ?? [];
const [, host, port] = /^(.*):(\d+)$/.exec(NEWSROOM) ?? [];
server.listen(path ? { path } : { host, port: Number(port) }, () => console.error(`newsroom: listening on ${NEWSROOM}`));
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => process.exit(0));
