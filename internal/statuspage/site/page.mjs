// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/** The status page of pushit. */

import { Chart } from './chart.mjs';
import { openConsole } from './console.mjs';
import { $, cell, cut, el, row, show, time } from './elements.mjs';
import { bytes, count, duration, rate, some } from './format.mjs';
import { Poller } from './poll.mjs';

/** What the tables are limited to. */
const filter = { prefix: '', user: '', channel: '' };

/** The state before, to compute rates with. */
let before;

const perSecond = (n) => `${rate(n)} a second`;

/** The tiles: a value, and a chart of it. */
const tiles = {
  agents: new Tile('Agents', count),
  published: new Tile('Published', perSecond, '/ s'),
  delivered: new Tile('Delivered', perSecond, '/ s'),
  sent: new Tile('Sent', (n) => `${bytes(n)} a second`),
  refusals: new Tile('Refused', perSecond, '/ s'),
};
tiles.refusals.element.classList.add('refused');
$('tiles').append(...Object.values(tiles).map(({ element }) => element));

const say = openConsole();

const poller = new Poller(() => filter, {
  state: showState,
  status(status, why = '') {
    const words = { live: 'Live', paused: 'Paused', away: 'Server away', refused: 'Refused' };
    $('live').dataset.state = status;
    document.body.dataset.state = status;
    if ($('live').textContent !== words[status]) $('live').textContent = words[status];
    $('notice').hidden = !why;
    if ($('notice').textContent !== why) $('notice').textContent = why;
    if (status === 'refused') forget();
  },
});

/** Asks again a moment after the last key. */
function narrows(input, name) {
  let timer;
  input.addEventListener('input', () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      filter[name] = input.value.trim();
      poller.now();
    }, 200);
  });
}
narrows($('prefix'), 'prefix');
narrows($('user'), 'user');

function choose(channel) {
  filter.channel = channel;
  $('in-channel').hidden = !channel;
  $('in-channel').replaceChildren(cut(`in ${channel}`));
  $('in-channel').setAttribute('aria-label', `Agents in ${channel}: show all again`);
  if (channel) say.name(channel);
  poller.now();
}
$('in-channel').addEventListener('click', () => choose(''));
$('channels').addEventListener('click', ({ target }) => {
  const name = target.closest('button')?.dataset.name;
  if (name !== undefined) choose(name === filter.channel ? '' : name);
});

function Tile(name, format, unit = '') {
  const chart = new Chart(name, format);
  const value = el('p.value', '–');
  const note = el('p.note');
  this.element = el('article.tile', el('h2', name), value, note, chart.element);
  this.set = (n, text, about) => {
    chart.add(n);
    value.replaceChildren(text, ...(unit ? [el('small', ` ${unit}`)] : []));
    note.textContent = about;
  };
  this.clear = () => {
    chart.clear();
    value.textContent = '–';
    note.textContent = '';
  };
}

/** Who may not see the state any more does not see the old one either. */
function forget() {
  for (const id of ['facts', 'machines', 'channels', 'agents', 'refusals']) $(id).replaceChildren();
  for (const tile of Object.values(tiles)) tile.clear();
  before = undefined;
}

const sum = (machines, name) => machines.reduce((n, machine) => n + machine[name], 0);

/**
 * How much a count grew in a second since the state before. Only machines that were there
 * then count: a machine that comes brings all that it has ever counted.
 */
function growth(now, name) {
  const seconds = (new Date(now.time) - new Date(before?.time)) / 1000;
  if (!(seconds > 0) || seconds > 60) return null;
  const known = new Map(before.machines.map((machine) => [`${machine.name} ${machine.since}`, machine[name]]));
  let n = 0;
  for (const machine of now.machines) {
    const was = known.get(`${machine.name} ${machine.since}`);
    if (was !== undefined) n += Math.max(0, machine[name] - was);
  }
  return n / seconds;
}

function showState(now) {
  if (now.time !== before?.time) {
    showNumbers(now);
    before = now;
  }
  showMachines(now);
  showChannels(now);
  showAgents(now);
  showRefusals(now);
}

function showNumbers(now) {
  const { machines } = now;
  const transports = {};
  for (const { agents } of machines) {
    for (const [name, n] of Object.entries(agents)) transports[name] = (transports[name] ?? 0) + n;
  }
  const agents = Object.values(transports).reduce((a, b) => a + b, 0);
  const used = Object.entries(transports).filter(([, n]) => n > 0).sort((a, b) => b[1] - a[1]);
  tiles.agents.set(agents, count(agents), used.map(([name, n]) => `${count(n)} ${name}`).join(' · ') || 'Nobody is connected');
  const counted = (tile, name, note) => {
    const n = growth(now, name);
    tile.set(n, n === null ? '–' : rate(n), note(sum(machines, name)));
  };
  const dropped = sum(machines, 'dropped');
  counted(tiles.published, 'published', (n) => `${count(n)} since the start`);
  counted(tiles.delivered, 'delivered', (n) => `${count(n)} since the start${dropped ? `, ${count(dropped)} dropped` : ''}`);
  counted(tiles.refusals, 'refusals', (n) => `${count(n)} since the start`);
  const sent = growth(now, 'bytes_sent');
  const received = growth(now, 'bytes_received');
  tiles.sent.set(sent, sent === null ? '–' : `${bytes(sent)} / s`, received === null ? '' : `received ${bytes(received)} / s`);

  const since = machines.map((machine) => machine.since).sort()[0];
  $('about').textContent = `hub ${now.hub} · up for ${duration(new Date(now.time) - new Date(since))}`;
  document.title = `${now.hub} · pushit status`;
  const facts = {
    Subscriptions: count(sum(machines, 'subscriptions')),
    Channels: count(Math.max(...machines.map((machine) => machine.channels))) + (machines.length > 1 ? '+' : ''),
    Patterns: count(Math.max(...machines.map((machine) => machine.patterns))) + (machines.length > 1 ? '+' : ''),
    Present: count(Math.max(...machines.map((machine) => machine.members))),
    'Kept messages': count(Math.max(...machines.map((machine) => machine.history_messages))),
    'History size': bytes(Math.max(...machines.map((machine) => machine.history_bytes))),
  };
  show($('facts'), Object.entries(facts), ([name]) => name, ([name, value]) => el('div', el('dt', name), el('dd', value)));
}

