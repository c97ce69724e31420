// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/cookiejar"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/push-it/pushit/internal/natsserver"
	"github.com/push-it/pushit/internal/needs"
	"github.com/push-it/pushit/internal/wireclient"
)

// deploymentBlock returns the nth block of a language below a heading of
// docs/deployment.md.
func deploymentBlock(t *testing.T, heading, language string, n int) string {
	t.Helper()
	text, err := os.ReadFile("docs/deployment.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(text), "\n## "+heading+"\n")
	if !ok {
		t.Fatalf("there is no %q", heading)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	blocks := regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllStringSubmatch(section, -1)
	if len(blocks) <= n {
		t.Fatalf("%s has %d blocks of %s", heading, len(blocks), language)
	}
	return blocks[n][1]
}

// replaced replaces each of the pairs in text. Each must occur.
func replaced(t *testing.T, text string, pairs ...string) string {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			t.Fatalf("there is no %q in\n%s", pairs[i], text)
		}
		text = strings.ReplaceAll(text, pairs[i], pairs[i+1])
	}
	return text
}

// A program is a process that runs until its test ends.
type program struct {
	t   *testing.T
	cmd *exec.Cmd
	mu  sync.Mutex // guards out
	out bytes.Buffer
}

func (p *program) Write(text []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Write(text)
}

// startProgram runs a program that listens on address.
func startProgram(t *testing.T, address, name string, args ...string) *program {
	t.Helper()
	p := &program{t: t, cmd: exec.CommandContext(context.WithoutCancel(t.Context()), name, args...)}
	p.cmd.Stdout, p.cmd.Stderr = p, p
	p.cmd.WaitDelay = time.Second // the program may leave a child
	home := t.TempDir()
	p.cmd.Env = append(os.Environ(), "HOME="+home, "XDG_CONFIG_HOME="+home, "XDG_DATA_HOME="+home)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		_ = p.cmd.Wait() // the exit status does not matter
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // it may be gone
		<-exited
		if t.Failed() {
			t.Logf("%s says:\n%s", name, p.out.String())
		}
	})
	for end := time.Now().Add(fallbackPatience); ; {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			_ = conn.Close() // the program listens; that is all
			return p
		}
		select {
		case <-exited:
			t.Fatalf("%s has ended", name)
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(end) {
			t.Fatalf("%s does not listen: %v", name, err)
		}
	}
}

// behind returns a site that a proxy serves at address. The proxy terminates TLS.
func (s *server) behind(address string) site {
	return site{server: s, name: "srv0", host: "example.com", tls: true, elsewhere: address, proxied: true}
}

// A proxied RoundTripper repeats what a proxy could not pass on, as the client does: a reload
// resets the connections that the old listener has not accepted, and the proxy answers 502.
type proxied struct{ http.RoundTripper }

func (p proxied) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := p.RoundTripper.RoundTrip(r)
	if err == nil && resp.StatusCode == http.StatusBadGateway {
		_ = resp.Body.Close()                                                          // nobody reads it
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errors.New(resp.Status)} // nothing was read
	}
	return resp, err
}

// fixedServer runs a Caddy that keeps its address, with a Caddyfile of the page.
func fixedServer(t *testing.T, config string) *server {
	t.Helper()
	s := &server{t: t, listen: freeAddress(t)}
	s.start(config)
	return s
}

// startNginx runs nginx with a configuration of the page, as a proxy of a server.
func startNginx(t *testing.T, config, upstream string) (address string) {
	t.Helper()
	address = freeAddress(t)
	cert, key := certificate(t, "example.com")
	dir := t.TempDir()
	config = replaced(t, config, "listen 443 ", "listen "+address+" ", "/etc/ssl/example.com.pem", cert, "/etc/ssl/example.com.key", key, "127.0.0.1:8080", upstream)
	global := "daemon off;\nmaster_process off;\npid " + dir + "/pid;\nerror_log stderr;\nevents {\n\tworker_connections 512;\n}\n"
	if os.Getuid() == 0 {
		global = "user root;\n" + global // another user could not read the test's folder
	}
	temp := ""
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		temp += "\t" + kind + "_temp_path " + dir + "/" + kind + ";\n"
	}
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(global+"http {\n\taccess_log off;\n"+temp+config+"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	startProgram(t, address, needs.Program(t, "nginx"), "-e", "stderr", "-c", file)
	return address
}

