// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * The client of pushit: a connection that reconnects by itself.
 *
 *     const push = new PushIt({ channels: ['news'] });
 *     push.onMessageReceived = (channel, message) => console.log(channel, message.payload);
 *     push.publish('news', 'It works.');
 *
 * README.md explains everything; PROTOCOL.md describes the protocol.
 */

/**
 * The types of the payloads, by the name of a channel or by a pattern (`stories/*`, `*`).
 * Without such a table, a channel is any string, and a payload is `any`.
 *
 *     interface Payloads { news: { title: string }; 'stories/*': Story }
 *     const push = new PushIt<Payloads>();
 *
 * With a table, other channels are type errors, unless it has `'*': unknown`.
 */
export type Channels = object;

/** Whether there is no table of payloads. */
type Untyped<C> = [keyof C] extends [never] ? true : false;

/** The names of the channels that a key of the table, or a subscription, is about. */
type Names<Key> = Key extends '*' ? string : Key extends `${infer Path}/*` ? `${Path}/${string}` : Key;

/** The patterns, except `*`, that match a name, or that match everything that a pattern matches. */
type Above<Key> = Key extends `${infer First}/${infer Rest}` ? `${First}/*` | `${First}/${Above<Rest>}` : never;

/** The name of one channel, not a pattern. */
type Single<Name> = Name extends '*' | `${string}/*` ? never : Name;

/** The keys of the table for a channel: its own key, or else all patterns that match it. */
type KeyOf<C, Name> = Name extends keyof C ? Name : { [Key in keyof C]: Name extends Names<Key> ? Key : never }[keyof C];

/** The keys of the table that a pattern matches. */
type KeyBelow<C, Name> = Name extends '*' | `${string}/*` ? { [Key in keyof C]: Names<Key> extends Names<Name> ? Key : never }[keyof C] : never;

/** The names of channels. */
export type ChannelName<C> = Untyped<C> extends true ? string : Names<keyof C> & string;

/** What can be subscribed to: names of channels, and patterns. */
export type ChannelPattern<C> = Untyped<C> extends true ? string : ((Names<keyof C> | keyof C | Above<keyof C>) & string) | '*';

/** What is published on a channel, or received through a pattern. */
export type Payload<C, Name extends string> = Untyped<C> extends true ? any : C[(KeyOf<C, Name> | KeyBelow<C, Name>) & keyof C];

/** A message that a subscriber to a channel or pattern gets. Its `channel` tells the type of its payload. */
export type MessageOn<C, Name extends string> =
  Untyped<C> extends true
    ? Message
    :
        | { [Key in KeyOf<C, Name> & keyof C]: Message<C[Key], Names<Name> & string> }[KeyOf<C, Name> & keyof C]
        | { [Key in KeyBelow<C, Name> & keyof C]: Message<C[Key], Names<Key> & string> }[KeyBelow<C, Name> & keyof C];

/** The arguments of onMessageReceived. The channel tells the type of the message's payload. */
type Received<M> = M extends Message<any, infer Name> ? [channel: Name, message: M] : never;

/** The data to publish. It may be left out only if `undefined` is one of the payloads. */
type Data<D> = undefined extends D ? { data?: D } : { data: D };
type DataFirst<D, Rest extends unknown[]> = undefined extends D ? [data?: D, ...rest: Rest] : [data: D, ...rest: Rest];

/** Keeps TypeScript from inferring the table from this argument. */
type Given<C> = [C][C extends any ? 0 : never];

export interface Message<Data = any, Name extends string = string> {
  /** The uuid that its publisher gave it. */
  readonly uuid: string;
  /** The channel that it was published on. It is a name, even if you subscribed to a pattern. */
  readonly channel: Name;
  /** What was published. */
  readonly payload: Data;
  /** The same as `payload`: its name in the protocol. */
  readonly data: Data;
  /** Its position in the channel's history, if the channel has one. Only the server can read it. */
  readonly position?: string;
}

