// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// Package natsserver runs NATS servers for tests, as processes that can be killed and stopped,
// and proxies that break connections. The servers are built in modules of their own, so that
// this module does not need them.
package natsserver

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// patience is how long a server may take to begin.
const patience = 60 * time.Second

// A Version is a version of nats-server.
type Version struct {
	variable string // of the environment: the path of the program, if it is set
	binary   func() (string, error)
}

// Newest is the newest version, and Oldest the oldest that pushit works with.
var (
	Newest = newVersion("PUSHIT_NATS_SERVER", "nats-server", "test")
	Oldest = newVersion("PUSHIT_NATS_SERVER_OLDEST", "nats-server-oldest", "internal/natsserver/oldest")
)

// newVersion returns the version that is built in the module in a folder of this checkout.
func newVersion(variable, name, module string) *Version {
	return &Version{variable, sync.OnceValues(func() (string, error) {
		_, here, _, _ := runtime.Caller(0)
		top := filepath.Join(filepath.Dir(here), "..", "..")
		path := filepath.Join(top, ".build", name)
		//nolint:gosec // G204: folders of this checkout
		out, err := exec.Command("go", "build", "-C", filepath.Join(top, module), "-o", path, "github.com/nats-io/nats-server/v2").CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("building nats-server: %w\n%s", err, out)
		}
		return path, nil
	})}
}

// Binary returns the path of the program: what the variable says, or one that it builds.
func (v *Version) Binary() (string, error) {
	if path := os.Getenv(v.variable); path != "" {
		return path, nil
	}
	return v.binary()
}

// A Server is a nats-server that can be stopped and started again, with the same address and
// the same files.
type Server struct {
	tb      testing.TB
	version *Version
	addr    string // for clients
	dir     string
	config  string

	mu     sync.Mutex // guards the following
	cmd    *exec.Cmd
	exited chan struct{}
}

// New starts a server of the newest version: see [Version.New].
func New(tb testing.TB, more string) *Server {
	tb.Helper()
	return Newest.New(tb, more)
}

// Absent returns a server of the newest version: see [Version.Absent].
func Absent(tb testing.TB, more string) *Server {
	tb.Helper()
	return Newest.Absent(tb, more)
}

// NewCluster starts servers of the newest version: see [Version.NewCluster].
func NewCluster(tb testing.TB, n int, more string) []*Server {
	tb.Helper()
	return Newest.NewCluster(tb, n, more)
}

// New starts a server with JetStream. more is added to its configuration. It ends with the
// test.
func (v *Version) New(tb testing.TB, more string) *Server {
	tb.Helper()
	s := v.newServer(tb, freeAddress(tb), more)
	s.Start()
	s.Await()
	return s
}

// Absent returns a server that does not run yet.
func (v *Version) Absent(tb testing.TB, more string) *Server {
	tb.Helper()
	return v.newServer(tb, freeAddress(tb), more)
}

// NewCluster starts n servers that are one cluster. more is added to their configurations.
func (v *Version) NewCluster(tb testing.TB, n int, more string) []*Server {
	tb.Helper()
	routes := make([]string, n)
	for i := range routes {
		routes[i] = freeAddress(tb)
	}
	all := make([]*Server, n)
	for i := range all {
		all[i] = v.newServer(tb, freeAddress(tb), fmt.Sprintf(`%s
server_name: n%d
cluster {
	name: test
	listen: "%s"
	no_advertise: true
	ping_interval: "1s"
	routes: [ "nats://%s" ]
}`, more, i, routes[i], strings.Join(routes, `", "nats://`)))
		all[i].Start()
	}
	for _, s := range all {
		s.Await()
	}
	awaitLeader(tb, all[0])
	return all
}

// awaitLeader waits until JetStream of a cluster answers.
func awaitLeader(tb testing.TB, s *Server) {
	tb.Helper()
	nc, err := nats.Connect(s.URL(), nats.IgnoreDiscoveredServers())
	if err != nil {
		tb.Fatal(err)
	}
	defer nc.Close()
	for late := time.Now().Add(patience); time.Now().Before(late); time.Sleep(20 * time.Millisecond) {
		if m, err := nc.Request("$JS.API.INFO", nil, time.Second); err == nil && !bytes.Contains(m.Data, []byte(`"error"`)) {
			return
		}
	}
	tb.Fatal("the cluster has no leader")
}

