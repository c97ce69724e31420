// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * The client of pushit: a connection that stays.
 *
 *     const push = new PushIt({ channels: ['news'] });
 *     push.onMessageReceived = (channel, message) => console.log(channel, message.payload);
 *     push.publish('news', 'It works.');
 *
 * README.md has all of it at length, PROTOCOL.md what goes over the wire.
 */

/**
 * What a message on a channel carries, by the channel's name or by a pattern
 * (`stories/*`, `*`). With no such table, channels are any text and payloads `any`.
 *
 *     interface Payloads { news: { title: string }; 'stories/*': Story }
 *     const push = new PushIt<Payloads>();
 *
 * With one, there are no other channels. `'*': unknown` in it allows them.
 */
export type Channels = object;

/** No table of payloads is given. */
type Untyped<C> = [keyof C] extends [never] ? true : false;

/** The names of the channels that a key of the table, or a subscription, is about. */
type Names<Key> = Key extends '*' ? string : Key extends `${infer Path}/*` ? `${Path}/${string}` : Key;

/** The patterns that a name is matched by, or a pattern with all that it matches, but for `*`. */
type Above<Key> = Key extends `${infer First}/${infer Rest}` ? `${First}/*` | `${First}/${Above<Rest>}` : never;

/** A name of a channel; a pattern is none. */
type Single<Name> = Name extends '*' | `${string}/*` ? never : Name;

/** The keys of the table that say what a channel carries: its own one, else all patterns that match it. */
type KeyOf<C, Name> = Name extends keyof C ? Name : { [Key in keyof C]: Name extends Names<Key> ? Key : never }[keyof C];

/** The keys of the table that a pattern matches. */
type KeyBelow<C, Name> = Name extends '*' | `${string}/*` ? { [Key in keyof C]: Names<Key> extends Names<Name> ? Key : never }[keyof C] : never;

/** The names of channels. */
export type ChannelName<C> = Untyped<C> extends true ? string : Names<keyof C> & string;

/** What can be subscribed to: names of channels, and patterns. */
export type ChannelPattern<C> = Untyped<C> extends true ? string : ((Names<keyof C> | keyof C | Above<keyof C>) & string) | '*';

/** What is published on a channel, or heard through a pattern. */
export type Payload<C, Name extends string> = Untyped<C> extends true ? any : C[(KeyOf<C, Name> | KeyBelow<C, Name>) & keyof C];

/** A message that comes to who is subscribed to a channel, or pattern. Its `channel` tells which payload it has. */
export type MessageOn<C, Name extends string> =
  Untyped<C> extends true
    ? Message
    :
        | { [Key in KeyOf<C, Name> & keyof C]: Message<C[Key], Names<Name> & string> }[KeyOf<C, Name> & keyof C]
        | { [Key in KeyBelow<C, Name> & keyof C]: Message<C[Key], Names<Key> & string> }[KeyBelow<C, Name> & keyof C];

/** The arguments of onMessageReceived: the channel tells which payload the message has. */
type Received<M> = M extends Message<any, infer Name> ? [channel: Name, message: M] : never;

/** What is published: only where `undefined` is one of the payloads, nothing can be. */
type Data<D> = undefined extends D ? { data?: D } : { data: D };
type DataFirst<D, Rest extends unknown[]> = undefined extends D ? [data?: D, ...rest: Rest] : [data: D, ...rest: Rest];

/** Nothing is inferred from here. */
type Given<C> = [C][C extends any ? 0 : never];

export interface Message<Data = any, Name extends string = string> {
  /** The one that its publisher gave it. */
  readonly uuid: string;
  /** The channel that it was published on: a name, also for who is subscribed to a pattern. */
  readonly channel: Name;
  /** What was published. */
  readonly payload: Data;
  /** The same: it is called so on the wire. */
  readonly data: Data;
  /** Where it stands in its channel's history, where the server keeps one. Only the server can read it. */
  readonly position?: string;
}

/** How a message is published. */
export interface PublishOptions {
  /** Its name: 1 to 64 of A-Z, a-z, 0-9, - and _. Give that of a refused one to try it again. Default: a random one. */
  uuid?: string;
  /** When aborted, the publish ends with the signal's reason. What was sent already may be published all the same. */
  signal?: AbortSignal;
  /** `false`: this client does not get the message itself. Other tabs of the user do. */
  echo?: boolean;
  /** `false`: the server does not keep the message, so only those get it who are there. */
  history?: boolean;
}