/** How a message is published. */
export interface PublishOptions {
  /** The name of the message: 1 to 64 of A-Z, a-z, 0-9, - and _. To repeat a refused message, give the same one. Default: a random one. */
  uuid?: string;
  /** When aborted, the publish fails with the signal's reason. A message that was sent before may still be published. */
  signal?: AbortSignal;
  /** `false`: this client does not get its own message. Other tabs of the user do. Default: `true`. */
  echo?: boolean;
  /** `false`: the server does not keep the message, so only current subscribers get it. Default: `true`. */
  history?: boolean;
}

export type Publication<D = any, Name extends string = string> = Data<D> & PublishOptions & { channel: Name };

/** The answer of the server to a request that succeeded. */
export interface Answer {
  readonly uuid?: string;
  readonly data?: any;
  readonly position?: string;
  readonly recovered?: boolean;
}

/** Why the server, or this client, refused something. */
export declare class Refusal extends Error {
  readonly name: 'Refusal';
  /**
   * From the server: `denied`, `unavailable`, `invalid`, `limit`, `expired`, `missing`. From
   * the client: `denied`, there are no credentials any more; `closed`, the connection or
   * the subscription was closed; `timeout`, a publish got no answer in time; `limit`, too
   * much waits already; `invalid`, the data cannot be written as JSON, or the server ended
   * the session because of it.
   */
  readonly code: 'denied' | 'unavailable' | 'invalid' | 'limit' | 'expired' | 'missing' | 'closed' | 'timeout' | (string & {});
  /** After how many ms it makes sense to try again; `false`: never; `undefined`: unknown. */
  readonly retry: number | false | undefined;
  /** Whether it is useless to try the same again. */
  readonly final: boolean;
  readonly channel: string | undefined;
  /** The uuid of the publish that was refused. */
  readonly uuid: string | undefined;
}

export interface State {
  readonly name: 'connecting' | 'connected' | 'disconnected' | 'closed';
  /** Why it is disconnected or closed: a close code of PROTOCOL.md, an HTTP status, or 0. */
  readonly code?: number;
  /** The reason for people: a short sentence without a full stop. */
  readonly reason?: string;
  /**
   * When the next attempt comes, if it is disconnected: a whole number, as Date.now()
   * counts. It is `undefined` while the page is hidden, because the attempt comes when the
   * page is shown, and before the first `connect()`.
   */
  readonly retryAt?: number;
}

/**
 * Why messages are missing: `epoch`, the server was restarted; `count`, `age`, `bytes`, the server
 * has dropped them because of that limit; `none`, the channel has no history; `denied`, you may not
 * have them; `unavailable`, the server could not find out whether you may.
 */
export type Missing = 'epoch' | 'count' | 'age' | 'bytes' | 'none' | 'denied' | 'unavailable' | (string & {});

/** Which messages of a history to get. */
export interface HistoryOptions {
  /** How many of the newest messages, from 1 to 1,000. Default: 100. */
  last?: number;
  /** Only messages before this position: the `before` of the previous page, or the `position` of a message. */
  before?: string;
  /** When aborted, the promise fails with the signal's reason. */
  signal?: AbortSignal;
}

/** Messages that the server keeps. */
export interface Page<M = Message> {
  /** The oldest first. */
  readonly messages: M[];
  /** The `before` of the next page, if the server keeps older messages. */
  readonly before?: string;
  /** Why there are no messages: the channel has no history (`none`), or the server was restarted (`epoch`). */
  readonly reason?: Missing;
  /** The position of the newest message of all channels. */
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
  /** The position after which messages follow. Only channels with a history have one. */
  readonly position?: string;
  /** Whether the client gets all messages that it asked for, with `since` or after a lost connection. */
  readonly recovered?: boolean;
  /** Why it does not get all of them. */
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
  /** A refusal that no callback and no promise gets, or an error of `credentials` at a refresh. */
  error: Refusal | Error;
  subscribe: Begun;
  unsubscribe: Ended;
  /** The client has subscribed again after it lost its session, and the history did not have all missed messages. */
  gap: Gap;
}

