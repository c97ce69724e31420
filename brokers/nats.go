// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package brokers

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"

	"github.com/push-it/pushit/guards"
	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/hub/broker/nats"
)

func init() { caddy.RegisterModule(new(NATS)) }

// NATS connects the machines of a hub through NATS JetStream. Each machine has the same hub,
// with the same name, and connects to the same NATS. The hub has one stream there, which
// pushit makes.
//
// In all texts, the placeholders {env.NAME} and {file.PATH} are expanded when the
// configuration is loaded.
type NATS struct {
	// The addresses of the NATS servers, such as `nats://10.0.0.1:4222` or
	// `tls://nats.example.com:4222`. They must be of one NATS cluster. One is enough; the
	// others are for when it is away. Default: `nats://127.0.0.1:4222`.
	URLs []string `json:"urls,omitempty"`

	// The name of this machine among those of the hub. Each needs its own. Default: the
	// host name.
	Node string `json:"node,omitempty"`

	// The path of a credentials file, as NATS' tools make it. It is read at each
	// connection.
	Credentials string `json:"credentials,omitempty"`

	// The path of a file with the seed of an nkey. It is read at each connection.
	NKey string `json:"nkey,omitempty"`

	// The token that the NATS servers ask for.
	Token string `json:"token,omitempty"`

	// The user that the NATS servers ask for, and its password.
	User     string `json:"user,omitempty"`
	Password string `json:"password,omitempty"`

	// Connect with TLS. Default: if an address begins with `tls://`, or if the server
	// demands it; with the certificate authorities of the system.
	TLS *NATSTLS `json:"tls,omitempty"`

	// How many NATS servers keep each message: 1, 3 or 5. With 3, one of them can fail and
	// nothing is lost. Default: 3, or 1 if there are fewer than 3 servers.
	Replicas int `json:"replicas,omitempty"`

	// The most bytes of the stream on the disks of NATS. When it is full, the oldest
	// messages go. At least 1048576. Default: 268435456 (256MiB).
	MaxBytes int64 `json:"max_bytes,omitempty"`

	// What the names of the stream and of all subjects begin with. Two systems that share
	// an account of NATS need different ones. Letters, digits, `-`, `_` and dots. Default:
	// `pushit`.
	Prefix string `json:"prefix,omitempty"`

	// The JetStream domain of the stream, if the servers are leaf nodes. Default: that of
	// the servers.
	Domain string `json:"domain,omitempty"`

	// A NATS server within this process, in place of servers elsewhere. The build of Caddy
	// needs the module http.pushit.brokers.nats.embedded, which has the settings.
	EmbeddedRaw json.RawMessage `json:"embedded,omitempty"`

	options     nats.Options // without what Settings have
	fingerprint [sha256.Size]byte
	server      *natsServer // nil if the servers are elsewhere
}