export type Publication<D = any, Name extends string = string> = Data<D> & PublishOptions & { channel: Name };

/** The answer of the server to something that it did. */
export interface Answer {
  readonly uuid?: string;
  readonly data?: any;
  readonly position?: string;
  readonly recovered?: boolean;
}

/** Why the server, or the connection itself, did not do what it was asked. */
export declare class Refusal extends Error {
  readonly name: 'Refusal';
  /**
   * From the server: `denied`, `unavailable`, `invalid`, `limit`, `expired`, `missing`. From
   * here: `denied`, there are no credentials any more; `closed`, the connection is, or
   * the subscription; `timeout`, a publish found no answer; `limit`, too much waits;
   * `invalid`, it is no JSON, or the server ended the session because of it.
   */
  readonly code: 'denied' | 'unavailable' | 'invalid' | 'limit' | 'expired' | 'missing' | 'closed' | 'timeout' | (string & {});
  /** In how many ms trying again makes sense; `false`: never; `undefined`: not said. */
  readonly retry: number | false | undefined;
  /** Trying the same again is of no use. */
  readonly final: boolean;
  readonly channel: string | undefined;
  /** Of the publish that it is about. */
  readonly uuid: string | undefined;
}

export interface State {
  readonly name: 'connecting' | 'connected' | 'disconnected' | 'closed';
  /** Why it is disconnected or closed: a close code of PROTOCOL.md, an HTTP status, or 0. */
  readonly code?: number;
  /** The same for people; a short sentence without a full stop. */
  readonly reason?: string;
  /**
   * When it is disconnected: when the next attempt comes, as Date.now() counts;
   * `undefined` while the page is hidden, for it comes when that ends, and before the
   * first `connect()`. A whole number.
   */
  readonly retryAt?: number;
}

/**
 * Why messages are missing: `epoch`, the server was restarted; `count`, `age`, `bytes`, it
 * has dropped them; `none`, the channel has no history;
 * `denied`, you may not have them; `unavailable`, the server could not find out whether you may.
 */
export type Missing = 'epoch' | 'count' | 'age' | 'bytes' | 'none' | 'denied' | 'unavailable' | (string & {});

/** Which messages of a history to get. */
export interface HistoryOptions {
  /** How many of the newest messages, from 1 to 1,000. Default: 100. */
  last?: number;
  /** Only messages that are older than this position: `before` of the page that came last, or the `position` of a message. */
  before?: string;
  /** When aborted, the promise fails with the signal's reason. */
  signal?: AbortSignal;
}

/** Messages that the server keeps. */
export interface Page<M = Message> {
  /** The oldest first. */
  readonly messages: M[];
  /** If the server keeps older ones: `before` for the next page. */
  readonly before?: string;
  /** Why the server looked for no messages: the channel has no history (`none`), or the server was restarted (`epoch`). */
  readonly reason?: Missing;
  /** Where the newest message of all channels stands. */
  readonly position?: string;
}

/** Messages may be missing. */
export interface Gap {
  readonly channel: string;
  /** Why; `undefined` if the channel has no history. */
  readonly reason?: Missing;
}

/** A subscription that has begun. */
export interface Begun extends Answer {
  readonly channel: string;
  /** The position that the messages follow. Only of channels with a history. */
  readonly position?: string;
  /** Whether all messages come that the client asked for: with `since`, or after a loss. */
  readonly recovered?: boolean;
  /** Why not. */
  readonly reason?: Missing;
}

/** A subscription that the server has ended. */
export interface Ended {
  readonly channel: string;
  readonly code?: string;
  readonly error?: string;
  readonly retry?: number | false;
}

export interface Events<C extends Channels = {}> {
  message: MessageOn<C, '*'>;
  state: State;
  /** A refusal that nobody else is told of; or an error of `credentials`, at a refresh. */
  error: Refusal | Error;
  subscribe: Begun;
  unsubscribe: Ended;
  /** A channel is subscribed again after its session was lost, and not all that was missed came from its history. */
  gap: Gap;
}

