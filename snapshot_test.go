// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package pushit_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/standard" // the Caddyfiles of the tests use them

	"github.com/push-it/pushit"
)

func init() {
	caddy.RegisterModule(probe{})
	httpcaddyfile.RegisterHandlerDirective("opening", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		p := new(probe)
		h.Next()
		h.Args(&p.Path)
		return p, nil
	})
	httpcaddyfile.RegisterDirectiveOrder("opening", httpcaddyfile.After, "encode")
}

// A probe takes the place of pushit, and answers with what a session would keep of the
// request.
type probe struct {
	Path string `json:"path"`
}

func (probe) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.opening", New: func() caddy.Module { return new(probe) }}
}

func (p *probe) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	o, _ := (&pushit.Handler{Path: p.Path}).Opening(r)
	header := make(map[string][]string)
	for name, value := range o.Fields {
		header[name] = append(header[name], value)
	}
	far, _, _ := strings.Cut(o.RemoteAddr, ":")
	return json.NewEncoder(w).Encode(opening{far, o.RemoteIP.String(), o.Scheme, o.Host, o.URI, o.User, header})
}

// An opening is a hub.Opening in the answer of a probe.
type opening struct {
	Far, IP, Scheme, Host, URI, User string // Far is the address without the port
	Header                           map[string][]string
}

// served runs Caddy with a Caddyfile until the test ends. It returns a client that
// reaches the site under any address.
func served(t *testing.T, config string) *http.Client {
	t.Helper()
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(config), nil)
	if err != nil {
		t.Fatal(err)
	}
	var c map[string]any
	if err := json.Unmarshal(adapted, &c); err != nil {
		t.Fatal(err)
	}
	c["admin"] = map[string]any{"disabled": true, "config": map[string]any{"persist": false}}
	c["logging"] = map[string]any{"logs": map[string]any{"default": map[string]any{"writer": map[string]any{"output": "discard"}}}}
	c["storage"] = map[string]any{"module": "file_system", "root": t.TempDir()}
	srv := c["apps"].(map[string]any)["http"].(map[string]any)["servers"].(map[string]any)["srv0"].(map[string]any)
	if strings.HasPrefix(config, "https") {
		srv["tls_connection_policies"] = []any{map[string]any{}}
	}
	srv["listen"], srv["protocols"], srv["automatic_https"] = []any{"127.0.0.1:0"}, []any{"h1"}, map[string]any{"disable": true}
	text, err := json.Marshal(c)
	if err == nil {
		err = caddy.Load(text, true)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = caddy.Stop() })
	app, err := caddy.ActiveContext().App("http")
	if err != nil {
		t.Fatal(err)
	}
	address := app.(*caddyhttp.App).Servers["srv0"].Listeners()[0].Addr().String()
	return &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		},
	}}
}

// keyPair writes a certificate for example.com and its key into files.
func keyPair(t *testing.T) (cert, key string) {
	t.Helper()
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	dir, pair := t.TempDir(), s.TLS.Certificates[0]
	private, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: pair.Certificate[0]}, key: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

