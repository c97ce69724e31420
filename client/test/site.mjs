// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * A site for tests of the client. Its page shows what happens, under a strict
 * Content-Security-Policy.
 *
 * @module
 */

import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const CADDYFILE = `
http://:8080 {
	root DIR
	header Content-Security-Policy "default-src 'none'; script-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
	pushit /push {
		limits {
			message_size 1KiB
			credentials_size 1KiB
			publishes_per_second 5
			frames_per_second 20
		}
	}
	pushit /guarded {
		name guarded
		default allow
		connect bearer "open sesame, please"
	}
	file_server
}
`;
const PAGE = '<!doctype html><title>test</title><script type="module" src="/page.js"></script>';
const SCRIPT = `
import { PushIt } from '/push/pushit.mjs';
window.shown = [];
addEventListener('pageshow', ({ persisted }) => shown.push(persisted));
window.start = (options) => {
  window.push = new PushIt(options);
  window.states = [];
  window.seen = []; // when, in ms
  window.got = [];
  window.ended = [];
  push.on('state', (state) => states.push(state) && seen.push(Date.now()));
  push.on('error', (error) => ended.push('error ' + error.code));
  push.onMessageReceived = (channel, { payload }) => got.push(payload);
};
window.say = (data, channel = 'news') => push.publish({ channel, data }, (error) => ended.push(data + ' ' + error.code), () => ended.push(data));
window.ready = true;
`;

/** What makes it a site with TLS, whose certificate Caddy signs itself. */
const SECURE = ['http://:8080 {', '{\n\tauto_https disable_redirects\n\tskip_install_trust\n}\nhttps://localhost:8443 {\n\ttls internal'];

/**
 * @param {{secure?: boolean}} [options]  secure: with TLS
 * @returns {Promise<{caddyfile: string, remove: () => Promise<void>}>}
 */
export async function makeSite({ secure = false } = {}) {
  const dir = await mkdtemp(join(tmpdir(), 'pushit-site-'));
  const caddyfile = join(dir, 'Caddyfile');
  await writeFile(caddyfile, (secure ? CADDYFILE.replace(...SECURE) : CADDYFILE).replace('DIR', dir));
  await writeFile(join(dir, 'index.html'), PAGE);
  await writeFile(join(dir, 'page.js'), SCRIPT);
  await writeFile(join(dir, 'favicon.ico'), ''); // browsers ask for one
  return { caddyfile, remove: () => rm(dir, { recursive: true, force: true }) };
}
