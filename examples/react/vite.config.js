// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

import react from "@vitejs/plugin-react";

export default {
  plugins: [react()],
  // In development the page comes from Vite, and Caddy has the channels.
  server: { proxy: { "/push": { target: "http://localhost:8080", ws: true } } },
};
