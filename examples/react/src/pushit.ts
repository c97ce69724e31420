// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Hooks for the channels of pushit. Copy this file, and write your own Payloads.
 *
 * @module
 */

import { PushIt, type ChannelName, type ChannelPattern, type Member, type MessageOn, type State } from "@pushit/client";
import { useEffect, useRef, useState, useSyncExternalStore } from "react";

/** What each channel carries. A misspelt channel does not compile. */
export interface Payloads {
  "rooms/*": { text: string };
}

let shared: PushIt<Payloads> | undefined;

/** The connection of this page. All components share it. It opens when the first one needs it; not while a server renders. */
export function pushIt(): PushIt<Payloads> {
  return (shared ??= new PushIt<Payloads>({ endpoint: "/push" }));
}

const watchState = (changed: () => void) => pushIt().on("state", changed);
const readState = () => pushIt().state;
const onServer: State = { name: "connecting" };

/** The state of the connection: its `name` is `connected`, or why not. */
export function usePushIt(): State {
  return useSyncExternalStore(watchState, readState, () => onServer);
}

/**
 * Calls onMessage with each message of a channel or pattern, while the component is there.
 * onMessage may be another function each time.
 */
export function useChannel<Name extends ChannelPattern<Payloads>>(name: Name, onMessage: (message: MessageOn<Payloads, Name>) => void): void {
  const latest = useRef(onMessage);
  useEffect(() => {
    latest.current = onMessage;
  });
  useEffect(() => {
    let here = true;
    const stop = pushIt()
      .channel(name)
      .on("message", (message) => here && latest.current(message));
    return () => {
      here = false;
      // In a moment, so that the subscription stays if the next component wants it, too.
      setTimeout(stop);
    };
  }, [name]);
}

/** The newest messages of a channel with a history, and all that come. After a gap they are loaded again. */
export function useMessages<Name extends ChannelPattern<Payloads>>(name: Name, last = 50): readonly MessageOn<Payloads, Name>[] {
  const [messages, setMessages] = useState<readonly MessageOn<Payloads, Name>[]>([]);
  useChannel(name, (message) => setMessages((old) => [...old, message].slice(-10 * last)));
  useEffect(() => {
    const gone = new AbortController();
    const load = () => {
      setMessages([]);
      pushIt()
        .history(name, { last, signal: gone.signal })
        .then(
          // What came meanwhile may be in both.
          ({ messages: kept }) => setMessages((live) => [...kept.filter(({ uuid }) => !live.some((message) => message.uuid === uuid)), ...live]),
          () => {}, // without a history there is nothing to show before
        );
    };
    load();
    pushIt().on("gap", ({ channel }) => channel === name && load(), { signal: gone.signal });
    return () => gone.abort();
  }, [name, last]);
  return messages;
}

export interface Here {
  readonly count: number;
  readonly members: readonly Member[];
}

const nobody: Here = { count: 0, members: [] };

/** Who is in a channel. */
export function usePresence(name: ChannelName<Payloads>): Here {
  const [here, setHere] = useState(nobody);
  useEffect(() => {
    const list = pushIt().channel(name).presence();
    const stop = list.on("change", () => setHere({ count: list.count, members: [...list] }));
    return () => {
      stop();
      setHere(nobody);
      setTimeout(() => list.close()); // as above
    };
  }, [name]);
  return here;
}
