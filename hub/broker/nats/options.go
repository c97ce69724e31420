// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package nats

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/push-it/pushit/hub"
)

// Defaults and bounds of Options.
const (
	DefaultURL      = "nats://127.0.0.1:4222"
	DefaultPrefix   = "pushit"
	DefaultMaxBytes = 256 << 20
	MaxReplicas     = 5
	MinMaxBytes     = 1 << 20
)

// Options say where NATS is, and what the stream of a hub is like.
type Options struct {
	// Hub is the name of the hub. All nodes with the same name and Prefix are one hub.
	Hub string
	// Node is the name of this machine among them. Default: its host name.
	Node string
	// URLs are the addresses of servers of one NATS cluster; one that can be reached is
	// enough. Default: DefaultURL.
	URLs []string
	// Prefix is what all subjects and the stream begin with. Default: DefaultPrefix.
	Prefix string
	// Domain is the JetStream domain of the stream. Default: that of the server.
	Domain string
	Auth

	// Replicas is how many servers have the stream. Default: 3, or 1 if NATS has fewer
	// servers.
	Replicas int
	// MaxBytes is the most bytes of the stream. When it is full, the oldest messages go.
	// Default: DefaultMaxBytes.
	MaxBytes int64
	// Keep is what the stream must keep of each channel, at least.
	Keep hub.HistoryRule
	// MessageSize is the size of the longest message of an agent, in bytes. NATS must take
	// it. 0: this is not checked.
	MessageSize int

	// Log is told what happens to the connection. nil: nobody is.
	Log *slog.Logger
}

// Auth says as whom a node connects, and how.
type Auth struct {
	// Credentials is the path of a file with a JWT and a seed, NKey that of a file with a
	// seed alone. Both are read at each connection, so they can be replaced.
	Credentials, NKey     string
	Token, User, Password string
	// TLS are the settings of TLS. nil: as the server wants it.
	TLS *tls.Config
}

// String keeps secrets out of what is printed.
func (Auth) String() string { return "(not shown)" }

// GoString keeps secrets out of what is printed.
func (Auth) GoString() string { return "(not shown)" }

// String keeps secrets out of what is printed.
func (o Options) String() string {
	return fmt.Sprintf("hub %s at %s", o.Hub, strings.Join(o.URLs, " "))
}

// GoString keeps secrets out of what is printed.
func (o Options) GoString() string { return o.String() }

