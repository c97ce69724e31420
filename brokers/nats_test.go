// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package brokers

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/push-it/pushit/internal/doctable"
	"github.com/push-it/pushit/internal/options"
)

// TestOptionsAreDocumented compares the table of docs/cluster.md with the options and with the
// JSON.
func TestOptionsAreDocumented(t *testing.T) {
	var words, fields, documentedWords, documentedFields []string
	n := new(NATS)
	var add func(all []options.Option)
	add = func(all []options.Option) {
		for _, o := range all {
			words = append(words, o.Name)
			add(o.Block)
		}
	}
	add(n.words())
	var addFields func(prefix string, of reflect.Type)
	addFields = func(prefix string, of reflect.Type) {
		for f := range of.Fields() {
			if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" {
				fields = append(fields, prefix+name)
				if f.Type.Kind() == reflect.Pointer {
					addFields(prefix+name+".", f.Type.Elem())
				}
			}
		}
	}
	addFields("", reflect.TypeFor[NATS]())
	for _, row := range doctable.Rows(t, "../docs/cluster.md", "## Options") {
		if len(row) != 4 {
			t.Fatalf("a row is %q", row)
		}
		word, _, _ := strings.Cut(doctable.Codes(row[0])[0], " ")
		documentedWords = append(documentedWords, word)
		documentedFields = append(documentedFields, doctable.Codes(row[1])...)
	}
	for _, list := range [][]string{words, fields, documentedWords, documentedFields} {
		slices.Sort(list)
	}
	if !slices.Equal(words, documentedWords) {
		t.Errorf("documented are the options\n\t%q\nand there are\n\t%q", documentedWords, words)
	}
	if !slices.Equal(fields, documentedFields) {
		t.Errorf("documented are the fields\n\t%q\nand there are\n\t%q", documentedFields, fields)
	}
}

// Secrets come from the environment, and are neither printed nor in errors.
func TestSecretsOfNATS(t *testing.T) {
	const secret = "a-secret-that-nobody-may-see"
	t.Setenv("PUSHIT_TEST_TOKEN", secret)
	n := new(NATS)
	if err := n.UnmarshalCaddyfile(caddyfile.NewTestDispenser("nats 127.0.0.1:1 {\n token {env.PUSHIT_TEST_TOKEN}\n}")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	if err := n.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	if n.options.Token != secret || n.Token != "" {
		t.Errorf("the token is %q, and %q is left", n.options.Token, n.Token)
	}
	for _, text := range []string{fmt.Sprint(n), fmt.Sprintf("%v %+v %#v", n, n, n)} {
		if strings.Contains(text, secret) {
			t.Errorf("it prints %s", text)
		}
	}
	for _, c := range []struct {
		n    NATS
		want string
	}{
		{NATS{Token: "{env.PUSHIT_TEST_NOT_SET}"}, "set the environment variable PUSHIT_TEST_NOT_SET"},
		{NATS{Token: secret, User: "me"}, "keep one of token and user"},
		{NATS{URLs: []string{"nats://me:" + secret + "@x"}}, "no user and no password"},
		{NATS{Replicas: 4}, "1, 3 or 5"},
		{NATS{MaxBytes: 5}, "at least 1MiB"},
		{NATS{TLS: &NATSTLS{Certificate: "/x"}}, "needs a key"},
		{NATS{TLS: &NATSTLS{Certificate: "/x", Key: "/y"}}, "reading the certificate"},
		{NATS{TLS: &NATSTLS{CA: "nats_test.go"}}, "has no certificate"},
	} {
		err := c.n.Provision(ctx)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), secret) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
}
