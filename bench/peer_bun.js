// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// The server of the peer bun: `bun peer_bun.js host port`. The frame "subscribe" subscribes a
// WebSocket. Any other frame is published as it is.
const [hostname, port] = process.argv.slice(2);
const server = Bun.serve({
  hostname,
  port,
  fetch(request, server) {
    if (server.upgrade(request)) return;
    return new Response("This is a WebSocket.", { status: 426 });
  },
  websocket: {
    message(socket, message) {
      if (message === "subscribe") {
        socket.subscribe("news");
        socket.send("subscribed");
      } else {
        server.publish("news", message);
      }
    },
  },
});
