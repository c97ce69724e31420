// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// Command caddy is Caddy with its standard modules, pushit, and a NATS server.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/push-it/pushit"
	_ "github.com/push-it/pushit/contrib/embedded-nats"
)

func main() { caddycmd.Main() }
