// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Builds dist/ from src/. What is built is committed and compiled into Caddy,
 * because xcaddy runs no npm; a test builds it again and compares.
 *
 *     node build.mjs          writes dist/
 *     node build.mjs --check  says what in dist/ is not as it would be built
 *
 * @module
 */

import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { build } from 'esbuild';
import { minify } from 'terser';

const here = dirname(fileURLToPath(import.meta.url));
export const dist = join(here, 'dist');

/** @returns {Promise<Map<string, string>>} the files of dist/, by name */
export async function built() {
  const files = new Map([
    // What Caddy serves.
    ...(await script('module.js', 'pushit.mjs', 'esm')),
    ...(await script('classic.js', 'pushit.js', 'iife')),
    // What the package has beside it.
    ...(await script('package.js', 'index.mjs', 'esm')),
    ...(await script('node.js', 'node.mjs', 'esm')),
    ...(await script('node.js', 'index.cjs', 'cjs')),
  ]);
  const types = await source('pushit.d.ts');
  files.set('pushit.d.ts', types);
  // The package's modules make no global.
  for (const name of ['index.d.mts', 'index.d.cts']) files.set(name, types.replace(/\ndeclare global [^]*/, ''));
  files.set('classic.d.ts', await source('classic.d.ts'));
  return files;
}

const source = (name) => readFile(join(here, 'src', name), 'utf8');

/** esbuild makes one script of the sources; terser makes it four in a hundred smaller than esbuild can. */
async function script(entry, name, format) {
  const result = await build({
    absWorkingDir: here,
    entryPoints: [`src/${entry}`],
    outfile: `dist/${name}`,
    bundle: true,
    format,
    target: 'es2022',
    minify: true,
    mangleProps: /^_/,
    sourcemap: 'external',
    sourcesContent: true,
    write: false,
    logLevel: 'warning',
  });
  const [map, code] = result.outputFiles.map((file) => file.text);
  const small = await minify(
    { [name]: code },
    { module: format === 'esm', toplevel: format === 'cjs', ecma: 2022, compress: { passes: 4 }, sourceMap: { content: map, filename: name, url: `${name}.map`, includeSources: true } },
  );
  return [
    [name, `${small.code}\n`],
    [`${name}.map`, `${small.map}\n`],
  ];
}

export const zipped = (text) => gzipSync(text, { level: 9 }).length;

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const check = process.argv.includes('--check');
  if (!check) await mkdir(dist, { recursive: true });
  for (const [name, text] of await built()) {
    const path = join(dist, name);
    if (!check) await writeFile(path, text);
    else if ((await readFile(path, 'utf8').catch(() => '')) !== text) {
      console.error(`dist/${name} is not what src/ builds: run "npm run build" in client/`);
      process.exitCode = 1;
    }
    if (/js$/.test(name)) console.log(`${name}: ${text.length} bytes, ${zipped(text)} with gzip`);
  }
}
