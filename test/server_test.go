// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/standard" // the Caddyfiles of the tests use them

	"github.com/push-it/pushit/internal/freeaddr"
	"github.com/push-it/pushit/internal/hubpool"
)

// patience is how long the tests wait for an event before they fail. On a busy machine, a
// process may get no processor for many seconds.
const patience = 30 * time.Second

// An attempt is a test whose failure may be the machine's.
type attempt struct {
	testing.TB
	failure string
}

func (a *attempt) Fatal(args ...any) {
	a.failure = fmt.Sprint(args...)
	runtime.Goexit()
}

func (a *attempt) Fatalf(format string, args ...any) { a.Fatal(fmt.Sprintf(format, args...)) }

func (a *attempt) Errorf(format string, args ...any) { a.Fatal(fmt.Sprintf(format, args...)) }

// eventually calls fn, and again as long as it fails with that text in the failure.
func eventually(t *testing.T, text string, fn func(t testing.TB)) {
	t.Helper()
	for late := time.Now().Add(fallbackPatience); ; {
		a := &attempt{TB: t}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			fn(a)
		}()
		<-ended
		switch {
		case a.failure == "":
			return
		case !strings.Contains(a.failure, text) || time.Now().After(late):
			t.Fatal(a.failure)
		}
		t.Logf("once more, because: %s", a.failure)
	}
}

func init() {
	caddy.RegisterModule(failing{})
	httpcaddyfile.RegisterHandlerDirective("fails", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		h.Next()
		return failing{}, nil
	})
	httpcaddyfile.RegisterDirectiveOrder("fails", httpcaddyfile.After, "encode")
}

// failing is a handler that cannot be provisioned, for configurations that fail.
type failing struct{}

func (failing) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.fails", New: func() caddy.Module { return new(failing) }}
}

// Provision implements caddy.Provisioner.
func (failing) Provision(caddy.Context) error { return errors.New("told to fail") }

func (failing) ServeHTTP(http.ResponseWriter, *http.Request, caddyhttp.Handler) error { return nil }

// A server is a Caddy in this process. There is one at a time.
type server struct {
	t       *testing.T
	logFile string
	listen  string // its address; "" lets the system choose
	http3   bool   // whether it serves HTTP/3, which needs a chosen address
	admin   string // the address of its admin endpoint; "" for none
}

// serve runs Caddy with a Caddyfile until the test ends. It replaces all ports by free
// ones on the loopback address, and logs everything to a file.
func serve(t *testing.T, config string) *server {
	t.Helper()
	return serveAt(t, "", config)
}

// serveAt is serve, but serves HTTP/3 at an address if it is not "".
func serveAt(t *testing.T, http3, config string) *server {
	t.Helper()
	s := &server{t: t, listen: http3, http3: http3 != ""}
	s.start(config)
	return s
}

// start is serve with more settings of the server.
func (s *server) start(config string) {
	t := s.t
	t.Helper()
	s.logFile = filepath.Join(t.TempDir(), "log")
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Errorf("stopping Caddy: %v", err)
		}
		if t.Failed() {
			t.Logf("Caddy's log:\n%s", s.log())
		}
	})
	if err := s.load(config); err != nil {
		t.Fatal(err)
	}
}

// load reloads Caddy with another Caddyfile.
func (s *server) load(config string) error {
	s.t.Helper()
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(config), nil)
	if err != nil {
		return err
	}
	var c map[string]any
	if err := json.Unmarshal(adapted, &c); err != nil {
		return err
	}
	return s.loadJSON(c)
}

func (s *server) loadJSON(c map[string]any) error {
	s.t.Helper()
	c["admin"] = object{"disabled": s.admin == "", "listen": s.admin, "config": object{"persist": false}}
	c["logging"] = object{"logs": object{"default": object{
		"level": "DEBUG",
		// For the log of an event, Caddy reads its whole tls app: at a handshake that may be
		// while the app starts, which the race detector reports.
		"exclude": []string{"events"},
		"writer":  object{"output": "file", "filename": s.logFile, "roll": false},
	}}}
	c["storage"] = object{"module": "file_system", "root": s.t.TempDir()}
	all := at(c, "apps", "http", "servers")
	for i, name := range slices.Sorted(maps.Keys(all)) {
		srv := all[name].(object)
		if strings.HasSuffix(fmt.Sprint(srv["listen"]), ":443]") && srv["tls_connection_policies"] == nil {
			srv["tls_connection_policies"] = []any{object{}}
		}
		srv["listen"] = []any{[]string{"127.0.0.1:0", "localhost:0"}[i]} // two servers cannot have the same address
		srv["protocols"] = []any{"h1", "h2"}                             // h3 would need a port of the same number
		if i == 0 && s.listen != "" {
			srv["listen"] = []any{s.listen}
		}
		if i == 0 && s.http3 {
			srv["protocols"] = []any{"h1", "h2", "h3"}
		}
		srv["automatic_https"] = object{"disable": true}
	}
	text, err := json.Marshal(c)
	if err != nil {
		return err
	}
	return caddy.Load(text, true)
}

