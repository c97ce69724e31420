// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Processes that tests start, and ports for them.
 *
 * @module
 */

import { spawn } from 'node:child_process';
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

/** @returns {Promise<number>} a port of an address where nobody listens */
export async function freePort(host = '127.0.0.1') {
  const server = net.createServer();
  await new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, host, resolve);
  });
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}
