// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/push-it/pushit/internal/freeaddr"
)

// A server is a Caddy with pushit in a process of its own.
type server struct {
	dir    string // everything it reads and writes; removed by stop
	cmd    *exec.Cmd
	exited chan struct{} // closed when the process has ended; then err is set
	err    error

	plain, secure target
	admin         *http.Client // its admin endpoint, on a unix socket that nobody else reaches
}

// globalOptions keep all that a server needs in one directory. Argument 1 is it.
const globalOptions = `{
	admin unix/%[1]s/admin
	auto_https off
	persist_config off
	storage file_system %[1]s/storage
	log {
		output file %[1]s/caddy.log
	}
}
`

// caddyfile configures the server. Limits that would stop the load are off; those that bound
// the server's memory have their defaults. Arguments: directory, heartbeat, plain address,
// TLS address.
const caddyfile = globalOptions + `(site) {
	log {
		output file %[1]s/access.log
	}
	pushit /push {
		name bench
		heartbeat %[2]s
		limits {
			agents_per_ip unlimited
			frames_per_second unlimited
			publishes_per_second unlimited
		}
	}
	pushit /programs {
		name programs
		default allow
		api bearer "` + programSecret + `"
		limits {
			api_publishes_per_second unlimited
		}
	}
}
http://%[3]s {
	import site
}
https://%[4]s {
	tls %[1]s/cert.pem %[1]s/key.pem
	import site
}
`

// heartbeat is the server's heartbeat, unless a reload changes it. The memory of idle agents
// is measured after one heartbeat.
const heartbeat = "10s"

// startTimeout is the time limit of the start and of the stop of a server.
const startTimeout = 30 * time.Second

// buildServer returns the path of the Caddy to measure: PUSHIT_CADDY, or one that
// it builds into dir. The module to build is the folder above this one, in which the
// process runs.
func buildServer(ctx context.Context, dir string) (string, error) {
	if binary := os.Getenv("PUSHIT_CADDY"); binary != "" {
		return filepath.Abs(binary)
	}
	binary := filepath.Join(dir, "caddy")
	cmd := exec.CommandContext(ctx, "go", "build", "-C", "..", "-o", binary, "./cmd/caddy") //nolint:gosec // G204: a folder made here
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building cmd/caddy: %w\n%s", err, out)
	}
	return binary, nil
}

// startServer starts the Caddy that binary is and waits until it serves. The
// caller stops it.
func startServer(ctx context.Context, binary string) (_ *server, err error) {
	s := &server{exited: make(chan struct{})}
	if s.dir, err = os.MkdirTemp("", "pushit-bench-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.stop()
		}
	}()
	if s.plain.addr, s.secure.addr, err = freeAddresses(); err != nil {
		return nil, err
	}
	if s.secure.tls, err = makeCertificate(s.dir); err != nil {
		return nil, err
	}
	config := filepath.Join(s.dir, "Caddyfile")
	if err := os.WriteFile(config, s.caddyfile(heartbeat), 0o600); err != nil {
		return nil, err
	}
	s.admin = &http.Client{
		Timeout: startTimeout,
		Transport: &http.Transport{
			DisableKeepAlives: true, // a connection that stays would be counted
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, "unix", s.dir+"/admin")
			},
		},
	}
	if err := s.start(binary, config); err != nil {
		return nil, err
	}
	within, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := until(within, often, "waiting for the server", s.ready); err != nil {
		return nil, errors.Join(err, s.complaint())
	}
	return s, nil
}

func (s *server) caddyfile(heartbeat string) []byte {
	return fmt.Appendf(nil, caddyfile, s.dir, heartbeat, s.plain.addr, s.secure.addr)
}

func (s *server) start(binary, config string) error {
	output, err := os.Create(filepath.Join(s.dir, "output"))
	if err != nil {
		return err
	}
	defer func() { _ = output.Close() }()                                             // the process has its own
	s.cmd = exec.Command(binary, "run", "--config", config, "--adapter", "caddyfile") //nolint:gosec // G204: the server to measure
	s.cmd.Stdout, s.cmd.Stderr = output, output
	s.cmd.Env = append(os.Environ(),
		"HOME="+s.dir, "XDG_CONFIG_HOME="+s.dir, "XDG_DATA_HOME="+s.dir,
		"GORACE=halt_on_error=1") // for a binary with the race detector: a race is a crash
	if err := s.cmd.Start(); err != nil {
		s.cmd = nil
		return err
	}
	go func() {
		s.err = s.cmd.Wait()
		close(s.exited)
	}()
	return nil
}

func (s *server) pid() int { return s.cmd.Process.Pid }

// ready reports whether the server answers, and fails when it has ended.
func (s *server) ready() (bool, error) {
	if err := s.alive(); err != nil {
		return false, err
	}
	for _, t := range []target{s.plain, s.secure} {
		conn, err := net.DialTimeout("tcp", t.addr, time.Second)
		if err != nil {
			return false, nil //nolint:nilerr // not yet
		}
		_ = conn.Close()
	}
	return true, nil
}

// alive returns why the server has ended, if it has.
func (s *server) alive() error {
	select {
	case <-s.exited:
		return fmt.Errorf("the server has ended: %w", errors.Join(s.err, s.complaint()))
	default:
		return nil
	}
}

// complaint returns the end of the server's output and log.
func (s *server) complaint() error {
	var said []byte
	for _, name := range []string{"output", "caddy.log"} {
		text, err := os.ReadFile(filepath.Join(s.dir, name)) //nolint:gosec // G304: a folder made here
		if err == nil {
			said = append(said, text[max(0, len(text)-2000):]...)
		}
	}
	return errors.New(string(bytes.TrimSpace(said)))
}

