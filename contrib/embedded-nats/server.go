// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// Package embeddednats runs a NATS server within Caddy, so that the machines of a hub need
// nothing but Caddy. Some machines, 1, 3 or 5, are a NATS cluster of their own. It is a module
// of its own, because a NATS server adds 10 MB to the program.
package embeddednats

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/push-it/pushit/brokers"
	"github.com/push-it/pushit/guards"
	"github.com/push-it/pushit/hub/broker/nats"
)

func init() { caddy.RegisterModule(new(Server)) }

const (
	// minSecret is how many characters the secret must have, and minDifferent how many
	// different ones: whoever can reach a machine may try as many as they like.
	minSecret, minDifferent = 32, 10
	// defaultSync is how often what was written is synchronized with the disk.
	defaultSync = 2 * time.Minute
	// maxSync is the longest time that can be written.
	maxSync = time.Hour
)

// Server is a NATS server within this process, for the broker nats. Each machine has one, and
// together they keep the messages of the hubs. All settings but the listener and the store are
// the same on each machine.
//
// In all texts, the placeholders {env.NAME} and {file.PATH} are expanded when the
// configuration is loaded.
type Server struct {
	// The machines: 1, 3 or 5. Which of them this one is, the node of the broker says.
	Machines []Machine `json:"machines,omitempty"`

	// A secret that all machines have, of at least 32 characters. The machines prove to each
	// other that they have it, and encrypt what they send. One machine needs none.
	Secret string `json:"secret,omitempty"`

	// The address to listen at for the other machines, if it is not the one that they
	// connect to; such as `0.0.0.0:6222`. Default: the address of this machine.
	Listen string `json:"listen,omitempty"`

	// The folder of the messages. No other program may use it. Default: the folder
	// `pushit/nats/<name of the machine>` in Caddy's data folder.
	Store string `json:"store,omitempty"`

	// How often what was written is synchronized with the disk, such as `10s`; or `always`,
	// before a message counts as published. What is not synchronized may be lost if most
	// machines lose their power at once. Default: `2m`.
	Sync string `json:"sync,omitempty"`

	log  *slog.Logger
	use  settings // resolved
	self Machine  // resolved
}

// A Machine is one of those that keep the messages.
type Machine struct {
	// The name of the machine, which is the node of its broker. Letters, digits, `.`, `-`
	// and `_`.
	Name string `json:"name"`

	// The address that the other machines connect to, such as `10.0.0.1:6222`.
	Address string `json:"address"`
}

// CaddyModule returns the Caddy module information.
func (*Server) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: brokers.NATSServerID, New: func() caddy.Module { return new(Server) }}
}

// Provision resolves placeholders and checks the settings. The secret is forgotten, except in
// what it makes.
func (s *Server) Provision(ctx caddy.Context) error {
	s.log = ctx.Slogger()
	if err := s.resolve(); err != nil {
		return fmt.Errorf("embedded: %w", err)
	}
	s.Secret = ""
	return nil
}

func (s *Server) resolve() (err error) {
	resolved := *s
	resolved.Machines = slices.Clone(s.Machines)
	set := func(to *string, what string) {
		if *to == "" || err != nil {
			return
		}
		*to, err = guards.ResolveSetting("embedded: "+what, *to)
	}
	for i := range resolved.Machines {
		set(&resolved.Machines[i].Name, "the name of a machine")
		set(&resolved.Machines[i].Address, "the address of a machine")
	}
	set(&resolved.Secret, "the secret")
	set(&resolved.Listen, "listen")
	set(&resolved.Store, "store")
	set(&resolved.Sync, "sync")
	if err != nil {
		return err
	}
	s.use, err = resolved.settings()
	return err
}

// settings are what a server runs with.
type settings struct {
	machines []Machine
	name     string
	listen   string // "": it has no other machines
	store    string
	secret   [sha256.Size]byte // a hash of it
	identity identity
	always   bool
	sync     time.Duration
}

// settings checks s, whose placeholders are resolved.
func (s *Server) settings() (settings, error) {
	u := settings{machines: s.Machines, listen: s.Listen, store: s.Store, secret: sha256.Sum256([]byte(s.Secret))}
	if err := checkMachines(s.Machines); err != nil {
		return u, err
	}
	if s.Listen != "" {
		if err := checkAddress(s.Listen); err != nil {
			return u, fmt.Errorf("listen: %w", err)
		}
	}
	if err := u.setSync(s.Sync); err != nil {
		return u, err
	}
	switch {
	case len(s.Machines) == 1 && s.Secret == "":
		return u, nil
	case s.Secret == "":
		return u, errors.New("the machines need a secret, so that nobody else can join them: write secret {env.PUSHIT_CLUSTER_SECRET}, and set this variable on each machine to the output of: openssl rand -hex 32")
	case len(s.Secret) < minSecret:
		return u, fmt.Errorf("the secret has %d characters, and needs at least %d, because it can be guessed otherwise: take the output of: openssl rand -hex 32", len(s.Secret), minSecret)
	}
	different := make(map[rune]bool)
	for _, c := range s.Secret {
		different[c] = true
	}
	if len(different) < minDifferent {
		return u, fmt.Errorf("the secret has %d different characters, and needs at least %d, because it can be guessed otherwise: take the output of: openssl rand -hex 32", len(different), minDifferent)
	}
	var err error
	u.identity, err = newIdentity(s.Secret)
	return u, err
}

