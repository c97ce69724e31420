// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * What docs/guides shows for pages: React in a browser, and the composables for Vue and
 * stores for Svelte in Node.js, all at the Caddyfile of examples/react.
 *
 * @module
 */

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { request } from 'node:http';
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import { build } from 'esbuild';
import { PushIt } from '../src/module.js';
import { picture, Server, startBrowser, top, within, without } from './harness.mjs';

const client = join(top, 'client');
const examples = join(top, 'examples');
let dir;
let server;
/** Another visitor of the room. */
let other;

before(async () => {
  dir = await mkdtemp(join(tmpdir(), 'pushit-guides-'));
  const caddyfile = await readFile(join(examples, 'react', 'Caddyfile'), 'utf8');
  assert.ok(caddyfile.includes('root examples/react/dist\n'), caddyfile);
  await writeFile(join(dir, 'Caddyfile'), caddyfile.replace('root examples/react/dist\n', `root ${dir}\n`));
  // As Vite does it, but the page is where the script is.
  await writeFile(join(dir, 'index.html'), (await readFile(join(examples, 'react', 'index.html'), 'utf8')).replace('/src/main.tsx', '/main.js'));
  await bundle(join(examples, 'react', 'src', 'main.tsx'), 'main.js', { '@pushit/client': join(client, 'dist', 'index.mjs') });
  server = await Server.start(join(dir, 'Caddyfile'));
  other = new PushIt({ endpoint: `${server.url}/push` });
});

after(async () => {
  other?.close();
  await server?.stop();
  await rm(dir, { recursive: true, force: true });
});

/** Builds a file of an example for development, which is when StrictMode does everything twice. */
async function bundle(file, outfile, alias, options = {}) {
  await build({ entryPoints: [file], outfile: join(dir, outfile), bundle: true, format: 'esm', jsx: 'automatic', jsxDev: false, nodePaths: [join(client, 'node_modules')], alias, define: { 'process.env.NODE_ENV': '"development"' }, logLevel: 'silent', ...options });
}

const say = (text, room = 'lobby') => other.channel(`rooms/${room}`).publish({ text });

/** Resolves when what `subscribe` watches has become right. */
const until = (what, right, subscribe) =>
  within(
    what,
    new Promise((resolve) => {
      const look = () => right() && resolve();
      subscribe(look);
      look();
    }),
  );

/** Looks again and again, where nothing tells. */
function poll(look) {
  const timer = setInterval(look, 10);
  timer.unref();
}

test('the examples are of the right types', async () => {
  const types = (name) => [join(client, 'node_modules', '@types', name)];
  const config = {
    extends: join(examples, 'react', 'tsconfig.json'),
    compilerOptions: {
      types: ['node'],
      typeRoots: [join(client, 'node_modules', '@types')],
      paths: {
        '@pushit/client': [join(client, 'dist', 'index.d.mts')],
        react: types('react'),
        'react/*': types('react/*'),
        'react-dom/*': types('react-dom/*'),
        vue: [join(client, 'node_modules', 'vue')],
        'svelte/store': [join(client, 'node_modules', 'svelte', 'types', 'index.d.ts')],
        '@/lib/pushit': [join(examples, 'node', 'pushit.mjs')],
        '@/lib/users': [join(examples, 'node', 'next', 'lib', 'users.ts')],
      },
      allowJs: true,
      checkJs: true,
    },
    include: ['react/src', 'vue/*.ts', 'svelte/*.ts', 'node/next', 'node/pushit.mjs'].map((each) => join(examples, each)),
  };
  await writeFile(join(dir, 'tsconfig.json'), JSON.stringify(config));
  await promisify(execFile)(join(client, 'node_modules', '.bin', 'tsc'), ['-p', dir]).catch((error) => assert.fail(error.stdout));
});

test('Vite passes on what pushit takes for a page of the same site', async () => {
  const config = await readFile(join(examples, 'react', 'vite.config.js'), 'utf8');
  const [, path, target] = /proxy: \{ "(.*)": \{ target: "(.*)", ws: true \} \}/.exec(config);
  assert.deepEqual([path, target], ['/push', 'http://localhost:8080']);
  // Vite keeps the host and the origin of its own address.
  const status = await new Promise((resolve, reject) => {
    const headers = { Host: 'localhost:5173', Origin: 'http://localhost:5173', Connection: 'Upgrade', Upgrade: 'websocket', 'Sec-WebSocket-Version': '13', 'Sec-WebSocket-Key': 'dGhlIHNhbXBsZSBub25jZQ==' };
    const asked = request({ port: server.port, host: '127.0.0.1', path: '/push/websocket', headers }, (response) => resolve(response.resume().statusCode));
    asked.on('upgrade', (response, socket) => (socket.destroy(), resolve(response.statusCode)));
    asked.on('error', reject).end();
  });
  assert.equal(status, 101);
});