/** The members of SockJS and WebSocket that the client uses. */
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
  /** The URL of pushit, or its path relative to the page. Default: where this script came from; else `/push`. */
  endpoint?: string | URL;
  /** Channels and patterns to subscribe to from the start. Default: none. */
  channels?: readonly ChannelPattern<C>[];
  /**
   * The credentials for the connect gate: any JSON value, or a function that returns it.
   * The function is called at each attempt and at each refresh. If it throws, the attempt
   * has failed; an error whose `retry` is `false` closes the connection. Default: none.
   */
  credentials?: unknown | (() => unknown | Promise<unknown>);
  /**
   * Replaces the transports: a socket, which is used once, or a function that opens one
   * at the endpoint, such as `(endpoint) => new SockJS(endpoint)`. The function is called
   * at each attempt. Default: none.
   */
  socket?: SocketLike | ((endpoint: string) => SocketLike);
  /** Which transports to try, in this order. Default: all of these. */
  transports?: readonly ('websocket' | 'xhr_streaming' | 'xhr')[];
  /** When aborted, closes the connection. Default: none. */
  signal?: AbortSignal;
  /** Subscriptions to channels with a history begin with this many messages, or with those since this time (RFC 3339). Default: none. */
  since?: number | string;
  /** Whether to connect right after it is made. Otherwise call `connect()`. Default: `true`. */
  connect?: boolean;
  /** In Node.js: whether the process may exit while this is connected, or waits. Elsewhere it has no effect. Default: `false`. */
  unref?: boolean;
  /** Whether to try again while the page is hidden. Default: `false`. */
  background?: boolean;
  /** The first attempt after a lost connection comes within this many ms. Default: 1000. */
  firstWait?: number;
  /** The time between further attempts grows up to this many ms. Default: 30000. */
  longestWait?: number;
  /** A connection that held for this many ms counts as steady: after it, attempts begin at `firstWait` again. Default: 5000. */
  steadyAfter?: number;
  /** How many ms a transport may take to open. Default: 10000. */
  openWithin?: number;
  /** How many ms `credentials` may take, and then the server's answer to connect. Default: 45000. */
  connectWithin?: number;
  /** After this many ms of silence, the client asks the server for a sign of life. Default: 35000. */
  silence?: number;
  /** How many ms the server may take for that, and how long it may be silent while an answer is missing. Default: 15000. */
  answerWithin?: number;
  /** How many publishes may wait for their answers. Default: 100. */
  outboxMessages?: number;
  /** How many characters of JSON these may have together. Default: 262144. */
  outboxBytes?: number;
  /** After this many ms, a publish without an answer fails. At most 110000. Default: 90000. */
  outboxAge?: number;
  /** How many messages may wait for the reader of a `for await`. Default: 1000. */
  buffer?: number;
  /** Where WebSocket, fetch, timers, Date, Math, document, navigator and sessionStorage are taken from, for tests. Default: `globalThis`. */
  global?: any;
}

type OnError = (refusal: Refusal) => void;
type OnSuccess = (answer: Answer) => void;

export declare class PushIt<C extends Channels = {}> {
  static readonly Refusal: typeof Refusal;

  /** Connects after the caller has returned, so you can set callbacks first. With `connect: false`, it waits for `connect()`. */
  constructor(options?: Options<Given<C>>);

  /** Called with each message. */
  onMessageReceived?: (...received: Received<MessageOn<C, '*'>>) => void;
  /** Called each time that it is connected. */
  onConnect?: () => void;
  /** Called each time that the connection is lost or closed. */
  onDisconnect?: (state: State) => void;
  /** Called when the server, or `credentials`, denies the connection for good. There are no further attempts. */
  onConnectionDenied?: (reason: string) => void;

  readonly state: State;
  /** A random name that the client gives itself. It proves nothing. */
  readonly agentId: string;
  /** The URL that it connects to. */
  readonly endpoint: string;
  /** The names and patterns that it is subscribed to now. */
  readonly channels: string[];

