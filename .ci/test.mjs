#!/usr/bin/env node
// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Runs all tests. Most of them wait for something, so the parts run at the same time. What
 * a part says is kept apart: each Go package's result comes when the package has ended, and
 * the tests in JavaScript come as a whole. Every part runs to its end, also if another has
 * failed. The last line counts the tests of all parts.
 *
 * --times=N runs all of it N times, in a new order each time, to find tests that fail now and
 * then. --browsers=N leaves the tests in JavaScript out after N times, and --busy=N keeps N
 * processors busy meanwhile.
 *
 * @module
 */

import { spawn } from 'node:child_process';
import { mkdir } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

/** What came of some tests. */
export class Tally {
  passed = 0;
  failed = 0;
  skipped = 0;

  /** @param {Tally} other */
  add(other) {
    this.passed += other.passed;
    this.failed += other.failed;
    this.skipped += other.skipped;
  }

  toString() {
    return `${this.passed} passed, ${this.failed} failed, ${this.skipped} skipped`;
  }
}

/**
 * Reads the lines of `go test -json`, and says in few words what came of each package, with
 * all that the failed tests wrote.
 */
export class GoResults {
  #packages = new Map();
  #say;
  tally = new Tally();
  /** @type {{name: string, seconds: number}[]} */
  slow = [];
  /** What the failed tests gave as reasons: what they logged besides can be long. @type {string[]} */
  reasons = [];

  /** @param {(text: string) => void} say */
  constructor(say) {
    this.#say = say;
  }

  /** @param {string} line */
  line(line) {
    let event;
    try {
      event = JSON.parse(line);
    } catch {
      this.#say(`${line}\n`); // the go command itself says something
      return;
    }
    if (event.Action === 'build-output') this.#say(event.Output);
    if (!event.Package) return;
    let pkg = this.#packages.get(event.Package);
    if (!pkg) this.#packages.set(event.Package, (pkg = { tests: new Map(), written: [], ended: false }));
    this.#event(pkg, event);
  }

  #event(pkg, { Action, Package, Test, Output, Elapsed }) {
    const ends = Action === 'pass' || Action === 'fail' || Action === 'skip';
    if (Action === 'output') {
      if (!/^=== (RUN|PAUSE|CONT|NAME) /.test(Output)) pkg.written.push({ test: Test, text: Output });
    } else if (Test && Action === 'run') {
      pkg.tests.set(Test, 'unfinished');
    } else if (Test && ends) {
      pkg.tests.set(Test, Action);
      if (!Test.includes('/')) this.slow.push({ name: Test, seconds: Elapsed });
    } else if (ends) {
      pkg.ended = true;
      this.#count(Package, pkg, Action, Elapsed);
    }
  }

  /** Counts what has no tests in it: a test with subtests counts only by itself if it alone failed. */
  #count(name, pkg, action, seconds) {
    const parents = new Map(); // and whether one of the tests in it failed
    const bad = (result) => result === 'fail' || result === 'unfinished';
    for (const [test, result] of pkg.tests) {
      for (let at = test.indexOf('/'); at >= 0; at = test.indexOf('/', at + 1)) {
        const parent = test.slice(0, at);
        parents.set(parent, bad(result) || parents.get(parent) === true);
      }
    }
    const tally = new Tally();
    for (const [test, result] of pkg.tests) {
      if (bad(result)) tally.failed += parents.get(test) ? 0 : 1;
      else if (!parents.has(test)) tally[result === 'pass' ? 'passed' : 'skipped']++;
    }
    if (action === 'fail' && tally.failed === 0) tally.failed = 1; // it does not build, or fails after its tests
    this.tally.add(tally);
    if (tally.failed > 0) {
      for (const { test, text } of pkg.written) {
        if (test && !bad(pkg.tests.get(test))) continue;
        this.#say(text);
        if (test && /^ +\w+\.go:\d+: (?!\{)/.test(text)) this.reasons.push(`${test}: ${text.trim().slice(0, 300)}`);
      }
    }
    if (pkg.tests.size > 0 || tally.failed > 0) this.#say(`${tally.failed > 0 ? 'FAIL' : 'ok  '} ${name} ${seconds.toFixed(1)}s: ${tally}\n`);
  }

  /** Nothing more comes. @param {number | string} status  of the command */
  end(status) {
    for (const [name, pkg] of this.#packages) if (!pkg.ended) this.#count(name, pkg, 'fail', 0);
    if (status !== 0 && this.tally.failed === 0) this.tally.failed = 1;
  }
}

