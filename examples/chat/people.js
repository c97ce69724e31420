// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Names for who is here, without a login. Nobody is known to the server, so a member is the
 * id that the server has given to a page's connection. Each page says its name on the channel
 * `names`, and the server adds that id to it (see the Caddyfile). So a page cannot speak for
 * another one, but it can take any name.
 *
 * @module
 */

const NAMES = 'names';
const MOST_NAMES = 500; // that the page asks for: the Caddyfile keeps so many
const NAME_LENGTH = 40;

/** @typedef {{uuid: string, name: string, tab: string, me: boolean}} Person */

export class People {
  #push;
  #known = new Map(); // by the id of the connection
  #name;
  #changed;

  /**
   * @param {import('./push/pushit.mjs').PushIt} push
   * @param {string} name  of this page's visitor
   * @param {() => void} changed  is called when a name is there, or another one
   */
  constructor(push, name, changed) {
    this.#push = push;
    this.#name = name;
    this.#changed = changed;
    const channel = push.channel(NAMES);
    channel.on('message', ({ data }) => this.#learn(data, true));
    channel.history({ last: MOST_NAMES }).then(
      ({ messages }) => messages.reverse().forEach(({ data }) => this.#learn(data, false)),
      () => {}, // then those who come later have names
    );
    // Each connection has another id.
    push.on('state', ({ name: state }) => state === 'connected' && this.#say());
    if (push.state.name === 'connected') this.#say();
  }

  rename(name) {
    this.#name = name;
    this.#say();
  }

  /**
   * @param {Iterable<{uuid?: string}>} members  of a channel
   * @returns {Person[]}  this page's own visitor comes last
   */
  of(members) {
    const all = [...members].map(({ uuid }) => ({ uuid, name: 'Somebody', tab: '', ...this.#known.get(uuid) }));
    const mine = ({ tab }) => tab === this.#push.agentId;
    return [...all.filter((person) => !mine(person)), ...all.filter(mine)].map((person) => ({ ...person, me: mine(person) }));
  }

  #say() {
    this.#push.publish(NAMES, { name: this.#name.slice(0, NAME_LENGTH), tab: this.#push.agentId }, () => {});
  }

  #learn(data, newer) {
    const { uuid, name, tab } = data ?? {};
    if ([uuid, name, tab].some((each) => typeof each !== 'string' || !each) || (!newer && this.#known.has(uuid))) return;
    this.#known.delete(uuid);
    this.#known.set(uuid, { name: name.slice(0, NAME_LENGTH), tab });
    if (this.#known.size > 4 * MOST_NAMES) this.#known.delete(this.#known.keys().next().value);
    this.#changed();
  }
}

/**
 * @param {Person[]} people
 * @returns {string} such as `Ada, Grace and you are here`
 */
export function whoIsHere(people) {
  const others = people.filter(({ me }) => !me).map(({ name }) => name);
  const shown = others.length > 3 ? [...others.slice(0, 2), `${others.length - 2} others`] : others;
  const all = people.some(({ me }) => me) ? [...shown, shown.length > 0 ? 'you' : 'Only you'] : shown;
  if (all.length === 0) return '';
  const single = all.length === 1 && others.length === 1;
  return `${all.length > 1 ? `${all.slice(0, -1).join(', ')} and ${all.at(-1)}` : all[0]} ${single ? 'is' : 'are'} here`;
}
