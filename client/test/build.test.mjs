// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { cp, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { promisify } from 'node:util';
import vm from 'node:vm';
import { built, dist, zipped } from '../build.mjs';
import { World } from './world.mjs';

const run = promisify(execFile);
const client = join(dist, '..');

/** The most that the client may weigh, in bytes, with gzip. */
const MOST = 7 * 1024;

describe('what is built', () => {
  test('is what the sources build', async () => {
    const files = await built();
    for (const [name, text] of files) {
      assert.ok((await readFile(join(dist, name), 'utf8')) === text, `dist/${name} is not what src/ builds: run "npm run build"`);
    }
    assert.deepEqual((await readdir(dist)).sort(), [...files.keys()].sort());
  });

  for (const name of ['pushit.mjs', 'pushit.js']) {
    test(`${name} weighs at most ${MOST} bytes`, async (t) => {
      const size = zipped(await readFile(join(dist, name)));
      t.diagnostic(`${size <= MOST ? 'PASS' : 'FAIL'} ${name} with gzip: ${size} bytes (limit ${MOST})`);
      assert.ok(size <= MOST, `${size} bytes`);
    });

    test(`${name} has a source map that fits`, async () => {
      assert.match(await readFile(join(dist, name), 'utf8'), new RegExp(`\n//# sourceMappingURL=${name}\\.map\n$`));
      const map = JSON.parse(await readFile(join(dist, `${name}.map`), 'utf8'));
      for (const [n, source] of map.sources.entries()) assert.equal(map.sourcesContent[n], await readFile(join(dist, source), 'utf8'));
      assert.ok(map.sources.length > 10 && map.mappings.length > 1000);
    });
  }

  test('the module connects', async () => {
    const { PushIt, Refusal, default: same } = await import(join(dist, 'pushit.mjs'));
    assert.equal(same, PushIt);
    assert.equal(PushIt.Refusal, Refusal);
    await connects(PushIt);
  });

  test('the classic script makes a global, and finds its endpoint', async () => {
    const world = new World();
    const document = { currentScript: { src: 'https://example.com/live/pushit.js?v=1' } };
    const context = vm.createContext({ document, queueMicrotask, crypto, URL, AbortController, console });
    vm.runInContext(await readFile(join(dist, 'pushit.js'), 'utf8'), context);
    assert.deepEqual(Object.keys(context).filter((name) => /push/i.test(name)), ['PushIt']);
    const push = new context.PushIt({ global: world });
    assert.equal(push.endpoint, 'https://example.com/live');
    push.close();
  });

  async function connects(PushIt) {
    const world = new World();
    const push = new PushIt({ endpoint: '/push', global: world });
    await new Promise((resolve) => setImmediate(resolve));
    await world.socket.accept();
    assert.equal(push.state.name, 'connected');
    push.close();
  }
});

describe('the package', () => {
  test('holds what it needs, and nothing else', async () => {
    const { stdout } = await run('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], { cwd: client });
    const [{ files, name }] = JSON.parse(stdout);
    assert.equal(name, '@pushit/client');
    assert.deepEqual(
      files.map(({ path }) => path).sort(),
      ['README.md', 'LICENSE', 'package.json', ...(await readdir(dist)).map((file) => `dist/${file}`)].sort(),
    );
    const { dependencies = {}, private: hidden } = JSON.parse(await readFile(join(client, 'package.json'), 'utf8'));
    assert.deepEqual(dependencies, {});
    assert.ok(!hidden);
  });

  test('is imported and typed', async (t) => {
    const dir = await mkdtemp(join(tmpdir(), 'pushit-package-'));
    t.after(() => rm(dir, { recursive: true, force: true }));
    const home = join(dir, 'node_modules', '@pushit', 'client');
    await mkdir(home, { recursive: true });
    for (const file of ['package.json', 'dist']) await cp(join(client, file), join(home, file), { recursive: true });
    await writeFile(join(dir, 'a.mjs'), `import PushIt, { Refusal } from '@pushit/client'; import '@pushit/client/classic'; console.log(typeof PushIt, typeof Refusal, typeof globalThis.PushIt);`);
    assert.equal((await run('node', [join(dir, 'a.mjs')])).stdout, 'function function function\n');

    await cp(join(client, 'test', 'types'), dir, { recursive: true });
    const tsc = join(client, 'node_modules', '.bin', 'tsc');
    for (const resolution of ['bundler', 'nodenext']) {
      const module = resolution === 'nodenext' ? 'nodenext' : 'esnext';
      const options = ['--strict', '--noEmit', '--skipLibCheck', 'false', '--target', 'es2022', '--lib', 'es2022,dom', '--types', '', '--moduleResolution', resolution, '--module', module];
      await run(tsc, [...options, join(dir, 'types.mts')], { cwd: dir }).catch((error) => assert.fail(`${resolution}: ${error.stdout}`));
    }
  });
});
