// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { ChatPage } from './chatpage.mjs';
import { picture, Server, startBrowser, without } from './harness.mjs';
import { Proxy } from './proxy.mjs';

const MESSAGE_SIZE = 4096;
const phone = { width: 375, height: 812 };
const desktop = { width: 1280, height: 800 };

for (const name of ['chrome', 'firefox']) {
  describe(`the chat in ${name}`, { skip: without(name) }, () => {
    let server;
    let browser;

    before(async () => {
      server = await Server.start('Caddyfile.example', (handler) => {
        handler.limits = { message_size: MESSAGE_SIZE };
      });
      browser = await startBrowser(name);
    });

    after(async () => {
      await browser?.close();
      await server?.stop();
    });

    test('two tabs see each other', async () => {
      const ada = await ChatPage.open(browser, server.url, desktop);
      const grace = await ChatPage.open(browser, server.url, phone);
      await ada.rename('Ada');
      await grace.rename('Grace Hopper');
      await picture(ada.page, `${name}-desktop-empty`);
      await picture(grace.page, `${name}-phone-empty`);

      await ada.say('Hello from the desktop');
      await grace.sees('Hello from the desktop');
      await grace.say('And from the phone');
      await ada.sees('And from the phone');
      await grace.sees('And from the phone');
      await ada.sees('Hello from the desktop');
      await picture(ada.page, `${name}-desktop`);
      await picture(grace.page, `${name}-phone`);

      assert.deepEqual(await grace.entries(), [
        { name: 'Ada', text: 'Hello from the desktop', status: 'sent', mine: false },
        { name: 'Grace Hopper', text: 'And from the phone', status: 'sent', mine: true },
      ]);
      assert.deepEqual(await ada.texts(), await grace.texts());
      assert.deepEqual([...(await ada.complaints()), ...(await grace.complaints())], []);
    });

    if (name !== 'chrome') return;

    test('the page fits a phone, and has a dark theme', async () => {
      for (const dark of [false, true]) {
        const chat = await ChatPage.open(browser, server.url, { ...phone, dark });
        await chat.paste(`A long word does not widen the page: ${'long'.repeat(60)}`);
        await chat.page.waitForSelector('#log li[data-status="sent"]');
        await picture(chat.page, `phone-${dark ? 'dark' : 'light'}`);
        const { wide, paper } = await chat.page.evaluate(() => ({
          wide: document.documentElement.scrollWidth,
          paper: getComputedStyle(document.body).backgroundColor,
        }));
        assert.equal(wide, phone.width);
        const [red] = paper.match(/\d+/).map(Number);
        assert.equal(red < 64, dark, `background ${paper}`);
        assert.deepEqual(await chat.complaints(), []);
      }
    });

    test('messages of others are shown as text', async () => {
      const evil = '<img src=x onerror=window.pwned=1>';
      const mallory = await ChatPage.open(browser, server.url);
      const victim = await ChatPage.open(browser, server.url);
      await mallory.rename(evil);
      const typing = (want) => document.querySelector('#typing').textContent === want;
      await Promise.all([victim.page.waitForFunction(typing, {}, `${evil} is typing …`), mallory.page.type('#text', evil)]); // it stays for a few seconds
      await mallory.page.keyboard.press('Enter');
      await victim.sees(evil);
      assert.deepEqual((await victim.entries()).at(-1), { name: evil, text: evil, status: 'sent', mine: false });

      // Messages that no form sends: any JSON, on channels with any name.
      const link = '<img/src=x/onerror=window.pwned=1>';
      await mallory.join(link);
      await mallory.say('in a channel with a bad name');
      await mallory.sees('in a channel with a bad name');
      const shapes = [null, 7, 'word', [], {}, { name: {}, text: [] }, { name: '', text: evil, at: 1e300 }, { name: 'x', text: 1, at: 'y' }];
      await mallory.page.evaluate(publishRaw, [...shapes, { name: 'Mallory', text: 'the last', at: {} }]);
      await victim.sees('the last');
      await victim.enter('*');
      await victim.sees('in a channel with a bad name');
      await victim.sees('the last');
      assert.deepEqual((await victim.texts()).slice(-1 - shapes.length), [
        'null', '7', '"word"', '[]', '{}', '{"name":{},"text":[]}', evil, '{"name":"x","text":1,"at":"y"}', 'the last',
      ]);
      await picture(victim.page, 'everything');

      for (const chat of [mallory, victim]) {
        assert.equal(await chat.page.evaluate(() => window.pwned), undefined);
        assert.equal(await chat.page.$$eval('#log img, .rooms img, .typing img', (images) => images.length), 0);
        assert.deepEqual(await chat.complaints(), []);
      }
    });

    test('the list shows who is here, by name', async () => {
      const ada = await ChatPage.open(browser, server.url, desktop);
      await ada.join('people');
      await ada.rename('Ada');
      await ada.here('Only you are here');
      const looks = [];
      for (const [dark, size] of [[false, { width: 390, height: 800 }], [true, { width: 390, height: 800 }], [true, desktop]]) {
        const grace = await ChatPage.open(browser, server.url, { ...size, dark });
        await grace.join('people');
        looks.push(grace);
      }
      const [grace, linus, margaret] = looks;
      await grace.rename('Grace Hopper');
      await linus.rename('Linus');
      await margaret.rename('Margaret');
      await ada.here('Grace Hopper, Linus, Margaret and you are here');
      await grace.here('Ada, Linus, Margaret and you are here');
      await Promise.all([ada.page.waitForSelector('#faces .typing'), linus.page.type('#text', 'h')]);
      await ada.page.click('#here');
      await ada.page.waitForFunction(() => document.querySelector('#people-dialog').open);
      assert.deepEqual(await ada.page.$$eval('#people .name', (names) => names.map((name) => name.textContent)), ['Grace Hopper', 'Linus', 'Margaret', 'Ada']);
      await picture(ada.page, 'people-desktop-light');
      await ada.page.click('#people-dialog .primary');
      await grace.say('Who is here?');
      await ada.sees('Who is here?');
      await picture(ada.page, 'here-desktop-light');
      await picture(grace.page, 'here-phone-light');
      await picture(linus.page, 'here-phone-dark');
      await picture(margaret.page, 'here-desktop-dark');
      for (const { page } of looks) assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), await page.evaluate(() => innerWidth));

      // A reloaded page is a new agent with the same name. The old one does not stay in the list.
      await linus.page.reload();
      await linus.is('connected');
      await ada.here('Grace Hopper, Margaret, Linus and you are here');
      await margaret.page.close();
      await ada.here('Grace Hopper, Linus and you are here');
      await grace.rename('Rear Admiral Hopper');
      await ada.here('Rear Admiral Hopper, Linus and you are here');
      assert.deepEqual(await ada.complaints(), []);

      // A page takes the sender of a name from the server, and shows a name as text of limited length.
      await linus.page.evaluate(publishRaw, [{ name: '<img src=x onerror=window.pwned=1>', tab: 'x', uuid: 'not mine' }, { name: {}, tab: [] }, 7], 'names');
      await linus.page.evaluate(publishRaw, [{ name: 'x'.repeat(41), tab: 'x' }], 'names');
      await ada.here('Rear Admiral Hopper, Linus and you are here');
      assert.equal(await ada.page.evaluate(() => window.pwned), undefined);
    });

    test('the Content-Security-Policy blocks markup', async () => {
      const chat = await ChatPage.open(browser, server.url);
      const refused = await chat.page.evaluate(() => {
        try {
          document.body.innerHTML += '<img src=x onerror=window.pwned=1>';
          return false;
        } catch {
          return true;
        }
      });
      assert.ok(refused, 'HTML from text was let in');
      assert.match((await chat.complaints()).join('\n'), /require-trusted-types-for/);
      const { headers } = await fetch(server.url);
      assert.match(headers.get('content-security-policy'), /default-src 'self'/);
      assert.doesNotMatch(headers.get('content-security-policy'), /unsafe|\*|data:/);
    });

    test('a refused message shows the reason and can be sent again', async () => {
      const chat = await ChatPage.open(browser, server.url);
      await chat.join('refused');
      const long = 'x'.repeat(MESSAGE_SIZE);
      await chat.paste(long);
      await chat.sees(long, 'failed');
      const reason = () => chat.page.$eval('#log li[data-status="failed"] .reason', (span) => span.textContent);
      assert.match(await reason(), /\w+ \w+/);
      await picture(chat.page, 'refused');
      await chat.say('shorter');
      await chat.sees('shorter');
      await chat.page.$eval('#log .reason', (span) => (span.textContent = ''));
      await chat.page.click('#log li[data-status="failed"] .again');
      await chat.page.waitForFunction(() => document.querySelector('#log [data-status="failed"] .reason')?.textContent);
      assert.match(await reason(), /\w+ \w+.*\.$/);
      assert.deepEqual((await chat.entries()).map((entry) => entry.status), ['failed', 'sent']);
      await chat.page.click('#log li[data-status="failed"] .edit');
      assert.equal(await chat.page.$eval('#text', (area) => area.value), long);
      assert.deepEqual(await chat.texts(), ['shorter']);
      assert.deepEqual(await chat.complaints(), []);
    });

    test('channels are joined, left, counted and remembered', async () => {
      const ada = await ChatPage.open(browser, server.url);
      const grace = await ChatPage.open(browser, server.url);
      await ada.join('stories/7');
      await grace.join('stories/7');
      await grace.enter('lobby');
      await ada.say('one');
      await ada.say('two');
      await grace.page.waitForFunction(() => document.querySelector('.rooms a[href="#stories/7"] .unread b').textContent === '2');
      await picture(grace.page, 'unread');
      await grace.enter('stories/7');
      assert.deepEqual(await grace.texts(), ['one', 'two']);
      assert.ok(await grace.page.$eval('.rooms a[href="#stories/7"] .unread', (badge) => badge.hidden));

      await grace.page.click('.rooms a[aria-current] + .leave');
      await grace.page.waitForFunction(() => !document.querySelector('.rooms a[href="#stories/7"]'));
      await ada.say('nobody hears');
      await ada.sees('nobody hears');
      await grace.enter('*');
      await grace.sees('nobody hears');

      await ada.page.reload();
      await ada.is('connected');
      assert.equal(await ada.page.$eval('#title', (title) => title.textContent), '# stories/7');
      await ada.join('no good');
      await ada.page.waitForSelector('.rooms .refused [aria-current]');
      assert.match(await ada.page.$eval('#hint', (hint) => hint.textContent), /^You are not in this channel\. A \w.*\.$/);
      await picture(ada.page, 'refused-channel');
      assert.deepEqual([...(await ada.complaints()), ...(await grace.complaints())], []);
    });

    test('a page begins with the newest 50 messages', async () => {
      const old = await ChatPage.open(browser, server.url);
      await old.page.evaluate(publishRaw, Array.from({ length: 60 }, (_, n) => ({ name: 'Ada', text: String(n + 1), at: Date.now() })));
      await old.sees('60');
      const fresh = await ChatPage.open(browser, server.url, phone);
      await fresh.sees('60');
      assert.deepEqual(await fresh.texts(), Array.from({ length: 50 }, (_, n) => String(n + 11)));
      assert.deepEqual(await fresh.marks(), []);
      assert.ok(await fresh.page.$$eval('.rooms .unread', (badges) => badges.every((badge) => badge.hidden)));
      await fresh.say('live');
      await old.sees('live');
      await fresh.sees('live');
      await fresh.enter('*');
      await fresh.sees('live');
      assert.deepEqual((await fresh.texts()).slice(-2), ['60', 'live']);
      await picture(fresh.page, 'phone-everything');
      await fresh.page.reload();
      await fresh.sees('live');
      assert.equal((await fresh.texts()).length, 50);
      assert.deepEqual(await fresh.complaints(), []);
    });

    test('what was missed while offline is shown, and counted', async (t) => {
      const proxy = await Proxy.start(() => server.port);
      t.after(() => proxy.stop());
      const ada = await ChatPage.open(browser, server.url);
      await ada.join('offline');
      await ada.say('before');
      await ada.sees('before');
      const pages = [];
      for (const [width, dark] of [[1200, false], [390, false], [1200, true], [390, true]]) {
        const grace = await ChatPage.open(browser, proxy.url, { width, height: 800, dark });
        await grace.join('offline');
        await grace.sees('before');
        pages.push([grace, `away-${width}-${dark ? 'dark' : 'light'}`]);
      }
      await proxy.down();
      for (const [grace] of pages) await grace.is('disconnected');
      for (const text of ['one', 'two', 'three']) await ada.say(text);
      await ada.sees('three');
      await proxy.up();
      for (const [grace, name] of pages) {
        await grace.page.$eval('#reconnect', (button) => button.click());
        await grace.is('connected');
        await grace.marked('3 messages while you were away');
        await picture(grace.page, name);
      }
      await ada.say('live');
      for (const [grace] of pages) {
        await grace.sees('live');
        assert.deepEqual(await grace.texts(), ['before', 'one', 'two', 'three', 'live']);
        assert.deepEqual(await grace.marks(), ['3 messages while you were away']);
        assert.ok(await grace.page.$eval('#log .mark', (mark) => mark.previousElementSibling.querySelector('.text').textContent === 'before'));
        assert.equal(await grace.page.evaluate(() => document.documentElement.scrollWidth), await grace.page.evaluate(() => innerWidth));
      }
      assert.deepEqual(await ada.marks(), []);
    });

    test('the picture of the empty page needs no font', async () => {
      const chat = await ChatPage.open(browser, server.url, phone);
      await chat.join('empty');
      await picture(chat.page, 'empty');
      const { width, text } = await chat.page.$eval('#empty', (empty) => ({ width: empty.querySelector('svg').getBoundingClientRect().width, text: empty.textContent }));
      assert.ok(width > 30);
      assert.doesNotMatch(text, /\p{Extended_Pictographic}/u);
      assert.deepEqual(await chat.complaints(), []);
    });

    for (const signal of ['SIGKILL', 'SIGTERM']) {
      test(`the page survives a restart of the server (${signal})`, async (t) => {
        const server = await Server.start('Caddyfile.example');
        t.after(() => server.stop());
        const ada = await ChatPage.open(browser, server.url);
        const grace = await ChatPage.open(browser, server.url, phone);
        await ada.say('before');
        await grace.sees('before');

        await server.kill(signal);
        await ada.is('disconnected');
        await grace.is('disconnected');
        assert.match(await ada.page.$eval('#reason', (span) => span.textContent), /\w+ \w+/);
        assert.match(await ada.page.$eval('#countdown', (span) => span.textContent), /Reconnecting in \d+\ss\.|Connecting/);
        await ada.say('meanwhile');
        await ada.sees('meanwhile', 'sending');
        await picture(grace.page, `away-${signal}`);

        await server.start();
        for (const chat of [ada, grace]) {
          // The test presses the button, because the wait may have grown to 30 s.
          await chat.page.$eval('#reconnect', (button) => button.click());
          await chat.is('connected');
        }
        await ada.sees('meanwhile');
        for (const chat of [ada, grace]) await chat.marked('Messages may be missing here: the server was restarted.');
        await grace.sees('meanwhile');
        await picture(grace.page, `gap-${signal}`);
        await grace.say('after');
        await ada.sees('after');
        await grace.sees('after');
        assert.deepEqual(await ada.texts(), ['before', 'meanwhile', 'after']);
      });
    }
  });
}

/** Publishes each item on a channel over a connection of its own; runs in the page. */
function publishRaw(list, on = 'lobby') {
  return new Promise((resolve) => {
    const socket = new WebSocket(location.origin.replace('http', 'ws') + '/push/websocket');
    const send = (uuid, channel, data) => socket.send(JSON.stringify({ channel, uuid, agentId: 'raw', data }));
    let answers = 0;
    socket.onopen = () => send('c', '/meta/connect', {});
    socket.onmessage = ({ data }) => {
      if (JSON.parse(data).channel === '/meta/connect') list.forEach((each, n) => send(`raw-${n}`, on, each));
      else if (++answers === list.length) resolve(socket.close());
    };
  });
}
