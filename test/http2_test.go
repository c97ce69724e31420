// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// TestHTTP2 runs itself again in a process whose HTTP/2 servers offer extended CONNECT
// (RFC 8441). Go reads that setting from the environment when a process starts.
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
		{http.MethodGet, "/push/websocket", nil, http.StatusBadRequest, "HTTP/1.1"},
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

// TestWebSocketOverHTTP2And3 asks for a WebSocket over HTTP/2 and HTTP/3, in both
// possible ways. Rule R5 of PROTOCOL.md says how the server refuses.
func TestWebSocketOverHTTP2And3(t *testing.T) {
	if os.Getenv("GODEBUG") != "" {
		t.Skip("GODEBUG may make the server offer extended CONNECT")
	}
	cert, key := certificate(t, "localhost")
	s := serveStill(t, "https://localhost {\n\ttls "+cert+" "+key+"\n\tencode\n\tlog\n\tpushit\n}\n", true)
	s.tls = true

	pseudo := func(method string) []string {
		return []string{":method", method, ":scheme", "https", ":authority", "localhost", ":path", "/push/websocket"}
	}
	upgrade := []string{"sec-websocket-version", "13", "sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="}
	for name, tc := range map[string]struct {
		fields []string
		want   string
	}{
		"extended CONNECT": {append(pseudo(http.MethodConnect), ":protocol", "websocket"), "reset: PROTOCOL_ERROR"},
		"GET":              {append(pseudo(http.MethodGet), upgrade...), "400 Open a WebSocket with GET over HTTP/1.1.\n"},
		"GET with Upgrade": {append(pseudo(http.MethodGet), append(upgrade, "upgrade", "websocket", "connection", "Upgrade")...), "400 request header \"Connection\" is not valid in HTTP/2\n"},
	} {
		if got, offered := askRawHTTP2(t, s, tc.fields); got != tc.want || offered {
			t.Errorf("%s over HTTP/2: %q, want %q; extended CONNECT is offered: %v", name, got, tc.want, offered)
		}
	}

	for name, tc := range map[string]struct {
		method, proto string
		header        http.Header
		status        int
	}{
		"extended CONNECT": {http.MethodConnect, "websocket", nil, http.StatusNotImplemented},
		"GET":              {http.MethodGet, "", http.Header{"Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="}}, http.StatusBadRequest},
		"GET with Upgrade": {http.MethodGet, "", http.Header{"Upgrade": {"websocket"}, "Connection": {"Upgrade"}}, http.StatusBadRequest},
	} {
		r, err := http.NewRequestWithContext(t.Context(), tc.method, s.origin()+"/push/websocket", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Proto, r.Header = tc.proto, tc.header
		if r.Header == nil {
			r.Header = http.Header{}
		}
		resp, err := s.client("h3").Transport.RoundTrip(r)
		if err != nil {
			t.Errorf("%s over HTTP/3: %v", name, err)
			continue
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != tc.status || !strings.Contains(string(body), "HTTP/1.1") {
			t.Errorf("%s over HTTP/3: %d %q, %v; want %d and HTTP/1.1 in it", name, resp.StatusCode, body, err, tc.status)
		}
	}
}

// askRawHTTP2 makes a request with only those fields. It returns the status and the body,
// or how the stream was reset, and whether the server offers extended CONNECT.
func askRawHTTP2(t *testing.T, s site, fields []string) (got string, offered bool) {
	t.Helper()
	nc, err := tls.Dial("tcp", s.address(), &tls.Config{ServerName: s.host, InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = nc.Close() }() // it was read
	_ = nc.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(nc, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	framer := http2.NewFramer(nc, nc)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for i := 0; i < len(fields); i += 2 {
		_ = encoder.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}) // a bytes.Buffer takes all bytes
	}
	if err := framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	if err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: fields[1] == http.MethodGet}); err != nil {
		t.Fatal(err)
	}
	for {
		f, err := framer.ReadFrame()
		if err != nil {
			t.Fatalf("%q, %v", got, err)
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if v, ok := f.Value(http2.SettingEnableConnectProtocol); ok && v == 1 {
				offered = true
			}
		case *http2.MetaHeadersFrame:
			got = f.PseudoValue("status") + " "
		case *http2.DataFrame:
			got += string(f.Data())
			if f.StreamEnded() {
				return got, offered
			}
		case *http2.RSTStreamFrame:
			return got + "reset: " + f.ErrCode.String(), offered
		}
	}
}
