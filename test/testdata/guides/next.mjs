// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Runs the route handlers of examples/node/next without Next.js: it builds them, and serves
 * them at the Unix socket that is its first argument.
 *
 * @module
 */

import { readdirSync } from 'node:fs';
import { createServer } from 'node:http';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const next = fileURLToPath(new URL('../../../examples/node/next', import.meta.url));

/** [pattern of the path, names of its parameters, module] of each route */
const routes = [];
for (const path of readdirSync(join(next, 'app'), { recursive: true }).filter((name) => name.endsWith('route.ts'))) {
  const { outputFiles } = await build({
    entryPoints: [join(next, 'app', path)],
    bundle: true,
    format: 'esm',
    platform: 'node',
    write: false,
    alias: { '@/lib/pushit': join(next, '..', 'pushit.mjs'), '@/lib/users': join(next, 'lib', 'users.ts') },
  });
  const names = [];
  const pattern = dirname(path).replaceAll(/\[(\w+)\]/g, (_, name) => (names.push(name), '([^/]+)'));
  routes.push([new RegExp(`^/${pattern}$`), names, await import(`data:text/javascript;base64,${Buffer.from(outputFiles[0].text).toString('base64')}`)]);
}

async function answer(request) {
  const url = new URL(request.url, 'http://shop.test');
  for (const [pattern, names, handlers] of routes) {
    const found = pattern.exec(url.pathname);
    const handler = handlers[request.method];
    if (!found || !handler) continue;
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const body = chunks.length > 0 ? Buffer.concat(chunks) : undefined;
    return handler(new Request(url, { method: request.method, headers: request.headers, body }), { params: Promise.resolve(Object.fromEntries(names.map((name, n) => [name, found[n + 1]]))) });
  }
  return new Response(null, { status: 404 });
}

const server = createServer(async (request, response) => {
  const { status, headers } = await answer(request).catch((error) => {
    console.error(error);
    return new Response(null, { status: 500 });
  });
  response.writeHead(status, Object.fromEntries(headers)).end();
});
server.keepAliveTimeout = 150_000;
server.listen(process.argv[2]);
