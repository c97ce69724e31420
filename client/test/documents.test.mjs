// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Runs the pages and programs in README.md and docs/ in real browsers, with the Caddyfiles
 * of the same document.
 *
 * @module
 */

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import { PushIt } from '../src/module.js';
import { picture, Server, startBrowser, top, within, without } from './harness.mjs';
import { Proxy } from './proxy.mjs';

const run = promisify(execFile);
const skip = without('chrome');

/** Each example that a browser or Node.js runs has a test here, by its document and language. */
const examples = { 'README.md html': 1, 'docs/getting-started.md html': 3, 'docs/client.md html': 1, 'docs/client.md js': 1, 'docs/history.md html': 1, 'docs/history.md js': 1, 'docs/presence.md html': 1, 'docs/sse.md html': 2, 'docs/sse.md js': 1 };

const read = (document) => readFile(join(top, document), 'utf8');

/** @returns {Promise<string>} the first block of that language below a heading */
async function block(document, heading, kind) {
  const text = `\n${await read(document)}`;
  const section = heading ? text.split(`\n${heading}\n`)[1]?.split(`\n${heading.split(' ')[0]} `)[0] : text;
  const found = section?.match(new RegExp(`\`\`\`${kind}\\n([^]*?)\`\`\``));
  assert.ok(found, `${document} has no ${kind} under "${heading}"`);
  return found[1];
}

/** @returns {Promise<string>} a new folder with these files, which the test removes */
async function folder(t, files) {
  const dir = await mkdtemp(join(tmpdir(), 'pushit-documents-'));
  t.after(() => rm(dir, { recursive: true, force: true }));
  for (const [name, text] of Object.entries(files)) {
    await mkdir(dirname(join(dir, name)), { recursive: true });
    await writeFile(join(dir, name), text);
  }
  return dir;
}

