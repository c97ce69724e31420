// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package nats

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/hub/brokertest"
	"github.com/push-it/pushit/internal/natsserver"
)

// logOf returns a log of its own for each call.
func logOf(urls ...string) func(t *testing.T) brokertest.Log {
	var logs atomic.Int64
	return func(t *testing.T) brokertest.Log {
		o := Options{Hub: fmt.Sprintf("%s-%d", t.Name()[:4], logs.Add(1)), URLs: urls, MaxBytes: 64 << 20, Keep: hub.HistoryRule{Count: 100_000}, Log: logger(t)}
		return logWith(o)
	}
}

func logWith(o Options) brokertest.Log {
	proxies := make(map[hub.Broker]*natsserver.Proxy)
	var started int
	open := func(tb testing.TB, name string) *Broker {
		o := o
		o.Node = name
		b, err := New(o)
		if err != nil {
			tb.Fatal(err)
		}
		return b
	}
	return brokertest.Log{
		Open: func(tb testing.TB) hub.Broker {
			started++
			return open(tb, fmt.Sprint("node", started))
		},
		Lasts: true,
		Replace: func(tb testing.TB) {
			b := open(tb, "somebody")
			l, err := b.dial()
			if err != nil {
				tb.Fatal(err)
			}
			defer l.close()
			b.link.Store(l)
			var out struct{ Success bool }
			awaitConnected(tb, l)
			if err := b.call(createPatience, "STREAM.DELETE."+b.names.stream, nil, &out); err != nil || !out.Success {
				tb.Errorf("deleting the stream: %t %v", out.Success, err)
			}
		},
		Node: func(tb testing.TB, name string) hub.Broker {
			p := natsserver.NewProxy(tb, o.URLs[len(proxies)%len(o.URLs)][len("nats://"):])
			o := o
			o.URLs, o.Node = []string{p.URL()}, name
			b, err := New(o)
			if err != nil {
				tb.Fatal(err)
			}
			proxies[b] = p
			return b
		},
		Kill: func(b hub.Broker) {
			proxies[b].Down(true)
			awaitGone(b.(*Broker), o.URLs)
		},
	}
}

// awaitGone waits until the servers know that a connection has ended. For a process that was
// killed, the operating system tells them at once.
func awaitGone(b *Broker, urls []string) {
	nc, err := nats.Connect(strings.Join(urls, ","))
	if err != nil {
		panic(err)
	}
	defer nc.Close()
	for late := time.Now().Add(patience); time.Now().Before(late); time.Sleep(5 * time.Millisecond) {
		if _, err := nc.Request(b.names.request(b.names.node, "nothing"), nil, 100*time.Millisecond); errors.Is(err, nats.ErrNoResponders) {
			return
		}
	}
}

func awaitConnected(tb testing.TB, l *link) {
	tb.Helper()
	await(tb, "a connection", l.nc.IsConnected)
}

// eachVersion runs a test with the newest and the oldest version of NATS servers.
func eachVersion(t *testing.T, f func(t *testing.T, v *natsserver.Version)) {
	t.Helper()
	t.Parallel()
	for name, v := range map[string]*natsserver.Version{"newest": natsserver.Newest, "oldest": natsserver.Oldest} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, v)
		})
	}
}

// TestBroker runs the tests of all Brokers, with one server, also of the oldest version, and
// with three.
func TestBroker(t *testing.T) {
	t.Parallel()
	t.Run("OneServer", func(t *testing.T) {
		brokertest.Run(t, logOf(natsserver.New(t, "").URL()))
	})
	t.Run("OldServer", func(t *testing.T) {
		brokertest.Run(t, logOf(natsserver.Oldest.New(t, "").URL()))
	})
	t.Run("ThreeServers", func(t *testing.T) {
		var urls []string
		for _, s := range natsserver.NewCluster(t, 3, "") {
			urls = append(urls, s.URL())
		}
		brokertest.Run(t, logOf(urls...))
	})
}

// logger returns a log that a failed test shows.
func logger(t *testing.T) *slog.Logger {
	w := &logText{t: t}
	t.Cleanup(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.over = true
	})
	return slog.New(slog.NewTextHandler(w, nil))
}

// A logText writes to the log of a test, as long as that goes on.
type logText struct {
	t    *testing.T
	mu   sync.Mutex // guards the following
	over bool
	text []byte
}

func (w *logText) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text = append(w.text, b...)
	if !w.over {
		w.t.Logf("%s", b)
	}
	return len(b), nil
}
