// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// Package pushit makes Caddy a server that pushes: publish/subscribe over
// WebSocket on named channels, in the web server that serves the site.
//
// This package connects Caddy with the packages below it. Package hub has the agents and
// channels, package hub/transport has what goes over HTTP, and package guards has the rules.
// Their documentation says where to find what in them.
//
// # Where to find what
//
//   - A configuration: Handler.Provision in module.go checks it, joins the hub of its name
//     and gives the hub a [hub.Policy].
//   - A reload: Caddy provisions a new [Handler], then cleans up the old one.
//     Handler.Cleanup in module.go moves its agents to the new one with [hub.Hub.Drop].
//     internal/hubpool keeps the hub meanwhile.
//   - A request: Handler.ServeHTTP in module.go gives it to transport.Endpoint.
//     Handler.opening in snapshot.go makes a [hub.Opening] of a request that opens a
//     session.
//   - JSON: module.go, config.go, gates.go, history.go, presence.go and broker.go have the
//     options. rules.go and deliveries.go have those that a channel block can set.
//   - The Caddyfile: caddyfile.go, caddyfile_gates.go and caddyfile_transports.go.
//     caddyfile_place.go finds mistakes in where the directive stands.
//   - Warnings at start: site.go.
//   - New connections of the server, which take turns: accept.go.
//   - Operators: admin.go has the admin API, command_admin.go the commands that use it, and
//     command.go `caddy pushit explain`. internal/statuspage has the status page.
//   - Other modules of the same server: [FindHub] in find.go.
//
// The package is larger than 3,500 lines because the settings of the module, their checks and
// their form in a Caddyfile belong together.
package pushit
