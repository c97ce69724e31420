// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Network namespaces of Linux: machines on this machine, with cables that can be pulled. What
 * a process in one of them sends then waits in the kernel, as on a network that is gone.
 *
 * @module
 */

import { execFile, execFileSync } from 'node:child_process';
import { networkInterfaces } from 'node:os';
import { promisify } from 'node:util';

const run = promisify(execFile);
const ip = (...args) => run('ip', args);

/** A network for tests (RFC 2544), of which each run takes 256 addresses that no interface has. */
const network = (() => {
  const taken = Object.values(networkInterfaces()).flatMap((all) => all.map(({ address }) => address));
  for (;;) {
    const prefix = `198.18.${Math.floor(Math.random() * 256)}.`;
    if (!taken.some((address) => address.startsWith(prefix))) return prefix;
  }
})();

let last = 0;

/** The names of those that are there. If a test run is interrupted, none is left. */
const names = new Set();
process.once('exit', () => {
  for (const name of names) execFileSync('ip', ['netns', 'delete', name]);
});

/** A cable between this machine and a namespace. */
class Cable {
  #namespace;
  #inside;

  /** The address of its end here, and of the one in the namespace. */
  near;
  far;

  constructor(namespace, inside, near, far) {
    Object.assign(this, { near, far });
    this.#namespace = namespace;
    this.#inside = inside;
  }

  pull() {
    return ip('-n', this.#namespace, 'link', 'set', 'dev', this.#inside, 'down');
  }

  plug() {
    return ip('-n', this.#namespace, 'link', 'set', 'dev', this.#inside, 'up');
  }
}

export class Namespace {
  #name;
  #cables = 0;

  /** Says why there can be none here, or returns nothing. */
  static async missing() {
    try {
      const namespace = await Namespace.start();
      await namespace.cable().finally(() => namespace.stop());
    } catch (error) {
      return `no network namespaces here: ${(error.stderr || error.message).trim().split('\n')[0]}`;
    }
  }

  static async start() {
    const namespace = new Namespace();
    namespace.#name = `pushit-${process.pid}-${++last}`;
    await ip('netns', 'add', namespace.#name);
    names.add(namespace.#name);
    await ip('-n', namespace.#name, 'link', 'set', 'dev', 'lo', 'up');
    return namespace;
  }

  /** What the command line of a process in it begins with. */
  get command() {
    return ['ip', 'netns', 'exec', this.#name];
  }

  async cable() {
    const number = ++last; // of the network's 64
    const [outside, inside] = [`pt${process.pid}-${number}`, `eth${this.#cables++}`];
    const [near, far] = [1, 2].map((n) => `${network}${4 * (number % 64) + n}`);
    await ip('link', 'add', outside, 'type', 'veth', 'peer', 'name', inside, 'netns', this.#name);
    await ip('address', 'add', `${near}/30`, 'dev', outside);
    await ip('link', 'set', 'dev', outside, 'up');
    await ip('-n', this.#name, 'address', 'add', `${far}/30`, 'dev', inside);
    await ip('-n', this.#name, 'link', 'set', 'dev', inside, 'up');
    return new Cable(this.#name, inside, near, far);
  }

  /** Removes it, and its cables. No process may be left in it. */
  async stop() {
    await ip('netns', 'delete', this.#name);
    names.delete(this.#name);
  }
}
