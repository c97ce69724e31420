// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"context"
	"fmt"
	"html"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/push-it/pushit/examples/go/push"
	"github.com/push-it/pushit/examples/go/shop"
	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/internal/doctable"
	"github.com/push-it/pushit/internal/needs"
)

// A guideBackend is the shop of a guide in docs/guides: its users log in, and see when
// their orders are shipped. All of them do the same over HTTP.
type guideBackend struct {
	name   string
	folder string // in examples/
	// upstream is what its Caddyfile calls it.
	upstream string
	// start returns the command that starts it, at a socket in dir or at a port, and how
	// Caddy calls that.
	start func(t *testing.T, dir string) (address string, cmd *exec.Cmd) // cmd is nil if it runs in this process
	// caddyfile replaces more in its Caddyfile: old, new, ...
	caddyfile []string
	// shipped is what it publishes.
	shipped any
	// first is another check before the others, or nil.
	first func(t *testing.T, s site)
}

var isShipped = object{"status": "shipped"}

var guideBackends = []guideBackend{
	{name: "php", folder: "php", upstream: "unix//run/php/php-fpm.sock", start: startPHPShop, caddyfile: []string{"/srv/shop/public", "PWD/examples/php/public"}, shipped: isShipped},
	{name: "flask", folder: "python", upstream: "localhost:8000", start: func(t *testing.T, dir string) (string, *exec.Cmd) {
		socket := filepath.Join(dir, "flask")
		return "unix/" + socket, command(t, "flask", "--app", "flask_shop", "run", "--host", "unix://"+socket)
	}, shipped: isShipped},
	{name: "django", folder: "python", upstream: "localhost:8000", start: func(t *testing.T, _ string) (string, *exec.Cmd) {
		address := freeAddress(t)
		return address, command(t, "django-admin", "runserver", "--noreload", "--settings", "shop.settings", address)
	}, shipped: isShipped},
	{name: "express", folder: "node", upstream: "localhost:8000", start: func(t *testing.T, dir string) (string, *exec.Cmd) {
		socket := filepath.Join(dir, "express")
		cmd := command(t, "node", "--import", "./test/testdata/guides/packages.mjs", "examples/node/shop.mjs")
		cmd.Env = append(os.Environ(), "PORT="+socket)
		return "unix/" + socket, cmd
	}, shipped: isShipped},
	{name: "next", folder: "node", upstream: "localhost:8000", start: func(t *testing.T, dir string) (string, *exec.Cmd) {
		socket := filepath.Join(dir, "next")
		return "unix/" + socket, command(t, "node", "--import", "./test/testdata/guides/packages.mjs", "test/testdata/guides/next.mjs", socket)
	}, shipped: isShipped},
	{name: "go", folder: "go", upstream: "localhost:8000", start: startGoShop, caddyfile: []string{"localhost:8001", "unix/DIR/ask"}, shipped: isShipped},
	{name: "rails", folder: "rails", upstream: "localhost:3000", start: func(t *testing.T, dir string) (string, *exec.Cmd) {
		socket := filepath.Join(dir, "rails")
		return "unix/" + socket, command(t, "ruby", "test/testdata/guides/rails.rb", socket)
	}, shipped: "<turbo-stream action=\"replace\" target=\"order_1\">\n  <template><p id=\"order_1\">Order 1 is on its way.</p></template>\n</turbo-stream>\n", first: checkTurboStream},
}

// TestGuides runs the backends of the guides, each behind the Caddyfile of its guide: users
// who are logged in hear of their own orders, nobody else does, and an event that is
// published again arrives once.
func TestGuides(t *testing.T) {
	t.Setenv("PUBLISHER_SECRET", apiSecret)
	// The backends publish through a proxy that loses an answer of each.
	proxy := new(lossyProxy)
	lossy := httptest.NewServer(proxy)
	t.Cleanup(lossy.Close)
	t.Setenv("PUSHIT_URL", lossy.URL+"/push")
	t.Setenv("PYTHONPATH", "examples/python")
	t.Setenv("PYTHONDONTWRITEBYTECODE", "1")

	addresses, dirs := make([]string, len(guideBackends)), make([]string, len(guideBackends))
	listening := make([]func(), len(guideBackends))
	for i, b := range guideBackends {
		dir, err := os.MkdirTemp("", "pushit-") // the path of a socket must be short
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		dirs[i] = dir
		var cmd *exec.Cmd
		if addresses[i], cmd = b.start(t, dir); cmd != nil {
			listening[i] = startBackend(t, addresses[i], cmd)
		}
	}
	for i, b := range guideBackends {
		t.Run(b.name, func(t *testing.T) {
			if listening[i] != nil {
				listening[i]()
			}
			config := replaced(t, doctable.Read(t, "examples/"+b.folder+"/Caddyfile"), append(b.caddyfile, b.upstream, addresses[i], "http://localhost:8080 {", "http://shop.test {",
				"default deny\n", "default deny\n\t\ttimeout subscribe 30s\n\t\ttimeout connect 30s\n")...) // the machine may be busy
			wd, err := os.Getwd()
			if err != nil {
				t.Fatal(err)
			}
			s := serve(t, strings.NewReplacer("PWD", wd, "DIR", dirs[i]).Replace(config)).site("shop.test")
			proxy.target.Store(&url.URL{Scheme: "http", Host: s.address()})
			if b.first != nil {
				b.first(t, s)
			}
			proxy.lose.Store(true)
			checkShop(t, s, b.shipped)
		})
	}
}

