// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package token

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"
)

// The limits of keys.
const (
	// MinSecret is the smallest number of bytes of an HMAC secret: the size of the
	// smallest hash (RFC 7518, section 3.2).
	MinSecret = 32
	// minRSA is the smallest number of bits of an RSA key (RFC 7518, section 3.3). maxRSA
	// is the largest, because the cost of verifying grows with the square of it.
	minRSA, maxRSA = 2048, 8192
	// maxKeys is the largest number of keys in a set. A token that names no key is tried
	// with each.
	maxKeys = 32
)

// A Key verifies tokens of its algorithms and no others. The key decides, not the token
// (RFC 8725, section 3.1).
type Key struct {
	id   string // the kid in tokens; "" fits every token
	key  any    // []byte, *rsa.PublicKey, *ecdsa.PublicKey or ed25519.PublicKey
	algs []jose.SignatureAlgorithm
}

// fits reports whether a token with that algorithm and key id may be from this key.
func (k *Key) fits(alg jose.SignatureAlgorithm, id string) bool {
	return (k.id == "" || id == "" || k.id == id) && slices.Contains(k.algs, alg)
}

// Fingerprint returns everything that identifies k.
func (k *Key) Fingerprint() []byte {
	text, secret := k.key.([]byte)
	if !secret {
		text, _ = x509.MarshalPKIXPublicKey(k.key) // it was parsed from this form, or has a type that can be
	}
	return fmt.Appendf(nil, "%q %q %q", k.id, k.algs, text)
}

// newKey returns a key with the algorithms of its type. If alg is not "", the key is for
// alg only.
func newKey(key any, id, alg string) (Key, error) {
	k := Key{id: id, key: key}
	switch key := key.(type) {
	case []byte:
		if len(key) < MinSecret {
			return k, fmt.Errorf("has %d bytes and needs at least %d; make one with: openssl rand -hex %d", len(key), MinSecret, MinSecret)
		}
		// A hash must not be longer than its secret.
		k.algs = []jose.SignatureAlgorithm{jose.HS256}
		if len(key) >= 48 {
			k.algs = append(k.algs, jose.HS384)
		}
		if len(key) >= 64 {
			k.algs = append(k.algs, jose.HS512)
		}
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < minRSA || bits > maxRSA {
			return k, fmt.Errorf("is an RSA key of %d bits; %d to %d are accepted", bits, minRSA, maxRSA)
		}
		k.algs = []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512}
	case *ecdsa.PublicKey:
		switch key.Curve {
		case elliptic.P256():
			k.algs = []jose.SignatureAlgorithm{jose.ES256}
		case elliptic.P384():
			k.algs = []jose.SignatureAlgorithm{jose.ES384}
		case elliptic.P521():
			k.algs = []jose.SignatureAlgorithm{jose.ES512}
		default:
			return k, errors.New("is on an unsupported curve; use P-256, P-384 or P-521")
		}
	case ed25519.PublicKey:
		k.algs = []jose.SignatureAlgorithm{jose.EdDSA}
	case *rsa.PrivateKey, *ecdsa.PrivateKey, ed25519.PrivateKey:
		return k, errPrivateKey
	default:
		return k, errors.New("has an unsupported type; use RSA, EC (P-256, P-384, P-521) or Ed25519")
	}
	if alg != "" {
		if !slices.Contains(k.algs, jose.SignatureAlgorithm(alg)) {
			return k, fmt.Errorf("is for the algorithm %.32q, which keys of its type do not support", alg)
		}
		k.algs = []jose.SignatureAlgorithm{jose.SignatureAlgorithm(alg)}
	}
	return k, nil
}

var errPrivateKey = errors.New("is a private key; write the public key, which is enough to verify tokens: openssl pkey -in private.pem -pubout")

// allAlgorithms are the algorithms that keys can be for. "none" is not one of them.
var allAlgorithms = []jose.SignatureAlgorithm{
	jose.HS256, jose.HS384, jose.HS512, jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512,
	jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
}

// ParseKeys parses keys in PEM, one JWK, or a JWK Set.
func ParseKeys(text []byte) ([]Key, error) {
	text = bytes.TrimSpace(text)
	switch {
	case len(text) == 0:
		return nil, errors.New("is empty; is an environment variable not set?")
	case text[0] != '{':
		return parsePEM(text)
	}
	var set struct {
		Keys json.RawMessage `json:"keys"`
	}
	if json.Unmarshal(text, &set) == nil && set.Keys != nil {
		return parseSet(text, true)
	}
	k, err := parseJWK(text)
	return []Key{k}, err
}

func parsePEM(text []byte) (keys []Key, err error) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		var public any
		switch block.Type {
		case "PUBLIC KEY":
			public, err = x509.ParsePKIXPublicKey(block.Bytes)
		case "RSA PUBLIC KEY":
			public, err = x509.ParsePKCS1PublicKey(block.Bytes)
		case "CERTIFICATE":
			var cert *x509.Certificate
			if cert, err = x509.ParseCertificate(block.Bytes); err == nil {
				public = cert.PublicKey
			}
		default:
			if strings.HasSuffix(block.Type, "PRIVATE KEY") {
				return nil, errPrivateKey
			}
			err = errors.New("PUBLIC KEY, RSA PUBLIC KEY and CERTIFICATE are accepted")
		}
		if err != nil {
			return nil, fmt.Errorf("has a PEM block, %.32s, that cannot be read: %w", block.Type, err)
		}
		k, err := newKey(public, "", "")
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	if len(keys) == 0 {
		return nil, errors.New("is neither a public key in PEM (-----BEGIN PUBLIC KEY-----) nor a JWK ({\"kty\": …})")
	}
	return keys, nil
}

func parseJWK(text []byte) (Key, error) {
	var k jose.JSONWebKey
	if err := k.UnmarshalJSON(text); err != nil {
		return Key{}, fmt.Errorf("is a JWK that cannot be read: %w", err)
	}
	if k.Use != "" && k.Use != "sig" {
		return Key{}, fmt.Errorf("is a JWK for %.32q, not for signatures", k.Use)
	}
	return newKey(k.Key, k.KeyID, k.Algorithm)
}

// parseSet parses a JWK Set. It skips keys that are of no use here (RFC 7517, section 5).
// It also skips secrets unless secrets is true, because anybody can fetch a secret that a
// server publishes.
func parseSet(text []byte, secrets bool) ([]Key, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(text, &set); err != nil {
		return nil, fmt.Errorf("is not a JWK Set: %w", err)
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("has %d keys; at most %d are allowed", len(set.Keys), maxKeys)
	}
	var keys []Key
	var why error
	for _, raw := range set.Keys {
		k, err := parseJWK(raw)
		if _, secret := k.key.([]byte); secret && !secrets {
			err = errors.New("is a secret, which must not be published")
		}
		if err != nil {
			why = err
			continue
		}
		keys = append(keys, k)
	}
	switch {
	case len(keys) > 0:
		return keys, nil
	case why != nil:
		return nil, fmt.Errorf("has no key that verifies signatures; the last one %w", why)
	default:
		return nil, errors.New("has no keys")
	}
}

// ParseSecret returns the key for a shared secret.
func ParseSecret(secret string) ([]Key, error) {
	k, err := newKey([]byte(secret), "", "")
	return []Key{k}, err
}
