// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package brokers

import (
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/dustin/go-humanize"

	"github.com/push-it/pushit/guards"
	"github.com/push-it/pushit/hub/broker/nats"
)

// An option is a word in a block.
type option struct {
	name    string
	args    int    // how many it takes; -1 for one or more
	example string // what follows the word
	set     func(d *caddyfile.Dispenser, args []string) error
	block   []option // what its own block may have; nil: it has none
	reads   bool     // set reads the block itself
}

// words returns the options of the block of nats.
func (n *NATS) words() []option {
	text := func(to *string, what string, check func(string) error) func(*caddyfile.Dispenser, []string) error {
		return func(d *caddyfile.Dispenser, args []string) error { return setText(d, to, what, args[0], check) }
	}
	return []option{
		{name: "url", args: -1, example: "nats://10.0.0.1:4222 nats://10.0.0.2:4222", set: n.addURLs},
		{name: "node", args: 1, example: "web1", set: text(&n.Node, "node", nats.CheckNode)},
		{name: "credentials", args: 1, example: "/etc/caddy/nats.creds", set: text(&n.Credentials, "credentials", nil)},
		{name: "nkey", args: 1, example: "/etc/caddy/nats.seed", set: text(&n.NKey, "nkey", nil)},
		{name: "token", args: 1, example: "{env.NATS_TOKEN}", set: text(&n.Token, "token", nil)},
		{name: "user", args: 2, example: "pushit {env.NATS_PASSWORD}", set: func(d *caddyfile.Dispenser, args []string) error {
			if err := setText(d, &n.User, "user", args[0], nil); err != nil {
				return err
			}
			return setText(d, &n.Password, "the password", args[1], nil)
		}},
		{name: "tls", example: "", set: func(*caddyfile.Dispenser, []string) error {
			n.TLS = new(NATSTLS)
			return nil
		}, block: []option{
			{name: "ca", args: 1, example: "/etc/caddy/nats-ca.pem", set: func(d *caddyfile.Dispenser, args []string) error {
				return setText(d, &n.TLS.CA, "ca", args[0], nil)
			}},
			{name: "cert", args: 2, example: "/etc/caddy/nats.pem /etc/caddy/nats-key.pem", set: func(d *caddyfile.Dispenser, args []string) error {
				if err := setText(d, &n.TLS.Certificate, "cert", args[0], nil); err != nil {
					return err
				}
				return setText(d, &n.TLS.Key, "the key of cert", args[1], nil)
			}},
			{name: "server_name", args: 1, example: "nats.example.com", set: func(d *caddyfile.Dispenser, args []string) error {
				return setText(d, &n.TLS.ServerName, "server_name", args[0], nil)
			}},
		}},
		{name: "replicas", args: 1, example: "3", set: func(d *caddyfile.Dispenser, args []string) (err error) {
			if n.Replicas, err = strconv.Atoi(args[0]); err != nil || n.Replicas == 0 {
				return d.Errf("replicas: %q is not 1, 3 or 5", args[0])
			}
			return wrap(d, nats.CheckReplicas(n.Replicas))
		}},
		{name: "max_bytes", args: 1, example: "1GiB", set: func(d *caddyfile.Dispenser, args []string) error {
			v, err := humanize.ParseBytes(args[0])
			if err != nil || v > 1<<50 {
				return d.Errf("max_bytes: %q is not a size: write a number with a unit, such as max_bytes 1GiB", args[0])
			}
			n.MaxBytes = int64(v)
			return wrap(d, nats.CheckMaxBytes(n.MaxBytes))
		}},
		{name: "prefix", args: 1, example: "staging", set: text(&n.Prefix, "prefix", nats.CheckPrefix)},
		{name: "domain", args: 1, example: "hub", set: text(&n.Domain, "domain", nats.CheckDomain)},
		{name: "embedded", reads: true, set: func(d *caddyfile.Dispenser, _ []string) error { return n.parseEmbedded(d) }},
	}
}

// setText sets a text, which may have placeholders. what names it in errors, which do not show
// it.
func setText(d *caddyfile.Dispenser, to *string, what, text string, check func(string) error) error {
	if err := guards.NoteSetting(d, "broker nats: "+what, text); err != nil {
		return err
	}
	if check != nil && !strings.Contains(text, "{") {
		if err := check(text); err != nil {
			return wrap(d, err)
		}
	}
	*to = text
	return nil
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
	if err := parseOptions(d, "broker nats", n.words()); err != nil {
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

// parseOptions reads a block, if there is one. parent names it in errors.
func parseOptions(d *caddyfile.Dispenser, parent string, known []option) error {
	seen := make(map[string]int)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		word := d.Val()
		o := find(known, word)
		if o == nil {
			var names []string
			for _, k := range known {
				names = append(names, k.name)
			}
			if near := guards.Nearest(word, names); near != "" {
				return d.Errf("unrecognized option %q of %s; did you mean %q?", word, parent, near)
			}
			return d.Errf("unrecognized option %q of %s; there are %s", word, parent, strings.Join(names, ", "))
		}
		if first, ok := seen[word]; ok {
			return d.Errf("%s is given twice in %s, first in line %d: keep one", word, parent, first)
		}
		seen[word] = d.Line()
		if err := o.parse(d, parent); err != nil {
			return err
		}
	}
	return nil
}

func find(known []option, word string) *option {
	for i := range known {
		if known[i].name == word {
			return &known[i]
		}
	}
	return nil
}

// parse reads the arguments and the block of an option, which is the current word.
func (o *option) parse(d *caddyfile.Dispenser, parent string) error {
	args := d.RemainingArgs()
	switch {
	case o.args < 0 && len(args) == 0, o.args >= 0 && len(args) < o.args:
		return d.Errf("%s needs a value, such as %s %s; is an environment variable not set?", o.name, o.name, o.example)
	case o.args == 0 && len(args) > 0:
		return d.Errf("unexpected %q after %s, which takes no value on its line", args[0], o.name)
	case o.args > 0 && len(args) > o.args:
		return d.Errf("unexpected %q after %s, which is written as %s %s", args[o.args], o.name, o.name, o.example)
	}
	if slices.Contains(args, "") {
		return d.Errf("%s is empty; is an environment variable not set?", o.name)
	}
	if err := o.set(d, args); err != nil {
		return err
	}
	if o.reads {
		return nil
	}
	if o.block != nil {
		return parseOptions(d, o.name+" of "+parent, o.block)
	}
	last := d.Val()
	if d.NextBlock(d.Nesting()) || d.Val() != last {
		return d.Errf("%s takes no block", o.name)
	}
	return nil
}

var _ caddyfile.Unmarshaler = (*NATS)(nil)
