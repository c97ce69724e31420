#!/bin/sh
# Starts the backend and Caddy, with a secret that both know and nobody else. Run it in
# the top folder of the repository; Ctrl+C ends both.
#
# CADDY is the command that runs a Caddy with pushit in it.

PUBLISHER_SECRET="${PUBLISHER_SECRET:-$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')}"
export PUBLISHER_SECRET

node examples/news/newsroom.mjs &
newsroom=$!
trap 'kill "$newsroom" 2>/dev/null' EXIT
trap : INT TERM # Caddy gets the signal too, and ends

${CADDY:-go run ./cmd/caddy} run --config examples/news/Caddyfile
