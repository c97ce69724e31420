// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Compares README.md with the code: the tables must be right, and the examples must run.
 *
 * @module
 */

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { cp, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { defaults } from '../src/options.js';
import { PushIt } from '../src/pushit.js';
import { settle, World } from './world.mjs';

const client = fileURLToPath(new URL('..', import.meta.url));
const readme = await readFile(join(client, 'README.md'), 'utf8');
const types = await readFile(join(client, 'src', 'pushit.d.ts'), 'utf8');

/** @returns {Map<string, string[]>} the rows of the table with that header, by the text of their first cell */
function table(head) {
  const [, rows] = readme.split(`${head}\n|---|---|---|\n`);
  assert.ok(rows, `no table ${head}`);
  const lines = rows.split('\n\n')[0].split('\n');
  return new Map(
    lines.map((line) => {
      const [name, ...rest] = line.split('|').slice(1, -1).map((cell) => cell.trim());
      return [name.replaceAll('`', ''), rest];
    }),
  );
}

describe('the tables of README.md', () => {
  test('have each option, with its default and a reason', () => {
    const rows = table('| option | default | why |');
    assert.deepEqual([...rows.keys()], Object.keys(defaults));
    for (const [name, [value, why]] of rows) {
      const want = defaults[name] === globalThis ? 'globalThis' : defaults[name] === undefined ? undefined : JSON.stringify(defaults[name], null, 1).replace(/\n\s*/g, ' ').replace('[ ', '[').replace(' ]', ']');
      assert.equal(value, want === undefined ? '' : `\`${want}\``, name);
      assert.match(why, /\w+ \w+/, name);
    }
  });

  test('are those of the types', () => {
    const [, body] = types.match(/export interface Options<[^{]*\{\}> \{\n([^]*?)\n\}\n/);
    const declared = [...body.matchAll(/Default: ([^*]*?)\.(?: \*\/|\n[^]*?\*\/)\n\s+(\w+)\?:|\n\s+(\w+)\?:/g)];
    const names = [...body.matchAll(/^ {2}(\w+)\?:/gm)].map(([, name]) => name);
    assert.deepEqual(names, Object.keys(defaults));
    for (const [, value, name] of declared) {
      if (typeof defaults[name] === 'number') assert.equal(Number(value), defaults[name], name);
    }
    assert.equal(declared.filter(([, , name]) => typeof defaults[name] === 'number').length, Object.values(defaults).filter((value) => typeof value === 'number').length);
  });

  test('have each constant', async () => {
    const found = new Map();
    for (const file of (await readdir(join(client, 'src'))).filter((name) => name.endsWith('.js'))) {
      const text = await readFile(join(client, 'src', file), 'utf8');
      for (const [, name, value] of text.matchAll(/^(?:export )?const ([A-Z_]+) = ([\d_.]+);/gm)) found.set(name, Number(value.replaceAll('_', '')));
    }
    const rows = [...table('| constant | value | why |')].map(([name, [value]]) => [name, Number(value.replaceAll('`', ''))]);
    assert.deepEqual(new Map(rows.sort()), new Map([...found].sort()));
  });

  test('have each event and each state', () => {
    const rows = [...readme.split('| event | is told |')[1].split('\n\n')[0].matchAll(/^\| `(\w+)`/gm)].map(([, name]) => name);
    const [, events] = types.match(/export interface Events<[^{]*\{\}> \{([^]*?)\n\}/);
    assert.deepEqual(rows, [...events.matchAll(/^ {2}(\w+):/gm)].map(([, name]) => name));
    const push = new PushIt({ endpoint: '/push', global: new World() });
    for (const name of rows) push.on(name, () => {});
    push.close();
    const states = [...readme.split('| `push.state.name` | |')[1].split('\n\n')[0].matchAll(/^\| `(\w+)`/gm)].map(([, name]) => name);
    assert.deepEqual(states.sort(), types.match(/readonly name: ('connecting'.*);/)[1].replaceAll("'", '').split(' | ').sort());
  });

  test('have each code', async () => {
    const rows = [...table('| `code` | from | |').keys()];
    const used = new Set();
    for (const file of ['outbox.js', 'subscriptions.js', 'channel.js', 'refusal.js', 'pushit.js']) {
      const text = await readFile(join(client, 'src', file), 'utf8');
      for (const [, code] of text.matchAll(/'(denied|unavailable|invalid|limit|expired|closed|timeout)'/g)) used.add(code);
    }
    for (const code of [...used, 'denied', 'expired']) assert.ok(rows.includes(code), code);
    for (const code of rows) assert.ok(types.includes(`'${code}'`), code);
  });
});

/** Three messages, of which each page has one. */
function page({ before = '3' }) {
  const n = Number(before) - 1;
  return { messages: [{ channel: 'news', uuid: `m${n}`, data: n, position: String(n) }], before: n ? String(n) : undefined };
}

describe('the examples of README.md', () => {
  const examples = [...readme.matchAll(/```js\n([^]*?)```/g)].map(([, text]) => text);

  for (const [n, text] of examples.entries()) {
    test(`run: ${text.split('\n')[0]}`, async (t) => {
      const world = new World();
      const said = [];
      t.mock.method(console, 'log', (...words) => said.push(words.join(' ')));
      // Allows everything, and publishes something on news.
      world.onSocket = (socket) => {
        const send = socket.send.bind(socket);
        socket.send = (data) => {
          send(data);
          for (const frame of JSON.parse(data).map((each) => JSON.parse(each))) {
            const meta = frame.channel.startsWith('/meta/');
            const answers = [meta ? { ...frame, successful: true, error: '', ...(frame.channel === '/meta/history' && page(frame.data)), ...(frame.data?.presence && { presence: { number: 1, count: 1, members: [{ user: 'ann', tabs: 1 }] } }) } : { channel: '/meta/successful', uuid: frame.uuid }];
            if (frame.channel === '/meta/subscribe' && frame.data.channel === 'news') answers.push({ channel: 'news', uuid: 'm', data: 'the end' });
            queueMicrotask(() => socket.raw(`a${JSON.stringify(answers.map((each) => JSON.stringify(each)))}`));
          }
        };
        setImmediate(() => socket.raw('o'));
      };
      class Here extends PushIt {
        constructor(options) {
          super({ endpoint: '/push', global: world, ...options });
        }
      }
      const push = new Here();
      const fetch = async () => new Response('token');
      const made = await new (Object.getPrototypeOf(async () => {}).constructor)('PushIt', 'push', 'fetch', `${text.replace('const push = new', 'return new')}`)(Here, push, fetch);
      for (let n = 0; n < 10; n++) {
        await new Promise((resolve) => setImmediate(resolve));
        await settle();
      }
      assert.equal((made ?? push).state.name, 'connected');
      if (n === 0) assert.deepEqual(said, ['the server has taken it']);
      if (text.includes('presence()')) assert.deepEqual(said, ['ann is here', '1 ann,1,']);
      if (text.includes('messages, before')) assert.deepEqual([said, world.socket.sent.filter(({ channel }) => channel === '/meta/history').map(({ data }) => data.before)], [['m2 2 2'], [undefined, '2', '1']]);
      push.close();
      made?.close();
    });
  }

  test('are of the right types', async (t) => {
    const dir = await mkdtemp(join(tmpdir(), 'pushit-docs-'));
    t.after(() => rm(dir, { recursive: true, force: true }));
    await mkdir(join(dir, 'node_modules', '@pushit', 'client'), { recursive: true });
    for (const file of ['package.json', 'dist']) await cp(join(client, file), join(dir, 'node_modules', '@pushit', 'client', file), { recursive: true });
    const text = [...readme.matchAll(/```ts\n([^]*?)```/g)].map(([, part]) => part);
    await writeFile(join(dir, 'a.mts'), text.join('\n'));
    for (const [n, example] of examples.entries()) {
      const own = /const push = new/.test(example) ? '' : 'declare const push: PushIt;\n';
      await writeFile(join(dir, `b${n}.mts`), `import { PushIt } from '@pushit/client';\n${own}${example.replace('catch (refusal)', 'catch (refusal: any)')}\nexport {};\n`);
    }
    const run = promisify(execFile);
    const files = (await readdir(dir)).filter((name) => name.endsWith('.mts'));
    await run(join(client, 'node_modules', '.bin', 'tsc'), ['--strict', '--noEmit', '--target', 'es2022', '--lib', 'es2022,dom', '--types', '', '--module', 'nodenext', ...files], { cwd: dir }).catch((error) =>
      assert.fail(error.stdout),
    );
  });
});