// startHaproxy runs haproxy with a configuration of the page, as a proxy of one or two
// servers.
func startHaproxy(t *testing.T, config string, upstreams ...string) (address string) {
	t.Helper()
	address = freeAddress(t)
	cert, key := certificate(t, "example.com")
	both := filepath.Join(t.TempDir(), "both.pem")
	var text []byte
	for _, file := range []string{cert, key} {
		part, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text = append(text, part...)
	}
	if err := os.WriteFile(both, text, 0o600); err != nil {
		t.Fatal(err)
	}
	config = replaced(t, config, "bind :443 ", "bind "+address+" ", "/etc/haproxy/example.com.pem", both)
	for i, upstream := range upstreams {
		config = replaced(t, config, "127.0.0.1:"+strconv.Itoa(8080+i), upstream)
	}
	file := filepath.Join(t.TempDir(), "haproxy.cfg")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	startProgram(t, address, needs.Program(t, "haproxy"), "-db", "-f", file)
	return address
}

// caddyBinary builds a Caddy with pushit for processes of its own.
func caddyBinary(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("PUSHIT_CADDY"); path != "" {
		return path
	}
	path := filepath.Join(t.TempDir(), "caddy")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", path, "./cmd/caddy").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}

// startCaddy runs another Caddy with a configuration of the page, as a proxy of a server.
// reload makes it load the configuration again.
func startCaddy(t *testing.T, config, upstream string) (address string, reload func()) {
	t.Helper()
	address = freeAddress(t)
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	cert, key := certificate(t, "example.com")
	dir, err := os.MkdirTemp("", "pushit-") // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	admin := "unix/" + dir + "/admin"
	config = replaced(t, config, "example.com {", "https://example.com:"+port+" {\n\tbind 127.0.0.1\n\ttls "+cert+" "+key, "localhost:8080", upstream)
	config = "{\n\tadmin " + admin + "\n\tauto_https off\n\tpersist_config off\n\tstorage file_system " + dir + "/storage\n}\n" + config
	file := filepath.Join(dir, "Caddyfile")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	binary := caddyBinary(t)
	startProgram(t, address, binary, "run", "--config", file)
	return address, func() {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), binary, "reload", "--config", file, "--address", admin, "--force").CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
}

// deployed returns the page's Caddyfile for a Caddy behind a proxy, with an access log. Its
// heartbeat is rare, because a heartbeat could push out what a proxy holds back.
func deployed(t *testing.T) string {
	t.Helper()
	return replaced(t, deploymentBlock(t, "Caddy behind a proxy", "caddyfile", 0), "\tpushit /push", "\tlog\n\tpushit /push {\n\t\theartbeat 10m\n\t}")
}

// checkThrough tests all transports through a proxy. Messages must arrive, and no heartbeat pushes
// them out meanwhile. Sessions must continue when config, pushit's configuration, is reloaded.
func checkThrough(t *testing.T, s site, config string) {
	t.Helper()
	checkReload(t, s, config, checkTalk(t, s))
	checkWho(t, s)
}

// A through has sessions behind a proxy. round sends a message to each of them, and
// receives one from each.
type through struct {
	sessions []*fallbackClient
	round    func(data string)
}

// checkTalk lets agents exchange messages over WebSocket and the fallbacks.
func checkTalk(t *testing.T, s site) through {
	t.Helper()
	own := header("Origin", s.origin())
	talk(t, s, "/push", own)
	listener := s.connect("/push/websocket", own).subscribe("room")
	listener.subscribe("from/fallbacks")
	var sessions []*fallbackClient
	for _, version := range []string{"h1", "h2"} {
		by := s.client(version)
		for _, transport := range []string{"xhr", "xhr_streaming", "eventsource"} {
			c := s.fallback(by, "/push", transport)
			c.Header = own
			sessions = append(sessions, c.connect("room"))
		}
	}
	round := func(data string) {
		t.Helper()
		for _, c := range sessions {
			c.begin()
		}
		listener.publish("room", data)
		listener.wantMessage("room", data)
		for _, c := range sessions {
			c.wantMessage("room", data)
			c.publish("from/fallbacks", c.Transport)
			listener.wantMessage("from/fallbacks", c.Transport)
		}
	}
	round("one")
	return through{sessions, round}
}

// checkReload lets them continue after a reload.
func checkReload(t *testing.T, s site, config string, over through) {
	t.Helper()
	sessions := over.sessions
	ended := make([]int, len(sessions))
	for i, c := range sessions {
		c.begin() // a session without a request ends after 5 s
		ended[i] = c.Ended
	}
	if err := s.load(replaced(t, config, "\tpushit", "\theader X-Reload yes\n\tpushit")); err != nil {
		t.Fatal(err)
	}
	over.round("after a reload")
	for i, c := range sessions {
		if c.Transport != "xhr" && c.Ended != ended[i] {
			t.Errorf("%s: the reload has ended the response", c.Transport)
		}
	}
}

