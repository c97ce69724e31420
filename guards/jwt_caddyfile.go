// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/push-it/pushit/guards/internal/placeholder"
	"github.com/push-it/pushit/guards/internal/suggest"
	"github.com/push-it/pushit/guards/internal/token"
)

// jwtWords are the settings in the block of jwt.
var jwtWords = []string{
	"secret", "key", "key_file", "jwks", "issuer", "audience", "require", "leeway", "header", "cookie", "query", "user_claim", "grant_claim",
}

// jwtHints are settings of other software, with what to write for jwt.
var jwtHints = map[string]string{
	"alg":           "the key decides the algorithm: leave it out",
	"algorithm":     "the key decides the algorithm: leave it out",
	"algorithms":    "the key decides the algorithm: leave it out",
	"sign_alg":      "the key decides the algorithm: leave it out",
	"sign_key":      "write secret for a shared one, key or key_file for a public one",
	"publisher_jwt": "write secret for a shared one, key or key_file for a public one",
	"jwk_url":       "write jwks",
	"jwks_url":      "write jwks",
	"jwks_uri":      "write jwks",
	"iss":           "write issuer",
	"aud":           "write audience",
	"claim":         "write require",
	"claims":        "write require",
	"from_header":   "write header",
	"from_cookies":  "write cookie",
	"from_query":    "write query",
}

// UnmarshalCaddyfile sets up the guard from Caddyfile tokens. Syntax:
//
//	jwt {
//		secret      <secret...>
//		key         <PEM or JWK...>
//		key_file    <path...>
//		jwks        <address or path>
//		issuer      <issuer...>
//		audience    <audience...>
//		require     <claim> [<value...>]
//		leeway      <duration>
//		header      <name>
//		cookie      <name>
//		query       <name>
//		user_claim  <claim>
//		grant_claim <claim>
//	}
//
// At least one of secret, key, key_file and jwks is required. secret, key, key_file and
// require may be repeated.
func (g *JWT) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the guard's word
	if d.NextArg() {
		return d.Err("jwt takes a block: jwt { secret {env.JWT_SECRET} }, with a setting on each line")
	}
	seen := make(map[string]int)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		word, line := d.Val(), d.Line()
		if err := checkJWTWord(d, word); err != nil {
			return err
		}
		repeats := slices.Contains([]string{"secret", "key", "key_file", "require"}, word)
		if first, ok := seen[word]; ok && !repeats {
			return d.Errf("%s is given twice, first on line %d: keep one", word, first)
		}
		seen[word] = line
		if err := g.setting(d, word); err != nil {
			return err
		}
	}
	if err := g.check(); err != nil {
		return d.Errf("jwt: %w", err)
	}
	return nil
}

func checkJWTWord(d *caddyfile.Dispenser, word string) error {
	switch {
	case slices.Contains(jwtWords, word):
		return nil
	case jwtHints[word] != "":
		return d.Errf("unknown setting %s of jwt: %s", word, jwtHints[word])
	case suggest.MissingBrace(word, "jwt") != "":
		return d.Err(suggest.MissingBrace(word, "jwt"))
	case word == "{":
		return d.Err("the settings of jwt take no block")
	}
	return d.Errf("unknown setting %q of jwt; %s", word, suggest.Instead(word, jwtWords))
}

// setting reads one setting, up to the end of its line.
func (g *JWT) setting(d *caddyfile.Dispenser, word string) error {
	values := d.RemainingArgs()
	if len(values) == 0 {
		return d.Errf("%s needs a value; is an environment variable not set?", word)
	}
	if slices.Contains(values, "") {
		return d.Errf("a value of %s is empty; is an environment variable not set?", word)
	}
	if slices.Contains([]string{"secret", "key", "key_file", "jwks"}, word) {
		return g.keySetting(d, word, values)
	}
	for _, v := range values {
		if strings.ContainsAny(v, "{}") {
			return d.Errf("placeholders are not expanded in %s %s; write an environment variable as {$NAME}", word, v)
		}
	}
	switch word {
	case "issuer":
		g.Issuers = values
		return nil
	case "audience":
		g.Audiences = values
		return nil
	case "require":
		if _, twice := g.Require[values[0]]; twice {
			return d.Errf("require %s is given twice: write all its values on one line", values[0])
		}
		if g.Require == nil {
			g.Require = make(map[string][]string)
		}
		g.Require[values[0]] = values[1:]
		return nil
	}
	if err := only(d, word, values); err != nil {
		return err
	}
	if word == "leeway" {
		leeway, err := caddy.ParseDuration(values[0])
		if err != nil || leeway < time.Second || leeway > maxLeeway {
			return d.Errf("leeway %s: write a duration of 1s to %s", values[0], maxLeeway)
		}
		g.Leeway = caddy.Duration(leeway)
		return nil
	}
	*map[string]*string{
		"header": &g.Header, "cookie": &g.Cookie, "query": &g.Query, "user_claim": &g.UserClaim, "grant_claim": &g.GrantClaim,
	}[word] = values[0]
	return nil
}

// keySetting reads a setting for keys.
func (g *JWT) keySetting(d *caddyfile.Dispenser, word string, values []string) error {
	for _, v := range values {
		if isJWK(v) {
			continue
		}
		if err := placeholder.NoteSetting(d, "the "+word, v); err != nil {
			return err
		}
	}
	switch word {
	case "secret":
		for _, v := range values {
			if strings.Contains(v, "{") { // a placeholder is expanded later
				continue
			}
			if _, err := parseSecret(v); err != nil {
				return d.Errf("the secret %w", err)
			}
		}
		g.Secrets = append(g.Secrets, values...)
	case "key":
		return g.settingKey(d, values)
	case "key_file":
		g.KeyFiles = append(g.KeyFiles, values...)
	case "jwks":
		if err := only(d, word, values); err != nil {
			return err
		}
		g.JWKS = values[0]
		if strings.Contains(g.JWKS, "{") { // a placeholder is expanded later
			return nil
		}
		if err := checkKeySetPlace(g.JWKS); err != nil {
			return d.WrapErr(err)
		}
	}
	return nil
}

// only refuses more than one value.
func only(d *caddyfile.Dispenser, word string, values []string) error {
	if len(values) > 1 {
		return d.Errf("unexpected %q: %s takes one value", values[1], word)
	}
	return nil
}

// settingKey reads keys. It refuses the name of a file, because that mistake is hard to
// see.
func (g *JWT) settingKey(d *caddyfile.Dispenser, values []string) error {
	for _, v := range values {
		if strings.Contains(v, "{") && !isJWK(v) {
			continue // a placeholder is expanded later
		}
		if _, err := token.ParseKeys([]byte(v)); err != nil {
			if strings.HasSuffix(v, ".pem") || strings.HasSuffix(v, ".json") || strings.HasSuffix(v, ".jwk") || strings.HasSuffix(v, ".crt") {
				return d.Errf("the key %w; write key_file for a file", err)
			}
			return d.Errf("the key %w", err)
		}
	}
	g.Keys = append(g.Keys, values...)
	return nil
}

// Interface guards
var _ caddyfile.Unmarshaler = (*JWT)(nil)