function showMachines({ machines, silent = [], time: now }) {
  $('machines-card').hidden = machines.length < 2 && silent.length === 0;
  if ($('machines-card').hidden) return;
  const rows = [...machines, ...silent.map((name) => ({ name, silent: true }))];
  show($('machines'), rows, ({ name }) => name, (machine) =>
    machine.silent
      ? row(cell('td', machine.name), cell('td.number', el('span.soft', '–')), cell('td.number', el('span.soft', '–')), cell('td', '–'), cell('td', el('span.tag.bad', 'does not answer')))
      : row(
          cell('td', machine.name || 'this machine'),
          cell('td.number', count(Object.values(machine.agents).reduce((a, b) => a + b, 0))),
          cell('td.number', count(machine.published)),
          cell('td', duration(new Date(now) - new Date(machine.since))),
          cell('td', machine.behind ? el('span.tag.warn', 'messages are missing') : el('span.tag', 'up')),
        ),
  );
}

const inNamespace = (namespace) => namespace && el('span.namespace', `${namespace} `);

function showChannels({ channels, more_channels: more }) {
  show($('channels'), channels, ({ namespace = '', name }) => `${namespace} ${name}`, (channel) => {
    const button = el('button.name.clamped', inNamespace(channel.namespace), channel.name);
    button.title = `${channel.name}: show its agents`;
    button.dataset.name = channel.name;
    button.setAttribute('aria-pressed', channel.name === filter.channel);
    return row(
      cell('td', button),
      cell('td.number', count(channel.subscribers)),
      cell('td.number', channel.members === undefined ? el('span.soft', '–') : count(channel.members)),
      cell('td.number', channel.messages ? count(channel.messages) : el('span.soft', '–')),
    );
  });
  finish('channels', channels, more, filter.prefix ? `No channel with subscribers begins with “${filter.prefix}”.` : 'No channel has subscribers.');
}

function showAgents({ agents, more_agents: more, time: now }) {
  show($('agents'), agents, ({ name, machine }) => `${machine} ${name}`, (agent) => {
    const names = (agent.channels ?? []).join(', ');
    const rest = agent.subscriptions - (agent.channels ?? []).length;
    const queue = agent.queued_frames ? el('span.queued', `${count(agent.queued_frames)} · ${bytes(agent.queued_bytes)}`) : el('span.soft', '0');
    const who = el('span.cut', inNamespace(agent.namespace), agent.user || el('span.soft.mono', agent.name));
    who.title = `${agent.user ?? 'no user'}, in the log ${agent.name}…${agent.machine ? `, at ${agent.machine}` : ''}`;
    return row(
      cell('td', who),
      cell('td', el('span.tag', agent.transport), !agent.connected && el('span.tag.warn', 'connecting')),
      cell('td', names ? cut(names + (rest > 0 ? ` and ${count(rest)} more` : '')) : el('span.soft', 'none')),
      cell('td', time(agent.since, duration(new Date(now) - new Date(agent.since)))),
      cell('td.number', queue),
    );
  });
  const narrowed = filter.user || filter.channel;
  finish('agents', agents, more, narrowed ? 'No agent is like this.' : 'No agent is connected.');
}

function finish(name, items, more, empty) {
  $(`${name}-count`).textContent = items.length ? (more ? `first ${count(items.length)}` : count(items.length)) : '';
  $(`${name}-empty`).textContent = empty;
  $(`${name}-empty`).hidden = items.length > 0;
  $(name).parentElement.hidden = items.length === 0;
  $(`${name}-more`).hidden = !more;
}

function showRefusals({ refusals, time: now }) {
  const keyOf = (r) => [r.machine, r.operation, r.code, r.guard, r.channel, r.user, r.namespace, r.reason].join('\n');
  show($('refusals'), refusals, keyOf, (refusal) => {
    const { operation, code, guard, reason, channel, user, namespace, others } = refusal;
    const by = [user ? `user ${user}` : '', guard ? `guard ${guard}` : '', refusal.machine ? `at ${refusal.machine}` : '', others ? `and ${count(others)} more like it` : ''];
    return el(
      'li',
      el('span', el(`span.tag.${code}`, code)),
      el('span.what', el('span', operation), channel && el('span.soft.cut', inNamespace(namespace), channel), refusal.count > 1 && el('span.soft', `×${count(refusal.count)}`)),
      time(refusal.time, `${duration(new Date(now) - new Date(refusal.time))} ago`),
      el('span.why', [reason, ...by].filter(Boolean).join(' · ')),
    );
  });
  $('refusals-empty').hidden = refusals.length > 0;
}
