// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/push-it/pushit/guards/internal/placeholder"
	"github.com/push-it/pushit/guards/internal/token"
	"github.com/push-it/pushit/guards/internal/upstream"
	"github.com/push-it/pushit/hub"
)

func init() { caddy.RegisterModule(new(JWT)) }

// defaultLeeway and maxLeeway allow for clocks that differ.
const (
	defaultLeeway = 30 * time.Second
	maxLeeway     = 10 * time.Minute
)

// JWT passes if the agent presents a JSON Web Token that one of the keys has signed and
// that is valid now. Otherwise it denies. What the token says is stored with the agent:
// its claims, its subject as the user (unless the site itself has authenticated a user),
// and its expiry, before which the agent must present a new token.
//
// The token is taken from the credentials of /meta/connect (a JSON string, or an object
// with "token"), else from the header field, else from the cookie, else from the query.
// The first place that has a token counts.
//
// The key decides the algorithm. A secret is for HS256; from 48 bytes on it is also for
// HS384, and from 64 bytes on for HS512. An RSA key is for RS256 to RS512 and PS256 to
// PS512. An EC key is for the one of ES256, ES384 and ES512 that fits its curve. An
// Ed25519 key is for EdDSA. Keys in a token's header (jku, jwk, x5u, x5c) are ignored,
// and its kid is only compared. A token with crit is denied, and so is a token without
// exp.
type JWT struct {
	// Secrets are shared with the issuer of the tokens, each of at least 32 bytes. The
	// placeholders {env.NAME} and {file.PATH} are expanded when the configuration is
	// loaded, here and in the other settings for keys.
	Secrets []string `json:"secrets,omitempty"`
	// Keys are public keys, each in PEM (also as a certificate) or as a JWK.
	Keys []string `json:"keys,omitempty"`
	// KeyFiles are files with public keys: in PEM, as a JWK, or as a JWK Set.
	KeyFiles []string `json:"key_files,omitempty"`
	// JWKS is the address, or file, of a JWK Set. It is fetched when it is first needed,
	// again every ten minutes, and when a token names an unknown key, but then at most
	// once a minute. If it cannot be fetched, the previous set is used.
	JWKS string `json:"jwks,omitempty"`

	// Issuers are the accepted issuers (iss). Default: all that have a key.
	Issuers []string `json:"issuers,omitempty"`
	// Audiences are the accepted audiences (aud). A token must have one of them. Default:
	// all.
	Audiences []string `json:"audiences,omitempty"`
	// Require lists claims that a token must have, by name. If a claim has values here,
	// the token must have one of them: as text, in a list, or, for scope, as one of the
	// words. A name with dots leads into objects, for example realm_access.roles.
	Require map[string][]string `json:"require,omitempty"`
	// Leeway is how far the issuer's clock may be ahead, for nbf and iat. exp has no
	// leeway, because rights end with it. Default: 30s. At most: 10m.
	Leeway caddy.Duration `json:"leeway,omitempty"`

	// Header is the header field that may have the token. Default: Authorization, behind
	// the word Bearer.
	Header string `json:"header,omitempty"`
	// Cookie is the cookie that may have the token. Default: none.
	Cookie string `json:"cookie,omitempty"`
	// Query is the query parameter of the endpoint's address that may have the token.
	// Addresses get into logs and histories, so any other place is better. Default: none.
	Query string `json:"query,omitempty"`

	// UserClaim is the claim with the user. If you set it, a token without it is denied.
	// Default: sub.
	UserClaim string `json:"user_claim,omitempty"`
	// GrantClaim is a claim that lists channels and patterns for the guard granted.
	// Default: none.
	GrantClaim string `json:"grant_claim,omitempty"`

	// These do not change after Provision.
	places   tokenPlaces
	verifier token.Verifier
	pooled   string // the key of the source in token.Sources; "" if it is not there
}

// CaddyModule returns the Caddy module information.
func (*JWT) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.pushit.guards.jwt", New: func() caddy.Module { return new(JWT) }}
}

