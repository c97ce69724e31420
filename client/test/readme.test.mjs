// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { picture, Server, startBrowser, top, without } from './harness.mjs';

/** @returns {Promise<{caddyfile: string, page: string}>} the live site and the live page under "Use it", as the README has them */
async function example() {
  const readme = await readFile(join(top, 'README.md'), 'utf8');
  const block = (language) => {
    const found = readme.match(new RegExp(`## Use it\\n[^]*?\`\`\`${language}\\n([^]*?)\`\`\``));
    assert.ok(found, `README.md has no ${language} under "Use it"`);
    return found[1];
  };
  return { caddyfile: block('caddyfile'), page: block('html') };
}

describe('the example of the README', { skip: without('chrome') }, () => {
  test('is a live site', async (t) => {
    const { caddyfile, page } = await example();
    const dir = await mkdtemp(join(tmpdir(), 'pushit-readme-'));
    t.after(() => rm(dir, { recursive: true, force: true }));
    // Only where it stands is another: no domain, no /srv/www.
    const site = caddyfile.replace(/^example\.com \{/, 'http://localhost:8080 {').replace('/srv/www', dir);
    assert.ok(site.startsWith('http://localhost') && site.includes(`root ${dir}\n`), caddyfile);
    await writeFile(join(dir, 'Caddyfile'), site);
    await writeFile(join(dir, 'index.html'), page);
    await writeFile(join(dir, 'favicon.ico'), ''); // browsers ask for one

    const browser = await startBrowser();
    t.after(() => browser.close());

    // Everybody may read, and nobody may write.
    const readOnly = await Server.start(join(dir, 'Caddyfile'));
    const reader = await browser.open(readOnly.url);
    await reader.waitForFunction(() => window.push?.channels.includes('news'));
    assert.equal(await reader.evaluate(() => push.channel('news').publish('x').then(() => 'taken', ({ code }) => code)), 'denied');
    await readOnly.stop();

    // Then somebody may, as the README says.
    assert.ok(site.includes('publish deny\n'), caddyfile);
    await writeFile(join(dir, 'Caddyfile'), site.replace('publish deny\n', 'publish allow\n'));
    const server = await Server.start(join(dir, 'Caddyfile'));
    t.after(() => server.stop());
    const open = async () => {
      const opened = await browser.open(server.url);
      const heard = () => opened.$$eval('#news li', (items) => items.map((item) => item.textContent));
      return { opened, heard };
    };
    const [one, two] = [await open(), await open()];

    // What the README says to type into the console.
    const words = '<b>It works.</b>';
    for (const { opened } of [one, two]) await opened.waitForFunction(() => window.push?.channels.includes('news'));
    await one.opened.evaluate((text) => void push.publish('news', text), words);
    for (const { opened } of [one, two]) {
      await opened.waitForFunction((text) => [...document.querySelectorAll('#news li')].some((item) => item.textContent === text), {}, words);
    }
    assert.equal((await two.heard()).filter((text) => text === words).length, 1);
    await picture(two.opened, 'readme');
    assert.deepEqual([...one.opened.complaints, ...two.opened.complaints], []);
  });
});
