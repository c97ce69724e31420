// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// backendCommand is the subcommand that serves a backend, which says whether a user is
// logged in. Its argument is how long an answer takes.
const backendCommand = "serve-backend"

// userCookie is the cookie that names the user.
const userCookie = "user"

// A tally counts the requests of a backend.
type tally struct {
	Requests int // in all
	Most     int // at once
	Users    int // different ones
}

type backendServer struct {
	takes time.Duration
	addr  string

	mu       sync.Mutex // guards the following
	inFlight int
	tally    tally
	users    map[string]bool
}

// serveBackend serves until ctx ends or standard input is closed. It prints two addresses:
// that of the backend, and that where the backend is told to stop and to start. It is
// stopped at first.
func serveBackend(ctx context.Context, takes string) error {
	b := &backendServer{users: make(map[string]bool)}
	var err error
	if b.takes, err = time.ParseDuration(takes); err != nil {
		return err
	}
	l, err := listenLow()
	if err != nil {
		return err
	}
	b.addr = l.Addr().String()
	if err := l.Close(); err != nil {
		return err
	}
	control, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /come", b.come)
	mux.HandleFunc("GET /tally", b.tell)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: dialTimeout}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // it is closed when the parent process ends
		_ = server.Close()
	}()
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	fmt.Println(b.addr, control.Addr())
	if err := server.Serve(control); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// listenLow listens on a port that no system gives to outgoing connections, so it is still
// free when the backend starts again.
func listenLow() (l net.Listener, err error) {
	for range 100 {
		l, err = net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(20_000+rand.IntN(10_000))) //nolint:gosec // G404: any will do
		if err == nil {
			return l, nil
		}
	}
	return nil, err
}

// come begins to listen.
func (b *backendServer) come(w http.ResponseWriter, _ *http.Request) {
	l, err := net.Listen("tcp", b.addr)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	go func() {
		server := &http.Server{Handler: http.HandlerFunc(b.answer), ReadHeaderTimeout: dialTimeout}
		_ = server.Serve(l) // until the process ends
	}()
}

func (b *backendServer) tell(w http.ResponseWriter, _ *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tally.Users = len(b.users)
	_ = json.NewEncoder(w).Encode(b.tally) // an error means that the client has left
}

// answer takes as long even if the client has gone, as most backends do.
func (b *backendServer) answer(w http.ResponseWriter, r *http.Request) {
	var user string
	if cookie, err := r.Cookie(userCookie); err == nil && r.URL.Path == "/auth" {
		user = cookie.Value
	}
	b.mu.Lock()
	b.tally.Requests++
	b.inFlight++
	b.tally.Most = max(b.tally.Most, b.inFlight)
	b.users[user] = true
	b.mu.Unlock()

	time.Sleep(b.takes)

	b.mu.Lock()
	b.inFlight--
	b.mu.Unlock()
	if user == "" {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	w.Header().Set("Remote-User", user)
}

// A backend is a process that serves one.
type backend struct {
	child
	addr, control string
}

// startBackend starts a backend that takes that long for an answer. It does not listen yet.
func startBackend(ctx context.Context, takes time.Duration) (*backend, error) {
	c, err := startChild(ctx, backendCommand, takes.String())
	if err != nil {
		return nil, err
	}
	b := &backend{child: c}
	line, err := bufio.NewReader(b.out).ReadString('\n')
	if err != nil {
		b.stop()
		return nil, fmt.Errorf("starting the backend: %w", err)
	}
	b.addr, b.control, _ = strings.Cut(strings.TrimSpace(line), " ")
	return b, nil
}

// come makes it listen.
func (b *backend) come(ctx context.Context) error {
	_, err := b.do(ctx, http.MethodPost, "/come")
	return err
}

func (b *backend) tally(ctx context.Context) (t tally, err error) {
	body, err := b.do(ctx, http.MethodGet, "/tally")
	if err != nil {
		return t, err
	}
	err = json.Unmarshal(body, &t)
	return t, err
}

func (b *backend) do(ctx context.Context, method, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+b.control+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("the backend: %s: %s: %s", path, resp.Status, body)
	}
	return body, err
}

func (b *backend) stop() {
	_ = b.in.Close()
	timer := time.AfterFunc(startTimeout, func() { _ = b.cmd.Process.Kill() })
	defer timer.Stop()
	_ = b.cmd.Wait() // the status says nothing more
}