describe('React', { skip: without('chrome') }, () => {
  let browser;
  before(async () => {
    browser = await startBrowser();
  });
  after(() => browser?.close());

  /** Opens the page, and notes the frames about subscriptions that it sends. */
  async function open() {
    const page = await browser.open('about:blank', { width: 390, height: 700 });
    const frames = [];
    const devtools = await page.createCDPSession();
    await devtools.send('Network.enable');
    devtools.on('Network.webSocketFrameSent', ({ response }) => {
      for (const text of JSON.parse(response.payloadData)) {
        const { channel, data } = JSON.parse(text);
        if (/subscribe/.test(channel)) frames.push(`${channel} ${data.channel}`);
      }
    });
    await page.goto(server.url);
    return { page, frames };
  }
  const shows = (page, ...want) => page.waitForFunction((list) => [...document.querySelectorAll('#messages li')].map((item) => item.textContent).join() === list, {}, want.join());
  const isHere = (page, text) => page.waitForFunction((want) => document.querySelector('#here').textContent === want, {}, text);

  test('in StrictMode, a component subscribes once, shows what was before, and gets each message once', async () => {
    await say('before', 'lobby');
    const { page, frames } = await open();
    await isHere(page, 'You are alone here.');
    await shows(page, 'before');
    assert.deepEqual(frames, ['/meta/subscribe rooms/lobby']);

    await other.subscribe('rooms/lobby');
    await isHere(page, '2 are here.');
    await say('one');
    await say('two');
    await shows(page, 'before', 'one', 'two');

    // What the page says comes back to it once, too, and what it may not say is refused.
    const heard = new Promise((resolve) => other.channel('rooms/lobby').on('message', ({ payload }) => resolve(payload)));
    await page.type('#text', 'three');
    await page.click('form button');
    await shows(page, 'before', 'one', 'two', 'three');
    assert.deepEqual(await within('the message', heard), { text: 'three' });
    await page.evaluate(() => {
      const { set } = Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value');
      const input = document.querySelector('#text');
      set.call(input, 'x'.repeat(501));
      input.dispatchEvent(new Event('input', { bubbles: true }));
    });
    await page.click('form button');
    await page.waitForFunction(() => document.querySelector('output').textContent === 'a text of at most 500 characters');
    await picture(page, 'react');

    // Another room takes its place.
    await page.click('nav button:last-child');
    await isHere(page, 'You are alone here.');
    await shows(page, '');
    await page.waitForFunction(() => document.querySelector('#state').textContent === 'Connected');
    await say('not for the garden');
    await say('hello', 'garden');
    await shows(page, 'hello');
    assert.deepEqual(frames, ['/meta/subscribe rooms/lobby', '/meta/subscribe rooms/garden', '/meta/unsubscribe rooms/lobby']);
    assert.deepEqual(page.complaints, []);
  });

  test('a component that takes over keeps the subscription, and nothing is lost', async (t) => {
    await writeFile(
      join(dir, 'swap.tsx'),
      `import { StrictMode, useState } from 'react';
      import { createRoot } from 'react-dom/client';
      import { flushSync } from 'react-dom';
      import { pushIt, useChannel } from ${JSON.stringify(join(examples, 'react', 'src', 'pushit.ts'))};
      Object.assign(window, { got: [], pushIt });
      function Listener() {
        useChannel('rooms/swap', ({ payload }) => got.push(payload.text));
        return null;
      }
      function Page() {
        const [n, set] = useState(0);
        window.swap = () => flushSync(() => set((old) => old + 1));
        return <Listener key={n} />;
      }
      createRoot(document.getElementById('root')).render(<StrictMode><Page /></StrictMode>);`,
    );
    await bundle(join(dir, 'swap.tsx'), 'main.js', { '@pushit/client': join(client, 'dist', 'index.mjs') });
    const { page, frames } = await open();
    await page.waitForFunction(() => window.swap && pushIt().channels.includes('rooms/swap'));
    const swaps = page.evaluate(async () => {
      for (let i = 0; i < 50; i++) {
        swap();
        await new Promise((resolve) => setTimeout(resolve, i % 3));
      }
    });
    const texts = Array.from({ length: 50 }, (_, n) => String(n));
    for (const text of texts) await say(text, 'swap');
    await swaps;
    await page.waitForFunction((last) => got.includes(last), {}, texts.at(-1));
    assert.deepEqual(await page.evaluate(() => got), texts);
    assert.deepEqual(frames, ['/meta/subscribe rooms/swap']);
  });
});

/** Compiles the components of Vue and Svelte, as their plugins for Vite do. */
const components = {
  name: 'components',
  setup({ onLoad }) {
    onLoad({ filter: /\.vue$/ }, async ({ path }) => {
      const { compileScript, parse } = await import('vue/compiler-sfc');
      const { descriptor, errors } = parse(await readFile(path, 'utf8'), { filename: path });
      assert.deepEqual(errors, []);
      return { contents: compileScript(descriptor, { id: 'room', inlineTemplate: true, templateOptions: { ssr: true, ssrCssVars: [] } }).content, loader: 'ts' };
    });
    onLoad({ filter: /\.svelte$/ }, async ({ path }) => {
      const { compile } = await import('svelte/compiler');
      const { js, warnings } = compile(await readFile(path, 'utf8'), { filename: path, generate: 'server' });
      assert.deepEqual(warnings, []);
      return { contents: js.code };
    });
  },
};