// checkWho checks that pushit knows the client's address and the site's.
func checkWho(t *testing.T, s site) {
	t.Helper()
	own := header("Origin", s.origin())
	for _, origin := range []string{"https://other.example", "http://example.com", "https://example.com:8443", "null"} {
		if status, _ := s.get("/push/info", header("Origin", origin)); status != http.StatusForbidden {
			t.Errorf("origin %s: status %d, want 403", origin, status)
		}
		c := s.fallback(s.client("h1"), "/push", "xhr")
		c.Header = header("Origin", origin)
		if status, _ := c.ask(http.MethodPost, "/xhr", ""); status != http.StatusForbidden {
			t.Errorf("origin %s: xhr: status %d, want 403", origin, status)
		}
	}
	// The client is not the proxy, and not the address that a forged header names.
	s.from = "127.0.0.2"
	if status, _ := s.get("/push/info?mine", headers(own, header("X-Forwarded-For", "203.0.113.9"))); status != http.StatusOK {
		t.Errorf("from another address: status %d", status)
	}
	asked, line := regexp.MustCompile(`.*/push/info\?mine.*`), ""
	for end := time.Now().Add(patience); line == "" && time.Now().Before(end); { // Caddy writes it after the answer
		line = asked.FindString(s.log())
	}
	if !strings.Contains(line, `"client_ip":"127.0.0.2"`) {
		t.Errorf("the request came from 127.0.0.2, and is logged as\n%s", line)
	}
}

func TestDeploymentNginx(t *testing.T) {
	config := deployed(t)
	s := fixedServer(t, config)
	address := startNginx(t, deploymentBlock(t, "nginx", "nginx", 0), s.listen)
	checkThrough(t, s.behind(address), config)
}

func TestDeploymentHaproxy(t *testing.T) {
	config := deployed(t)
	s := fixedServer(t, config)
	address := startHaproxy(t, deploymentBlock(t, "haproxy", "haproxy", 0), s.listen)
	checkThrough(t, s.behind(address), config)
}

func TestDeploymentCaddy(t *testing.T) {
	for n, name := range []string{"as short as can be", "for long sessions"} {
		t.Run(name, func(t *testing.T) {
			config := deployed(t)
			s := fixedServer(t, config)
			address, reload := startCaddy(t, deploymentBlock(t, "Another Caddy", "caddyfile", n), s.listen)
			front := s.behind(address)
			kept := n == 1
			if kept {
				checkThrough(t, front, config)
			} else {
				checkTalk(t, front)
				checkWho(t, front)
			}
			own := header("Origin", front.origin())
			a := front.connect("/push/websocket", own).subscribe("room")
			c := front.fallback(front.client("h1"), "/push", "xhr_streaming")
			c.Header = own
			c.connect("room")
			reload()
			c.echo("room", 1)
			if kept {
				a.publish("room", "still here")
				return
			}
			for {
				if op, _ := a.read(); op == wireclient.OpClose {
					return
				}
			}
		})
	}
}

// TestDeploymentCDN: the CDN cuts connections that are silent for longer than a
// heartbeat.
func TestDeploymentCDN(t *testing.T) {
	cert, key := certificate(t, "example.com")
	s := serve(t, replaced(t, deploymentBlock(t, "A CDN", "caddyfile", 0), "192.0.2.0/24", "127.0.0.0/8",
		"example.com {", "example.com {\n\ttls "+cert+" "+key+"\n\tlog")).site("example.com")
	s.tls = true
	via := headers(header("Origin", "https://example.com"), header("X-Forwarded-For", "203.0.113.9"), header("X-Forwarded-Proto", "https"))
	c := s.fallback(s.client("h2"), "/push", "xhr")
	c.Header = via
	c.connect("room").echo("room", 1)
	begin := time.Now()
	if f := c.frame(); f != "" && f != "h" {
		t.Errorf("got %q, want nothing", f)
	} else if f == "" {
		f = c.frame()
		if took := time.Since(begin); f != "h" || took > 20*time.Second { // 25 s without that line
			t.Errorf("got %q after %v, want a heartbeat after 8 s", f, took)
		}
	}
	if !strings.Contains(s.log(), `"client_ip":"203.0.113.9"`) {
		t.Error("the address that the CDN tells was not taken")
	}
}

