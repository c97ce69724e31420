// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * A backend that answers each question word by word, as a language model does. It publishes the
 * words over one request to /push/publish: each line of its body is a message.
 *
 *     node examples/llm/backend.mjs
 *
 * starts Caddy too, unless PUSHIT_URL says where it is. CADDY is the command to start.
 *
 * @module
 */

import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import http from 'node:http';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const backend = process.env.BACKEND ?? '127.0.0.1:9000';
const pushit = process.env.PUSHIT_URL ?? 'http://localhost:8080';
const secret = process.env.PUBLISHER_SECRET ?? randomBytes(32).toString('hex');
/** How long the next word takes, in milliseconds. */
const pace = Number(process.env.PACE ?? 60);

/** The words of an answer. A real backend would ask a model here. */
function* words(question) {
  yield* `You ask: “${question}”\n\n`.split(/(?<=\s)/);
  for (let n = 1; n <= 40; n++) {
    const divisors = Array.from({ length: n }, (_, i) => i + 1).filter((d) => n % d === 0);
    const sentence = divisors.length === 2 ? `${n} is a prime number.\n` : `${n} can be divided by ${divisors.join(', ')}.\n`;
    yield* sentence.split(/(?<=\s)/);
  }
}

/** Publishes the words on a channel, at the pace of the model. */
async function answer(channel, question) {
  const request = http.request(new URL('/push/publish', pushit), {
    method: 'POST',
    headers: { Authorization: `Bearer ${secret}`, 'Content-Type': 'application/x-ndjson' },
  });
  request.on('response', (response) => {
    if (response.statusCode !== 200) console.error(`publishing: HTTP ${response.statusCode}`);
    response.resume(); // a line for each word says that it was taken
  });
  request.on('error', (error) => console.error(`publishing: ${error.message}`));
  const say = (data) => request.write(`${JSON.stringify({ channel, data })}\n`);
  for (const word of words(question)) {
    say(word);
    await new Promise((resolve) => setTimeout(resolve, pace));
  }
  say({ done: true }); // no word is an object
  request.end();
}

// Caddy keeps a connection for 2 minutes. It does not send a question again when it finds
// out that the connection is gone, so we keep it for longer.
const server = http.createServer({ keepAliveTimeout: 150_000 }, async (request, response) => {
  let question = '';
  // It is read to its end even if it is too long: an answer may be lost when the
  // connection closes while something is still on its way. The Caddyfile sets a limit.
  for await (const chunk of request) if (question.length <= 1000) question += chunk;
  if (question.length > 1000) {
    response.writeHead(413).end('A question has at most 1000 characters.\n');
    return;
  }
  if (request.method !== 'POST' || !question.trim()) {
    response.writeHead(400).end('Send a question.\n');
    return;
  }
  const channel = `answers/${randomBytes(16).toString('hex')}`;
  response.writeHead(200, { 'Content-Type': 'application/json', 'Cache-Control': 'no-store' }).end(JSON.stringify({ channel }));
  await answer(channel, question.trim());
});

const [host, port] = backend.split(':');
server.listen(backend.startsWith('unix/') ? backend.slice('unix/'.length) : { host, port }, () => {
  console.log(`The backend listens at ${backend}.`);
  if (process.env.PUSHIT_URL) return;
  const [command, ...args] = (process.env.CADDY ?? 'go run ./cmd/caddy').split(' ');
  const caddy = spawn(command, [...args, 'run', '--config', 'examples/llm/Caddyfile'], {
    cwd: join(dirname(fileURLToPath(import.meta.url)), '../..'),
    env: { ...process.env, BACKEND: backend, PUBLISHER_SECRET: secret },
    stdio: 'inherit',
  });
  caddy.once('exit', (code) => process.exit(code ?? 1));
});
