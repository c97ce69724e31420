// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/** What the types promise; tsc reads it, nobody runs it. */

import PushIt, { type Channel, type Message, type Payload, PushIt as Same, Refusal, type State } from '@pushit/client';

interface Payloads {
  news: { title: string };
  'stories/*': { text: string; likes?: number };
  'users/*': string;
}

type Is<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
const is = <_ extends true>(): void => {};

const push = new PushIt<Payloads>({
  endpoint: new URL('https://example.com/push'),
  channels: ['news', 'stories/*'],
  credentials: async () => ({ token: 'x' }),
  socket: (endpoint) => new WebSocket(`${endpoint}/websocket`),
  transports: ['websocket', 'xhr'],
  signal: AbortSignal.timeout(1000),
  firstWait: 1,
});

const msgId: string = push.publish({ channel: 'news', data: { title: 'Hello' } }, (refusal) => refusal.code, (answer) => answer.uuid);
push.publish('stories/5', { text: 'Once upon a time', likes: 3 });
push.publish({ channel: 'users/bob', data: 'hi', uuid: msgId, signal: new AbortController().signal });
// @ts-expect-error no such member
push.publish('news', { text: 'Hello' });
// @ts-expect-error a story is no text
push.publish({ channel: 'stories/5', data: 'text' });
// @ts-expect-error users get text
push.publish('users/bob', 5);
// @ts-expect-error no channel
push.publish({ data: 1 });
// @ts-expect-error a misspelt channel
push.publish('nwes', { title: 'Hello' });
// @ts-expect-error a misspelt channel
push.publish({ channel: 'nwes', data: { title: 'Hello' } });
// @ts-expect-error a misspelt channel
push.subscribe('nwes');
// @ts-expect-error a misspelt channel
push.unsubscribe('storys/5');
// @ts-expect-error a misspelt channel
push.channel('nwes');
// @ts-expect-error a misspelt channel
new PushIt<Payloads>({ channels: ['nwes'] });
// @ts-expect-error no data
push.publish('news');
// @ts-expect-error no data
push.publish({ channel: 'news' });
// @ts-expect-error no data
push.channel('news').publish();
// @ts-expect-error no data, though nothing else is wrong
push.publish('news', undefined, () => {});
// @ts-expect-error a pattern is no channel
push.publish('stories/*', { text: 'Once upon a time' });
// @ts-expect-error a pattern is no channel
push.publish({ channel: 'stories/*', data: { text: 'Once upon a time' } });
push.subscribe('stories/*');
push.subscribe('stories/5');
push.subscribe('*');
for (const channel of ['news', 'users/bob'] as const) push.unsubscribe(channel);

const news = push.channel('news');
is<Is<typeof news, Channel<{ title: string }, Message<{ title: string }, 'news'>>>>();
const story = push.channel('stories/*');
for await (const message of story) is<Is<typeof message, Message<{ text: string; likes?: number }, `stories/${string}`>>>();
const uuid: string = await news.publish({ title: 'x' });
const atOnce: string = news.publish({ title: 'x' }).uuid;
// @ts-expect-error no title
news.publish({});
const off: () => void = news.on('message', ({ payload }) => payload.title.length, { signal: AbortSignal.abort() });
// @ts-expect-error no such event of a channel
news.on('state', () => {});

push.onMessageReceived = (channel: string, message) => [channel, message.payload];
push.onMessageReceived = (channel, message) => {
  if (channel === 'news') message.payload.title.length;
  // @ts-expect-error not every message is news
  message.payload.title;
  // @ts-expect-error no such channel
  if (channel === 'nwes') message.uuid;
};
push.on('message', (message) => {
  if (message.channel === 'news') is<Is<typeof message.payload, { title: string }>>();
  // @ts-expect-error not every message is news
  message.payload.title;
  // @ts-expect-error no such channel
  if (message.channel === 'nwes') message.uuid;
});
push.channel('*').on('message', (message) => {
  if (message.channel === 'news') message.payload.title.length;
});
for await (const { payload } of push.channel('stories/5')) is<Is<typeof payload, { text: string; likes?: number }>>();
push.onConnect = () => {};
push.onDisconnect = (state) => state.name;
push.onConnectionDenied = (reason: string) => reason;
push.on('state', (state) => {
  is<Is<typeof state, State>>();
  if (state.name === 'disconnected') state.retryAt?.toFixed();
  // @ts-expect-error no such state
  if (state.name === 'waiting') state.retryAt;
});
push.on('error', (error) => {
  if (error instanceof Refusal) error.final && error.retry;
  if (error instanceof PushIt.Refusal) error.channel?.length;
});
push.on('subscribe', ({ channel, recovered }) => [channel, recovered]);
push.on('unsubscribe', ({ channel, code }) => [channel, code]);
// @ts-expect-error no such event
push.on('mesage', () => {});
// @ts-expect-error no such option
new PushIt({ endpont: '/push' });