// NATSTLS are the settings of a TLS connection to NATS.
type NATSTLS struct {
	// The path of a file with the certificates of the authorities that the servers'
	// certificates are checked with. Default: those of the system.
	CA string `json:"ca,omitempty"`

	// The paths of this machine's certificate and its key, if the servers ask for one. They
	// are read at each connection.
	Certificate string `json:"certificate,omitempty"`
	Key         string `json:"key,omitempty"`

	// The name in the servers' certificates. Default: the name in the address.
	ServerName string `json:"server_name,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (*NATS) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: Namespace + ".nats", New: func() caddy.Module { return new(NATS) }}
}

// Provision resolves placeholders and checks the settings. Secrets are forgotten, except in
// the options.
func (n *NATS) Provision(ctx caddy.Context) error {
	o := &n.options
	var errs []error
	set := func(to *string, what, text string) {
		if text == "" {
			return
		}
		value, err := guards.ResolveSetting("broker nats: "+what, text)
		errs = append(errs, err)
		*to = value
	}
	for i, u := range n.URLs {
		var value string
		set(&value, fmt.Sprintf("url %d", i+1), u)
		o.URLs = append(o.URLs, value)
	}
	set(&o.Node, "node", n.Node)
	set(&o.Credentials, "credentials", n.Credentials)
	set(&o.NKey, "nkey", n.NKey)
	set(&o.Token, "the token", n.Token)
	set(&o.User, "the user", n.User)
	set(&o.Password, "the password", n.Password)
	set(&o.Prefix, "prefix", n.Prefix)
	set(&o.Domain, "domain", n.Domain)
	o.Replicas, o.MaxBytes = n.Replicas, n.MaxBytes
	if err := errors.Join(errs...); err != nil {
		return err
	}
	var tlsFiles []byte
	if n.TLS != nil {
		var err error
		if o.TLS, tlsFiles, err = n.TLS.config(); err != nil {
			return fmt.Errorf("broker nats: tls: %w", err)
		}
	}
	if len(n.EmbeddedRaw) > 0 {
		if err := n.embed(ctx); err != nil {
			return fmt.Errorf("broker nats: %w", err)
		}
	}
	probe := *o
	probe.Hub = "x" // the hub has another name, which was checked
	if err := probe.Check(); err != nil {
		return fmt.Errorf("broker nats: %w", err)
	}
	n.Token, n.Password = "", ""
	text := fmt.Sprintf("%t %q", n.server != nil, []string{strings.Join(o.URLs, " "), o.Credentials, o.NKey, o.Token, o.User, o.Password, string(tlsFiles)})
	n.fingerprint = sha256.Sum256([]byte(text))
	return nil
}

// config returns the TLS settings, and what they were made of.
func (t *NATSTLS) config() (c *tls.Config, from []byte, err error) {
	resolved := *t
	for i, field := range []*string{&resolved.CA, &resolved.Certificate, &resolved.Key, &resolved.ServerName} {
		if *field == "" {
			continue
		}
		if *field, err = guards.ResolveSetting([]string{"ca", "the certificate", "the key", "server_name"}[i], *field); err != nil {
			return nil, nil, err
		}
	}
	c = &tls.Config{MinVersion: tls.VersionTLS12, ServerName: resolved.ServerName}
	from = fmt.Appendf(nil, "%q", []string{resolved.CA, resolved.Certificate, resolved.Key, resolved.ServerName})
	if resolved.CA != "" {
		text, err := os.ReadFile(resolved.CA)
		if err != nil {
			return nil, nil, fmt.Errorf("reading the certificate authorities: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(text) {
			return nil, nil, fmt.Errorf("%s has no certificate in PEM form", resolved.CA)
		}
		from = append(from, text...)
	}
	switch {
	case (resolved.Certificate == "") != (resolved.Key == ""):
		return nil, nil, errors.New("a certificate needs a key, and a key a certificate: write cert <file> <key file>")
	case resolved.Certificate != "":
		load := func() (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(resolved.Certificate, resolved.Key)
			return &pair, err
		}
		if _, err := load(); err != nil {
			return nil, nil, fmt.Errorf("reading the certificate: %w", err)
		}
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	}
	return c, from, nil
}

// A natsBroker is a Broker with what it was connected with.
type natsBroker struct {
	*nats.Broker
	fingerprint [sha256.Size]byte
	end         func() // ends its use of the server in this process; nil if there is none
}

// Close implements hub.Broker. The server in this process ends after the Broker.
func (b *natsBroker) Close() error {
	err := b.Broker.Close()
	if b.end != nil {
		b.end()
	}
	return err
}

// with returns the options of a Broker. If the server is in this process, it runs then.
func (n *NATS) with(s Settings) (nats.Options, error) {
	o := n.options
	o.Hub, o.Keep, o.MessageSize, o.Log = s.Hub, s.Keep, s.MessageSize, s.Log
	if n.server == nil {
		return o, nil
	}
	var err error
	o.URLs, o.Auth, err = n.server.start()
	return o, err
}

// Open implements Module.
func (n *NATS) Open(s Settings) (hub.Broker, error) {
	o, err := n.with(s)
	if err != nil {
		return nil, err
	}
	inner, err := nats.New(o)
	if err != nil {
		return nil, err
	}
	b := &natsBroker{Broker: inner, fingerprint: n.fingerprint}
	if n.server == nil {
		return b, nil
	}
	_, _, end, err := n.server.module.Use()
	if err != nil {
		return nil, errors.Join(err, inner.Close())
	}
	b.end = sync.OnceFunc(end)
	return b, nil
}

// Check implements Module.
func (n *NATS) Check(running hub.Broker, s Settings) error {
	o, err := n.with(s)
	switch {
	case err != nil:
		return err
	case running == nil && n.server != nil:
		return nil // a server that starts lets this process in
	case running == nil:
		return nats.Probe(o)
	}
	b, err := asNATS(running)
	if err != nil {
		return err
	}
	if err := b.SameEngine(o); err != nil {
		return err
	}
	if b.fingerprint != n.fingerprint {
		return nats.Probe(o)
	}
	return nil
}

// Adopt implements Module.
func (n *NATS) Adopt(running hub.Broker, s Settings) error {
	b, err := asNATS(running)
	if err != nil {
		return err
	}
	o, err := n.with(s)
	if err != nil {
		return err
	}
	if b.fingerprint != n.fingerprint {
		if err := b.Reconnect(o); err != nil {
			return err
		}
		b.fingerprint = n.fingerprint
	}
	b.Resize(o)
	b.Keep(s.Keep)
	return nil
}

// Describe implements Described.
func (n *NATS) Describe() string {
	if n.server != nil {
		return "nats, in this process: " + n.server.module.Describe()
	}
	urls := n.options.URLs
	if len(urls) == 0 {
		urls = []string{nats.DefaultURL}
	}
	return "nats, at " + strings.Join(urls, " ")
}

func asNATS(running hub.Broker) (*natsBroker, error) {
	b, ok := running.(*natsBroker)
	if !ok {
		return nil, fmt.Errorf("the hub is connected by another broker (%v), and the engine of a hub cannot change in a reload, because positions and messages would be lost: restart the server", reflect.TypeOf(running))
	}
	return b, nil
}

// String keeps secrets out of what is printed.
func (*NATS) String() string { return "nats" }

// GoString keeps secrets out of what is printed.
func (*NATS) GoString() string { return "nats" }

// Interface guards
var (
	_ Described          = (*NATS)(nil)
	_ Module             = (*NATS)(nil)
	_ caddy.Provisioner  = (*NATS)(nil)
	_ caddy.CleanerUpper = (*NATS)(nil)
	_ hub.Measured       = (*natsBroker)(nil)
	_ Keeper             = (*natsBroker)(nil)
)