/** Keeps what `node --test` says until its end, with its own count. */
export class NodeResults {
  #written = '';
  #say;
  tally = new Tally();
  slow = [];
  reasons = []; // what node writes ends with them

  /** @param {(text: string) => void} say */
  constructor(say) {
    this.#say = say;
  }

  /** @param {string} line */
  line(line) {
    this.#written += `${line}\n`;
    const [, what, count] = /^ℹ (pass|fail|cancelled|skipped|todo) (\d+)$/.exec(line) ?? [];
    if (what) this.tally[what === 'pass' ? 'passed' : what === 'fail' || what === 'cancelled' ? 'failed' : 'skipped'] += Number(count);
    const [, name, ms] = /^ +✔ (.*) \((\d+)\.\d*ms\)$/.exec(line) ?? [];
    if (name) this.slow.push({ name, seconds: ms / 1000 });
  }

  /** Nothing more comes. @param {number | string} status  of the command */
  end(status) {
    if (status !== 0 && this.tally.failed === 0) this.tally.failed = 1;
    this.#say(this.#written);
  }
}

const running = new Set();

/**
 * Runs a command in a process group of its own, so that all of it ends with us.
 *
 * @param {string} dir
 * @param {string[]} command
 * @param {Record<string, string>} env
 * @param {(line: string) => void} [line]  is called with each line; else we write what it writes
 * @returns {Promise<number | string>} its exit status, or the signal that ended it
 */
export async function run(dir, command, env, line) {
  const child = spawn(command[0], command.slice(1), {
    cwd: dir,
    env,
    detached: true,
    stdio: ['ignore', line ? 'pipe' : 'inherit', line ? 'pipe' : 'inherit'],
  });
  running.add(child);
  const streams = line ? [child.stdout, child.stderr] : [];
  for (const stream of streams) createInterface({ input: stream }).on('line', line);
  try {
    return await new Promise((resolve) => {
      child.on('error', (error) => resolve(error.message));
      child.on('close', (status, signal) => resolve(status ?? signal));
    });
  } finally {
    running.delete(child);
  }
}

function stop(signal) {
  for (const child of running) {
    try {
      process.kill(-child.pid, signal);
    } catch {
      // it has just ended
    }
  }
  process.exit(1);
}

const seconds = (since) => `${((Date.now() - since) / 1000).toFixed(0)} s`;

/** @returns {{times: number, browsers: number, busy: number}} what the command line asks for */
export function options(args) {
  const { values } = parseArgs({ args, options: { times: { type: 'string', default: '1' }, browsers: { type: 'string' }, busy: { type: 'string', default: '0' } } });
  const number = (name, least) => {
    const value = Number(values[name]);
    if (!Number.isInteger(value) || value < least) throw new Error(`--${name}=${values[name]}: please write a whole number from ${least} on`);
    return value;
  };
  const times = number('times', 1);
  values.browsers ??= String(times);
  return { times, browsers: number('browsers', 0), busy: number('busy', 0) };
}