func (u *settings) setSync(text string) (err error) {
	switch text {
	case "":
		u.sync = defaultSync
	case "always":
		u.always, u.sync = true, defaultSync
	default:
		if u.sync, err = caddy.ParseDuration(text); err != nil || u.sync <= 0 || u.sync > maxSync {
			return fmt.Errorf("sync: %q is neither always nor a time of at most %v: write sync always, or sync 10s", text, maxSync)
		}
	}
	return nil
}

var isMachine = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]{0,62}$`)

func checkMachines(all []Machine) error {
	switch len(all) {
	case 0:
		return errors.New("there are no machines: write a line such as machine web1 10.0.0.1:6222 for each, 1, 3 or 5 of them, and the same on each machine")
	case 1, 3, 5:
	default:
		return fmt.Errorf("there are %d machines, and there must be 1, 3 or 5: most of them must work, so an even number survives no more failures than one less", len(all))
	}
	names, addresses := make(map[string]bool), make(map[string]bool)
	for _, m := range all {
		if !isMachine.MatchString(m.Name) {
			return fmt.Errorf("machine %q: a name has letters, digits, dots, - and _, at most 63 of them, and begins with no dot", m.Name)
		}
		if err := checkAddress(m.Address); err != nil {
			return fmt.Errorf("machine %s: %w", m.Name, err)
		}
		if names[m.Name] || addresses[m.Address] {
			return fmt.Errorf("machine %s %s: another machine has this name or this address: give each its own", m.Name, m.Address)
		}
		names[m.Name], addresses[m.Address] = true, true
	}
	return nil
}

func checkAddress(text string) error {
	host, port, err := net.SplitHostPort(text)
	if err == nil {
		n, perr := strconv.ParseUint(port, 10, 16)
		if host != "" && perr == nil && n > 0 && !strings.ContainsAny(host, " /@") {
			return nil
		}
	}
	return fmt.Errorf("%q is not an address with a port: write it as 10.0.0.1:6222 or web1.internal:6222", text)
}

// Place implements brokers.NATSServer.
func (s *Server) Place(node string) error {
	i := slices.IndexFunc(s.use.machines, func(m Machine) bool { return m.Name == node })
	if i < 0 {
		return fmt.Errorf("embedded: this node is called %q, and the machines are %s: write in the block of the broker node {env.NODE}, with the name of this machine in the variable", node, s.use.names())
	}
	s.self = s.use.machines[i]
	u := &s.use
	u.name = s.self.Name
	if u.store == "" {
		u.store = filepath.Join(caddy.AppDataDir(), "pushit", "nats", u.name)
	}
	store, err := filepath.Abs(u.store)
	if err != nil {
		return fmt.Errorf("embedded: store: %w", err)
	}
	u.store = store
	switch {
	case len(u.machines) == 1:
		u.listen = ""
	case u.listen == "":
		u.listen = s.self.Address
	}
	return nil
}

// equals reports whether a server that runs with u need not change for v. Both have the same
// store.
func (u *settings) equals(v *settings) bool {
	return u.name == v.name && u.listen == v.listen && u.secret == v.secret && u.always == v.always && u.sync == v.sync && slices.Equal(u.machines, v.machines)
}

// names returns the names of all machines in alphabetical order.
func (u *settings) names() string {
	var names []string
	for _, m := range u.machines {
		names = append(names, m.Name)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// pool has the servers of this process by their stores. A server outlives reloads: the new
// configuration uses it before the old one no longer does, and a broker uses it until it is
// closed.
var pool = caddy.NewUsagePool()

// Use implements brokers.NATSServer.
func (s *Server) Use() (urls []string, as nats.Auth, end func(), err error) {
	v, loaded, err := pool.LoadOrNew(s.use.store, func() (caddy.Destructor, error) { return start(&s.use, s.log) })
	if err != nil {
		return nil, nats.Auth{}, nil, fmt.Errorf("embedded: %w", err)
	}
	r := v.(*running)
	end = func() {
		if _, err := pool.Delete(s.use.store); err != nil {
			s.log.Error("stopping the NATS server", "error", err)
		}
	}
	if loaded && !r.settings.equals(&s.use) {
		end()
		return nil, nats.Auth{}, nil, errors.New("embedded: the NATS server in this process runs with other settings, and they cannot change in a reload: restart Caddy")
	}
	r.log.Store(s.log)
	return []string{r.url}, nats.Auth{User: user, Password: r.password}, end, nil
}

// Describe implements brokers.Described.
func (s *Server) Describe() string {
	return fmt.Sprintf("machine %s of %s", s.use.name, s.use.names())
}

// String keeps secrets out of what is printed.
func (*Server) String() string { return "embedded" }

// GoString keeps secrets out of what is printed.
func (*Server) GoString() string { return "embedded" }

// Interface guards
var (
	_ brokers.NATSServer = (*Server)(nil)
	_ caddy.Provisioner  = (*Server)(nil)
)
