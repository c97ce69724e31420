// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Pages of other origins try everything, in a browser, to get a session or to use a session
 * whose name has leaked. Every transport is on.
 *
 * @module
 */

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { startBrowser, within, without } from './harness.mjs';
import { Elsewhere, startSite } from './sockjs.mjs';

const all = '\t\ttransports websocket xhr_streaming xhr eventsource htmlfile jsonp';

/**
 * Tries everything that a page can, and returns the results. Runs in the page.
 *
 * @param {string} base  the endpoint's URL
 * @param {string} leaked  the name of another page's session, or empty
 * @param {string} [some]  the tries to make, as a regular expression of their names
 * @returns {Promise<Record<string, string>>} by attempt: "no", or what the page got
 */
async function attempts(base, leaked, some = '') {
  let count = 0;
  const session = () => `${base}/000/${leaked || `foreign${++count}${crypto.randomUUID().slice(0, 8)}`}`;
  const publication = JSON.stringify([JSON.stringify({ channel: 'room', uuid: crypto.randomUUID(), agentId: 'page', data: 'from elsewhere' })]);
  const patience = 20_000;
  const first = (listen) =>
    new Promise((resolve) => {
      setTimeout(resolve, patience, 'nothing in time');
      listen(resolve);
    });
  const webSocket = (url) =>
    first((done) => {
      const socket = new WebSocket(url.replace('http', 'ws'));
      socket.onopen = () => {
        done('opened');
        socket.close();
      };
      socket.onerror = () => done('no');
    });
  const request = (url, options) =>
    fetch(url, { method: 'POST', credentials: 'include', ...options }).then(
      (response) => {
        void response.body?.cancel();
        // The page cannot read an opaque answer; the server's log has it.
        return response.type === 'opaque' || response.status === 403 ? 'no' : `status ${response.status}`;
      },
      () => 'no',
    );
  /** Waits until a frame of the document has loaded. */
  const frame = (name, begin) =>
    first((done) => {
      const element = document.createElement('iframe');
      element.name = name;
      document.body.append(element);
      element.onload = () => {
        try {
          if (element.contentDocument?.URL === 'about:blank') return; // not yet
        } catch {
          // It belongs to another site, so this page cannot read it.
        }
        done('no');
      };
      begin(element);
    });
  const form = (url, enctype, name, value) => {
    const target = `frame${++count}`;
    return frame(target, () => {
      const element = document.createElement('form');
      Object.assign(element, { action: url, method: 'post', enctype, target });
      const field = document.createElement('textarea');
      Object.assign(field, { name, value });
      element.append(field);
      document.body.append(element);
      element.submit();
    });
  };
  const script = (url) =>
    first((done) => {
      const element = document.createElement('script');
      window.called = (text) => done(`called with ${text}`);
      element.onload = () => done('a script was loaded');
      element.onerror = () => done('no');
      element.src = url;
      document.head.append(element);
    });
  const events = (url) =>
    first((done) => {
      const source = new EventSource(url, { withCredentials: true });
      source.onopen = () => {
        done('opened');
        source.close();
      };
      source.onerror = () => {
        source.close();
        done('no');
      };
    });
  const sockJS = (transport) =>
    first((done) => {
      const options = { transports: [transport], sessionId: () => leaked || `foreign${++count}${crypto.randomUUID().slice(0, 8)}` };
      const socket = startSockJS(base, options);
      socket.onopen = () => {
        done('opened');
        socket.onclose = null;
        socket.close();
      };
      socket.onclose = () => done('no');
    });
  /** A page without an origin, which shows its results. */
  const sandboxed = (what) =>
    first((done) => {
      const element = document.createElement('iframe');
      element.sandbox = 'allow-scripts allow-forms';
      addEventListener('message', ({ data, source }) => {
        if (source === element.contentWindow) done(data);
      });
      element.srcdoc = `<script>(${what})(${JSON.stringify(session())}).then(
        (answer) => parent.postMessage(answer, '*'), () => parent.postMessage('no', '*'))</script>`;
      document.body.append(element);
    });

  const tries = {
    'websocket': () => webSocket(`${session()}/websocket`),
    'bare websocket': () => webSocket(`${base}/websocket`),
    'fetch /info': () => request(`${base}/info`, { method: 'GET' }),
    'EventSource': () => events(`${session()}/eventsource`),
    'script of jsonp': () => script(`${session()}/jsonp?c=called`),
    'script of htmlfile': () => script(`${session()}/htmlfile?c=called`),
    'frame of htmlfile': () => frame(`frame${++count}`, (element) => (element.src = `${session()}/htmlfile?c=called`)),
    'frame of eventsource': () => frame(`frame${++count}`, (element) => (element.src = `${session()}/eventsource`)),
    'frame of the iframe page': () => frame(`frame${++count}`, (element) => (element.src = `${base}/iframe.html`)),
    'form to jsonp_send': () => form(`${session()}/jsonp_send`, 'application/x-www-form-urlencoded', 'd', publication),
    'form of plain text to xhr_send': () => form(`${session()}/xhr_send`, 'text/plain', publication.replace('=', ''), ''),
    'beacon to xhr_send': async () => (navigator.sendBeacon(`${session()}/xhr_send`, publication) ? 'no' : 'not sent'),
    'sandboxed fetch': () => sandboxed((url) => fetch(`${url}/xhr`, { method: 'POST' }).then((response) => `status ${response.status}`)),
    'sandboxed fetch, not to be read': () => sandboxed((url) => fetch(`${url}/xhr_streaming`, { method: 'POST', mode: 'no-cors' }).then(() => 'no')),
    'sandboxed websocket': () =>
      sandboxed(
        (url) =>
          new Promise((resolve) => {
            const socket = new WebSocket(`${url.replace('http', 'ws')}/websocket`);
            socket.onopen = () => resolve('opened');
            socket.onerror = () => resolve('no');
          }),
      ),
  };
  for (const transport of ['xhr', 'xhr_streaming']) {
    tries[`fetch ${transport}`] = () => request(`${session()}/${transport}`);
    tries[`fetch ${transport}, not to be read`] = () => request(`${session()}/${transport}`, { mode: 'no-cors' });
    tries[`form to ${transport}`] = () => form(`${session()}/${transport}`, 'text/plain', 'a', 'b');
  }
  for (const send of ['xhr_send', 'jsonp_send']) {
    tries[`fetch ${send}`] = () => request(`${session()}/${send}`, { body: publication });
    tries[`fetch ${send}, not to be read`] = () => request(`${session()}/${send}`, { body: publication, mode: 'no-cors' });
  }
  for (const transport of ['websocket', 'xhr-streaming', 'xhr-polling', 'eventsource', 'htmlfile', 'jsonp-polling']) {
    tries[`sockjs-client over ${transport}`] = () => sockJS(transport);
  }
  const found = {};
  for (const [what, attempt] of Object.entries(tries)) {
    if (new RegExp(some).test(what)) found[what] = await attempt();
  }
  return found;
}

