// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Composables for the channels of pushit. Copy this file, and write your own Payloads.
 *
 * @module
 */

import { PushIt, type ChannelName, type ChannelPattern, type Member, type MessageOn, type State } from "@pushit/client";
import { onScopeDispose, shallowRef, toValue, watch, type MaybeRefOrGetter, type ShallowRef } from "vue";

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
export function usePushIt(): Readonly<ShallowRef<State>> {
  const state = shallowRef(pushIt().state);
  onScopeDispose(pushIt().on("state", (now) => (state.value = now)));
  return state;
}

/** Calls onMessage with each message of a channel or pattern, while the component is there. The name may change. */
export function useChannel<Name extends ChannelPattern<Payloads>>(name: MaybeRefOrGetter<Name>, onMessage: (message: MessageOn<Payloads, Name>) => void): void {
  watch(
    () => toValue(name),
    (channel, _, onCleanup) => {
      let here = true;
      const stop = pushIt()
        .channel(channel)
        .on("message", (message) => here && onMessage(message));
      onCleanup(() => {
        here = false;
        // In a moment, so that the subscription stays if the next component wants it, too.
        setTimeout(stop);
      });
    },
    { immediate: true },
  );
}

/** The newest messages of a channel with a history, and all that come. After a gap they are loaded again. */
export function useMessages<Name extends ChannelPattern<Payloads>>(name: MaybeRefOrGetter<Name>, last = 50): Readonly<ShallowRef<readonly MessageOn<Payloads, Name>[]>> {
  const messages = shallowRef<readonly MessageOn<Payloads, Name>[]>([]);
  useChannel(name, (message) => (messages.value = [...messages.value, message].slice(-10 * last)));
  watch(
    () => toValue(name),
    (channel, _, onCleanup) => {
      const gone = new AbortController();
      onCleanup(() => gone.abort());
      const load = async () => {
        messages.value = [];
        try {
          const { messages: kept } = await pushIt().history(channel, { last, signal: gone.signal });
          // What came meanwhile may be in both.
          const live = messages.value;
          messages.value = [...kept.filter(({ uuid }) => !live.some((message) => message.uuid === uuid)), ...live];
        } catch {
          // without a history there is nothing to show before
        }
      };
      load();
      pushIt().on("gap", (gap) => gap.channel === channel && load(), { signal: gone.signal });
    },
    { immediate: true },
  );
  return messages;
}

export interface Here {
  readonly count: number;
  readonly members: readonly Member[];
}

/** Who is in a channel. */
export function usePresence(name: MaybeRefOrGetter<ChannelName<Payloads>>): Readonly<ShallowRef<Here>> {
  const here = shallowRef<Here>({ count: 0, members: [] });
  watch(
    () => toValue(name),
    (channel, _, onCleanup) => {
      const list = pushIt().channel(channel).presence();
      const stop = list.on("change", () => (here.value = { count: list.count, members: [...list] }));
      onCleanup(() => {
        stop();
        setTimeout(() => list.close());
      });
    },
    { immediate: true },
  );
  return here;
}