// Provision reads the keys. It does not use the network.
func (g *JWT) Provision(caddy.Context) error {
	if err := g.check(); err != nil {
		return fmt.Errorf("jwt: %w", err)
	}
	if g.Leeway == 0 {
		g.Leeway = caddy.Duration(defaultLeeway)
	}
	g.places = tokenPlaces{header: "Authorization", cookie: g.Cookie, query: g.Query}
	if g.Header != "" {
		g.places.header = http.CanonicalHeaderKey(g.Header)
	}
	if err := g.loadKeys(); err != nil {
		return fmt.Errorf("jwt: %w", err)
	}
	v := &g.verifier
	v.Issuers, v.Audiences, v.Require, v.Leeway = g.Issuers, g.Audiences, g.Require, time.Duration(g.Leeway)
	v.UserClaim, v.GrantClaim = g.UserClaim, g.GrantClaim
	return nil
}

// check returns what is wrong with the settings.
func (g *JWT) check() error {
	if len(g.Secrets)+len(g.Keys)+len(g.KeyFiles) == 0 && g.JWKS == "" {
		return errors.New("it needs a key to verify tokens with: secret, key, key_file or jwks; is an environment variable not set?")
	}
	if g.Leeway < 0 || time.Duration(g.Leeway) > maxLeeway {
		return fmt.Errorf("leeway is %s; at most %s is allowed", time.Duration(g.Leeway), maxLeeway)
	}
	for _, name := range []string{g.Header, g.Cookie, g.Query} {
		if strings.ContainsAny(name, "{}()<>[]@,;:\\\"/?= \t\r\n") { // RFC 9110, section 5.6.2
			return fmt.Errorf("%q is not a valid name for a header field, cookie or parameter", name)
		}
	}
	if placeholder.IsDropped(g.Header) || strings.HasPrefix(http.CanonicalHeaderKey(g.Header), "Pushit-") {
		return fmt.Errorf("header %s is not stored in sessions; present the token in the credentials", g.Header)
	}
	return nil
}

func (g *JWT) loadKeys() (err error) {
	for i, setting := range g.Secrets {
		secret, err := placeholder.Resolve(setting)
		if err != nil {
			return placeholder.WithPlace(setting, fmt.Errorf("secret %d %w", i+1, err))
		}
		if err := g.addKeys(parseSecret(secret)); err != nil {
			return placeholder.WithPlace(setting, fmt.Errorf("secret %d%s %w", i+1, placeholder.From(setting), err))
		}
	}
	for i, setting := range g.Keys {
		text, err := setting, error(nil)
		if !isJWK(setting) {
			text, err = placeholder.Resolve(setting)
		}
		if err == nil {
			err = g.addKeys(token.ParseKeys([]byte(text)))
		}
		if err != nil {
			return placeholder.WithPlace(setting, fmt.Errorf("key %d %w", i+1, err))
		}
	}
	for _, setting := range g.KeyFiles {
		path, err := placeholder.Resolve(setting)
		if err != nil {
			return placeholder.WithPlace(setting, fmt.Errorf("key_file %w", err))
		}
		text, err := token.ReadFile(path)
		if err != nil {
			return placeholder.WithPlace(setting, fmt.Errorf("key_file: %w", err))
		}
		if err := g.addKeys(token.ParseKeys(text)); err != nil {
			return placeholder.WithPlace(setting, fmt.Errorf("key_file: %s %w", path, err))
		}
	}
	g.Secrets, g.Keys = nil, nil // they may be secrets
	if g.JWKS == "" {
		return nil
	}
	where, err := placeholder.Resolve(g.JWKS)
	if err != nil {
		return placeholder.WithPlace(g.JWKS, fmt.Errorf("jwks %w", err))
	}
	if err := checkKeySetPlace(where); err != nil {
		return placeholder.WithPlace(g.JWKS, err)
	}
	if isAddress(where) {
		g.verifier.Source, err = token.AddressSource(where)
		g.pooled = where
	} else if g.verifier.Source, err = token.FileSource(where); err != nil {
		err = fmt.Errorf("%w; an address begins with https://", err)
	}
	if err != nil {
		return fmt.Errorf("jwks: %w", err)
	}
	return nil
}

func (g *JWT) addKeys(keys []token.Key, err error) error {
	g.verifier.Keys = append(g.verifier.Keys, keys...)
	return err
}

