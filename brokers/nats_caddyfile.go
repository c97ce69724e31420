// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package brokers

import (
	"strconv"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/dustin/go-humanize"

	"github.com/push-it/pushit/hub/broker/nats"
	"github.com/push-it/pushit/internal/options"
)

// words returns the options of the block of nats.
func (n *NATS) words() []options.Option {
	text := func(to *string, what string, check func(string) error) func(*caddyfile.Dispenser, []string) error {
		return func(d *caddyfile.Dispenser, args []string) error { return setText(d, to, what, args[0], check) }
	}
	return []options.Option{
		{Name: "url", Args: -1, Example: "nats://10.0.0.1:4222 nats://10.0.0.2:4222", Set: n.addURLs},
		{Name: "node", Args: 1, Example: "web1", Set: text(&n.Node, "node", nats.CheckNode)},
		{Name: "credentials", Args: 1, Example: "/etc/caddy/nats.creds", Set: text(&n.Credentials, "credentials", nil)},
		{Name: "nkey", Args: 1, Example: "/etc/caddy/nats.seed", Set: text(&n.NKey, "nkey", nil)},
		{Name: "token", Args: 1, Example: "{env.NATS_TOKEN}", Set: text(&n.Token, "token", nil)},
		{Name: "user", Args: 2, Example: "pushit {env.NATS_PASSWORD}", Set: func(d *caddyfile.Dispenser, args []string) error {
			if err := setText(d, &n.User, "user", args[0], nil); err != nil {
				return err
			}
			return setText(d, &n.Password, "the password", args[1], nil)
		}},
		{Name: "tls", Example: "", Set: func(*caddyfile.Dispenser, []string) error {
			n.TLS = new(NATSTLS)
			return nil
		}, Block: []options.Option{
			{Name: "ca", Args: 1, Example: "/etc/caddy/nats-ca.pem", Set: func(d *caddyfile.Dispenser, args []string) error {
				return setText(d, &n.TLS.CA, "ca", args[0], nil)
			}},
			{Name: "cert", Args: 2, Example: "/etc/caddy/nats.pem /etc/caddy/nats-key.pem", Set: func(d *caddyfile.Dispenser, args []string) error {
				if err := setText(d, &n.TLS.Certificate, "cert", args[0], nil); err != nil {
					return err
				}
				return setText(d, &n.TLS.Key, "the key of cert", args[1], nil)
			}},
			{Name: "server_name", Args: 1, Example: "nats.example.com", Set: func(d *caddyfile.Dispenser, args []string) error {
				return setText(d, &n.TLS.ServerName, "server_name", args[0], nil)
			}},
		}},
		{Name: "replicas", Args: 1, Example: "3", Set: func(d *caddyfile.Dispenser, args []string) (err error) {
			if n.Replicas, err = strconv.Atoi(args[0]); err != nil || n.Replicas == 0 {
				return d.Errf("replicas: %q is not 1, 3 or 5", args[0])
			}
			return wrap(d, nats.CheckReplicas(n.Replicas))
		}},
		{Name: "max_bytes", Args: 1, Example: "1GiB", Set: func(d *caddyfile.Dispenser, args []string) error {
			v, err := humanize.ParseBytes(args[0])
			if err != nil || v > 1<<50 {
				return d.Errf("max_bytes: %q is not a size: write a number with a unit, such as max_bytes 1GiB", args[0])
			}
			n.MaxBytes = int64(v)
			return wrap(d, nats.CheckMaxBytes(n.MaxBytes))
		}},
		{Name: "prefix", Args: 1, Example: "staging", Set: text(&n.Prefix, "prefix", nats.CheckPrefix)},
		{Name: "domain", Args: 1, Example: "hub", Set: text(&n.Domain, "domain", nats.CheckDomain)},
		{Name: "embedded", Reads: true, Set: func(d *caddyfile.Dispenser, _ []string) error { return n.parseEmbedded(d) }},
	}
}

// setText sets a text, which may have placeholders.
func setText(d *caddyfile.Dispenser, to *string, what, text string, check func(string) error) error {
	return options.SetText(d, to, "broker nats: "+what, text, check)
}

func (n *NATS) addURLs(d *caddyfile.Dispenser, urls []string) error {
	for _, u := range urls {
		n.URLs = append(n.URLs, "")
		if err := setText(d, &n.URLs[len(n.URLs)-1], "url", u, nats.CheckURL); err != nil {
			return err
		}
	}
	return nil
}

// UnmarshalCaddyfile sets up the module from Caddyfile tokens. Syntax:
//
//	nats [<url...>] {
//	    url         <url...>
//	    node        <name>
//	    credentials <file>
//	    nkey        <file>
//	    token       <token>
//	    user        <name> <password>
//	    tls {
//	        ca          <file>
//	        cert        <file> <key file>
//	        server_name <name>
//	    }
//	    replicas    1|3|5
//	    max_bytes   <size>
//	    prefix      <word>
//	    domain      <word>
//	    embedded {
//	        …  the settings of contrib/embedded-nats
//	    }
//	}
func (n *NATS) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the word
	if err := n.addURLs(d, d.RemainingArgs()); err != nil {
		return err
	}
	if err := options.Parse(d, "broker nats", n.words()); err != nil {
		return err
	}
	if err := n.checkEmbedded(); err != nil {
		return d.WrapErr(err)
	}
	auth := nats.Auth{Credentials: n.Credentials, NKey: n.NKey, Token: n.Token, User: n.User, Password: n.Password}
	return wrap(d, auth.Check())
}

// wrap adds the place of the current token to an error.
func wrap(d *caddyfile.Dispenser, err error) error {
	if err == nil {
		return nil
	}
	return d.WrapErr(err)
}

var _ caddyfile.Unmarshaler = (*NATS)(nil)
