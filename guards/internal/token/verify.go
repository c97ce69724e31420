// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// Package token verifies JSON Web Tokens: their signature with configured keys or with
// those of a JWK Set, their claims, and their lifetime.
package token

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	josejson "github.com/go-jose/go-jose/v4/json"
)

// maxToken is the largest number of bytes of a token. One with a few dozen claims has one
// or two thousand.
const maxToken = 8 << 10

// A Verifier verifies tokens. Set its fields before the first token; they do not
// change afterwards.
type Verifier struct {
	// Keys verify signatures.
	Keys []Key
	// Source has further keys, which may change. It is nil without a JWK Set.
	Source *Source
	// Issuers and Audiences are the accepted ones. An empty list accepts all.
	Issuers, Audiences []string
	// Require has claims that a token must have, by name. If a claim has values here, the
	// token must have one of them.
	Require map[string][]string
	// Leeway is how far the clock of the issuer may be ahead.
	Leeway time.Duration
	// UserClaim is the claim that names the user; "" is sub, which may be missing.
	UserClaim string
	// GrantClaim is the claim that lists channels; "" is none.
	GrantClaim string

	cache cache
}

// A Token is what a valid token says. It is shared: do not change it.
type Token struct {
	User    string
	Grants  []string
	Claims  map[string]any // numbers are json.Number
	Expires time.Time
}

// Verify returns what a token says, if it is valid now. The error is ErrExpired if only
// its expiry is wrong, and a *NotNow if the keys are not available. Waiting for keys
// reduces left, unless it is nil.
func (v *Verifier) Verify(ctx context.Context, text string, left *time.Duration, log *slog.Logger) (*Token, error) {
	if len(text) > maxToken {
		return nil, fmt.Errorf("it has %d bytes; at most %d are allowed", len(text), maxToken)
	}
	now := time.Now()
	hash := sha256.Sum256([]byte(text))
	if c := v.cache.get(hash); c != nil && now.Before(c.token.Expires) && v.isCurrent(ctx, c, log) {
		return c.token, nil
	}
	payload, set, err := v.payload(ctx, text, now, left, log)
	if err != nil {
		return nil, err
	}
	claims, err := parseClaims(payload)
	if err != nil {
		return nil, err
	}
	if err := v.check(claims, now); err != nil {
		return nil, err
	}
	t, err := v.token(claims, now)
	if err != nil {
		return nil, err
	}
	v.cache.put(hash, &verified{token: t, set: set})
	return t, nil
}

// A NotNow is the error if the keys are not available.
type NotNow struct {
	Retry time.Duration // when to try again; 0 is unknown
	Err   error
}

func (n *NotNow) Error() string { return n.Err.Error() }

// Unwrap returns the cause.
func (n *NotNow) Unwrap() error { return n.Err }

// ErrExpired is the error of a token that was valid before.
var ErrExpired = errors.New("the token has expired")

// isCurrent reports whether the key that verified a token is still accepted.
func (v *Verifier) isCurrent(ctx context.Context, c *verified, log *slog.Logger) bool {
	if c.set == nil {
		return true
	}
	set, _, err := v.Source.current(ctx, log)
	return err == nil && set == c.set
}

// payload returns the payload of a token that one of the keys has signed. set is the set
// with that key, or nil.
func (v *Verifier) payload(ctx context.Context, token string, asked time.Time, left *time.Duration, log *slog.Logger) (payload []byte, set *Set, err error) {
	alg, id, err := parseHeader(token)
	if err != nil {
		return nil, nil, err
	}
	payload, err = verifyWith(v.Keys, token, alg, id)
	if payload != nil || v.Source == nil {
		return payload, nil, err
	}
	ctx, done := askingTime(ctx, left)
	defer done()
	set, retry, failed := v.Source.current(ctx, log)
	if failed != nil {
		return nil, nil, &NotNow{retry, failed}
	}
	if payload, err = verifyWith(set.keys, token, alg, id); payload != nil {
		return payload, set, nil
	}
	if id == "" || hasID(v.Keys, id) || hasID(set.keys, id) {
		return nil, nil, err
	}
	// The key may be new. An expired token is not worth a fetch. If a token lies about
	// its expiry, that harms only its agent.
	if expiredByItself(token, asked) {
		return nil, nil, ErrExpired
	}
	set, retry, failed = v.Source.newer(ctx, asked, log)
	if failed != nil {
		return nil, nil, &NotNow{retry, failed}
	}
	payload, err = verifyWith(set.keys, token, alg, id)
	return payload, set, err
}

// askingTime limits ctx to the time that is left. done subtracts what was used.
func askingTime(ctx context.Context, left *time.Duration) (_ context.Context, done func()) {
	if left == nil {
		return context.WithCancel(ctx)
	}
	begun := time.Now()
	ctx, cancel := context.WithTimeout(ctx, *left)
	return ctx, func() {
		cancel()
		*left -= time.Since(begun)
	}
}

// parseHeader returns the algorithm and the key id in a token's header.
func parseHeader(token string) (alg jose.SignatureAlgorithm, id string, err error) {
	text, _, _ := strings.Cut(token, ".")
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || strings.ContainsAny(token, "\r\n") { // the decoder ignores line breaks
		return "", "", errors.New("it is not a JSON Web Token")
	}
	var header struct {
		Alg  string              `json:"alg"`
		Kid  string              `json:"kid"`
		Crit josejson.RawMessage `json:"crit"`
		B64  josejson.RawMessage `json:"b64"`
	}
	// encoding/json would accept KID for kid, and the last of two.
	if err := josejson.Unmarshal(raw, &header); err != nil {
		return "", "", fmt.Errorf("its header cannot be read: %w", err)
	}
	switch alg = jose.SignatureAlgorithm(header.Alg); {
	case header.Crit != nil || header.B64 != nil:
		return "", "", errors.New("its header has crit or b64, which are not supported")
	case !slices.Contains(allAlgorithms, alg):
		return "", "", fmt.Errorf("its algorithm, %.32q, is not accepted", header.Alg)
	}
	return alg, header.Kid, nil
}

// verifyWith tries the keys that fit. It returns the payload, or nil if no key has signed
// it.
func verifyWith(keys []Key, token string, alg jose.SignatureAlgorithm, id string) (payload []byte, err error) {
	err = fmt.Errorf("no key fits its algorithm, %s, and key id, %.64q", alg, id)
	var signed *jose.JSONWebSignature
	for i := range keys {
		k := &keys[i]
		if !k.fits(alg, id) {
			continue
		}
		if signed == nil {
			if signed, err = jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{alg}); err != nil {
				return nil, fmt.Errorf("it cannot be read: %w", err)
			}
		}
		if payload, err = signed.Verify(k.key); err == nil {
			return payload, nil
		}
		err = fmt.Errorf("its signature (%s, key id %.64q) does not match the key", alg, id)
	}
	return nil, err
}

// hasID reports whether a key has that id, for any algorithm.
func hasID(keys []Key, id string) bool {
	return slices.ContainsFunc(keys, func(k Key) bool { return k.id == id })
}

// expiredByItself reports whether a token that is not verified says that it has expired.
func expiredByItself(token string, now time.Time) bool {
	_, rest, _ := strings.Cut(token, ".")
	text, _, _ := strings.Cut(rest, ".")
	payload, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return false
	}
	claims, err := parseClaims(payload)
	return err == nil && !claims.expires.IsZero() && !now.Before(claims.expires)
}