func TestOpening(t *testing.T) {
	cert, key := keyPair(t)
	// The password is "secret of alice".
	const aliceHash = "$2a$04$abZPgQ4cUuEJ6Gt.lRvpiuDRiPiwEO.i01SdIm4ltsWq6IJdvAGpW"
	type request struct {
		path   string
		header http.Header
	}
	// The test's HTTP client adds these fields to each request.
	ordinary := map[string][]string{"Accept-Encoding": {"gzip"}, "User-Agent": {"Go-http-client/1.1"}}
	const trusting = "{\n\tservers {\n\t\ttrusted_proxies static 127.0.0.1/32 ::1/128\n\t}\n}\n"
	forwarded := http.Header{
		"X-Forwarded-For": {"203.0.113.7"}, "X-Forwarded-Proto": {"https, http"}, "X-Forwarded-Host": {"evil.example", "www.example.com:8443"},
	}
	for _, tc := range []struct {
		name, options, address, directives string
		request                            request
		want                               opening
	}{
		{
			name: "plain", directives: "opening * /push", request: request{path: "/push/websocket?x=1&y=%2f"},
			want: opening{IP: "127.0.0.1", Scheme: "http", Host: "localhost", URI: "/push?x=1&y=%2f"},
		},
		{
			name: "of SockJS", directives: "opening * /push", request: request{path: "/push/123/abcdefgh/websocket"},
			want: opening{IP: "127.0.0.1", Scheme: "http", Host: "localhost", URI: "/push"},
		},
		{
			name: "escaped path", directives: `opening * "/a café"`, request: request{path: "/a%20caf%C3%A9/websocket"},
			want: opening{IP: "127.0.0.1", Scheme: "http", Host: "localhost", URI: "/a%20caf%C3%A9"},
		},
		{
			name: "root", directives: "opening * /", request: request{path: "/websocket?x"},
			want: opening{IP: "127.0.0.1", Scheme: "http", Host: "localhost", URI: "/?x"},
		},
		{
			name: "handle_path", directives: "handle_path /live/* {\nopening * /\n}", request: request{path: "/live/websocket?x"},
			want: opening{IP: "127.0.0.1", Scheme: "http", Host: "localhost", URI: "/live?x"},
		},
		{
			name: "handle_path and path", directives: "handle_path /live/* {\nopening * /push\n}", request: request{path: "/live/push/a/b/websocket"},
			want: opening{IP: "127.0.0.1", Scheme: "http", Host: "localhost", URI: "/live/push"},
		},
		{
			name: "rewrite", directives: "rewrite /ws /push/websocket?y\nopening * /push", request: request{path: "/ws?x"},
			want: opening{IP: "127.0.0.1", Scheme: "http", Host: "localhost", URI: "/push?x"},
		},
		{
			name: "TLS", address: "https://example.com", directives: "tls " + cert + " " + key + "\nopening * /push", request: request{path: "/push"},
			want: opening{IP: "127.0.0.1", Scheme: "https", Host: "example.com", URI: "/push"},
		},
		{
			name: "user", directives: "basic_auth {\nalice " + aliceHash + "\n}\nrequest_header -Authorization\nopening * /push",
			request: request{path: "/push", header: http.Header{"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte("alice:secret of alice"))}}},
			want:    opening{IP: "127.0.0.1", Scheme: "http", Host: "localhost", URI: "/push", User: "alice"},
		},
		{
			name: "proxy that is not trusted", directives: "opening * /push", request: request{path: "/push", header: forwarded},
			want: opening{IP: "127.0.0.1", Scheme: "http", Host: "localhost", URI: "/push", Header: forwarded},
		},
		{
			name: "trusted proxy", options: trusting, directives: "opening * /push", request: request{path: "/push", header: forwarded},
			want: opening{IP: "203.0.113.7", Scheme: "https", Host: "www.example.com:8443", URI: "/push", Header: forwarded},
		},
		{
			name: "trusted proxy that says nothing useful", options: trusting, directives: "opening * /push",
			request: request{path: "/push", header: http.Header{"X-Forwarded-For": {"::ffff:203.0.113.7"}, "X-Forwarded-Proto": {"gopher"}, "X-Forwarded-Host": {" "}}},
			want: opening{
				IP: "203.0.113.7", Scheme: "http", Host: "localhost", URI: "/push",
				Header: http.Header{"X-Forwarded-For": {"::ffff:203.0.113.7"}, "X-Forwarded-Proto": {"gopher"}, "X-Forwarded-Host": {""}},
			},
		},
		{
			name: "headers", directives: "opening * /push",
			request: request{path: "/push", header: http.Header{
				"Cookie": {"a=1", "b=2"}, "Accept-Language": {"de"}, "X-Own": {"kept"}, "Connection": {"keep-alive, X-Own"}, "Keep-Alive": {"5"},
				"Sec-Websocket-Key": {"k"}, "Sec-Websocket-Protocol": {"p"}, "Content-Type": {"text/plain"}, "Te": {"trailers"},
				"Proxy-Authorization": {"p"}, "Pushit-User": {"root"}, "Sec-Fetch-Site": {"same-origin"},
			}},
			want: opening{
				IP: "127.0.0.1", Scheme: "http", Host: "localhost", URI: "/push",
				Header: http.Header{"Cookie": {"a=1", "b=2"}, "Accept-Language": {"de"}, "X-Own": {"kept"}, "Sec-Fetch-Site": {"same-origin"}},
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			address := tc.address
			if address == "" {
				address = "http://localhost"
			}
			client := served(t, tc.options+address+" {\n"+tc.directives+"\n}\n")
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address+tc.request.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			maps.Copy(r.Header, tc.request.header)
			resp, err := client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = resp.Body.Close() }() // it was read
			var got opening
			if err := json.NewDecoder(resp.Body).Decode(&got); err != nil {
				t.Fatal(err)
			}
			for name, values := range ordinary {
				if !reflect.DeepEqual(got.Header[name], values) {
					t.Errorf("%s = %q, want %q", name, got.Header[name], values)
				}
				delete(got.Header, name)
			}
			tc.want.Far = "127.0.0.1"
			if len(tc.want.Header) == 0 {
				tc.want.Header = map[string][]string{}
			}
			if !reflect.DeepEqual(got, tc.want) {
				t.Errorf("got  %+v\nwant %+v", got, tc.want)
			}
		})
	}
}
