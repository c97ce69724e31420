// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package pushit

import (
	"errors"

	"github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "pushit",
		Usage: "explain",
		Short: "Tells why gates of pushit allow or refuse (pushit explain)",
		CobraFunc: func(cmd *cobra.Command) {
			cmd.AddCommand(explainCommand())
		},
	})
}

const explainHelp = `
Asks one gate of a configuration about one agent, and tells which channel block
governs, what each of the guards that were asked has answered, and the verdict.

The configuration is loaded as the server would, but nothing is served. Guards
that ask a backend do ask it.

The exit status is 0 when the gate allows, 1 when it refuses, and 2 when the
question could not be asked, so that rules can be tested:

  caddy pushit explain --gate subscribe --channel users/bob --user bob
  ! caddy pushit explain --gate subscribe --channel users/bob --user eve

The agent is described by what opened its session (--site, --query, --header,
--ip, --user) and by what its connect gate learned: either --connect asks that gate
first, with --credentials, or --claims, --attributes and --grant say it.`

// explainCommand is pushit explain.
func explainCommand() *cobra.Command {
	var o explainOptions
	cmd := &cobra.Command{
		Use:     "explain --gate <gate> [--channel <channel>] [--config <path> [--adapter <name>]] [flags]",
		Short:   "Tells what a gate says to an agent, and why",
		Long:    explainHelp,
		Example: `  caddy pushit explain --config Caddyfile --gate publish --channel chat --data '"hello"' --header 'Cookie: s=1'`,
		Args: func(cmd *cobra.Command, args []string) error {
			return notAsked(cmd, cobra.NoArgs(cmd, args))
		},
	}
	cmd.SetFlagErrorFunc(notAsked)
	f := cmd.Flags()
	f.StringVarP(&o.config, "config", "c", "Caddyfile", "the configuration file")
	f.StringVarP(&o.adapter, "adapter", "a", "", "the config adapter, if the file is neither a Caddyfile nor JSON")
	f.StringVar(&o.gate, "gate", "", "the gate: connect, subscribe, unsubscribe, publish, deliver, disconnect")
	f.StringVar(&o.channel, "channel", "", "the channel; for subscribe also a pattern")
	f.StringVar(&o.data, "data", "null", "the data of the message, as JSON; for publish and deliver")
	f.StringVar(&o.from, "from", "", "the user who published the message; for deliver")
	f.StringVar(&o.site, "site", "", "the site, as example.com or http://example.com, if not what the configuration has")
	f.StringVar(&o.name, "name", "", "the name of the hub, if there are several endpoints")
	f.StringVar(&o.path, "path", "", "the path of the endpoint, if there are several")
	f.StringVar(&o.query, "query", "", "the query of the URL that the session was opened with")
	f.StringArrayVarP(&o.headers, "header", "H", nil, "a header field of the request that opened the session, as 'Name: value'; repeatable")
	f.StringVar(&o.ip, "ip", "127.0.0.1", "the client's address")
	f.StringVar(&o.user, "user", "", "the user, as if the site had authenticated it before pushit")
	f.BoolVar(&o.connect, "connect", false, "ask the connect gate first, and go on with what it learned")
	f.StringVar(&o.credentials, "credentials", "", "the credentials of /meta/connect, as JSON; implies --connect")
	f.StringVar(&o.claims, "claims", "", "claims that the connect gate learned, as a JSON object")
	f.StringVar(&o.attributes, "attributes", "", "attributes that the connect gate learned, as a JSON object")
	f.StringArrayVar(&o.grants, "grant", nil, "a channel or pattern that the connect gate granted; repeatable")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		allowed, err := o.explain(cmd.Context(), cmd.OutOrStdout())
		if err != nil {
			return notAsked(cmd, err)
		}
		if !allowed {
			cmd.SilenceErrors, cmd.SilenceUsage = true, true // it was told already
			return errRefused                                // which makes Caddy's exit status 1
		}
		return nil
	}
	return cmd
}

// exitNotAsked is the exit status when the question could not be asked. It is not
// that of a refusal, so that a test is not passed by a mistake in it.
const exitNotAsked = 2

var errRefused = errors.New("refused")

// notAsked logs err, if it is one, and makes it one with that exit status.
func notAsked(cmd *cobra.Command, err error) error {
	if err == nil {
		return nil
	}
	cmd.SilenceUsage = true
	return caddycmd.WrapCommandFuncForCobra(func(caddycmd.Flags) (int, error) { return exitNotAsked, err })(cmd, nil)
}