func (v *Version) newServer(tb testing.TB, addr, more string) *Server {
	tb.Helper()
	s := &Server{tb: tb, version: v, addr: addr, dir: tb.TempDir()}
	s.config = filepath.Join(s.dir, "nats.conf")
	text := fmt.Sprintf("listen: \"%s\"\njetstream { store_dir: \"%s\", max_file_store: 4GB }\n%s\n", addr, s.dir, more)
	if err := os.WriteFile(s.config, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		s.Kill()
		if tb.Failed() {
			text, _ := os.ReadFile(s.logFile())
			tb.Logf("the end of the log of the NATS server %s:\n%s", addr, text[max(0, len(text)-4000):])
		}
	})
	return s
}

func (s *Server) logFile() string { return filepath.Join(s.dir, "log") }

// loopback is an address of this machine that no other test uses, where a network of them
// loops back.
var loopback = func() string {
	if runtime.GOOS != "linux" {
		return "127.0.0.1"
	}
	return fmt.Sprintf("127.%d.%d.%d", 64+rand.IntN(128), rand.IntN(256), 1+rand.IntN(254)) //nolint:gosec // G404: an address is no secret
}()

// given has the addresses that freeAddress has returned.
var given sync.Map

// freeAddress returns an address where nobody listens. It returns each only once: the system may
// offer one again that a server which is not started yet, or again, still needs.
func freeAddress(tb testing.TB) string {
	tb.Helper()
	for {
		l, err := net.Listen("tcp", loopback+":0")
		if err != nil {
			tb.Fatal(err)
		}
		addr := l.Addr().String()
		_ = l.Close()
		if _, before := given.LoadOrStore(addr, true); !before {
			return addr
		}
	}
}

// URL returns the address for clients.
func (s *Server) URL() string { return "nats://" + s.addr }

// Addr returns the address for clients without its scheme.
func (s *Server) Addr() string { return s.addr }

// Start starts the server if it does not run.
func (s *Server) Start() {
	s.tb.Helper()
	binary, err := s.version.Binary()
	if err != nil {
		s.tb.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd != nil {
		return
	}
	out, err := os.OpenFile(s.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.tb.Fatal(err)
	}
	defer func() { _ = out.Close() }()
	cmd := exec.Command(binary, "-c", s.config) //nolint:gosec // G204: the server that Binary has built
	cmd.Stdout, cmd.Stderr = out, out
	endWithParent(cmd)
	if err := cmd.Start(); err != nil {
		s.tb.Fatal(err)
	}
	exited := make(chan struct{})
	s.cmd, s.exited = cmd, exited
	go func() {
		_ = cmd.Wait() // it ends when it is told to
		close(exited)
	}()
}

// Await waits until the server lets clients in.
func (s *Server) Await() {
	s.tb.Helper()
	for late := time.Now().Add(patience); time.Now().Before(late); time.Sleep(20 * time.Millisecond) {
		conn, err := net.DialTimeout("tcp", s.addr, time.Second)
		if err == nil {
			_ = conn.Close()
			return
		}
	}
	s.tb.Fatalf("the NATS server does not listen at %s", s.addr)
}

// Kill ends the server at once, as kill -9 does.
func (s *Server) Kill() { s.end(syscall.SIGKILL) }

// Stop ends the server in order.
func (s *Server) Stop() { s.end(syscall.SIGTERM) }

func (s *Server) end(how syscall.Signal) {
	s.mu.Lock()
	cmd, exited := s.cmd, s.exited
	s.cmd = nil
	s.mu.Unlock()
	if cmd == nil {
		return
	}
	if err := cmd.Process.Signal(how); err != nil && !errors.Is(err, os.ErrProcessDone) {
		_ = cmd.Process.Kill()
	}
	<-exited
}

// Hang stops the process if hung is set, and lets it go on otherwise.
func (s *Server) Hang(hung bool) {
	s.tb.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		return
	}
	if err := hang(s.cmd.Process, hung); err != nil {
		s.tb.Error(err)
	}
}

// Restart kills the server and starts it again.
func (s *Server) Restart() {
	s.tb.Helper()
	s.Kill()
	s.Start()
	s.Await()
}

// Copy copies the files of a server that does not run. restore puts the copy in their place.
func (s *Server) Copy() (restore func()) {
	s.tb.Helper()
	files, aside := filepath.Join(s.dir, "jetstream"), filepath.Join(s.tb.TempDir(), "copy")
	if err := os.CopyFS(aside, os.DirFS(files)); err != nil {
		s.tb.Fatal(err)
	}
	return func() {
		s.tb.Helper()
		if err := errors.Join(os.RemoveAll(files), os.CopyFS(files, os.DirFS(aside))); err != nil {
			s.tb.Fatal(err)
		}
	}
}
