// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { cp, mkdtemp, readdir, readFile, realpath, rm, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { promisify } from 'node:util';
import vm from 'node:vm';
import { build } from 'esbuild';
import { built, dist, zipped } from '../build.mjs';
import { World } from './world.mjs';

const run = promisify(execFile);
const client = join(dist, '..');

/** The maximum size of the client in bytes, with gzip. */
const MOST = 7.5 * 1024;

async function connects(PushIt) {
  const world = new World();
  const push = new PushIt({ endpoint: '/push', global: world });
  await new Promise((resolve) => setImmediate(resolve));
  await world.socket.accept();
  assert.equal(push.state.name, 'connected');
  push.close();
}

describe('the built files', () => {
  test('are those that the sources build', async () => {
    const files = await built();
    for (const [name, text] of files) {
      assert.ok((await readFile(join(dist, name), 'utf8')) === text, `dist/${name} is not what src/ builds: run "npm run build"`);
    }
    assert.deepEqual((await readdir(dist)).sort(), [...files.keys()].sort());
  });

  for (const name of ['pushit.mjs', 'pushit.js', 'index.mjs']) {
    test(`${name} weighs at most ${MOST} bytes`, async (t) => {
      const size = zipped(await readFile(join(dist, name)));
      t.diagnostic(`${size <= MOST ? 'PASS' : 'FAIL'} ${name} with gzip: ${size} bytes (limit ${MOST})`);
      assert.ok(size <= MOST, `${size} bytes`);
    });

    test(`${name} names nothing internal as text, which the build does not shorten`, async () => {
      assert.doesNotMatch(await readFile(join(dist, name), 'utf8'), /["'`]_\w/);
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

  describe('installed from its tarball', () => {
    let dir;
    before(async () => {
      // Real paths, because a bundler writes down paths without symbolic links.
      dir = await realpath(await mkdtemp(join(tmpdir(), 'pushit-package-')));
      const { stdout } = await run('npm', ['pack', '--json', '--pack-destination', dir], { cwd: client });
      const [{ filename }] = JSON.parse(stdout.slice(stdout.indexOf('[\n')));
      await writeFile(join(dir, 'package.json'), '{ "private": true }');
      await run('npm', ['install', '--offline', '--no-audit', '--no-fund', join(dir, filename)], { cwd: dir });
    });
    after(() => rm(dir, { recursive: true, force: true }));

    /** Runs a script beside the package, in Node.js, and returns what it prints. */
    async function print(name, text) {
      await writeFile(join(dir, name), text);
      return (await run('node', [join(dir, name)], { cwd: dir })).stdout.trim();
    }

    const shape = "console.log(typeof PushIt, typeof Refusal, same === PushIt && PushIt.Refusal === Refusal, typeof globalThis.PushIt)";

    test('is imported', async () => {
      assert.equal(await print('a.mjs', `import same, { PushIt, Refusal } from '@pushit/client'; import '@pushit/client/classic'; ${shape}`), 'function function true function');
      await connects((await import(join(dir, 'node_modules', '@pushit', 'client', 'dist', 'index.mjs'))).PushIt);
    });

    test('is required', async () => {
      assert.equal(await print('a.cjs', `const { default: same, PushIt, Refusal } = require('@pushit/client'); require('@pushit/client/classic'); ${shape}`), 'function function true function');
      await connects(createRequire(join(dir, 'a.cjs'))('@pushit/client').PushIt);
    });

    test('wants to be told where the endpoint is', async () => {
      const wrong = "try { new PushIt({ global: { ...globalThis, location: { href: 'http://localhost/' } } }) } catch (error) { console.log(error.message) }";
      const want = 'say where the endpoint is: new PushIt({ endpoint: "/push" })';
      assert.equal(await print('b.mjs', `import { PushIt } from '@pushit/client'; ${wrong}`), want);
      assert.equal(await print('b.cjs', `const { PushIt } = require('@pushit/client'); ${wrong}`), want);
    });

    test('leaves nothing for a bundler to replace by a path of the machine it runs on', async () => {
      const home = join(dir, 'node_modules', '@pushit', 'client', 'dist');
      // Bundlers, above all webpack, replace these by paths of the build.
      for (const name of ['index.mjs', 'node.mjs', 'index.cjs']) assert.doesNotMatch(await readFile(join(home, name), 'utf8'), /import\.meta|__dirname|__filename/, name);
      await writeFile(join(dir, 'app.js'), "import { PushIt } from '@pushit/client'; globalThis.made = () => new PushIt();");
      await writeFile(join(dir, 'old.js'), "const { PushIt } = require('@pushit/client'); globalThis.made = () => new PushIt();");
      for (const entry of ['app.js', 'old.js']) {
        for (const [format, platform] of [['esm', 'browser'], ['iife', 'browser'], ['esm', 'node'], ['cjs', 'node']]) {
          const result = await build({ absWorkingDir: dir, entryPoints: [entry], bundle: true, format, platform, minify: true, write: false, logLevel: 'silent' });
          assert.deepEqual(result.warnings, []);
          const [{ text }] = result.outputFiles;
          for (const never of [dir, 'file:', 'import.meta']) assert.ok(!text.includes(never), `${entry} as ${format} for ${platform} has ${never}`);
        }
      }
    });

    describe('is typed', async () => {
      const tsc = join(client, 'node_modules', '.bin', 'tsc');
      const types = await readdir(join(client, 'test', 'types'));
      before(() => cp(join(client, 'test', 'types'), dir, { recursive: true }));
      for (const [module, resolution] of [['esnext', 'bundler'], ['node16', 'node16'], ['nodenext', 'nodenext']]) {
        test(`for ${resolution}`, async () => {
          const options = ['--strict', '--noEmit', '--skipLibCheck', 'false', '--esModuleInterop', '--target', 'es2022', '--lib', 'es2022,dom', '--types', '', '--moduleResolution', resolution, '--module', module];
          // Each file in its own context, because a global of one file is visible in all.
          for (const file of types.filter((name) => resolution !== 'bundler' || name.endsWith('.mts'))) {
            await run(tsc, [...options, join(dir, file)], { cwd: dir }).catch((error) => assert.fail(`${file}: ${error.stdout}`));
          }
        });
      }
    });
  });
});
