// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/** Asks for the state again and again, while somebody looks. */

const EVERY = 2000; // ms
const LONGEST = 30_000; // ms between attempts while the server is away
const PATIENCE = 15_000; // ms for an answer

const state = new URL('state', import.meta.url);

/** Why there is no state. `status` is one of the words of `Poller`. */
class Failure extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export class Poller {
  #on;
  #query;
  #timer;
  #failures = 0;
  #asking;

  /**
   * @param {() => Record<string, string>} query
   * @param {{state: (state: object) => void, status: (status: 'live' | 'paused' | 'away' | 'refused', why?: string) => void}} on
   */
  constructor(query, on) {
    this.#query = query;
    this.#on = on;
    document.addEventListener('visibilitychange', () => this.now());
    addEventListener('online', () => this.now());
    this.now();
  }

  /** Asks at once. */
  now() {
    clearTimeout(this.#timer);
    this.#asking?.abort();
    this.#asking = undefined;
    if (document.hidden) {
      this.#on.status('paused');
      return;
    }
    this.#ask();
  }

  async #ask() {
    const asking = new AbortController();
    this.#asking = asking;
    let wait = EVERY;
    try {
      const next = await load(this.#query(), asking);
      if (asking !== this.#asking) return;
      this.#failures = 0;
      this.#on.state(next);
      this.#on.status('live');
    } catch (error) {
      if (asking !== this.#asking) return;
      if (!(error instanceof Failure)) throw error; // a mistake of this page: the console shows it
      this.#failures++;
      wait = Math.min(EVERY * 2 ** (this.#failures - 1), LONGEST);
      this.#on.status(error.status, error.message);
    } finally {
      if (asking === this.#asking) this.#timer = setTimeout(() => this.now(), wait);
    }
  }
}

async function load(query, asking) {
  const url = new URL(state);
  for (const [name, value] of Object.entries(query)) if (value) url.searchParams.set(name, value);
  let response;
  let text;
  const late = setTimeout(() => asking.abort(), PATIENCE);
  try {
    // A login that redirects to its own page does so for the state, too, when it has ended.
    response = await fetch(url, { cache: 'no-store', redirect: 'manual', signal: asking.signal });
    text = await response.text();
  } catch {
    throw new Failure('away', 'The server does not answer. This page goes on as soon as it does.');
  } finally {
    clearTimeout(late);
  }
  if (response.type === 'opaqueredirect') throw new Failure('refused', 'Your login has ended. Reload this page to log in again.');
  if (response.ok) {
    try {
      return JSON.parse(text);
    } catch {
      throw new Failure('away', 'The server gave an answer that this page does not understand. Reload it.');
    }
  }
  const sentence = response.headers.get('Content-Type')?.startsWith('text/plain') && text.length < 300 ? text.trim() : '';
  switch (response.status) {
    case 401:
    case 403:
      throw new Failure('refused', `You may not see this page any more. ${sentence}`);
    case 404:
      throw new Failure('refused', 'There is no status page here any more.');
    case 400:
      throw new Failure('away', sentence || 'The server does not understand the query.');
    default:
      throw new Failure('away', `${sentence || `The server answers with status ${response.status}.`} This page tries again.`);
  }
}