/** Returns a Caddyfile of a document with an address of this machine. */
function local(caddyfile) {
  const site = caddyfile.replace(/^example\.com \{/, 'http://localhost:8080 {');
  assert.ok(site.startsWith('http://localhost'), caddyfile);
  return site;
}

const lines = (page, list) => page.$$eval(`${list} li`, (items) => items.map((item) => item.textContent));
const waitForLine = (page, list, text) =>
  page.waitForFunction((...args) => [...document.querySelectorAll(`${args[0]} li`)].some((item) => item.textContent === args[1]), {}, list, text);

test('each example of a page or program is known here', async () => {
  const found = {};
  for (const document of ['README.md', ...['caddyfile', 'client', 'deployment', 'gates', 'getting-started', 'history', 'migrating', 'operations', 'performance', 'presence', 'publishing', 'sse'].map((name) => `docs/${name}.md`)]) {
    for (const [, language] of (await read(document)).matchAll(/^```(html|js)\b/gm)) {
      found[`${document} ${language}`] = (found[`${document} ${language}`] ?? 0) + 1;
    }
  }
  assert.deepEqual(found, examples);
});

describe('the example of the README', { skip }, () => {
  test('is a live site', async (t) => {
    const page = await block('README.md', '## Use it', 'html');
    const dir = await folder(t, { 'index.html': page, 'favicon.ico': '' }); // browsers ask for an icon
    // Only the site's address and its folder are changed.
    const caddyfile = local(await block('README.md', '## Use it', 'caddyfile')).replace('/srv/www', dir);
    assert.ok(caddyfile.includes(`root ${dir}\n`), caddyfile);
    await writeFile(join(dir, 'Caddyfile'), caddyfile);

    const browser = await startBrowser();
    t.after(() => browser.close());

    // Everybody may read, and nobody may publish.
    const readOnly = await Server.start(join(dir, 'Caddyfile'));
    t.after(() => readOnly.stop());
    const reader = await browser.open(readOnly.url);
    await reader.waitForFunction(() => window.push?.channels.includes('news'));
    assert.equal(await reader.evaluate(() => push.channel('news').publish('x').then(() => 'taken', ({ code }) => code)), 'denied');

    // Now everybody may publish, as the README says.
    assert.ok(caddyfile.includes('publish deny\n'), caddyfile);
    await writeFile(join(dir, 'Caddyfile'), caddyfile.replace('publish deny\n', 'publish allow\n'));
    const server = await Server.start(join(dir, 'Caddyfile'));
    t.after(() => server.stop());
    const [one, two] = [await browser.open(server.url), await browser.open(server.url)];

    // The line that the README tells you to type into the console.
    const words = '<b>It works.</b>';
    for (const page of [one, two]) await page.waitForFunction(() => window.push?.channels.includes('news'));
    await one.evaluate((text) => void push.publish('news', text), words);
    for (const page of [one, two]) await waitForLine(page, '#news', words);
    assert.equal((await lines(two, '#news')).filter((text) => text === words).length, 1);
    await picture(two, 'readme');
    assert.deepEqual([...one.complaints, ...two.complaints], []);
  });
});

describe('docs/getting-started.md', { skip }, () => {
  const passwords = { alice: 'wonderland', bob: 'builder' };
  let browser;
  before(async () => {
    browser = await startBrowser();
  });
  after(() => browser?.close());

  /** Writes the two files of a step, and serves them. The page may be that of another step. */
  async function serve(t, heading, { page = heading, env = {} } = {}) {
    const caddyfile = await block('docs/getting-started.md', heading, 'caddyfile Caddyfile');
    const dir = await folder(t, { 'site/index.html': await block('docs/getting-started.md', page, 'html site/index.html'), 'site/favicon.ico': '' });
    assert.ok(caddyfile.includes('root site\n'), caddyfile);
    await writeFile(join(dir, 'Caddyfile'), caddyfile.replace('root site\n', `root ${join(dir, 'site')}\n`));
    const server = await Server.start(join(dir, 'Caddyfile'), undefined, caddyfile.includes('basic_auth') ? passwords : {}, { env });
    t.after(() => server.stop());
    return server;
  }
  const login = (username) => ({ login: { username, password: passwords[username] } });
  const send = async (page, fields) => {
    for (const [name, text] of Object.entries(fields)) await page.$eval(`#${name}`, (input, value) => (input.value = value), text);
    await page.click('button');
  };
  const problem = (page, text) => page.waitForFunction((wanted) => document.querySelector('#problem').textContent === wanted, {}, text);

  test('2. a live page', async (t) => {
    const server = await serve(t, '## 2. A live page');
    const [one, two] = [await browser.open(server.url), await browser.open(server.url)];
    for (const page of [one, two]) await page.waitForFunction(() => window.push?.channels.includes('news'));
    await one.evaluate(() => void push.publish('news', 'It works.'));
    for (const page of [one, two]) await waitForLine(page, '#news', 'It works.');
    assert.deepEqual([...one.complaints, ...two.complaints], []);
  });

  test('3. a login', async (t) => {
    const server = await serve(t, '## 3. A login');
    assert.equal((await fetch(server.url)).status, 401);
    const [alice, bob] = [await browser.open(server.url, login('alice')), await browser.open(server.url, login('bob'))];
    // Bob's refusal is the first sign that he is connected. His subscription came before
    // it.
    await send(bob, { text: 'me too' });
    await problem(bob, 'this is not allowed');
    await send(alice, { text: 'x'.repeat(501) });
    await problem(alice, 'a text of at most 500 characters');
    await send(alice, { text: 'hello' });
    for (const page of [alice, bob]) await waitForLine(page, '#news', 'alice: hello');
    assert.deepEqual([...alice.complaints, ...bob.complaints].filter((text) => !/401/.test(text)), []);
  });

  test('4. an inbox for each user', async (t) => {
    const server = await serve(t, '## 4. An inbox for each user');
    const [alice, bob] = [await browser.open(server.url, login('alice')), await browser.open(server.url, login('bob'))];
    await bob.waitForFunction(() => window.push?.channels.includes('users/bob'));
    await send(alice, { to: 'bob', text: 'hello' });
    await waitForLine(bob, '#inbox', 'alice: hello');
    assert.deepEqual(await lines(alice, '#inbox'), []);
    assert.equal(await bob.evaluate(() => push.subscribe('users/alice').catch(({ message }) => message)), "this is somebody else's inbox");
    await picture(bob, 'getting-started');
  });

  test('5. miss nothing, and see what goes on', async (t) => {
    const heading = '## 5. Miss nothing, and see what goes on';
    const secret = 'a secret of some length';
    const server = await serve(t, heading, { page: '## 4. An inbox for each user', env: { PUBLISHER_SECRET: secret } });
    const bob = await browser.open(server.url, login('bob'));
    await bob.waitForFunction(() => window.push?.channels.includes('users/bob'));

    await server.pushit('disconnect', '--user', 'bob', '--retry', '1s');
    const section = (await read('docs/getting-started.md')).split(heading)[1];
    const message = section.match(/-d '(.*)'/)[1];
    const publish = (headers) => fetch(`${server.url}/push/publish`, { method: 'POST', headers: { 'Content-Type': 'application/json', ...headers }, body: message });
    assert.equal((await publish({ Authorization: 'Bearer wrong' })).status, 403);
    assert.equal((await publish({ Authorization: `Bearer ${secret}` })).status, 200);
    await waitForLine(bob, '#inbox', 'the shop: Your parcel is on its way.');
    assert.match(await server.pushit('tail', 'users/bob', '--last', '1', '--count', '1'), /Your parcel is on its way/);

    const debug = (user) => fetch(`${server.url}/push/debug`, { headers: { Authorization: `Basic ${btoa(`${user}:${passwords[user]}`)}` } });
    assert.deepEqual([(await debug('alice')).status, (await debug('bob')).status], [200, 403]);
  });
});

describe('docs/client.md', () => {
  const secret = 'a secret of some length';

  /** Serves the Caddyfile of recipe 12, whose program is in docs/client.md. */
  async function serve(t) {
    process.env.PUBLISHER_SECRET = secret;
    const recipe = await block('docs/gates.md', '### 12. A backend publishes, everybody reads', 'caddyfile');
    const dir = await folder(t, { Caddyfile: local(recipe) });
    const server = await Server.start(join(dir, 'Caddyfile')).finally(() => delete process.env.PUBLISHER_SECRET);
    t.after(() => server.stop());
    const reader = new PushIt({ endpoint: `${server.url}/push` });
    t.after(() => reader.close());
    const heard = new Promise((resolve) => (reader.onMessageReceived = (channel, { payload }) => resolve({ channel, payload })));
    await reader.subscribe('news');
    return { server, reader, heard };
  }

  test('the program of a backend publishes, and nobody else', async (t) => {
    const { server, reader, heard } = await serve(t);
    assert.equal(await reader.channel('news').publish('x').then(() => 'taken', ({ code }) => code), 'denied');
    const program = (await block('docs/client.md', '## A program that stays connected', 'js'))
      .replace('"@pushit/client"', JSON.stringify(pathToFileURL(join(top, 'client', 'dist', 'pushit.mjs')).href))
      .replace('"https://example.com/push"', JSON.stringify(`${server.url}/push`));
    assert.ok(program.includes('localhost') && program.includes('pushit.mjs'), program);
    const dir = await folder(t, { 'publish.mjs': program });
    await within('the program', run(process.execPath, [join(dir, 'publish.mjs')], { env: { ...process.env, PUBLISHER_SECRET: secret } }));
    assert.deepEqual(await within('the message', heard), { channel: 'news', payload: { title: 'It works.' } });
  });

  test('the frames that it shows publish', async (t) => {
    const { server, heard } = await serve(t);
    const frames = [...(await read('docs/client.md')).matchAll(/`(\{"channel".*?\})`/g)].map(([, text]) => JSON.parse(text.replace('…', secret)));
    assert.deepEqual(frames.map(({ channel }) => channel), ['/meta/connect', 'news']);
    const socket = new WebSocket(`${server.url.replace('http', 'ws')}/push/websocket`);
    t.after(() => socket.close());
    await within('the socket', new Promise((resolve, reject) => ((socket.onopen = resolve), (socket.onerror = reject))));
    const answers = new Promise((resolve) => {
      const all = [];
      socket.onmessage = ({ data }) => all.push(JSON.parse(data)) === 2 && resolve(all);
    });
    for (const frame of frames) socket.send(JSON.stringify(frame));
    const [connect, publish] = await within('the answers', answers);
    assert.equal(connect.successful, true);
    assert.deepEqual(publish, { channel: '/meta/successful', uuid: frames[1].uuid });
    assert.deepEqual(await within('the message', heard), { channel: 'news', payload: frames[1].data });
  });

  test('its page listens', { skip }, async (t) => {
    const dir = await folder(t, { 'index.html': await block('docs/client.md', '# The client', 'html'), 'favicon.ico': '' });
    await writeFile(join(dir, 'Caddyfile'), `http://localhost:8080 {\n\troot ${dir}\n\tpushit /push {\n\t\tdefault allow\n\t}\n\tfile_server\n}\n`);
    const server = await Server.start(join(dir, 'Caddyfile'));
    t.after(() => server.stop());
    const browser = await startBrowser();
    t.after(() => browser.close());
    const page = await browser.open(server.url);
    const logged = new Promise((resolve) => page.on('console', (message) => resolve(message.text())));
    const publisher = new PushIt({ endpoint: `${server.url}/push` });
    t.after(() => publisher.close());
    // A message that comes before the page has subscribed is not shown.
    const timer = setInterval(() => publisher.publish('news', 'hello'), 50);
    t.after(() => clearInterval(timer));
    assert.equal(await within('the message', logged), 'news hello');
  });
});

describe('docs/sse.md', { skip }, () => {
  /** Serves a page beside the Caddyfile of the document, through a proxy. */
  async function serve(t, page) {
    const dir = await folder(t, { 'index.html': page, 'favicon.ico': '' });
    process.env.PUBLISHER_SECRET = 'a secret of the backend';
    await writeFile(join(dir, 'Caddyfile'), local(await block('docs/sse.md', '## Set it up', 'caddyfile')).replace('pushit /push {', `root ${dir}\n\tfile_server\n\tpushit /push {`));
    const server = await Server.start(join(dir, 'Caddyfile'));
    t.after(() => server.stop());
    const proxy = await Proxy.start(() => server.port);
    t.after(() => proxy.stop());
    const browser = await startBrowser();
    t.after(() => browser.close());
    const publish = async (data) => {
      const headers = { Authorization: `Bearer ${process.env.PUBLISHER_SECRET}`, 'Content-Type': 'application/json' };
      const response = await fetch(`${server.url}/push/publish`, { method: 'POST', headers, body: JSON.stringify({ channel: 'news', data }) });
      assert.equal(response.status, 200);
    };
    return { proxy, browser, publish };
  }

  test('the page begins with what was before, and gets what it missed', async (t) => {
    const { proxy, browser, publish } = await serve(t, await block('docs/sse.md', '## In a page', 'html'));
    await publish('before');
    const page = await browser.open(`${proxy.url}/index.html`);
    await page.evaluate(() => (window.loadedOnce = true)); // a gap would load it again
    await waitForLine(page, '#news', 'before');
    proxy.cut();
    await publish('while it was away');
    await waitForLine(page, '#news', 'while it was away');
    assert.deepEqual(await lines(page, '#news'), ['before', 'while it was away']);
    assert.equal(await page.evaluate(() => window.loadedOnce), true);
  });

  test('a page that makes a new stream after a refusal continues', async (t) => {
    const program = (await block('docs/sse.md', '## When there is no stream', 'js')).replace('5000 + 5000 * Math.random()', '100');
    const { proxy, browser, publish } = await serve(t, `<ul id="news"></ul><script>\n${program}\nfunction note({ data, lastEventId }) {\n  document.querySelector('#news').append(Object.assign(document.createElement('li'), { textContent: data }));\n}\n</script>`.replace('last = event.lastEventId;', 'last = event.lastEventId; note(event);').replace('source.onerror', 'source.onopen = () => { window.opened = true; };\n  source.onerror'));
    const page = await browser.open(`${proxy.url}/index.html`);
    await page.waitForFunction(() => window.opened);
    await publish('one');
    await waitForLine(page, '#news', 'one');
    const refused = [1, 2].map((nth) => page.waitForResponse((response) => response.status() === 503 && --nth === 0));
    proxy.refuse = 503; // EventSource gives up, and so does the next one
    proxy.cut();
    await Promise.all(refused);
    await publish('two');
    proxy.refuse = 0;
    await waitForLine(page, '#news', 'two');
    assert.deepEqual(await lines(page, '#news'), ['one', 'two']);
  });
});

for (const [document, heading] of [['docs/presence.md', '## In a page'], ['docs/sse.md', '## Who is here']]) {
  test(`the page of ${document} shows who comes and goes`, { skip }, async (t) => {
    const dir = await folder(t, { 'index.html': await block(document, heading, 'html'), 'favicon.ico': '' });
    const site = ['root .', 'file_server', 'pushit /push {', 'default allow', 'channel rooms/* {', 'presence {', 'linger 1s', '}', '}', '}'];
    await writeFile(join(dir, 'Caddyfile'), `http://localhost:8080 {\n${site.join('\n')}\n}\n`.replace('root .', `root ${dir}`));
    const server = await Server.start(join(dir, 'Caddyfile'));
    t.after(() => server.stop());
    const browser = await startBrowser();
    t.after(() => browser.close());
    const page = await browser.open(`${server.url}/index.html`);
    const shows = (count, names) =>
      page.waitForFunction((...want) => ['#count', '#names'].every((id, i) => (document.querySelector(id)?.textContent ?? want[i]) === want[i]), {}, String(count), names);
    await shows(1, 'somebody');
    const other = new PushIt({ endpoint: `${server.url}/push`, channels: ['rooms/1'] });
    t.after(() => other.close());
    await shows(2, 'somebody, somebody');
    other.close();
    await shows(1, 'somebody');
    assert.deepEqual(page.complaints, []);
  });
}

test('the page of docs/history.md begins with what was before, and gets what it missed', { skip }, async (t) => {
  const dir = await folder(t, { 'index.html': await block('docs/history.md', '## In a page', 'html'), 'favicon.ico': '' });
  const caddyfile = local(await block('docs/history.md', '## Keep messages', 'caddyfile')).replace('pushit /push {', `root ${dir}\n\tfile_server\n\tpushit /push {`);
  await writeFile(join(dir, 'Caddyfile'), caddyfile);
  const server = await Server.start(join(dir, 'Caddyfile'));
  t.after(() => server.stop());
  const proxy = await Proxy.start(() => server.port);
  t.after(() => proxy.stop());
  const publisher = new PushIt({ endpoint: `${server.url}/push` });
  t.after(() => publisher.close());
  for (const text of ['one', 'two']) await publisher.channel('news').publish(text);
  const browser = await startBrowser();
  t.after(() => browser.close());
  const page = await browser.open(`${proxy.url}/index.html`);
  await page.evaluate(() => (window.loadedOnce = true)); // a gap would load the page again
  await waitForLine(page, '#news', 'two');
  proxy.cut();
  await publisher.channel('news').publish('while it was away');
  await waitForLine(page, '#news', 'while it was away');
  await publisher.channel('news').publish('live');
  await waitForLine(page, '#news', 'live');
  assert.deepEqual(await lines(page, '#news'), ['one', 'two', 'while it was away', 'live']);
  assert.equal(await page.evaluate(() => window.loadedOnce), true);

  // A message that is not kept.
  const got = [];
  await publisher.subscribe('chat/42');
  publisher.on('message', ({ channel, data }) => got.push({ channel, data }));
  const typing = await block('docs/history.md', '## Messages that are not kept', 'js');
  await page.evaluate(`import('/push/pushit.mjs').then(({ PushIt }) => { const push = new PushIt(); ${typing} })`);
  while (got.length === 0) await new Promise((resolve) => publisher.on('message', resolve));
  assert.deepEqual(got, [{ channel: 'chat/42', data: { typing: true } }]);
  assert.deepEqual((await publisher.history('chat/42')).messages, []);
});