await push.subscribe('news', () => {}, () => {});
await push.unsubscribe('news');
push.connect();
push.close();
const names: string[] = push.channels;
// @ts-expect-error read only
push.agentId = 'x';

const untyped = new Same({ channels: ['anything'] });
is<Is<typeof untyped, PushIt>>();
untyped.publish('anything', { at: ['all'] });
untyped.publish('nothing');
untyped.publish({ channel: 'nothing' }, (refusal) => refusal.code);
untyped.channel('nothing').publish();
untyped.subscribe(`any/${Math.random()}`);
untyped.onMessageReceived = (channel, message) => is<Is<[typeof channel, typeof message], [string, Message]>>();
untyped.on('message', ({ channel, payload }) => payload[channel]);
for await (const { payload } of untyped.channel('*')) payload.whatever;

// What a table says of patterns that are not in it, of what is in it twice, and of nothing.
interface Mixed {
  'rooms/1/chat': { text: string };
  'rooms/1/chat/*': { reply: string };
  'rooms/*': number;
  ping: undefined;
  maybe: boolean | undefined;
}
const mixed = new PushIt<Mixed>({ channels: ['rooms/1/*', 'rooms/1/chat/*', '*', 'ping'] });
is<Is<Payload<Mixed, 'rooms/1/chat'>, { text: string }>>();
is<Is<Payload<Mixed, 'rooms/2'>, number>>();
is<Is<Payload<Mixed, 'rooms/1/chat/7'>, number | { reply: string }>>();
is<Is<Payload<Mixed, 'rooms/1/*'>, number | { text: string } | { reply: string }>>();
is<Is<Payload<Mixed, 'rooms/*'>, number | { text: string } | { reply: string }>>();
mixed.publish('ping');
mixed.publish({ channel: 'ping' });
mixed.channel('ping').publish();
mixed.publish('maybe', true);
mixed.publish('maybe', undefined, () => {});
// @ts-expect-error no data
mixed.publish('rooms/2');
// @ts-expect-error no such pattern
mixed.subscribe('room/*');
mixed.channel('rooms/1/*').on('message', ({ channel, payload }) => {
  if (channel === 'rooms/1/chat' && typeof payload === 'object') payload;
  // @ts-expect-error a pattern below another has the channels of its own
  if (channel === 'rooms/2') payload;
});

// With a pattern for all channels, all are allowed.
const open = new PushIt<{ news: { title: string }; '*': unknown }>();
open.publish('news', { title: 'Hello' });
open.publish('whatever', 5);
open.subscribe('whatever');
// @ts-expect-error news has a title
open.publish('news', 5);

// History, and what is missing of it.
new PushIt({ since: 50 });
new PushIt({ since: '2026-01-31T12:00:00Z' });
// @ts-expect-error a number, or a time as text
new PushIt({ since: new Date() });
const page = await push.history('news', { last: 50, before: '7-1', signal: AbortSignal.timeout(1000) });
const title: string | undefined = page.messages[0]?.payload.title;
is<Is<typeof page.before, string | undefined>>();
is<Is<(typeof page.messages)[number]['position'], string | undefined>>();
const { messages: stories } = await push.channel('stories/*').history();
const anyStory: `stories/${string}` | undefined = stories[0]?.channel;
const { messages: everything } = await push.history('*');
for (const message of everything) {
  if (message.channel === 'news') message.payload.title;
  // @ts-expect-error not every message is news
  message.payload.title;
}
// @ts-expect-error no such channel
push.history('nwes');
// @ts-expect-error no such option
push.history('news', { first: 50 });
push.on('gap', ({ channel, reason }) => {
  if (reason === 'epoch' || reason === undefined) channel.length;
  // @ts-expect-error why is text
  reason?.toFixed();
});
push.on('subscribe', ({ position, recovered, reason }) => {
  const why: string | undefined = recovered ? position : reason;
  return why;
});

export { anyStory, atOnce, names, off, title, uuid };