/** Opens a session at the site's own page, and keeps the messages of the channel room. Runs in the page. */
function listen(base, id) {
  return new Promise((resolve, reject) => {
    window.heard = [];
    window.socket = startSockJS(base, { transports: ['xhr-streaming'], server: '000', sessionId: () => id });
    window.say = (channel, data) => window.socket.send(JSON.stringify({ channel, uuid: crypto.randomUUID(), agentId: 'page', data }));
    window.socket.onopen = () => window.say('/meta/connect', {});
    window.socket.onclose = ({ code, reason }) => {
      window.heard.push(`closed: ${code} ${reason}`);
      reject(new Error(`${code} ${reason}`));
    };
    window.socket.onmessage = ({ data }) => {
      const frame = JSON.parse(data);
      if (frame.channel === '/meta/connect') window.say('/meta/subscribe', { channel: 'room' });
      else if (frame.channel === '/meta/subscribe') resolve();
      else if (frame.channel !== '/meta/successful') window.heard.push(frame.data ?? data);
    };
  });
}

describe('pages of other origins, in chrome', { skip: without('chrome') }, () => {
  let browser;
  let elsewhere;
  before(async () => {
    browser = await startBrowser();
    elsewhere = await Elsewhere.start();
  });
  after(async () => {
    await browser?.close();
    await elsewhere?.stop();
  });

  /** The server's answers to pages of other origins. */
  const refused = (server) =>
    server.log
      .split('\n')
      .filter((line) => line.includes('"logger":"http.log.access'))
      .map((line) => JSON.parse(line))
      .filter(({ request }) => request.uri.startsWith('/push'))
      .map(({ request, status }) => ({
        what: `${request.method} ${request.uri}`,
        own: (request.headers.Origin?.[0] ?? server.url) === server.url && (request.headers['Sec-Fetch-Site']?.[0] ?? 'same-origin') === 'same-origin',
        status,
      }))
      .filter(({ own }) => !own);

  /** Checks that each attempt has reached the server, and was answered with 403. */
  async function allRefused(server, found) {
    const tries = Object.keys(found).length;
    assert.ok(tries > 25, `${tries} tries`);
    assert.deepEqual(found, Object.fromEntries(Object.keys(found).map((what) => [what, 'no'])));
    const logged = async () => {
      while (refused(server).length < tries) await new Promise((resolve) => setTimeout(resolve, 20));
    };
    await within('the access log', logged());
    assert.deepEqual(refused(server).filter(({ status }) => status !== 403), []);
  }

  for (const [name, host] of [
    ['another port', 'localhost'],
    ['another host', 'other.localhost'],
  ]) {
    test(`a page of ${name} gets no session`, async (t) => {
      // There is room for one session, which an attempt would take.
      const server = await startSite(`${all}\n\t\tlimits {\n\t\t\tagents 1\n\t\t}`);
      t.after(() => server.stop());
      const page = await browser.open(elsewhere.origin(host));
      const found = await page.evaluate(attempts, `${server.url}/push`, '');
      const own = await browser.open(server.url);
      await own.evaluate(listen, '/push', 'own-session'); // the room is still free
      await allRefused(server, found);
      await Promise.all([page.close(), own.close()]);
    });

    // To a browser, other ports are the same site, so it sends the cookies.
    if (name !== 'another port') continue;
    test(`a page of ${name} can neither read nor write a session whose name it knows`, async (t) => {
      const server = await startSite(all);
      t.after(() => server.stop());
      const own = await browser.open(server.url);
      await own.evaluate(listen, '/push', 'own-session');
      const page = await browser.open(elsewhere.origin(host));
      const found = await page.evaluate(attempts, `${server.url}/push`, 'own-session');
      await own.evaluate(() => window.say('room', 'still here'));
      await own.waitForFunction(() => window.heard.length > 0);
      assert.deepEqual(await own.evaluate(() => window.heard), ['still here']);
      await allRefused(server, found);
      await Promise.all([page.close(), own.close()]);
    });
  }

  test('the same attempts succeed from a page of the site', async (t) => {
    const server = await startSite(all);
    t.after(() => server.stop());
    const page = await browser.open(server.url);
    const found = await page.evaluate(attempts, `${server.url}/push`, '', '^(websocket|bare websocket|EventSource|script of jsonp|fetch (xhr|xhr_streaming|/info)|sockjs-client .*|sandboxed .*)$');
    assert.equal(Object.keys(found).length, 16);
    for (const [what, answer] of Object.entries(found)) {
      if (what.startsWith('sandboxed')) assert.equal(answer, 'no', what); // a sandboxed page has no origin
      else assert.notEqual(answer, 'no', what);
    }
    assert.equal(found['script of jsonp'], 'called with o');
    await page.close();
  });
});
