// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Processes that tests start, and ports for them.
 *
 * @module
 */

import { spawn } from 'node:child_process';
import { randomInt } from 'node:crypto';
import net from 'node:net';

/** A process that can be killed, held up for a while, and started again. */
export class Process {
  #child = null;
  #exited = Promise.resolve();

  get running() {
    return this.#child !== null;
  }

  /** Resolves when the process has ended. */
  get exited() {
    return this.#exited;
  }

  /** Starts it with a command line. @returns {import('node:child_process').ChildProcess} */
  launch([binary, ...args], options) {
    const child = spawn(binary, args, options);
    const end = () => child.kill('SIGKILL'); // if a test run is interrupted, no process is left
    process.once('exit', end);
    this.#child = child;
    this.#exited = new Promise((resolve) => {
      child.once('exit', resolve);
      child.once('error', resolve);
    }).then(() => {
      process.off('exit', end);
      this.#child = null;
    });
    return child;
  }

  /** Sends it a signal, if it runs: SIGSTOP and SIGCONT hold it up for a while. */
  signal(name) {
    this.#child?.kill(name);
  }
}

const given = new Set(); // by freePort

/**
 * Returns a port that a process can use which starts later. Systems give higher ports than these
 * to programs that ask for any.
 *
 * @returns {Promise<number>} a port of an address where nobody listens; each only once
 */
export async function freePort(host = '127.0.0.1') {
  for (;;) {
    const port = randomInt(10_000, 30_000);
    if (given.has(port)) continue;
    const server = net.createServer();
    const free = await new Promise((resolve, reject) => {
      server.once('error', (error) => (error.code === 'EADDRINUSE' ? resolve(false) : reject(error)));
      server.listen(port, host, () => resolve(true));
    });
    if (!free) continue;
    await new Promise((resolve) => server.close(resolve));
    given.add(port);
    return port;
  }
}