/** Builds an example for Node.js, with all that it exports, and loads it. */
async function load(name, component) {
  const shim = join(dir, `${name}-client.mjs`);
  await writeFile(
    shim,
    `import { PushIt as Real } from ${JSON.stringify(pathToFileURL(join(client, 'dist', 'node.mjs')).href)};
    export class PushIt extends Real {
      constructor(options) {
        super({ ...options, endpoint: new URL(options.endpoint, ${JSON.stringify(server.url)}) });
      }
    }`,
  );
  const entry = join(dir, `${name}-all.mjs`);
  const [all, room] = ['pushit.ts', component].map((file) => JSON.stringify(join(examples, name, file)));
  await writeFile(entry, `export * from ${all};\nexport { default as Room } from ${room};\n`);
  // The packages stay outside, so that the test and the example have the same ones.
  const packages = {
    name: 'packages',
    setup: ({ onResolve }) => onResolve({ filter: /^(vue|svelte)(\/|$)/ }, ({ path }) => ({ path: import.meta.resolve(path), external: true })),
  };
  await bundle(entry, `${name}.mjs`, { '@pushit/client': shim }, { platform: 'node', external: ['file:*'], plugins: [packages, components] });
  return import(pathToFileURL(join(dir, `${name}.mjs`)).href);
}

test('Vue: composables follow their names, and end with their component', async () => {
  const { createSSRApp, effectScope, nextTick, ref, watch } = await import('vue');
  const { pushIt, Room, useMessages, usePresence, usePushIt } = await load('vue', 'Room.vue');
  await say('before', 'vue');
  const room = ref('vue');
  const scope = effectScope();
  const { state, messages, here } = scope.run(() => ({ state: usePushIt(), messages: useMessages(() => `rooms/${room.value}`), here: usePresence(() => `rooms/${room.value}`) }));
  const texts = () => messages.value.map(({ payload }) => payload.text).join();
  await until('the connection', () => state.value.name === 'connected', (look) => watch(state, look));
  await until('what was before', () => texts() === 'before', (look) => watch(messages, look));
  await until('the list', () => here.value.count === 1 && here.value.members.length === 1, (look) => watch(here, look));
  await say('one', 'vue');
  await until('the message', () => texts() === 'before,one', (look) => watch(messages, look));

  // A component begins like that.
  const { renderToString } = await import('vue/server-renderer');
  assert.match(await renderToString(createSSRApp(Room, { room: 'vue' })), /<p>connected, 0 here<\/p>.*<form>/);

  room.value = 'vue-garden';
  await nextTick();
  assert.equal(texts(), '');
  await until('the other room', () => pushIt().channels.join() === 'rooms/vue-garden', poll);
  await say('not here', 'vue');
  await say('two', 'vue-garden');
  await until('its message', () => texts() === 'two', (look) => watch(messages, look));

  scope.stop();
  await until('the end', () => pushIt().channels.length === 0, poll);
  pushIt().close();
});

test('Svelte: stores listen while somebody subscribes to them', async () => {
  const { connection, messages, presence, pushIt, Room } = await load('svelte', 'Room.svelte');
  await say('before', 'svelte');
  /** Subscribes to a store, as $ does in a component. */
  const use = (store) => {
    const used = { looks: [] };
    used.stop = store.subscribe((value) => {
      used.value = value;
      for (const look of used.looks) look();
    });
    used.until = (what, right) => until(what, () => right(used.value), (look) => used.looks.push(look));
    return used;
  };
  const store = messages('rooms/svelte');
  const [state, said, here] = [connection, store, presence('rooms/svelte')].map(use);
  const are = (want) => (list) => list.map(({ payload }) => payload.text).join() === want;
  await state.until('the connection', ({ name }) => name === 'connected');
  await said.until('what was before', are('before'));
  await here.until('the list', ({ count, members }) => count === 1 && members.length === 1);
  await say('one', 'svelte');
  await said.until('the message', are('before,one'));

  // The next component shows the same, without another subscription.
  const subscribed = [];
  pushIt().on('subscribe', ({ channel }) => subscribed.push(channel));
  said.stop();
  const again = use(store);
  await say('two', 'svelte');
  await again.until('all of it', are('before,one,two'));
  assert.deepEqual(subscribed, []);

  // A component begins like that.
  const { render } = await import('svelte/server');
  assert.match(render(Room, { props: { room: 'svelte-garden' } }).body, /<p>connected, 0 here<\/p>[^]*<form>/);

  for (const { stop } of [state, here, again]) stop();
  await until('the end', () => pushIt().channels.length === 0, poll);
  pushIt().close();
});
