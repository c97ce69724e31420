// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * A socket that the page gives: SockJS, a WebSocket at `<path>/websocket`, or an object
 * like them.
 *
 * @param {any} socket
 * @param {import('./transport.js').Events} on
 * @returns {import('./transport.js').Session}
 */
export function given(socket, on) {
  socket.onopen = on._open;
  socket.onmessage = ({ data }) => on._frame(data);
  socket.onclose = (event) => on._close(event?.code, event?.reason);
  socket.onerror = () => {}; // onclose follows; some sockets throw if there is no listener
  if (socket.readyState === 1) queueMicrotask(on._open); // it is open already
  return {
    _send: (texts) => texts.forEach((text) => socket.send(text)),
    _close: () => socket.close(),
  };
}