// hubAgents returns the number of sessions of the hub of that name.
func hubAgents(name string) (n int) {
	for other, h := range hubpool.Each {
		if other == name {
			n = h.Agents()
		}
	}
	return n
}

// stop stops Caddy before the test ends.
func (s *server) stop() {
	s.t.Helper()
	if err := caddy.Stop(); err != nil {
		s.t.Fatal(err)
	}
}

// freeAddress returns an address for a server, see freeaddr.On.
func freeAddress(t *testing.T) string {
	t.Helper()
	addr, err := freeaddr.On("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

// nowhere is an address where nobody listens.
const nowhere = "127.0.0.1:1"

type object = map[string]any

// at returns a part of a configuration.
func at(c object, names ...string) object {
	for _, name := range names {
		c, _ = c[name].(object)
	}
	return c
}

// addr returns the address of the server called name; the first is called srv0.
func (s *server) addr(name string) string {
	s.t.Helper()
	app, err := caddy.ActiveContext().App("http")
	if err != nil {
		s.t.Fatal(err)
	}
	srv := app.(*caddyhttp.App).Servers[name]
	if srv == nil || len(srv.Listeners()) == 0 {
		s.t.Fatalf("there is no server %s", name)
	}
	return srv.Listeners()[0].Addr().String()
}

func (s *server) log() string {
	text, err := os.ReadFile(s.logFile)
	if err != nil {
		s.t.Error(err)
	}
	return string(text)
}

// A site is one of the sites of a server, as a client sees it.
type site struct {
	*server
	name string // of the server in the configuration
	host string
	tls  bool
	// certificate is the client's certificate, if it has one.
	certificate *tls.Certificate
	// elsewhere is the address of a proxy or of a stopped server, or "".
	elsewhere string
	// from is the client's own address, or "".
	from string
	// narrow is whether it is reached through sockets with the small buffers of narrow.
	narrow bool
	// proxied is whether a proxy stands before it.
	proxied bool
}

// site returns the site of that host on the first server.
func (s *server) site(host string) site { return site{server: s, name: "srv0", host: host} }

func (s site) origin() string {
	if s.tls {
		return "https://" + s.host
	}
	return "http://" + s.host
}

// address returns the site's address.
func (s site) address() string {
	if s.elsewhere != "" {
		return s.elsewhere
	}
	return s.addr(s.name)
}

// narrow makes the buffers of a socket small. It is nil on systems where no test needs
// it.
var narrow func(network, address string, c syscall.RawConn) error

// dial connects to the server of the site.
func (s site) dial(ctx context.Context) (net.Conn, error) {
	d := net.Dialer{Timeout: patience}
	if s.narrow {
		d.Control = narrow
	}
	if s.from != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(s.from)}
	}
	address := s.address()
	network := "tcp"
	if strings.HasPrefix(address, "/") {
		network = "unix"
	}
	conn, err := d.DialContext(ctx, network, address)
	if err != nil || !s.tls {
		return conn, err
	}
	config := &tls.Config{ServerName: s.host, InsecureSkipVerify: true}
	if s.certificate != nil {
		config.Certificates = []tls.Certificate{*s.certificate}
	}
	tlsConn := tls.Client(conn, config)
	return tlsConn, tlsConn.HandshakeContext(ctx)
}

// get asks for path and returns status and body.
func (s site) get(path string, header http.Header) (status int, body string) {
	s.t.Helper()
	resp, body := s.request(s.once(), http.MethodGet, path, header)
	return resp.StatusCode, body
}

// once returns a client that uses each connection once.
func (s site) once() *http.Client {
	return &http.Client{
		Timeout: patience,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return s.dial(ctx)
			},
		},
	}
}

// request makes a request without a body, and returns the response and its body.
func (s site) request(client *http.Client, method, path string, header http.Header) (*http.Response, string) {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, "http://"+s.host+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	maps.Copy(r.Header, header)
	resp, err := client.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp, string(text)
}

// certificate writes a certificate for host and its key, in PEM, to files.
func certificate(t *testing.T, host string) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := x509.Certificate{
		SerialNumber: big.NewInt(1),
		DNSNames:     []string{host},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
	}
	cert, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyText, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	for file, block := range map[string]*pem.Block{
		certFile: {Type: "CERTIFICATE", Bytes: cert},
		keyFile:  {Type: "PRIVATE KEY", Bytes: keyText},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}