func parseSecret(secret string) ([]token.Key, error) {
	if secret == "" {
		return nil, checkSecret(secret, token.MinSecret)
	}
	return token.ParseSecret(secret)
}

// isJWK reports whether text is a JWK. Its braces are not those of a placeholder.
func isJWK(text string) bool {
	rest, brace := strings.CutPrefix(strings.TrimSpace(text), "{")
	return brace && strings.HasPrefix(strings.TrimSpace(rest), `"`)
}

func isAddress(place string) bool { return strings.Contains(place, "://") }

// checkKeySetPlace returns what is wrong with the address of a JWK Set.
func checkKeySetPlace(place string) error {
	if !isAddress(place) {
		return nil
	}
	u, err := url.Parse(place)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return errors.New("jwks: write an address, for example https://id.example.com/jwks.json, or a file")
	}
	return nil
}

// Cleanup releases what Provision has taken.
func (g *JWT) Cleanup() error {
	switch {
	case g.verifier.Source == nil:
		return nil
	case g.pooled == "":
		return g.verifier.Source.Destruct()
	default:
		_, err := token.Sources.Delete(g.pooled)
		return err
	}
}

// Unwrap implements Wrapper. With keys from an address, the guard is a remote one.
func (g *JWT) Unwrap() []NamedGuard {
	if g.pooled == "" {
		return nil
	}
	return []NamedGuard{{Name: "jwt with jwks", Guard: remoteKeys{g}}}
}

// A remoteKeys is a JWT that may have to wait for its keys.
type remoteKeys struct{ *JWT }

func (remoteKeys) Remote()              {}
func (remoteKeys) Unwrap() []NamedGuard { return nil }

// Fingerprint implements Fingerprinter. Keys from an address do not count, because they
// change without a reload.
func (g *JWT) Fingerprint() []byte {
	h := sha256.New()
	for i := range g.verifier.Keys {
		upstream.Add(h, g.verifier.Keys[i].Fingerprint())
	}
	if g.verifier.Source != nil && g.pooled == "" {
		sum := g.verifier.Source.Sum()
		upstream.Add(h, sum[:])
	}
	return h.Sum(nil)
}

// ForGate implements GateAware.
func (g *JWT) ForGate(gate hub.GateName) error { return tokensForGate(gate) }

// Presented implements Presenter.
func (g *JWT) Presented(q *Question) bool {
	_, presented := g.places.find(q)
	return presented
}

// Local implements Local.
func (*JWT) Local() {}

// Decide implements Guard.
func (g *JWT) Decide(ctx context.Context, q *Question) (a Answer) {
	text, presented := g.places.find(q)
	if !presented {
		return Answer{Kind: Deny, Reason: reasonNoToken}
	}
	t, err := g.verifier.Verify(ctx, text, q.Left, q.Env.Log)
	if err != nil {
		return refusedToken(err)
	}
	a.Kind = Pass
	l := &a.Learned
	l.User, l.UserBy, l.Claims, l.Grants, l.Expires = t.User, UserByToken, t.Claims, t.Grants, t.Expires
	return a
}

// refusedToken returns the answer for a token that could not be verified.
func refusedToken(err error) Answer {
	if errors.Is(err, token.ErrExpired) {
		return Answer{Kind: Deny, Expired: true, Err: err}
	}
	if notNow, ok := errors.AsType[*token.NotNow](err); ok {
		return Answer{Kind: Unavailable, Retry: max(notNow.Retry, 0), Err: notNow.Err}
	}
	return Answer{Kind: Deny, Reason: reasonBadToken, Err: err}
}

// String keeps keys out of what is printed.
func (*JWT) String() string { return "jwt" }

// GoString keeps keys out of what is printed.
func (*JWT) GoString() string { return "jwt" }

// Interface guards
var (
	_ Guard              = (*JWT)(nil)
	_ Presenter          = (*JWT)(nil)
	_ GateAware          = (*JWT)(nil)
	_ Wrapper            = (*JWT)(nil)
	_ Remote             = remoteKeys{}
	_ caddy.Provisioner  = (*JWT)(nil)
	_ caddy.CleanerUpper = (*JWT)(nil)
)