// checkShop uses the shop as two users and a stranger do.
func checkShop(t *testing.T, s site, shipped any) {
	t.Helper()
	stranger, answer := s.open("/push/websocket", nil, nil)
	stranger.wantRefused(answer, hub.CodeDenied)
	forged := http.Header{"Remote-User": {"ann"}, "Cookie": {"session=ann"}}
	stranger, answer = s.open("/push/websocket", forged, nil)
	stranger.wantRefused(answer, hub.CodeDenied)
	if status, _, text := s.shopPost("/login", url.Values{"user": {"ann"}, "password": {"wrong"}}, nil); status != http.StatusForbidden {
		t.Errorf("a wrong password: %d %s", status, text)
	}

	cookies := make(map[string]http.Header)
	agents := make(map[string]*agent)
	for user, password := range map[string]string{"ann": "wonderland", "bob": "builder"} {
		status, cookie, text := s.shopPost("/login", url.Values{"user": {user}, "password": {password}}, nil)
		if status/100 != 2 || cookie == "" {
			t.Fatalf("%s logs in: %d %q %s", user, status, cookie, text)
		}
		cookies[user] = http.Header{"Cookie": {cookie}}
		agents[user] = s.connect("/push/websocket", cookies[user])
	}
	ann, bob := agents["ann"].subscribe("orders/1"), agents["bob"].subscribe("orders/2")
	for _, channel := range []string{"orders/2", "orders/9", "orders/1x", "orders/*", "news"} {
		ann.wantRefused(ann.askToSubscribe(channel), hub.CodeDenied)
	}
	bob.wantRefused(bob.askToSubscribe("orders/1"), hub.CodeDenied)

	// The order is shipped twice, because the first answer was lost. The page hears of it
	// once.
	for range 2 {
		if status, _, text := s.shopPost("/orders/1/ship", nil, cookies["ann"]); status/100 != 2 {
			t.Fatalf("shipping: %d %s", status, text)
		}
	}
	for name, header := range map[string]http.Header{"bob": cookies["bob"], "nobody": nil} {
		if status, _, text := s.shopPost("/orders/1/ship", nil, header); status != http.StatusForbidden && status != http.StatusUnauthorized {
			t.Errorf("%s ships ann's order: %d %s", name, status, text)
		}
	}
	if m := ann.receive(); m["channel"] != "orders/1" || !reflect.DeepEqual(m["data"], shipped) {
		t.Errorf("ann received %v", m)
	}
	for a, channel := range map[*agent]string{ann: "orders/1", bob: "orders/2"} {
		s.post("/push/publish", "application/json", `{"channel":"`+channel+`","data":"end"}`, asBackend())
		a.wantMessage(channel, "end")
	}
}

// checkTurboStream opens the page of an order, which says where its stream is. What happens
// before the browser has opened the stream is in it.
func checkTurboStream(t *testing.T, s site) {
	t.Helper()
	_, cookie, _ := s.shopPost("/login", url.Values{"user": {"bob"}, "password": {"builder"}}, nil)
	header := http.Header{"Cookie": {cookie}}
	_, page := s.get("/orders/2", header)
	m := regexp.MustCompile(`<turbo-stream-source src="([^"]+)">`).FindStringSubmatch(page)
	if m == nil {
		t.Fatalf("there is no stream in %q", page)
	}
	s.shopPost("/orders/2/ship", nil, header)
	address := "http://" + s.host + html.UnescapeString(m[1])
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return s.dial(ctx) }}}
	if e := events(t, &client, address, "", header).next(); !strings.Contains(e.Data, "Order 2 is on its way.") {
		t.Errorf("the stream begins with %+v", e)
	}
	if stream := events(t, &client, address, "", nil); stream.resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("without a login: status %d", stream.resp.StatusCode)
	}
}

// shopPost sends a form to the shop, and returns the cookies that it sets.
func (s site) shopPost(path string, form url.Values, header http.Header) (status int, cookie, text string) {
	s.t.Helper()
	status, h, text := s.post(path, "application/x-www-form-urlencoded", form.Encode(), header)
	var set []string
	for _, c := range (&http.Response{Header: h}).Cookies() {
		set = append(set, c.Name+"="+c.Value)
	}
	return status, strings.Join(set, "; "), text
}

// A lossyProxy passes on what backends publish, and loses an answer if lose is set.
type lossyProxy struct {
	target atomic.Pointer[url.URL]
	lose   atomic.Bool
}

