// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package pushit

import (
	"errors"
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/internal/explain"
	"github.com/push-it/pushit/internal/hubpool"
	"github.com/push-it/pushit/internal/routing"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "pushit",
		Usage: "<command>",
		Short: "Sees and steers what pages and programs do over pushit",
		CobraFunc: func(cmd *cobra.Command) {
			cmd.AddCommand(explainCommand())
			cmd.AddCommand(adminCommands()...)
		},
	})
}

const explainHelp = `
Asks one gate of a configuration about one agent. Shows which channel block
decides, what each guard answers, and the verdict.

The command loads the configuration like the server, but serves nothing. Guards
that ask a backend do ask it.

The exit status is 0 if the gate allows, 1 if it refuses, and 2 if the question
could not be asked. So you can test rules:

  caddy pushit explain --gate subscribe --channel users/bob --user bob
  ! caddy pushit explain --gate subscribe --channel users/bob --user eve

Describe the agent by the request that opened its session (--site, --query,
--header, --ip, --user) and by what its connect gate learned. Either --connect
asks that gate first, with --credentials, or you write it with --claims,
--attributes and --grant.`

// explainCommand makes the command caddy pushit explain.
func explainCommand() *cobra.Command {
	var o explain.Options
	cmd := &cobra.Command{
		Use:     "explain --gate <gate> [--channel <channel>] [--config <path> [--adapter <name>]] [flags]",
		Short:   "Explains what a gate answers about an agent, and why",
		Long:    explainHelp,
		Example: `  caddy pushit explain --config Caddyfile --gate publish --channel chat --data '"hello"' --header 'Cookie: s=1'`,
		Args: func(cmd *cobra.Command, args []string) error {
			return notAsked(cmd, cobra.NoArgs(cmd, args))
		},
	}
	cmd.SetFlagErrorFunc(notAsked)
	f := cmd.Flags()
	f.StringVarP(&o.Config, "config", "c", "Caddyfile", "the configuration file")
	f.StringVarP(&o.Adapter, "adapter", "a", "", "the config adapter, if the file is neither a Caddyfile nor JSON")
	f.StringVar(&o.Gate, "gate", "", "the gate: connect, subscribe, unsubscribe, publish, deliver, disconnect, api, debug, presence, history")
	f.StringVar(&o.Channel, "channel", "", "the channel; for subscribe also a pattern")
	f.StringVar(&o.Data, "data", "null", "the data of the message, as JSON; for publish and deliver")
	f.StringVar(&o.From, "from", "", "the user who published the message; for deliver")
	f.StringVar(&o.Site, "site", "", "the site, as example.com or http://example.com, if not what the configuration has")
	f.StringVar(&o.Name, "name", "", "the name of the hub, if there are several endpoints")
	f.StringVar(&o.Path, "path", "", "the path of the endpoint, if there are several")
	f.StringVar(&o.Query, "query", "", "the query of the URL that the session was opened with")
	f.StringArrayVarP(&o.Headers, "header", "H", nil, "a header field of the request that opened the session, as 'Name: value'; repeatable")
	f.StringVar(&o.IP, "ip", "127.0.0.1", "the client's address")
	f.StringVar(&o.User, "user", "", "the user, as if the site had authenticated it before pushit")
	f.BoolVar(&o.Connect, "connect", false, "ask the connect gate first, and go on with what it learned")
	f.StringVar(&o.Credentials, "credentials", "", "the credentials of /meta/connect, as JSON; implies --connect")
	f.StringVar(&o.Claims, "claims", "", "claims that the connect gate learned, as a JSON object")
	f.StringVar(&o.Attributes, "attributes", "", "attributes that the connect gate learned, as a JSON object")
	f.StringArrayVar(&o.Grants, "grant", nil, "a channel or pattern that the connect gate granted; repeatable")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if o.Gate == "" {
			return notAsked(cmd, fmt.Errorf("write --gate with one of %s", strings.Join(gateNames, ", ")))
		}
		if err := checkGateName(o.Gate); err != nil {
			return notAsked(cmd, err)
		}
		if o.Path != "" {
			o.Path = routing.TrimWildcard(o.Path)
		}
		allowed, err := o.Run(cmd.Context(), cmd.OutOrStdout(), explained)
		if err != nil {
			return notAsked(cmd, err)
		}
		if !allowed {
			cmd.SilenceErrors, cmd.SilenceUsage = true, true // the answer has told the reason
			return errRefused                                // makes Caddy's exit status 1
		}
		return nil
	}
	return cmd
}

// explained returns the endpoints of a configuration as explain needs them.
func explained(generation <-chan struct{}) (all []*explain.Endpoint) {
	for _, e := range hubpool.Endpoints(generation) {
		h := e.Handler.(*Handler)
		at := &explain.Endpoint{
			Name: h.Name, Path: h.Path, Mount: h.mount(), Broker: h.joinedBy,
			Server: h.site.server, Hosts: h.site.hosts, HTTP: h.site.inClear, Serves: h.site.serves,
			Policy: h.gates, Env: h.env, Default: h.Default, Gates: make(map[string]bool), Blocks: make(map[string]string),
			Opening: h.opening,
			Presence: func(channel string) *hub.PresenceRule {
				if h.used.Presences == nil {
					return nil
				}
				return h.used.Presences.Presence(channel)
			},
			Open:    func(o hub.Opening) (*hub.Agent, error) { return h.hub.Open(h.used, o) },
			Cleanup: h.Cleanup,
		}
		_ = h.eachGate(func(where, _ string, _ *Gate) error {
			at.Gates[where] = true
			return nil
		})
		for i, b := range h.Channels {
			at.Blocks[blockPath(i)] = strings.Join(b.Match, " ")
		}
		all = append(all, at)
	}
	return all
}

// exitNotAsked is the exit status if the question could not be asked. It differs from
// that of a refusal, so a test that expects a refusal does not pass because of a mistake.
const exitNotAsked = 2

var errRefused = errors.New("refused")

// notAsked logs err, and returns an error with the exit status exitNotAsked. It returns
// nil for nil.
func notAsked(cmd *cobra.Command, err error) error {
	if err == nil {
		return nil
	}
	cmd.SilenceUsage = true
	return caddycmd.WrapCommandFuncForCobra(func(caddycmd.Flags) (int, error) { return exitNotAsked, err })(cmd, nil)
}
