// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package embeddednats

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"

	"github.com/push-it/pushit/internal/sampler"
)

const (
	// user is who pushit is for the server. The password is another one in each process.
	user = "pushit"
	// startPatience is how long a server may take until it listens, and lockPatience how long
	// a server that ends may keep its store.
	startPatience = 20 * time.Second
	lockPatience  = 10 * time.Second
	// maxPayload is the longest message of the server. Only this process and the other
	// machines can send any.
	maxPayload = 33 << 20
	// maxPending is how much may wait for the slowest of these.
	maxPending = 128 << 20
	// reportEvery is how many attempts to reach a machine there are, one a second, until the
	// log says again that it is away.
	reportEvery = 600
	// lockFile is the file in the store that keeps other processes away.
	lockFile = "pushit.db"
)

// A running server is used by all configurations that say the same about it.
type running struct {
	settings settings
	server   *server.Server
	lock     *bbolt.DB
	url      string
	password string
	log      atomic.Pointer[slog.Logger]
	about    sampler.Sampler // of lines about connections
	failed   chan string     // has room for why the server did not start
}

// start starts a server, and returns when it lets pushit in. It does not wait for the other
// machines.
func start(u *settings, log *slog.Logger) (*running, error) {
	r := &running{settings: *u, password: rand.Text() + rand.Text(), failed: make(chan string, 1)}
	r.log.Store(log)
	options, err := r.options()
	if err != nil {
		return nil, err
	}
	if r.lock, err = openStore(u); err != nil {
		return nil, err
	}
	if r.server, err = server.NewServer(options); err != nil {
		return nil, errors.Join(fmt.Errorf("the NATS server: %w", err), r.lock.Close())
	}
	r.server.SetLoggerV2(logger{r}, false, false, false)
	r.server.Start()
	if err := r.await(); err != nil {
		return nil, errors.Join(err, r.Destruct())
	}
	r.url = "nats://" + r.server.Addr().String()
	log.Info("the NATS server of this machine runs", "machine", u.name, "machines", u.names(), "listen", u.listen, "store", u.store)
	return r, nil
}

// await waits until the server listens.
func (r *running) await() error {
	for late := time.Now().Add(startPatience); time.Now().Before(late); {
		if r.server.ReadyForConnections(20 * time.Millisecond) {
			return nil
		}
		select {
		case why := <-r.failed:
			return errors.New(why)
		default:
		}
	}
	return fmt.Errorf("the NATS server does not listen after %v", startPatience)
}

// Destruct implements caddy.Destructor: it ends the server in order.
func (r *running) Destruct() error {
	r.server.Shutdown()
	r.server.WaitForShutdown()
	return r.lock.Close()
}

// options returns the configuration of the server.
func (r *running) options() (*server.Options, error) {
	u := &r.settings
	o := &server.Options{
		ServerName: u.name,
		Host:       "127.0.0.1", Port: server.RANDOM_PORT, // for this process alone
		Username: user, Password: r.password,
		NoSigs: true, // the signals are for Caddy

		JetStream: true, StoreDir: u.store, DisableJetStreamBanner: true,
		SyncInterval: u.sync, SyncAlways: u.always,
		MaxPayload: maxPayload, MaxPending: maxPending,
		PingInterval: time.Second, MaxPingsOut: 3,
		ReconnectErrorReports: reportEvery, ConnectErrorReports: reportEvery,
	}
	if u.listen == "" {
		return o, nil
	}
	host, text, err := net.SplitHostPort(u.listen)
	if err != nil {
		return nil, err
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		return nil, err
	}
	config, err := u.identity.config()
	if err != nil {
		return nil, err
	}
	o.Cluster = server.ClusterOpts{
		Name: "pushit", Host: host, Port: port, TLSConfig: config,
		NoAdvertise:  true, // each pushit stays with the server in its process
		PingInterval: time.Second, MaxPingsOut: 3,
	}
	for _, m := range u.machines {
		if m.Name == u.name {
			o.Cluster.Advertise = m.Address
			continue
		}
		o.Routes = append(o.Routes, &url.URL{Scheme: "tls", Host: m.Address})
	}
	return o, nil
}

// openStore locks the store, and finds out whether it belongs to these machines.
func openStore(u *settings) (_ *bbolt.DB, err error) {
	if err := os.MkdirAll(u.store, 0o700); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	db, err := bbolt.Open(filepath.Join(u.store, lockFile), 0o600, &bbolt.Options{Timeout: lockPatience})
	if errors.Is(err, bbolterrors.ErrTimeout) {
		return nil, fmt.Errorf("another process uses the store %s: is there another Caddy? Give each machine a store of its own", u.store)
	}
	if err != nil {
		return nil, fmt.Errorf("the store %s cannot be opened: %w", u.store, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, db.Close())
		}
	}()
	var before string
	names := u.name + " of " + u.names()
	err = db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists([]byte("store"))
		if err != nil {
			return err
		}
		if before = string(b.Get([]byte("machine"))); before != "" {
			return nil
		}
		return b.Put([]byte("machine"), []byte(names))
	})
	switch {
	case err != nil:
		return nil, fmt.Errorf("the store %s: %w", u.store, err)
	case before != "" && before != names:
		return nil, fmt.Errorf("the store %s was made by the machine %s, and this is the machine %s: a machine can have a new address, but the set of their names is fixed. To begin anew, without the messages that are kept, stop all machines and remove their stores", u.store, before, names)
	}
	return db, nil
}

// A logger writes what the server says to the log of Caddy.
type logger struct{ *running }

func (l logger) say(level slog.Level, format string, v []any) {
	for _, about := range []string{"Maximum payloads", "Plaintext passwords"} { // warnings of what is right here
		if strings.HasPrefix(format, about) {
			return
		}
	}
	log, text := l.log.Load(), fmt.Sprintf(format, v...)
	if !log.Enabled(context.Background(), level) {
		return
	}
	attrs := []any{"says", text}
	if isAboutConnection(text) {
		left, ok := l.about.Take(time.Now())
		if !ok {
			return
		}
		attrs = append(attrs, "left_out", left)
	}
	log.Log(context.Background(), level, "the NATS server of this machine", attrs...)
}

// isAboutConnection reports whether a line is about one connection. Whoever can reach the
// server causes as many of them as they like, so the log gets only a few each second.
func isAboutConnection(text string) bool {
	return strings.Contains(text, " - rid:") || strings.Contains(text, " - cid:")
}

func (l logger) Noticef(format string, v ...any) { l.say(slog.LevelDebug, format, v) }
func (l logger) Warnf(format string, v ...any)   { l.say(slog.LevelWarn, format, v) }
func (l logger) Errorf(format string, v ...any)  { l.say(slog.LevelError, format, v) }
func (l logger) Debugf(string, ...any)           {}
func (l logger) Tracef(string, ...any)           {}

// Fatalf is called when the server cannot start, or has to end.
func (l logger) Fatalf(format string, v ...any) {
	select {
	case l.failed <- fmt.Sprintf(format, v...):
	default:
	}
	l.say(slog.LevelError, format, v)
}

var _ server.Logger = logger{}
