// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Tests .ci/test.mjs, which runs all tests. It must never report a failure as a success.
 *
 * @module
 */

import assert from 'node:assert/strict';
import { tmpdir } from 'node:os';
import process from 'node:process';
import { describe, test } from 'node:test';
import { GoResults, NodeResults, options, repeat, runParts, Tally } from '../../.ci/test.mjs';

/** Gives the events to a reader of `go test -json`, and returns its count and what it said. */
function read(status, ...events) {
  let said = '';
  const results = new GoResults((text) => (said += text));
  for (const event of events) results.line(typeof event === 'string' ? event : JSON.stringify({ Package: 'p', ...event }));
  results.end(status);
  return [String(results.tally), said];
}

const ran = (Test, Action, Output = '') => [
  { Action: 'run', Test },
  { Action: 'output', Test, Output: `=== RUN   ${Test}\n` },
  { Action: 'output', Test, Output },
  { Action, Test, Elapsed: 0.1 },
];
const packageEnds = (Action) => ({ Action, Elapsed: 1.5 });

describe('the count of the tests in Go', () => {
  test('has each test without subtests in it once', () => {
    assert.deepEqual(
      read(0, ...ran('TestA', 'pass', 'a says\n'), { Action: 'run', Test: 'TestB' }, ...ran('TestB/1', 'pass'), ...ran('TestB/2', 'skip'), { Action: 'pass', Test: 'TestB', Elapsed: 1 }, packageEnds('pass')),
      ['2 passed, 0 failed, 1 skipped', 'ok   p 1.5s: 2 passed, 0 failed, 1 skipped\n'],
    );
    assert.deepEqual(read(0, packageEnds('skip')), ['0 passed, 0 failed, 0 skipped', ''], 'a package without tests');
  });

  test('has failures, with what they wrote', () => {
    const [count, said] = read(1, ...ran('TestA', 'pass', 'a says\n'), { Action: 'run', Test: 'TestB' }, ...ran('TestB/1', 'pass'), ...ran('TestB/2', 'fail', 'b says\n'), { Action: 'fail', Test: 'TestB', Elapsed: 1 }, packageEnds('fail'));
    assert.equal(count, '2 passed, 1 failed, 0 skipped');
    assert.equal(said, 'b says\nFAIL p 1.5s: 2 passed, 1 failed, 0 skipped\n');
  });

  test('says why tests failed in the end, and not what was logged', async () => {
    const lines = [...ran('TestB', 'fail', '    b_test.go:7: got 1, want 2\n'), { Action: 'output', Test: 'TestB', Output: '        {"level":"info"}\n' }, packageEnds('fail')];
    let said = '';
    await runParts(
      [['go', tmpdir(), [process.execPath, '-e', `console.log(${JSON.stringify(lines.map((line) => JSON.stringify({ Package: 'p', ...line })).join('\n'))}); process.exitCode = 1`], GoResults]],
      {},
      (text) => (said += text),
    );
    assert.match(said, /"level"[^]*\n== failed: TestB: b_test.go:7: got 1, want 2\n$/);
  });

  test('has a test that fails though its subtests pass', () => {
    assert.equal(read(1, { Action: 'run', Test: 'TestB' }, ...ran('TestB/1', 'pass'), { Action: 'fail', Test: 'TestB', Elapsed: 1 }, packageEnds('fail'))[0], '1 passed, 1 failed, 0 skipped');
  });

  test('has what did not end, does not build, fails after its tests, or did not run', () => {
    assert.deepEqual(read(2, { Action: 'run', Test: 'TestA' }, { Action: 'output', Test: 'TestA', Output: 'panic: oh\n' }), ['0 passed, 1 failed, 0 skipped', 'panic: oh\nFAIL p 0.0s: 0 passed, 1 failed, 0 skipped\n']);
    assert.deepEqual(read(1, { Package: '', Action: 'build-output', Output: 'x.go:1: oh\n' }, packageEnds('fail')), ['0 passed, 1 failed, 0 skipped', 'x.go:1: oh\nFAIL p 1.5s: 0 passed, 1 failed, 0 skipped\n']);
    assert.deepEqual(read(1, ...ran('TestA', 'pass'), { Action: 'output', Output: 'goroutines left\n' }, packageEnds('fail')), ['1 passed, 1 failed, 0 skipped', 'goroutines left\nFAIL p 1.5s: 1 passed, 1 failed, 0 skipped\n']);
    assert.deepEqual(read(1, 'go: no such tool'), ['0 passed, 1 failed, 0 skipped', 'go: no such tool\n']);
    assert.equal(read('SIGKILL', ...ran('TestA', 'pass'))[0], '1 passed, 1 failed, 0 skipped');
  });
});