func (p *lossyProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(p.target.Load())
		r.Out.Host = "shop.test"
	}}
	if !p.lose.CompareAndSwap(true, false) {
		proxy.ServeHTTP(w, r)
		return
	}
	lost := httptest.NewRecorder()
	proxy.ServeHTTP(lost, r)
	if lost.Code != http.StatusOK {
		w.WriteHeader(lost.Code) // a mistake of the backend, which it should see
		return
	}
	panic(http.ErrAbortHandler)
}

// startBackend starts a backend that ends with the test. The returned function waits until
// it listens.
func startBackend(t *testing.T, address string, cmd *exec.Cmd) (listening func()) {
	t.Helper()
	p := &program{t: t, cmd: cmd}
	cmd.Stdout, cmd.Stderr = p, p
	cmd.WaitDelay = time.Second // it may leave a child
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		_ = cmd.Wait() // the exit status does not matter
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt) // php-fpm ends its children then
		select {
		case <-exited:
		case <-time.After(patience):
			_ = cmd.Process.Kill() // it may be gone
			<-exited
		}
		if t.Failed() {
			t.Logf("%s says:\n%s", cmd, p.out.String())
		}
	})
	network, path := "tcp", address
	if socket, ok := strings.CutPrefix(address, "unix/"); ok {
		network, path = "unix", socket
	}
	return func() {
		// Frameworks in Python read many files at first, which takes long on a new machine.
		for end := time.Now().Add(2 * patience); ; {
			conn, err := net.Dial(network, path)
			if err == nil {
				_ = conn.Close() // it listens; that is all
				return
			}
			select {
			case <-exited:
				t.Fatalf("%s has ended", cmd)
			case <-time.After(20 * time.Millisecond):
			}
			if time.Now().After(end) {
				t.Fatalf("%s does not listen: %v", cmd, err)
			}
		}
	}
}

// command returns a command that is not ended by the context of the test: its cleanup ends
// it.
func command(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	return exec.CommandContext(context.WithoutCancel(t.Context()), needs.Program(t, name), args...)
}

func startPHPShop(t *testing.T, dir string) (address string, cmd *exec.Cmd) {
	t.Helper()
	socket, config := filepath.Join(dir, "php"), filepath.Join(dir, "fpm.conf")
	text := fmt.Sprintf("[global]\nerror_log = /dev/stderr\ndaemonize = no\n[www]\nlisten = %s\npm = static\npm.max_children = 2\nclear_env = no\ncatch_workers_output = yes\nphp_value[session.save_path] = %s\n", socket, dir)
	fpm := needs.Program(t, "php-fpm", "php-fpm*")
	args := []string{"-F", "-y", config}
	if os.Geteuid() == 0 {
		text += "user = root\ngroup = root\n"
		args = append(args, "-R")
	}
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return "unix/" + socket, exec.CommandContext(context.WithoutCancel(t.Context()), fpm, args...)
}

// TestGuidesForPHPFrameworks compiles what the guide shows for Laravel and Symfony, which
// are not installed here.
func TestGuidesForPHPFrameworks(t *testing.T) {
	var files []string
	for _, file := range guideFiles[t.Name()] {
		switch filepath.Ext(file) {
		case ".php":
			files = append(files, file)
		default:
			var config struct {
				Services map[string]struct{ Arguments map[string]string }
			}
			if err := yaml.Unmarshal([]byte(doctable.Read(t, file)), &config); err != nil {
				t.Errorf("%s: %v", file, err)
			}
			// The names of the arguments are those of the constructor.
			for name := range config.Services[`App\PushIt`].Arguments {
				if !strings.Contains(doctable.Read(t, "examples/php/PushIt.php"), " string "+name) {
					t.Errorf("%s: PushIt has no argument %s", file, name)
				}
			}
		}
	}
	const compile = `foreach (array_slice($argv, 1) as $file) { try { PhpToken::tokenize(file_get_contents($file), TOKEN_PARSE); } catch (ParseError $e) { echo $file, ":", $e->getLine(), ": ", $e->getMessage(), "\n"; $bad = true; } } exit(isset($bad) ? 1 : 0);`
	if out, err := command(t, "php", append([]string{"-r", compile, "--"}, files...)...).CombinedOutput(); err != nil || len(files) < 4 {
		t.Errorf("%d files: %v\n%s", len(files), err, out)
	}
}

func startGoShop(t *testing.T, dir string) (address string, cmd *exec.Cmd) {
	t.Helper()
	var listeners []net.Listener
	for _, name := range []string{"go", "ask"} {
		l, err := net.Listen("unix", filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		listeners = append(listeners, l)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = shop.New(push.New(os.Getenv("PUSHIT_URL"), apiSecret)).Serve(listeners[0], listeners[1]) // the test closes one
	}()
	t.Cleanup(func() {
		_ = listeners[0].Close() // it ends both
		<-ended
	})
	return "unix/" + filepath.Join(dir, "go"), nil
}
