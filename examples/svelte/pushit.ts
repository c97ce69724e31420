// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Stores for the channels of pushit. Copy this file, and write your own Payloads.
 *
 * @module
 */

import { PushIt, type ChannelName, type ChannelPattern, type Member, type MessageOn, type State } from "@pushit/client";
import { readable, type Readable } from "svelte/store";

/** What each channel carries. A misspelt channel does not compile. */
export interface Payloads {
  "rooms/*": { text: string };
}

let shared: PushIt<Payloads> | undefined;

/** The connection of this page. All components share it. It opens when the first one needs it. */
export function pushIt(): PushIt<Payloads> {
  return (shared ??= new PushIt<Payloads>({ endpoint: "/push" }));
}

/** The state of the connection: its `name` is `connected`, or why not. */
export const connection: Readable<State> = readable<State>({ name: "connecting" }, (set) => {
  set(pushIt().state);
  return pushIt().on("state", set);
});

/**
 * The newest messages of a channel with a history, and all that come while somebody
 * subscribes to the store. After a gap they are loaded again.
 */
export function messages<Name extends ChannelPattern<Payloads>>(name: Name, last = 50): Readable<readonly MessageOn<Payloads, Name>[]> {
  return readable<readonly MessageOn<Payloads, Name>[]>([], (set, update) => {
    const gone = new AbortController();
    const { signal } = gone;
    const stop = pushIt()
      .channel(name)
      .on("message", (message) => signal.aborted || update((old) => [...old, message].slice(-10 * last)));
    const load = async () => {
      set([]);
      try {
        const { messages: kept } = await pushIt().history(name, { last, signal });
        // What came meanwhile may be in both.
        update((live) => [...kept.filter(({ uuid }) => !live.some((message) => message.uuid === uuid)), ...live]);
      } catch {
        // without a history there is nothing to show before
      }
    };
    load();
    pushIt().on("gap", (gap) => gap.channel === name && load(), { signal });
    return () => {
      gone.abort();
      // In a moment, so that the subscription stays if the next component wants it, too.
      setTimeout(stop);
    };
  });
}

export interface Here {
  readonly count: number;
  readonly members: readonly Member[];
}

/** Who is in a channel. */
export function presence(name: ChannelName<Payloads>): Readable<Here> {
  return readable<Here>({ count: 0, members: [] }, (set) => {
    const list = pushIt().channel(name).presence();
    const stop = list.on("change", () => set({ count: list.count, members: [...list] }));
    return () => {
      stop();
      setTimeout(() => list.close());
    };
  });
}