test('the count of the tests in JavaScript is that of node', () => {
  for (const [status, lines, want] of [
    [0, ['ℹ tests 5', 'ℹ suites 1', 'ℹ pass 4', 'ℹ fail 0', 'ℹ cancelled 0', 'ℹ skipped 1', 'ℹ todo 0'], '4 passed, 0 failed, 1 skipped'],
    [1, ['ℹ pass 4', 'ℹ fail 2', 'ℹ cancelled 1', 'ℹ skipped 0', 'ℹ todo 0'], '4 passed, 3 failed, 0 skipped'],
    [1, ['npm ERR!'], '0 passed, 1 failed, 0 skipped'],
  ]) {
    let said = '';
    const results = new NodeResults((text) => (said += text));
    for (const line of lines) results.line(line);
    results.end(status);
    assert.equal(String(results.tally), want);
    assert.equal(said, lines.map((line) => `${line}\n`).join(''));
  }
});

test('every part runs to its end, and one that fails is a failure of all', async () => {
  const node = (code) => [process.execPath, '-e', code];
  let said = '';
  const tally = await runParts(
    [
      ['fails', tmpdir(), node(`console.error('oh'); process.exit(3)`), NodeResults],
      ['passes', tmpdir(), node(`setTimeout(() => console.log('ℹ pass ' + process.env.PASSED), 100)`), NodeResults, { PASSED: '2' }],
      ['is not there', tmpdir(), ['/nothing/here'], GoResults],
      ['is killed', tmpdir(), node(`process.kill(process.pid, 'SIGKILL')`), GoResults],
    ],
    {},
    (text) => (said += text),
  );
  assert.equal(String(tally), '2 passed, 3 failed, 0 skipped');
  for (const line of [/^oh$/m, /^ℹ pass 2$/m, /^== fails: \d+ s, FAILED \(3\)$/m, /^== passes: \d+ s, passed$/m, /^== is not there: .*ENOENT/m, /SIGKILL/]) assert.match(said, line);
});

test('a failure of one round is a failure of all, and each round runs', async () => {
  let said = '';
  const rounds = [];
  const tally = await repeat(
    3,
    async (round) => {
      rounds.push(round);
      return Object.assign(new Tally(), { passed: 5, failed: round === 2 ? 1 : 0 });
    },
    (text) => (said += text),
  );
  assert.deepEqual(rounds, [1, 2, 3]);
  assert.equal(String(tally), '15 passed, 1 failed, 0 skipped');
  assert.match(said, /^== PASS round 1 .*\n== FAIL round 2 of 3: 5 passed, 1 failed, 0 skipped; 1 rounds failed so far\n== PASS round 3 /);
});

test('the command line says how often', () => {
  assert.deepEqual(options([]), { times: 1, browsers: 1, busy: 0 });
  assert.deepEqual(options(['--times=100', '--browsers=10', '--busy=2']), { times: 100, browsers: 10, busy: 2 });
  assert.deepEqual(options(['--times=3']), { times: 3, browsers: 3, busy: 0 });
  for (const wrong of ['--times=0', '--times=x', '--busy=-1', '--browsers=1.5', '--often=3']) assert.throws(() => options([wrong]), /--/);
});
