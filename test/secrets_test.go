// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"strings"
	"testing"
)

// If a secret is missing or too short, the error says where it is written and what to do.
func TestErrorsOfMissingSecretsSayWhatToDo(t *testing.T) {
	t.Setenv("PUSHIT_TEST_SHORT", "short")
	t.Setenv("PUSHIT_TEST_EMPTY", "")
	s := serve(t, withRules("default allow"))
	for guard, want := range map[string]string{
		"jwt {\nsecret {env.PUSHIT_TEST_EMPTY}\n}":                                                         "secret 1 is empty, because {env.PUSHIT_TEST_EMPTY} is: set the environment variable PUSHIT_TEST_EMPTY for Caddy, at Caddyfile:4",
		"jwt {\nsecret {env.PUSHIT_TEST_SHORT}\n}":                                                         "secret 1, {env.PUSHIT_TEST_SHORT}, has 5 bytes and needs at least 32; make one with: openssl rand -hex 32, at Caddyfile:4",
		"jwt {\nsecret {file./pushit-test-nowhere}\n}":                                                     "secret 1 is empty, because {file./pushit-test-nowhere} is: write the file /pushit-test-nowhere, which Caddy must be able to read, at Caddyfile:4",
		"jwt {\nkey {env.PUSHIT_TEST_EMPTY}\n}":                                                            "key 1 is empty, because {env.PUSHIT_TEST_EMPTY} is: set the environment variable PUSHIT_TEST_EMPTY for Caddy, at Caddyfile:4",
		"jwt {\nkey_file {env.PUSHIT_TEST_EMPTY}\n}":                                                       "set the environment variable PUSHIT_TEST_EMPTY for Caddy, at Caddyfile:4",
		"jwt {\njwks {env.PUSHIT_TEST_EMPTY}\n}":                                                           "set the environment variable PUSHIT_TEST_EMPTY for Caddy, at Caddyfile:4",
		"any {\nuser\nbearer {env.PUSHIT_TEST_EMPTY}\n}":                                                   "secret 1 is empty, because {env.PUSHIT_TEST_EMPTY} is: set the environment variable PUSHIT_TEST_EMPTY for Caddy, at Caddyfile:5",
		"bearer {env.PUSHIT_TEST_SHORT}":                                                                   "secret 1, {env.PUSHIT_TEST_SHORT}, has 5 bytes and needs at least 16; make one with: openssl rand -hex 16, at Caddyfile:3",
		"ask localhost:1 {\nuri /\nheader_up X-Key {env.PUSHIT_TEST_EMPTY}\n}":                             "the header field X-Key is empty, because {env.PUSHIT_TEST_EMPTY} is: set the environment variable PUSHIT_TEST_EMPTY for Caddy, at Caddyfile:5",
		"forward_auth localhost:1 {\nuri /\nheader_up Authorization \"Bearer {env.PUSHIT_TEST_EMPTY}\"\n}": "the header field Authorization is incomplete, because {env.PUSHIT_TEST_EMPTY} is empty: set the environment variable PUSHIT_TEST_EMPTY for Caddy, at Caddyfile:5",
	} {
		err := s.load(withRules("connect " + guard + "\nsubscribe allow\npublish allow"))
		if err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%s\n  error: %v\n  want:  … %s", guard, err, want)
		}
	}
}
