// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

import { useState, type FormEvent } from "react";
import { pushIt, useMessages, usePresence, usePushIt } from "./pushit";

const rooms = ["lobby", "garden"] as const;

export function App() {
  const [room, setRoom] = useState<(typeof rooms)[number]>("lobby");
  const { name, reason } = usePushIt();
  return (
    <main>
      <nav aria-label="Rooms">
        {rooms.map((each) => (
          <button key={each} type="button" aria-pressed={each === room} onClick={() => setRoom(each)}>
            {each}
          </button>
        ))}
      </nav>
      <Room key={room} room={room} />
      <p id="state">{name === "connected" ? "Connected" : `Connecting… ${reason ?? ""}`}</p>
    </main>
  );
}

function Room({ room }: { room: string }) {
  const messages = useMessages(`rooms/${room}`);
  const here = usePresence(`rooms/${room}`);
  const [text, setText] = useState("");
  const [problem, setProblem] = useState("");

  async function send(event: FormEvent) {
    event.preventDefault();
    try {
      await pushIt().channel(`rooms/${room}`).publish({ text });
      setText("");
      setProblem("");
    } catch (refusal) {
      setProblem((refusal as Error).message);
    }
  }

  return (
    <section aria-label={room}>
      <p id="here">{here.count === 1 ? "You are alone here." : `${here.count} are here.`}</p>
      <ul id="messages">
        {messages.map(({ uuid, payload }) => (
          <li key={uuid}>{payload.text}</li>
        ))}
      </ul>
      <form onSubmit={send}>
        <input id="text" aria-label="Text" autoComplete="off" value={text} onChange={(event) => setText(event.target.value)} />
        <button>Say</button>
        <output>{problem}</output>
      </form>
    </section>
  );
}
