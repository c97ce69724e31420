// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { after, afterEach, before, describe, test } from 'node:test';
import { promisify } from 'node:util';
import { picture, Server, startBrowser, without } from './harness.mjs';
import { skipWithout } from './needs.mjs';

const run = promisify(execFile);

const passwords = { alice: 'wonderland', bob: 'builder', carol: 'singing' };

const phone = { width: 375, height: 812 };

/** The members' area of examples/members as a member sees it. */
class MembersPage {
  /** @param {import('puppeteer-core').Page} page */
  constructor(page) {
    this.page = page;
  }

  async enter(view) {
    await this.page.click(`nav a[href="#${view}"]`);
    await this.page.waitForSelector(`#view-${view}:not([hidden])`);
  }

  async write(to, text) {
    await this.enter('inbox');
    await this.page.select('#to', to);
    await this.page.type('#text', text);
    await this.page.keyboard.press('Enter');
  }

  async publishNews(text) {
    await this.enter('news');
    await this.page.type('#text', text);
    await this.page.keyboard.press('Enter');
  }

  /** Waits for a message in a view, whether it is the open one or not. */
  async sees(view, from, text) {
    await this.page.waitForFunction(
      (selector, ...wanted) =>
        [...document.querySelectorAll(selector)].some(
          (item) => ['.name', '.text'].every((part, i) => item.querySelector(part).textContent === wanted[i]) && item.dataset.status !== 'sending',
        ),
      {},
      `#view-${view} .log li`,
      from,
      text,
    );
  }

  /** @returns {Promise<{from: string, text: string, status?: string, mine: boolean, reason: string}[]>} */
  entries(view) {
    return this.page.$$eval(`#view-${view} .log li`, (items) =>
      items.map((item) => ({
        from: item.querySelector('.name').textContent,
        text: item.querySelector('.text').textContent,
        ...(item.dataset.status && { status: item.dataset.status }),
        mine: item.classList.contains('mine'),
        reason: item.querySelector('.reason').textContent,
      })),
    );
  }

  /** Tries one of the rules on the page, and returns the answer. */
  async attempt(frame) {
    await this.enter('rules');
    const item = await this.page.waitForSelector(`::-p-xpath(//li[code[starts-with(., '${frame}')]])`);
    await (await item.$('button')).click();
    await this.page.waitForFunction((li) => li.querySelector('.answer').dataset.refused, {}, item);
    return item.$eval('.answer', (p) => p.textContent);
  }

  /**
   * Sends frames over a WebSocket of its own, as a page made by another person could for
   * this member. Returns the answers, in their order.
   */
  answers(...frames) {
    return this.page.evaluate(
      (list) =>
        new Promise((resolve, reject) => {
          const socket = new WebSocket(location.origin.replace('http', 'ws') + '/push/websocket');
          const answers = [];
          const send = ([channel, data], n) => socket.send(JSON.stringify({ channel, uuid: `${performance.now()}-${n}`.replace('.', '-'), agentId: 'raw', data }));
          socket.onopen = () => [['/meta/connect', {}], ...list].forEach(send);
          socket.onclose = () => reject(new Error('closed'));
          socket.onmessage = ({ data }) => {
            const frame = JSON.parse(data);
            const n = Number(String(frame.uuid).split('-').at(-1));
            if (!frame.channel.startsWith('/meta/')) return;
            answers[n] = frame;
            if (Object.keys(answers).length === list.length + 1) {
              socket.onclose = null;
              socket.close();
              resolve(answers.slice(1));
            }
          };
        }),
      frames,
    );
  }

  /** What a page must not have: complaints on its console, violations of its Content-Security-Policy. */
  async complaints() {
    return [...this.page.complaints, ...(await this.page.evaluate(() => window.violations))];
  }
}

// The server hashes these passwords again at the lowest cost. With the race detector and
// the hashes of the example, one check takes many seconds, and a minute on a busy machine.
test('the accounts of the example have the passwords that are used here', { skip: skipWithout({ php: '/usr/bin/php' }) }, async () => {
  const caddyfile = await readFile(new URL('../../examples/members/Caddyfile', import.meta.url), 'utf8');
  for (const [name, password] of Object.entries(passwords)) {
    const [, hash] = new RegExp(`^\\s*${name} (\\$2a\\$14\\$\\S+)$`, 'm').exec(caddyfile);
    const { stdout } = await run('/usr/bin/php', ['-r', 'echo password_verify($argv[1], $argv[2]) ? "right" : "wrong";', password, hash]);
    assert.equal(stdout, 'right', name);
  }
});

