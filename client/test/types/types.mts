// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/** What the types promise; tsc reads it, nobody runs it. */

import PushIt, { type Channel, type Message, PushIt as Same, Refusal, type State } from '@pushit/client';

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

const news = push.channel('news');
is<Is<typeof news, Channel<{ title: string }>>>();
const story = push.channel('stories/*');
for await (const message of story) is<Is<typeof message, Message<{ text: string; likes?: number }>>>();
const uuid: string = await news.publish({ title: 'x' });
const atOnce: string = news.publish({ title: 'x' }).uuid;
// @ts-expect-error no title
news.publish({});
const off: () => void = news.on('message', ({ payload }) => payload.title.length, { signal: AbortSignal.abort() });
// @ts-expect-error no such event of a channel
news.on('state', () => {});

push.onMessageReceived = (channel: string, message) => message.payload;
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

const untyped = new Same();
untyped.publish('anything', { at: ['all'] });
for await (const { payload } of untyped.channel('*')) payload.whatever;

export { atOnce, names, off, uuid };