async function main() {
  const { times, browsers, busy } = options(process.argv.slice(2));
  const top = fileURLToPath(new URL('..', import.meta.url));
  const built = join(top, '.build');
  const caddy = join(built, 'caddy');
  const endToEnd = join(built, 'end-to-end.test');
  const nats = join(built, 'nats-server');
  const oldNATS = join(built, 'nats-server-oldest');
  const env = { ...process.env, PUSHIT_CADDY: caddy, PUSHIT_NATS_SERVER: nats, PUSHIT_NATS_SERVER_OLDEST: oldNATS };
  const begun = Date.now();
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, stop);
  await mkdir(built, { recursive: true });

  // Everything is built with the race detector, vet's view included, so that there is one
  // set of packages to build. Nobody debugs these programs: -w leaves out what debuggers read. test/ and bench/ are modules of their own, so that building
  // pushit does not need what only they do.
  for (const command of [
    ['go', 'vet', '-race', './...'],
    ['go', 'vet', '-C', 'test', '-race', './...'],
    ['go', 'vet', '-C', 'bench', '-race', './...'],
    ['go', 'build', '-race', '-ldflags=-w', '-o', caddy, './cmd/caddy'],
    ['go', 'build', '-C', 'test', '-o', nats, 'github.com/nats-io/nats-server/v2'],
    ['go', 'build', '-C', 'internal/natsserver/oldest', '-o', oldNATS, 'github.com/nats-io/nats-server/v2'],
    ['go', 'test', '-C', 'test', '-race', '-ldflags=-w', '-c', '-o', endToEnd, '.'],
  ]) {
    const from = Date.now();
    const status = await run(top, command, env);
    console.log(`== ${command.join(' ').replaceAll(top, '')}: ${seconds(from)}`);
    if (status !== 0) {
      console.log('0 passed, 1 failed, 0 skipped');
      return 1;
    }
  }

  for (let i = 0; i < busy; i++) keepBusy();

  // Tests that wait run beside each other, however few processors there are.
  const parallel = `-parallel=${Math.max(8, availableParallelism())}`;
  const goTest = ['go', 'test', '-json', '-vet=off', '-ldflags=-w', '-shuffle=on', '-timeout=20m', parallel];
  // One Caddy at a time runs in a process, so the end-to-end tests share two of them.
  const half = '^Test[A-G]';
  const endToEndTests = (...which) =>
    ['go', 'tool', 'test2json', '-t', '-p', 'github.com/push-it/pushit/test', endToEnd, '-test.v=test2json', '-test.shuffle=on', '-test.timeout=20m'].concat(which);
  const parts = [
    ['go test -race', top, [...goTest, '-race', './...'], GoResults],
    // The race detector allocates too.
    ['go test, allocations', top, [...goTest, '-run', 'Alloc|IdleSessionsAreSmall', './hub/...'], GoResults],
    [`go test -race, test/ ${half}`, join(top, 'test'), endToEndTests('-test.run', half), GoResults],
    [`go test -race, test/ others`, join(top, 'test'), endToEndTests('-test.skip', half), GoResults],
    ['go test -race, bench/', join(top, 'bench'), [...goTest, '-race', './...'], GoResults],
    // The browsers' Caddy ends at the first race.
    ['npm test', join(top, 'client'), ['npm', 'test', '--silent'], NodeResults, { GORACE: 'halt_on_error=1' }],
  ];
  const say = (text) => process.stdout.write(text);
  const tally = await repeat(times, async (round) => runParts(round <= browsers ? parts : parts.filter(([, , , Results]) => Results !== NodeResults), env, say), say);
  console.log(`== all: ${seconds(begun)}`);
  console.log(String(tally));
  return tally.failed === 0 ? 0 : 1;
}

/**
 * Runs something several times. Every round runs to its end, also if another has failed.
 *
 * @param {number} times
 * @param {(round: number) => Promise<Tally>} runRound  rounds count from 1
 * @param {(text: string) => void} say
 * @returns {Promise<Tally>} the sum of all rounds
 */
export async function repeat(times, runRound, say) {
  const tally = new Tally();
  let failed = 0;
  for (let round = 1; round <= times; round++) {
    const one = await runRound(round);
    tally.add(one);
    if (one.failed > 0) failed++;
    if (times > 1) say(`== ${one.failed > 0 ? 'FAIL' : 'PASS'} round ${round} of ${times}: ${one}; ${failed} rounds failed so far\n`);
  }
  return tally;
}

/** Keeps a processor busy until this process ends. */
function keepBusy() {
  // A loop without an end hears no signal from us if we are killed: it looks for its parent now and then.
  const child = spawn(process.execPath, ['-e', 'const parent = process.ppid; while (process.ppid === parent) for (let i = 0; i < 1e8; i++);'], { stdio: 'ignore' });
  child.unref();
  process.on('exit', () => child.kill('SIGKILL'));
}

/**
 * Runs the parts at the same time.
 *
 * @param {[name: string, dir: string, command: string[], Results: typeof GoResults | typeof NodeResults, env?: Record<string, string>][]} parts
 * @param {Record<string, string>} env
 * @param {(text: string) => void} say
 * @returns {Promise<Tally>}
 */
export async function runParts(parts, env, say) {
  const tally = new Tally();
  const slow = [];
  const reasons = [];
  await Promise.all(
    parts.map(async ([name, dir, command, Results, more]) => {
      const from = Date.now();
      const results = new Results(say);
      const status = await run(dir, command, { ...env, ...more }, (line) => results.line(line));
      results.end(status);
      tally.add(results.tally);
      slow.push(...results.slow);
      reasons.push(...results.reasons);
      say(`== ${name}: ${seconds(from)}, ${status === 0 ? 'passed' : `FAILED (${status})`}\n`);
    }),
  );
  slow.sort((a, b) => b.seconds - a.seconds);
  if (slow.length > 0) say(`== slowest: ${slow.slice(0, 8).map((each) => `${each.name} ${each.seconds.toFixed(0)} s`).join(', ')}\n`);
  for (const reason of reasons.slice(0, 30)) say(`== failed: ${reason}\n`);
  return tally;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) process.exitCode = await main();
