// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/** The browser's WebSocket, with the messages of SockJS. @type {import('./transport.js').Transport} */
export function websocket(env, url, on) {
  const socket = new env.WebSocket(`${url.replace('http', 'ws')}/websocket`);
  socket.onmessage = ({ data }) => on._line(data);
  socket.onclose = ({ code, reason }) => on._close(code, reason);
  socket.onerror = () => on._close(1006); // onclose has no better code then, and Node.js 20 does not call it
  return {
    _send: (texts) => socket.send(JSON.stringify(texts)),
    _close: () => socket.close(),
  };
}
