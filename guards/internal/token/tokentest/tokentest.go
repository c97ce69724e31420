// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// Package tokentest makes keys and tokens for tests, also tokens that no library would
// make.
package tokentest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"hash"
	"maps"
	"strings"
	"sync"
	"time"
)

// KeyPairs are keys of all kinds.
type KeyPairs struct {
	RSA, RSA2     *rsa.PrivateKey
	P256, P384    *ecdsa.PrivateKey
	Ed            ed25519.PrivateKey
	RSAPEM, EdPEM string
}

// Keys are made only once, because RSA keys take time.
var Keys = sync.OnceValue(func() (k KeyPairs) {
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	var err error
	k.RSA, err = rsa.GenerateKey(rand.Reader, 2048)
	must(err)
	k.RSA2, err = rsa.GenerateKey(rand.Reader, 2048)
	must(err)
	k.P256, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	k.P384, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	must(err)
	_, k.Ed, err = ed25519.GenerateKey(rand.Reader)
	must(err)
	k.RSAPEM, k.EdPEM = PublicPEM(&k.RSA.PublicKey), PublicPEM(k.Ed.Public())
	return k
})

// PublicPEM returns a public key in PEM.
func PublicPEM(key any) string {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		panic(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// An Object is a JSON object.
type Object map[string]any

// With returns o with the members that pairs names: name, value, name, value. A nil
// value removes a member.
func (o Object) With(pairs ...any) Object {
	c := Object{}
	maps.Copy(c, o)
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] == nil {
			delete(c, pairs[i].(string))
		} else {
			c[pairs[i].(string)] = pairs[i+1]
		}
	}
	return c
}

// Encode returns one part of a token: v as JSON, or as it is if it is a string.
func Encode(v any) string {
	text, ok := v.(string)
	if !ok {
		raw, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		text = string(raw)
	}
	return base64.RawURLEncoding.EncodeToString([]byte(text))
}

// Make makes a token from a header and claims, which are objects or JSON. It signs the
// token with the key for alg, whatever the header says.
func Make(header, claims any, alg string, key any) string {
	signed := Encode(header) + "." + Encode(claims)
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature(signed, alg, key))
}

func signature(signed, alg string, key any) (sig []byte) {
	if alg == "none" {
		return nil
	}
	h, newHash := crypto.SHA256, func() hash.Hash { return sha256.New() }
	switch {
	case strings.HasSuffix(alg, "384"):
		h, newHash = crypto.SHA384, sha512.New384
	case strings.HasSuffix(alg, "512"):
		h, newHash = crypto.SHA512, sha512.New
	}
	digest := newHash()
	digest.Write([]byte(signed))
	sum := digest.Sum(nil)
	var err error
	switch alg[:2] {
	case "HS":
		mac := hmac.New(newHash, key.([]byte))
		mac.Write([]byte(signed))
		return mac.Sum(nil)
	case "RS":
		sig, err = rsa.SignPKCS1v15(rand.Reader, key.(*rsa.PrivateKey), h, sum)
	case "PS":
		sig, err = rsa.SignPSS(rand.Reader, key.(*rsa.PrivateKey), h, sum, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
	case "ES":
		k := key.(*ecdsa.PrivateKey)
		r, s, e := ecdsa.Sign(rand.Reader, k, sum)
		size := (k.Params().BitSize + 7) / 8
		sig, err = append(r.FillBytes(make([]byte, size)), s.FillBytes(make([]byte, size))...), e
	case "Ed":
		return ed25519.Sign(key.(ed25519.PrivateKey), []byte(signed))
	}
	if err != nil {
		panic(err)
	}
	return sig
}

// ValidClaims are claims of bob that are valid for an hour.
func ValidClaims() Object {
	now := time.Now().Unix()
	return Object{"sub": "bob", "iss": "https://id.example.com", "aud": "push", "iat": now, "exp": now + 3600}
}