for (const name of ['chrome', 'firefox']) {
  describe(`the members' area in ${name}`, { skip: without(name) }, () => {
    let server;
    let browser;
    let opened = [];

    before(async () => {
      server = await Server.start('examples/members/Caddyfile', undefined, passwords);
      browser = await startBrowser(name);
    });

    after(async () => {
      await browser?.close();
      await server?.stop();
    });

    /** Opens the page as the member, and waits until it reads the inbox and the news. */
    async function open(member, options = {}) {
      const login = { username: member, password: passwords[member] };
      const members = new MembersPage(await browser.open(server.url, { ...options, login }));
      await members.page.waitForSelector('#state[data-state="connected"]');
      await members.page.waitForFunction(() => document.querySelectorAll('[data-read="true"]').length === 2);
      opened.push(members);
      return members;
    }

    afterEach(async () => {
      const complaints = await Promise.all(opened.map((members) => members.complaints()));
      opened = [];
      assert.deepEqual(complaints.flat(), []);
    });

    test('a message reaches its inbox, and says who wrote it', async () => {
      const alice = await open('alice');
      const bob = await open('bob', phone);
      assert.equal(await bob.page.$eval('#name', (bdi) => bdi.textContent), 'bob');
      await picture(alice.page, `members-${name}-empty`);
      await bob.write('alice', 'Good morning, Alice');
      await alice.sees('inbox', 'bob', 'Good morning, Alice');
      await bob.sees('inbox', 'bob', 'Good morning, Alice');
      await alice.write('bob', 'Good morning, Bob');
      await bob.sees('inbox', 'alice', 'Good morning, Bob');
      assert.deepEqual(await alice.entries('inbox'), [
        { from: 'bob', text: 'Good morning, Alice', mine: false, reason: '' },
        { from: 'alice', text: 'Good morning, Bob', status: 'sent', mine: true, reason: '' },
      ]);
      await picture(alice.page, `members-${name}-inbox`);
      await picture(bob.page, `members-${name}-inbox-phone`);
    });

    if (name !== 'chrome') return;

    test('nobody can publish in the name of another', async () => {
      const alice = await open('alice');
      const bob = await open('bob');
      const at = '1999-12-31T23:59:59Z';
      const [answer] = await bob.answers(['users/alice', { from: 'carol', text: 'I am carol', at, extra: true }]);
      assert.equal(answer.channel, '/meta/successful');
      await alice.sees('inbox', 'bob', 'I am carol');
      assert.equal((await alice.entries('inbox')).length, 1);
      const time = await alice.page.$eval('#view-inbox time', (element) => element.dateTime);
      assert.ok(Math.abs(new Date(time) - Date.now()) < 60_000, `at ${time}`);

      assert.equal(await bob.attempt('publish users/bob {"from":"alice"'), 'Accepted.');
      await bob.sees('inbox', 'bob', 'Guess who!');
      assert.equal(await bob.page.$eval('nav a[href="#inbox"] .unread b', (b) => b.textContent), '1');
    });

    test('an inbox is read by its owner only', async () => {
      const alice = await open('alice');
      const bob = await open('bob');
      const carol = await open('carol', phone);
      assert.match(await carol.attempt('subscribe users/alice'), /^Refused \(denied\): This is somebody else's inbox\.$/);
      assert.match(await carol.attempt('subscribe *'), /^Refused \(denied\): \w+ \w+/);
      await picture(carol.page, 'members-rules-phone');
      const channels = ['users/alice', 'users/*', 'users/carol/*', '*', 'users', 'users/alice/x', 'users/Carol', 'other'];
      for (const answer of await carol.answers(...channels.map((channel) => ['/meta/subscribe', { channel }]))) {
        assert.equal(answer.successful, false, JSON.stringify(answer));
        assert.equal(answer.code, 'denied', JSON.stringify(answer));
      }

      await bob.write('alice', 'for alice only');
      await alice.sees('inbox', 'bob', 'for alice only');
      await bob.write('carol', 'for carol only');
      await carol.sees('inbox', 'bob', 'for carol only');
      assert.deepEqual((await carol.entries('inbox')).map(({ text }) => text), ['for carol only']);
    });

    test('editors write news, others are told that they cannot', async () => {
      const alice = await open('alice');
      const bob = await open('bob', phone);
      const carol = await open('carol');
      await bob.publishNews('Bob was here');
      await bob.page.waitForSelector('#view-news li[data-status="failed"]');
      const [refused] = await bob.entries('news');
      assert.equal(refused.reason, 'Only editors write news.');
      await picture(bob.page, 'members-news-refused-phone');
      await bob.page.click('#view-news .edit');
      assert.equal(await bob.page.$eval('#text', (area) => area.value), 'Bob was here');

      await alice.publishNews('We meet on Tuesday');
      for (const member of [alice, bob, carol]) await member.sees('news', 'alice', 'We meet on Tuesday');
      assert.deepEqual(await alice.entries('news'), [{ from: 'alice', text: 'We meet on Tuesday', status: 'sent', mine: true, reason: '' }]);
      assert.equal((await bob.entries('news')).length, 1);
      assert.equal(await carol.page.$eval('nav a[href="#news"] .unread b', (b) => b.textContent), '1');
      await picture(carol.page, 'members-unread');
      await carol.enter('news');
      assert.ok(await carol.page.$eval('nav a[href="#news"] .unread', (badge) => badge.hidden));
      await picture(carol.page, 'members-news');
    });

    test('the rules let only text through, and only where they allow it', async () => {
      const bob = await open('bob');
      const wrong = {
        'a message has a text': [null, 7, 'text', [], ['text'], {}, { Text: 'a' }, { text: null }, { text: 7 }, { text: ['a'] }, { text: {} }],
        'a text has 1 to 2,000 characters': [{ text: '' }, { text: 'x'.repeat(2001) }],
      };
      for (const [reason, list] of Object.entries(wrong)) {
        for (const { channel, code, error } of await bob.answers(...list.map((data) => ['users/bob', data]))) {
          assert.deepEqual({ channel, code, error }, { channel: '/meta/error', code: 'denied', error: reason });
        }
      }
      assert.equal(await bob.attempt('publish users/alice {"text":7}'), 'Refused (denied): A message has a text.');
      assert.match(await bob.attempt('publish lobby'), /^Refused \(denied\): \w+ \w+/);
      await picture(bob.page, 'members-rules');
      const [whole] = await bob.answers(['users/bob', { text: '😀'.repeat(2000) }]);
      assert.equal(whole.channel, '/meta/successful', JSON.stringify(whole));
      await bob.sees('inbox', 'bob', '😀'.repeat(2000));
      assert.equal((await bob.entries('inbox')).length, 1);
    });

    test('markup stays text, and the policy holds', async () => {
      const alice = await open('alice');
      const bob = await open('bob');
      const evil = '<img src=x onerror=window.pwned=1>';
      await bob.write('alice', evil);
      await alice.sees('inbox', 'bob', evil);
      assert.equal(await alice.page.$$eval('.log img', (images) => images.length), 0);
      assert.equal(await alice.page.evaluate(() => window.pwned), undefined);

      const carol = await open('carol');
      opened.pop(); // the page will complain
      const refused = await carol.page.evaluate(() => {
        try {
          document.body.innerHTML += '<img src=x>';
          return false;
        } catch {
          return true;
        }
      });
      assert.ok(refused, 'HTML from text was let in');
    });

    test('the page fits a phone, and works by keyboard', async () => {
      for (const dark of [false, true]) {
        const carol = await open('carol', { ...phone, dark });
        const bob = await open('bob');
        await bob.write('carol', 'long'.repeat(200));
        await carol.sees('inbox', 'bob', 'long'.repeat(200));
        for (const view of ['inbox', 'news', 'rules']) {
          await carol.page.focus(`nav a[href="#${view}"]`);
          await carol.page.keyboard.press('Enter');
          await carol.page.waitForSelector(`#view-${view}:not([hidden])`);
          assert.equal(await carol.page.evaluate(() => document.documentElement.scrollWidth), phone.width, view);
          await picture(carol.page, `members-${view}-phone-${dark ? 'dark' : 'light'}`);
        }
        await carol.page.focus('#attempts button');
        await carol.page.keyboard.press('Enter');
        await carol.page.waitForSelector('#attempts .answer[data-refused="true"]');
      }
    });

    test('without a login, no file and no session is served', async () => {
      const bad = `Basic ${Buffer.from('alice:builder').toString('base64')}`;
      for (const path of ['/', '/members.js', '/connection.js', '/push', '/push/info', '/push/websocket']) {
        for (const headers of [{}, { Authorization: bad }]) {
          const response = await fetch(server.url + path, { headers });
          assert.equal(response.status, 401, path);
        }
      }
    });

    test('the page survives a restart of the server', async (t) => {
      const server = await Server.start('examples/members/Caddyfile', undefined, passwords);
      t.after(() => server.stop());
      const login = { username: 'bob', password: passwords.bob };
      const bob = new MembersPage(await browser.open(server.url, { login }));
      await bob.page.waitForSelector('#state[data-state="connected"]');
      await server.kill();
      await bob.page.waitForSelector('#state[data-state="disconnected"]');
      await bob.write('alice', 'meanwhile');
      await bob.page.waitForSelector('#view-inbox li[data-status="sending"]');
      await picture(bob.page, 'members-away');
      await server.start();
      await bob.page.$eval('#reconnect', (button) => button.click());
      await bob.page.waitForSelector('#view-inbox li[data-status="sent"]');
    });
  });
}