/** What SockJS and WebSocket have in common, as far as it is needed here. */
export interface SocketLike {
  onopen: any;
  onmessage: any;
  onclose: any;
  onerror?: any;
  readonly readyState?: number;
  send(text: string): void;
  close(): void;
}

export interface Options<C extends Channels = {}> {
  /** Where pushit is: its path, relative to the page, or URL. Default: where this script came from; else `/push`. */
  endpoint?: string | URL;
  /** Channels and patterns to subscribe to from the start. Default: none. */
  channels?: readonly ChannelPattern<C>[];
  /**
   * What the connect gate is shown: any JSON value, or a function that returns it,
   * asked at each attempt and at each refresh. When it throws, the attempt has
   * failed; an error whose `retry` is `false` closes the connection. Default: none.
   */
  credentials?: unknown | (() => unknown | Promise<unknown>);
  /**
   * In place of the transports: a socket, which is used once; or a function that
   * opens one at the endpoint, as `(endpoint) => new SockJS(endpoint)`, asked at each
   * attempt. Default: none.
   */
  socket?: SocketLike | ((endpoint: string) => SocketLike);
  /** Which transports to try, in this order. Default: all of these. */
  transports?: readonly ('websocket' | 'xhr_streaming' | 'xhr')[];
  /** When aborted, closes the connection. Default: none. */
  signal?: AbortSignal;
  /** Subscriptions to channels with a history begin with this many messages, or with those since this time (RFC 3339). Default: none. */
  since?: number | string;
  /** Whether to connect when it is made, in a moment; else `connect()` does. Default: `true`. */
  connect?: boolean;
  /** In Node.js: whether the process may end while this is connected, or waits. Elsewhere it means nothing. Default: `false`. */
  unref?: boolean;
  /** Whether to try again while the page is hidden. Default: `false`. */
  background?: boolean;
  /** ms within which the first attempt falls after a loss. Default: 1000. */
  firstWait?: number;
  /** ms; the windows of further attempts grow to this. Default: 30000. */
  longestWait?: number;
  /** ms after which a connection counts as steady: its loss starts at `firstWait` again. Default: 5000. */
  steadyAfter?: number;
  /** ms for a transport to open. Default: 10000. */
  openWithin?: number;
  /** ms for `credentials`, and again for the server's answer to connect. Default: 45000. */
  connectWithin?: number;
  /** ms of silence after which the server is asked whether it is there. Default: 35000. */
  silence?: number;
  /** ms for its answer, and of silence while it owes one. Default: 15000. */
  answerWithin?: number;
  /** Publishes that may wait for their answers. Default: 100. */
  outboxMessages?: number;
  /** Characters of JSON that they may have. Default: 262144. */
  outboxBytes?: number;
  /** ms after which a publish without an answer fails; at most 110000. Default: 90000. */
  outboxAge?: number;
  /** Messages that may wait for the reader of a `for await`. Default: 1000. */
  buffer?: number;
  /** Where WebSocket, fetch, timers, Date, Math, document, navigator and sessionStorage are taken from, for tests. Default: `globalThis`. */
  global?: any;
}

type OnError = (refusal: Refusal) => void;
type OnSuccess = (answer: Answer) => void;

export declare class PushIt<C extends Channels = {}> {
  static readonly Refusal: typeof Refusal;

  /** Connects, in a moment: what is set right after is not too late. With `connect: false`, it waits for `connect()`. */
  constructor(options?: Options<Given<C>>);

  /** Called with each message. */
  onMessageReceived?: (...received: Received<MessageOn<C, '*'>>) => void;
  /** Called each time that it is connected. */
  onConnect?: () => void;
  /** Called each time that it is not connected any more. */
  onDisconnect?: (state: State) => void;
  /** Called when the server, or `credentials`, does not want this page: nothing more is tried. */
  onConnectionDenied?: (reason: string) => void;

  readonly state: State;
  /** What this calls itself, a random label. It proves nothing. */
  readonly agentId: string;
  /** Where it connects to. */
  readonly endpoint: string;
  /** The names and patterns that it is subscribed to now. */
  readonly channels: string[];