  /**
   * Publishes, and returns the message's uuid at once. Without a connection, the message waits for
   * one. Without an answer, it is sent again in the next session; the server recognizes it by its
   * uuid, and publishes it once. One of the callbacks is called, once, after this has returned.
   */
  publish<Name extends ChannelName<C>>(message: Publication<Payload<C, Name>, Single<Name>>, onError?: OnError, onSuccess?: OnSuccess): string;
  publish<Name extends ChannelName<C>>(channel: Single<Name>, ...data: DataFirst<Payload<C, Name>, [onError?: OnError, onSuccess?: OnSuccess]>): string;

  /**
   * Subscribes to a channel, or to all channels that match `stories/*` or `*`, now and after each
   * reconnect. The promise ends when the server has allowed it, or has refused it for good.
   */
  subscribe(channel: ChannelPattern<C>, onError?: OnError, onSuccess?: OnSuccess): Promise<Answer>;

  /** Ends a subscription, and all its listeners here. If the server refuses, nothing changes. */
  unsubscribe(channel: ChannelPattern<C>, onError?: OnError, onSuccess?: OnSuccess): Promise<Answer>;

  /**
   * Gets messages that the server keeps of a channel, or of all channels that match a pattern. It
   * needs no subscription. Without a connection it waits for one, as a publish does.
   */
  history<Name extends ChannelPattern<C>>(channel: Name, options?: HistoryOptions): Promise<Page<MessageOn<C, Name>>>;

  /** Returns an object for one channel or pattern. `signal` ends everything that you begin with it. */
  channel<Name extends ChannelPattern<C>>(name: Name, options?: { signal?: AbortSignal }): Channel<Payload<C, Name>, MessageOn<C, Name>>;

  /** Adds a listener. Returns a function that removes it. */
  on<Type extends keyof Events>(type: Type, listener: (event: Events<C>[Type]) => void, options?: { signal?: AbortSignal }): () => void;

  /** Makes the next attempt at once, unless the server has asked to wait. Opens a closed connection again. */
  connect(): void;

  /** Closes the connection. Whatever waits fails with `closed`. There are no further attempts until `connect()`. */
  close(): void;
}

export interface Channel<D = any, M = Message<D>> extends AsyncIterable<M> {
  readonly name: string;
  subscribe(onError?: OnError, onSuccess?: OnSuccess): Promise<Answer>;
  unsubscribe(onError?: OnError, onSuccess?: OnSuccess): Promise<Answer>;
  /** Gets messages that the server keeps. */
  history(options?: HistoryOptions): Promise<Page<M>>;
  /** Publishes. The promise resolves with the uuid when the server has accepted the message; it has the `uuid` at once. */
  publish(...data: DataFirst<D, [options?: PublishOptions]>): Promise<string> & { readonly uuid: string };
  /**
   * Lists who is in the channel, and keeps the list up to date, also over reconnects. It
   * subscribes until you close it. Patterns have no list.
   */
  presence(options?: { signal?: AbortSignal }): Presence;
  /** Adds a listener, and subscribes while there are any. Returns a function that removes it. */
  on(type: 'message', listener: (message: M) => void, options?: { signal?: AbortSignal }): () => void;
  /**
   * Reads messages, and subscribes meanwhile. The loop ends when this page unsubscribes. It throws
   * a Refusal if the subscription ends otherwise, or if more than `buffer` messages wait.
   */
  [Symbol.asyncIterator](): AsyncIterableIterator<M>;
}

/** A member of a channel: a user with all tabs and devices, or an agent without a known user. */
export interface Member {
  readonly user?: string;
  /** The server's name for an agent without a user. It differs in each session. */
  readonly uuid?: string;
  readonly tabs: number;
  /** What the server's configuration shows of the member. */
  readonly info?: any;
}

/** The members of a channel, in the order in which they joined. */
export interface Presence extends Iterable<Member> {
  /** The number of members. */
  readonly count: number;
  /** `false` if the server only counts the members: then the list is empty. */
  readonly listed: boolean;
  /** Adds a listener. `change` comes once after one or more changes. Returns a function that removes the listener. */
  on(type: 'join' | 'leave', listener: (member: Member) => void, options?: { signal?: AbortSignal }): () => void;
  on(type: 'change', listener: (list: Presence) => void, options?: { signal?: AbortSignal }): () => void;
  close(): void;
}

export default PushIt;
