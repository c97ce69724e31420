// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package pushit_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/net/http2"
)

// TestHTTP2 runs itself again in a process in which HTTP/2 servers offer extended
// CONNECT (RFC 8441): whether they do is read from the environment at the start.
//
//nolint:staticcheck // SA1019: net/http has no extended CONNECT for clients
func TestHTTP2(t *testing.T) {
	const setting = "http2xconnect=1"
	if !strings.Contains(os.Getenv("GODEBUG"), setting) {
		self := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestHTTP2$", "-test.v")
		self.Env = append(os.Environ(), "GODEBUG="+setting)
		if out, err := self.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestHTTP2") {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	cert, key := certificate(t, "localhost")
	s := serve(t, "https://localhost {\n\ttls "+cert+" "+key+"\n\tencode\n\tlog\n\tpushit\n\trespond next 404\n}\n").site("localhost")
	client := http2.Transport{
		DialTLSContext: func(ctx context.Context, network, _ string, config *tls.Config) (net.Conn, error) {
			d := tls.Dialer{Config: config}
			return d.DialContext(ctx, network, s.addr(s.name))
		},
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}
	defer client.CloseIdleConnections()

	for _, tc := range []struct {
		method, path string
		header       http.Header
		status       int
		body         string
	}{
		{http.MethodGet, "/push", nil, http.StatusOK, "Welcome to SockJS!"},
		{http.MethodGet, "/push/info", nil, http.StatusOK, `"websocket":true`},
		{http.MethodGet, "/push/websocket", nil, http.StatusBadRequest, ""},
		{http.MethodConnect, "/push/websocket", http.Header{":protocol": {"websocket"}}, http.StatusNotImplemented, "HTTP/1.1"},
		{http.MethodConnect, "/push/000/abcdefgh/websocket", http.Header{":protocol": {"websocket"}}, http.StatusNotImplemented, "HTTP/1.1"},
		{http.MethodConnect, "/elsewhere", http.Header{":protocol": {"websocket"}}, http.StatusNotFound, "next"},
	} {
		r, err := http.NewRequestWithContext(t.Context(), tc.method, "https://localhost"+tc.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header = tc.header.Clone()
		if r.Header == nil {
			r.Header = http.Header{}
		}
		resp, err := client.RoundTrip(r)
		if err != nil {
			t.Errorf("%s %s: %v", tc.method, tc.path, err)
			continue
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != tc.status || !strings.Contains(string(body), tc.body) {
			t.Errorf("%s %s: %d %q, %v; want %d and %q in it", tc.method, tc.path, resp.StatusCode, body, err, tc.status, tc.body)
		}
	}
}