func (o Options) withDefaults() Options {
	o.URLs = slices.Clone(o.URLs)
	if len(o.URLs) == 0 {
		o.URLs = []string{DefaultURL}
	}
	for i, u := range o.URLs {
		if !strings.Contains(u, "://") {
			o.URLs[i] = "nats://" + u
		}
	}
	if o.Prefix == "" {
		o.Prefix = DefaultPrefix
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = DefaultMaxBytes
	}
	if o.Node == "" {
		o.Node, _ = os.Hostname() // "" is a name too
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// Check returns what is wrong with o. It does not connect.
func (o Options) Check() error {
	o = o.withDefaults()
	errs := []error{o.Auth.Check(), CheckPrefix(o.Prefix), CheckReplicas(o.Replicas), CheckMaxBytes(o.MaxBytes), CheckNode(o.Node)}
	for _, u := range o.URLs {
		errs = append(errs, CheckURL(u))
	}
	if o.Hub == "" {
		errs = append(errs, errors.New("the hub needs a name"))
	}
	if o.Domain != "" {
		errs = append(errs, CheckDomain(o.Domain))
	}
	return errors.Join(errs...)
}

// CheckURL returns what is wrong with the address of a server.
func CheckURL(text string) error {
	const write = "write it as nats://host:port, or tls://host:port"
	if !strings.Contains(text, "://") {
		text = "nats://" + text
	}
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return fmt.Errorf("the address of a NATS server cannot be read: %s", write) // err could show a password
	case u.User != nil:
		return errors.New("the address of a NATS server has no user and no password: write user <name> <password>, or token <token>, on a line of its own")
	case u.Scheme != "nats" && u.Scheme != "tls":
		return fmt.Errorf("%q is not the address of a NATS server: %s", text, write)
	case u.Hostname() == "", u.Path != "", u.RawQuery != "", u.Fragment != "":
		return fmt.Errorf("%q is not the address of a NATS server: %s", text, write)
	}
	return nil
}

var isPrefix = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$`)

// CheckPrefix returns what is wrong with a Prefix.
func CheckPrefix(text string) error {
	if len(text) > 48 || !isPrefix.MatchString(text) {
		return fmt.Errorf("the prefix %q is not one or more words of letters, digits, - and _, with dots between them, of at most 48 bytes", text)
	}
	return nil
}

// CheckDomain returns what is wrong with a Domain.
func CheckDomain(text string) error {
	if len(text) > 64 || strings.Contains(text, ".") || !isPrefix.MatchString(text) {
		return fmt.Errorf("the domain %q is not a word of letters, digits, - and _, of at most 64 bytes", text)
	}
	return nil
}

// maxNodeLength bounds the name of a node, which each message between nodes has.
const maxNodeLength = 255

// CheckNode returns what is wrong with the name of a node.
func CheckNode(text string) error {
	if len(text) > maxNodeLength || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return fmt.Errorf("the name of the node, %q, has spaces, or is longer than %d bytes", text, maxNodeLength)
	}
	return nil
}

// CheckReplicas returns what is wrong with a number of replicas. 0 is the default.
func CheckReplicas(n int) error {
	switch n {
	case 0, 1, 3, 5:
		return nil
	}
	return fmt.Errorf("replicas must be 1, 3 or 5, not %d: an even number survives no more servers than one less", n)
}

// CheckMaxBytes returns what is wrong with the size of a stream.
func CheckMaxBytes(n int64) error {
	if n < MinMaxBytes {
		return fmt.Errorf("max_bytes must be at least 1MiB, not %d bytes", n)
	}
	return nil
}

// Check returns what is wrong with a. It reads no file.
func (a Auth) Check() error {
	var given []string
	for _, one := range []struct {
		name  string
		there bool
	}{
		{"credentials", a.Credentials != ""}, {"nkey", a.NKey != ""}, {"token", a.Token != ""}, {"user", a.User != "" || a.Password != ""},
	} {
		if one.there {
			given = append(given, one.name)
		}
	}
	if len(given) > 1 {
		return fmt.Errorf("a node connects with one of credentials, nkey, token and user: keep one of %s", strings.Join(given, " and "))
	}
	return nil
}

// connection returns the options of nats.go. What is not said here has its default.
func (o *Options) connection() ([]nats.Option, error) {
	list := []nats.Option{
		nats.Name("pushit, hub " + o.Hub + ", node " + o.Node),
		// A server that hangs must be noticed in seconds, not after the four minutes of the
		// defaults. A node must never give up.
		nats.Timeout(2 * time.Second),
		nats.PingInterval(time.Second),
		nats.MaxPingsOutstanding(2),
		nats.FlusherTimeout(2 * time.Second),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.CustomReconnectDelay(reconnectDelay),
		nats.IgnoreAuthErrorAbort(),
		// What is published while there is no connection must fail now, not go out later.
		nats.ReconnectBufSize(-1),
	}
	if o.TLS != nil {
		list = append(list, nats.Secure(o.TLS.Clone()))
	}
	switch {
	case o.Credentials != "":
		if _, err := os.Stat(o.Credentials); err != nil {
			return nil, fmt.Errorf("the file of credentials cannot be read: %w", err)
		}
		list = append(list, nats.UserCredentials(o.Credentials))
	case o.NKey != "":
		seed, err := nats.NkeyOptionFromSeed(o.NKey)
		if err != nil {
			return nil, fmt.Errorf("the file of nkey, %s, has no seed that can be read: %w", o.NKey, err)
		}
		list = append(list, seed)
	case o.Token != "":
		list = append(list, nats.Token(o.Token))
	case o.User != "":
		list = append(list, nats.UserInfo(o.User, o.Password))
	}
	return list, nil
}

// reconnectDelay is how long a node waits after it has tried all servers so many times.
func reconnectDelay(times int) time.Duration {
	wait := min(time.Duration(1+times/20)*100*time.Millisecond, 2*time.Second)
	return wait + rand.N(wait) //nolint:gosec // G404: a random wait is no secret
}