  /**
   * Publishes, and returns the message's uuid at once. Without a connection it waits
   * for one; without an answer it is sent again in the next session, and the server
   * knows it by its uuid. One of the callbacks is called, once, and not before
   * this has returned.
   */
  publish<Name extends ChannelName<C>>(message: Publication<Payload<C, Name>, Single<Name>>, onError?: OnError, onSuccess?: OnSuccess): string;
  publish<Name extends ChannelName<C>>(channel: Single<Name>, ...data: DataFirst<Payload<C, Name>, [onError?: OnError, onSuccess?: OnSuccess]>): string;

  /**
   * Subscribes to a channel, or with `stories/*` or `*` to all that match, now and
   * after each reconnect. Ends when the server has said yes, or a final no.
   */
  subscribe(channel: ChannelPattern<C>, onError?: OnError, onSuccess?: OnSuccess): Promise<Answer>;

  /** Ends a subscription, and whatever listens to it here. The server may refuse; then all stays as it is. */
  unsubscribe(channel: ChannelPattern<C>, onError?: OnError, onSuccess?: OnSuccess): Promise<Answer>;

  /**
   * Gets messages that the server keeps of a channel, or of all that match a pattern. No
   * subscription is needed. Without a connection it waits for one, as a publish does.
   */
  history<Name extends ChannelPattern<C>>(channel: Name, options?: HistoryOptions): Promise<Page<MessageOn<C, Name>>>;

  /** A handle for one channel or pattern. `signal` ends all that is begun with it. */
  channel<Name extends ChannelPattern<C>>(name: Name, options?: { signal?: AbortSignal }): Channel<Payload<C, Name>, MessageOn<C, Name>>;

  /** Listens. Returns what stops it. */
  on<Type extends keyof Events>(type: Type, listener: (event: Events<C>[Type]) => void, options?: { signal?: AbortSignal }): () => void;

  /** Does not wait for the next attempt, unless the server said so; opens again what was closed. */
  connect(): void;

  /** Closes it: what waits ends with `closed`, and nothing more is tried until `connect`. */
  close(): void;
}

export interface Channel<D = any, M = Message<D>> extends AsyncIterable<M> {
  readonly name: string;
  subscribe(onError?: OnError, onSuccess?: OnSuccess): Promise<Answer>;
  unsubscribe(onError?: OnError, onSuccess?: OnSuccess): Promise<Answer>;
  /** Gets messages that the server keeps. */
  history(options?: HistoryOptions): Promise<Page<M>>;
  /** Publishes, and resolves with the uuid when the server has taken it; the promise has the `uuid` before. */
  publish(...data: DataFirst<D, [options?: PublishOptions]>): Promise<string> & { readonly uuid: string };
  /**
   * Who is in the channel, as a list that stays live over reconnects. It subscribes until
   * it is closed. A pattern has no list.
   */
  presence(options?: { signal?: AbortSignal }): Presence;
  /** Listens, and subscribes for as long as somebody does. Returns what stops it. */
  on(type: 'message', listener: (message: M) => void, options?: { signal?: AbortSignal }): () => void;
  /**
   * Reads messages, and subscribes for as long. Ends when the subscription does;
   * throws a Refusal when that was not this page's wish, or when more than `buffer`
   * messages wait.
   */
  [Symbol.asyncIterator](): AsyncIterableIterator<M>;
}

/** Somebody who is in a channel: a user with all tabs and devices, or an agent whose user nobody knows. */
export interface Member {
  readonly user?: string;
  /** The server's name for an agent without a user. It is new in each session. */
  readonly uuid?: string;
  readonly tabs: number;
  /** What the configuration of the server shows of it. */
  readonly info?: any;
}

/** Who is in a channel, in the order in which they came. */
export interface Presence extends Iterable<Member> {
  /** How many there are. */
  readonly count: number;
  /** `false` if the channel is only counted: then nobody is in the list. */
  readonly listed: boolean;
  /** `change` comes after whatever has changed, once for all that changed together. Returns what stops listening. */
  on(type: 'join' | 'leave', listener: (member: Member) => void, options?: { signal?: AbortSignal }): () => void;
  on(type: 'change', listener: (list: Presence) => void, options?: { signal?: AbortSignal }): () => void;
  close(): void;
}

export default PushIt;

declare global {
  interface Window {
    /** From the classic script, pushit.js. */
    PushIt?: typeof PushIt;
  }
}
