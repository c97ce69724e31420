// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { readdir, readFile } from 'node:fs/promises';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { skipWithout } from './needs.mjs';

describe('a missing program', () => {
  const here = fileURLToPath(import.meta.url);

  test('skips its tests, and fails them in CI', () => {
    for (const env of [{}, { CI: '' }, { CI: 'true' }]) assert.equal(skipWithout({ node: here }, env), false);
    for (const env of [{}, { CI: '' }]) assert.match(skipWithout({ node: here, 'a browser': `${here}/x`, 'a screen': '' }, env), /^there is no a browser, no a screen; /);
    assert.throws(() => skipWithout({ node: here, 'a browser': `${here}/x` }, { CI: 'true' }), /^Error: there is no a browser; .*not skipped/);
  });

  test('is the only reason to skip a test', async () => {
    const files = (await readdir(new URL('.', import.meta.url))).filter((name) => name.endsWith('.test.mjs') && !here.endsWith(name));
    assert.ok(files.length > 10);
    for (const name of files) {
      const text = await readFile(new URL(name, import.meta.url), 'utf8');
      for (const [, how] of text.matchAll(/\bskip\b(?!')(.*)/g)) { // a string is what others say
        assert.match(how, /^( =|:) (skipWithout|without)\(|^ \}, /, `${name}: skip${how}`);
      }
      assert.doesNotMatch(text, /\.(skip|todo)\(|\b(todo|only): /, name);
    }
  });
});
