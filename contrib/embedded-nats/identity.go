// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package embeddednats

import (
	"crypto/ed25519"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"time"
)

// serverName is the name in the certificates. It says nothing: who has the secret is one of
// the machines.
const serverName = "machine.pushit.internal"

// The time in which certificates are valid. They live as long as a process does, and the
// clocks of the machines need not agree for them.
var (
	notBefore = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	notAfter  = time.Date(2220, 1, 1, 0, 0, 0, 0, time.UTC)
)

// An identity is the key of a certificate authority, which each machine makes from the secret
// that they share. So each can give itself a certificate that the others trust.
type identity struct{ key ed25519.PrivateKey }

// rounds make it slow to find out a secret that can be guessed: whoever reaches a machine sees
// its certificate, and can try secrets elsewhere.
const rounds = 100_000

func newIdentity(secret string) (identity, error) {
	seed, err := pbkdf2.Key(sha256.New, secret, []byte("pushit: machines of embedded NATS servers, 2"), rounds, ed25519.SeedSize)
	if err != nil {
		return identity{}, fmt.Errorf("making a key of the secret: %w", err)
	}
	return identity{ed25519.NewKeyFromSeed(seed)}, nil
}

// config returns the settings of TLS between the machines. Both sides must have a certificate
// of the authority.
func (id identity) config() (*tls.Config, error) {
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "pushit machines"},
		NotBefore:    notBefore, NotAfter: notAfter,
		KeyUsage: x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true,
		MaxPathLenZero: true,
	}
	authority, err := certify(ca, ca, id.key.Public().(ed25519.PublicKey), id.key)
	if err != nil {
		return nil, err
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("making a certificate: %w", err)
	}
	own, err := certify(&x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: serverName},
		DNSNames:     []string{serverName},
		NotBefore:    notBefore, NotAfter: notAfter,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, authority, public, id.key)
	if err != nil {
		return nil, err
	}
	trusted := x509.NewCertPool()
	trusted.AddCert(authority)
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{{Certificate: [][]byte{own.Raw}, PrivateKey: private, Leaf: own}},
		ServerName:   serverName,
		RootCAs:      trusted,
		ClientCAs:    trusted,
		ClientAuth:   tls.RequireAndVerifyClientCert,
	}, nil
}

func certify(template, parent *x509.Certificate, public ed25519.PublicKey, key ed25519.PrivateKey) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		return nil, fmt.Errorf("making a certificate: %w", err)
	}
	return x509.ParseCertificate(der)
}