// TestDeploymentManyServers has two servers with one hub. No cookie leads to either, and one
// of them is lost.
func TestDeploymentManyServers(t *testing.T) {
	nats := natsserver.New(t, "")
	config := func(node string) string {
		return strings.Replace(joined("broker nats "+nats.URL()+" {\n node "+node+"\n}"), "site.test", "example.com", 1)
	}
	s := serve(t, config("one"))
	there, kill := s.otherMachine(config("two"))
	address := startHaproxy(t, deploymentBlock(t, "Several servers", "haproxy", 0), s.addr("srv0"), there.elsewhere)
	front := s.behind(address)
	talk := func() {
		for _, transport := range []string{"xhr", "xhr_streaming", "eventsource"} {
			by := front.client("h1")
			// A server that asks the other one for a session waits a second for its answer.
			eventually(t, "503", func(t testing.TB) {
				channel := fmt.Sprint("news/", uuids.Add(1))
				c := front.fallback(by, "/push", transport)
				c.t = t
				c.connect(channel).echo(channel, 3)
			})
		}
		a := front.connect("/push/websocket", nil).subscribe("news")
		a.insist("news", "here")
		a.wantMessage("news", "here")
	}
	for range 3 {
		talk()
	}
	kill()
	talk()
}

// TestDeploymentSeveralServers has two servers with a hub each. Only the cookie leads the
// requests of a session to its server.
func TestDeploymentSeveralServers(t *testing.T) {
	config := deploymentBlock(t, "Several servers", "caddyfile", 0)
	global, site, ok := strings.Cut(config, "\n\n")
	if !ok {
		t.Fatal("no empty line behind the global options")
	}
	s := serve(t, global+"\n\n"+site+"\n"+replaced(t, site, ":8080", ":8081", "pushit /push {", "pushit /push {\n\t\tname two"))
	address := startHaproxy(t, deploymentBlock(t, "Several servers", "haproxy", 1), s.addr("srv0"), s.addr("srv1"))
	front := s.behind(address)
	for range 6 {
		for _, transport := range []string{"xhr", "xhr_streaming", "eventsource"} {
			jar, err := cookiejar.New(nil)
			if err != nil {
				t.Fatal(err)
			}
			by := front.client("h1")
			by.Jar = jar
			c := front.fallback(by, "/push", transport)
			c.Header = header("Origin", front.origin())
			c.connect("room")
			c.echo("room", 3)
		}
	}
	lost := 0
	for range 6 {
		by := front.client("h1") // has no cookies
		c := front.fallback(by, "/push", "xhr")
		c.Header = header("Origin", front.origin())
		c.frame()
		for range 4 {
			if status, _ := c.ask(http.MethodPost, "/xhr_send", "[]"); status == http.StatusNotFound {
				lost++
			}
		}
	}
	if lost == 0 {
		t.Error("without cookies no request came to the other server, so that nothing is tried here")
	}
}

// TestDeploymentTrying runs the commands of the page that test a deployment, until each
// has printed the expected output.
func TestDeploymentTrying(t *testing.T) {
	cert, key := certificate(t, "example.com")
	curl := needs.Program(t, "curl")
	s := serve(t, "example.com {\n\ttls "+cert+" "+key+"\n\tpushit /push {\n\t\tdefault allow\n\t}\n}\n")
	address := s.addr("srv0")
	port := address[strings.LastIndexByte(address, ':')+1:]
	commands := strings.Split(strings.TrimSpace(strings.ReplaceAll(deploymentBlock(t, "Trying it", "sh", 0), "\\\n", "")), "\n")
	shows := []string{`"websocket":true`, strings.Repeat("h", 2048) + "\no\n", "101 Switching Protocols"}
	if len(commands) != len(shows) {
		t.Fatalf("there are %d commands: %q", len(commands), commands)
	}
	for i, command := range commands {
		for _, origin := range []string{"", " -H 'Origin: https://example.com:" + port + "'"} {
			line := strings.Replace(command, "https://example.com/", "https://example.com:"+port+"/", 1)
			line = strings.Replace(line, "curl ", "exec "+curl+" --no-progress-meter --insecure --resolve example.com:"+port+":127.0.0.1 ", 1) + origin
			if origin != "" { // each has its own session
				line = strings.Replace(line, "trying-it", "trying-it-again", 1)
			}
			if got := printsUntil(t, line, shows[i]); !strings.Contains(strings.ReplaceAll(got, "\r", ""), shows[i]) {
				t.Errorf("%s\nprints %q, want %q in it", line, got, shows[i])
			}
		}
	}
}

// printsUntil runs a command until it has printed want, or has ended. It returns the
// output.
func printsUntil(t *testing.T, command, want string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), fallbackPatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", command)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	part := make([]byte, 4096)
	for err == nil && !strings.Contains(strings.ReplaceAll(got.String(), "\r", ""), want) {
		var n int
		n, err = out.Read(part)
		got.Write(part[:n])
	}
	cancel()
	_ = cmd.Wait() // the test has stopped it
	return got.String() + stderr.String()
}