// stop ends the server and removes its files.
func (s *server) stop() {
	if s.cmd != nil {
		_ = s.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-s.exited:
		case <-time.After(startTimeout):
			_ = s.cmd.Process.Kill()
			<-s.exited
		}
	}
	_ = os.RemoveAll(s.dir)
}

// reload gives the server a configuration with another heartbeat.
func (s *server) reload(ctx context.Context, heartbeat string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://admin/load", bytes.NewReader(s.caddyfile(heartbeat)))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "text/caddyfile")
	_, err = s.do(req)
	return err
}

// serve loads another configuration, with these arguments behind the directory and the
// address, and returns its address. The address is a new one, because Caddy may still be
// closing the listener of the old configuration, with the connections that wait there.
func (s *server) serve(ctx context.Context, format string, arguments ...any) (at target, err error) {
	const tries = 5
	for try := 1; ; try++ {
		if at.addr, err = freeAddress(); err != nil {
			return at, err
		}
		text := fmt.Appendf(nil, format, append([]any{s.dir, at.addr}, arguments...)...)
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://admin/load", bytes.NewReader(text))
		if err != nil {
			return at, err
		}
		req.Header.Set("Content-Type", "text/caddyfile")
		// A connection that is being made may have taken the port meanwhile.
		if _, err = s.do(req); err == nil || try == tries || !strings.Contains(err.Error(), "address already in use") {
			return at, err
		}
	}
}

// get asks the admin endpoint. It asks again when there is no answer: at a reload
// the endpoint is replaced by a new one.
func (s *server) get(ctx context.Context, path string) ([]byte, error) {
	const tries = 5
	for try := 1; ; try++ {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://admin"+path, http.NoBody)
		if err != nil {
			return nil, err
		}
		body, err := s.do(req)
		if err == nil || try == tries {
			return body, err
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

func (s *server) do(req *http.Request) ([]byte, error) {
	resp, err := s.admin.Do(req)
	if err != nil {
		return nil, errors.Join(err, s.alive())
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", req.URL.Path, resp.Status, body)
	}
	return body, err
}

// memory has figures of the server's Go runtime.
type memory struct {
	HeapAlloc, HeapIdle, HeapReleased, StackInuse, Mallocs, TotalAlloc int64
}

func (s *server) memory(ctx context.Context) (memory, error) {
	body, err := s.get(ctx, "/debug/vars")
	if err != nil {
		return memory{}, err
	}
	var vars struct {
		Memory memory `json:"memstats"`
	}
	err = json.Unmarshal(body, &vars)
	return vars.Memory, err
}

// profile writes profiles of the heap and the goroutines to dir, if it is named.
func (s *server) profile(ctx context.Context, dir string) error {
	if dir == "" {
		return nil
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	for name, path := range map[string]string{"heap": "/debug/pprof/heap", "goroutine": "/debug/pprof/goroutine"} {
		body, err := s.get(ctx, path)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name+".pprof"), body, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// collect makes the server collect garbage.
func (s *server) collect(ctx context.Context) error {
	_, err := s.get(ctx, "/debug/pprof/heap?gc=1")
	return err
}

// settled returns the resident memory after as many garbage collections as make it smaller.
// One is not enough: the first only moves what pools hold aside, and the runtime returns
// freed memory to the kernel slowly. What it never returns counts.
func (s *server) settled(ctx context.Context) (int64, error) {
	const (
		rounds   = 30
		patience = 3       // rounds without a fall
		fall     = 1 << 18 // bytes
	)
	var least int64 = math.MaxInt64
	for round, still := 0, 0; round < rounds && still < patience; round++ {
		if err := s.collect(ctx); err != nil {
			return 0, err
		}
		if err := pause(ctx, time.Second); err != nil {
			return 0, err
		}
		now, err := residentMemory(s.pid())
		if err != nil {
			return 0, err
		}
		still++
		if now < least-fall {
			least, still = now, 0
		}
	}
	return residentMemory(s.pid())
}

// goroutines returns the number of the server's goroutines.
func (s *server) goroutines(ctx context.Context) (int, error) {
	body, err := s.get(ctx, "/debug/pprof/goroutine?debug=1")
	if err != nil {
		return 0, err
	}
	head, _, _ := strings.Cut(string(body), "\n")
	_, count, _ := strings.Cut(head, "total ")
	return strconv.Atoi(count)
}

// A census counts what sessions could leak.
type census struct{ goroutines, files int }

func (s *server) census(ctx context.Context) (c census, err error) {
	if c.goroutines, err = s.goroutines(ctx); err != nil {
		return c, err
	}
	c.files, err = openFiles(s.pid())
	return c, err
}

// fewGoroutines and fewFiles are how many more a server may have after all agents have left
// than before: idle connections of Caddy's own come and go.
const fewGoroutines, fewFiles = 5, 2

// emptied waits for a while until the server has hardly more goroutines and files than
// before, and returns how many more it has.
func (s *server) emptied(ctx context.Context, before census) (left census, err error) {
	err = untilWithin(ctx, 20*time.Second, often, "waiting until all are gone", func() (bool, error) {
		now, err := s.census(ctx)
		left = census{now.goroutines - before.goroutines, now.files - before.files}
		return left.goroutines <= fewGoroutines && left.files <= fewFiles, err
	})
	return left, err
}

// freeAddress returns an address for a server, see freeaddr.On.
func freeAddress() (string, error) { return freeaddr.On("127.0.0.1") }

// freeAddresses returns two of them.
func freeAddresses() (one, other string, err error) {
	if one, err = freeAddress(); err != nil {
		return "", "", err
	}
	other, err = freeAddress()
	return one, other, err
}
