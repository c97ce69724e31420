// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package token

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	josejson "github.com/go-jose/go-jose/v4/json"
	"github.com/go-jose/go-jose/v4/jwt"
)

// maxExpiry is the latest expiry. A later one would be as good as never, and some
// durations cannot express it.
const maxExpiry = 100 * 365 * 24 * time.Hour

// claims are the claims of a token.
type claims struct {
	all                      map[string]any // numbers are josejson.Number
	issuer                   string
	audience                 jwt.Audience
	expires, notBefore, made time.Time // zero if the token does not say
}

// parseClaims parses the payload of a token. The case of names counts, and a name must
// not be there twice.
func parseClaims(payload []byte) (*claims, error) {
	c := new(claims)
	d := josejson.NewDecoder(bytes.NewReader(payload))
	d.SetNumberType(josejson.UnmarshalJSONNumber)
	if err := d.Decode(&c.all); err != nil {
		return nil, fmt.Errorf("its claims cannot be read: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows its claims")
	}
	var registered struct {
		Issuer    string           `json:"iss"`
		Audience  jwt.Audience     `json:"aud"`
		Expiry    *jwt.NumericDate `json:"exp"`
		NotBefore *jwt.NumericDate `json:"nbf"`
		IssuedAt  *jwt.NumericDate `json:"iat"`
	}
	if err := josejson.Unmarshal(payload, &registered); err != nil {
		return nil, fmt.Errorf("its registered claims cannot be read: %w", err)
	}
	c.issuer, c.audience = registered.Issuer, registered.Audience
	c.expires, c.notBefore, c.made = registered.Expiry.Time(), registered.NotBefore.Time(), registered.IssuedAt.Time()
	return c, nil
}

// check returns why the token is not valid now, or nil.
func (v *Verifier) check(c *claims, now time.Time) error {
	ahead := now.Add(v.Leeway)
	switch {
	case len(v.Issuers) > 0 && !slices.Contains(v.Issuers, c.issuer):
		return fmt.Errorf("its issuer is %.64q", c.issuer)
	case len(v.Audiences) > 0 && !slices.ContainsFunc(c.audience, func(a string) bool { return slices.Contains(v.Audiences, a) }):
		return fmt.Errorf("its audience is %.128q", []string(c.audience))
	case c.expires.IsZero():
		return errors.New("it has no expiry (exp)")
	case c.notBefore.After(ahead):
		return errors.New("it is not valid yet (nbf)")
	case c.made.After(ahead):
		return errors.New("it was issued in the future (iat)")
	}
	for name, values := range v.Require {
		has := c.texts(name)
		switch {
		case has == nil:
			return fmt.Errorf("it lacks the claim %s", name)
		case len(values) > 0 && !slices.ContainsFunc(has, func(text string) bool { return slices.Contains(values, text) }):
			return fmt.Errorf("its claim %s has none of the required values", name)
		}
	}
	if !now.Before(c.expires) {
		return ErrExpired // everything else is valid
	}
	return nil
}

// token returns what a valid token says.
func (v *Verifier) token(c *claims, now time.Time) (t *Token, err error) {
	t = &Token{Expires: c.expires}
	if t.User, err = c.user(v.UserClaim); err != nil {
		return nil, err
	}
	if v.GrantClaim != "" {
		if t.Grants, err = c.strings(v.GrantClaim); err != nil {
			return nil, err
		}
	}
	if most := now.Add(maxExpiry); t.Expires.After(most) {
		t.Expires = most
	}
	t.Claims, _ = plainNumbers(c.all).(map[string]any)
	return t, nil
}

// user returns the user of the token. Only a claim that the configuration names must be
// there.
func (c *claims) user(claim string) (string, error) {
	name, optional := claim, claim == ""
	if optional {
		name = "sub"
	}
	v, ok := c.find(name)
	if !ok && optional {
		return "", nil
	}
	switch v.(type) {
	case string, josejson.Number:
		if user, _ := text(v); user != "" || optional {
			return user, nil
		}
	}
	return "", fmt.Errorf("its claim %s does not name a user", name)
}

// find returns a claim that is there and not null. A name with dots that is not a claim
// itself leads into objects.
func (c *claims) find(name string) (any, bool) {
	if v := c.all[name]; v != nil {
		return v, true
	}
	var v any = c.all
	for part := range strings.SplitSeq(name, ".") {
		members, ok := v.(map[string]any)
		if !ok {
			return nil, false
		}
		v = members[part]
	}
	return v, v != nil
}

// texts returns the values of a claim as texts, or nil if it is not there.
func (c *claims) texts(name string) []string {
	v, ok := c.find(name)
	if !ok {
		return nil
	}
	texts := []string{}
	list, isList := v.([]any)
	if !isList {
		list = []any{v}
	}
	for _, v := range list {
		if t, ok := text(v); ok {
			texts = append(texts, t)
		}
	}
	if s, ok := v.(string); ok && name == "scope" { // RFC 8693, section 4.2
		texts = append(texts, strings.Fields(s)...)
	}
	return texts
}

// strings returns a claim that is a string or a list of strings, or nil if it is not
// there.
func (c *claims) strings(name string) (list []string, err error) {
	v, ok := c.find(name)
	if !ok {
		return nil, nil
	}
	if s, ok := v.(string); ok {
		return []string{s}, nil
	}
	values, ok := v.([]any)
	for _, v := range values {
		s, isString := v.(string)
		if !isString {
			ok = false
		}
		list = append(list, s)
	}
	if !ok {
		return nil, fmt.Errorf("its claim %s is not a list of strings", name)
	}
	return list, nil
}

// text returns a string, number or bool as text. Numbers are written as in the token, so
// that two different numbers stay different.
func text(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case josejson.Number:
		return v.String(), true
	case bool:
		return strconv.FormatBool(v), true
	default:
		return "", false
	}
}

// plainNumbers replaces the numbers in v with those of encoding/json, with all their
// digits.
func plainNumbers(v any) any {
	switch v := v.(type) {
	case josejson.Number:
		return json.Number(v)
	case map[string]any:
		for k, m := range v {
			v[k] = plainNumbers(m)
		}
	case []any:
		for i, m := range v {
			v[i] = plainNumbers(m)
		}
	}
	return v
}
