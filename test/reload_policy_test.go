// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/push-it/pushit/hub"
)

// withRules returns a Caddyfile with a site on localhost whose pushit has that block.
func withRules(block string) string {
	return "http://localhost {\n\tpushit {\n" + block + "\n" + patientGates + "\t}\n}\n" // errors name lines of the block
}

// reload loads another Caddyfile, which must be valid.
func (s *server) reload(config string) {
	s.t.Helper()
	if err := s.load(config); err != nil {
		s.t.Fatal(err)
	}
}

// wantLog waits for a log line with a message, and returns it.
func (s *server) wantLog(message string, has func(object) bool) (line object) {
	s.t.Helper()
	often := time.NewTicker(5 * time.Millisecond)
	defer often.Stop()
	for late := time.Now().Add(patience); time.Now().Before(late); <-often.C {
		for text := range strings.Lines(s.log()) {
			var f object
			if json.Unmarshal([]byte(text), &f) == nil && f["msg"] == message && has(f) {
				return f
			}
		}
	}
	s.t.Fatalf("the log has no such line: %s", message)
	return nil
}

// wantEffects waits until the reload that changed the gates, or the settings, is
// complete. It returns the logged effects.
func (s *server) wantEffects(changed ...string) object {
	s.t.Helper()
	return s.wantLog("agents moved to a new configuration", func(f object) bool {
		return strings.Contains(fmt.Sprint(f["changed"], f["gates"]), strings.Join(changed, " "))
	})
}

// as connects with a token, from a page of that origin.
func (s site) as(path, token, origin string) *agent {
	s.t.Helper()
	var header http.Header
	if origin != "" {
		header = http.Header{"Origin": {origin}}
	}
	a, answer := s.open(path, header, token)
	a.wantAllowed(answer)
	return a
}

// A stricter reload ends some sessions and subscriptions, and leaves the others.
func TestReloadEndsOnlyWhatTheNewRulesForbid(t *testing.T) {
	const key = "0123456789abcdef0123456789abcdef"
	role := func(role string) string {
		return token(t, key, object{"sub": role, "role": role, "exp": time.Now().Add(time.Hour).Unix()})
	}
	rules := func(connect, staff string) string {
		return withRules(`
			connect jwt {
				secret ` + key + `
				` + connect + `
			}
			subscribe allow
			publish allow
			channel staff/* {
				subscribe ` + staff + `
				patterns
			}`)
	}
	s := serve(t, rules("", "allow")).site("localhost")
	editor := s.as("/push/websocket", role("editor"), "").subscribe("staff/1").subscribe("news")
	reader := s.as("/push/websocket", role("reader"), "").subscribe("staff/*").subscribe("staff/1").subscribe("news")
	guest := s.as("/push/websocket", role("guest"), "").subscribe("news")

	s.reload(rules("require role reader editor", "cel `agent.claims.role == \"editor\"`"))
	// No message reaches an agent without a right to it.
	editor.publish("staff/1", "among us")
	editor.publish("news", "to all")
	editor.wantMessage("staff/1", "among us")
	editor.wantMessage("news", "to all")
	// Messages and notices of different channels may come in any order. Messages of staff
	// must not come.
	reader.wantInAnyOrder(isEnded("staff/*", hub.CodeDenied), isEnded("staff/1", hub.CodeDenied), isMessage("news", "to all"))
	if reason := guest.wantCut(); reason == "" {
		t.Error("the guest was given no reason")
	}
	f := s.wantEffects("connect", "channel staff/* subscribe")
	// 3 connects and 2 of 3 subscriptions; the gate of news is the same.
	want := object{"agents": 3.0, "asked": 6.0, "subscriptions_ended": 2.0, "agents_cut": 1.0, "unanswered": 0.0}
	for name, n := range want {
		if f[name] != n {
			t.Errorf("the log has %s %v, want %v", name, f[name], n)
		}
	}
	if !slices.Equal(f["changed"].([]any), []any{"channels", "gates"}) {
		t.Errorf("the log has changed %v", f["changed"])
	}
	reader.wantRefused(reader.askToSubscribe("staff/2"), hub.CodeDenied) // the next frame is this answer
}

// Nobody notices a reload that removes rules or makes them less strict.
func TestReloadThatAllowsMoreIsNotNoticed(t *testing.T) {
	const key = "0123456789abcdef0123456789abcdef"
	s := serve(t, withRules("default deny\nconnect jwt {\nsecret "+key+"\n}\nsubscribe cel `agent.claims.role == \"editor\"`")).site("localhost")
	a := s.as("/push/websocket", token(t, key, object{"role": "editor", "sub": "ann", "exp": time.Now().Add(time.Hour).Unix()}), "").subscribe("news")
	for _, rules := range []string{"default allow", "heartbeat 20s", "default allow\nconnect deny @nobody\n@nobody header X-No *", "default deny\nconnect allow\nsubscribe allow"} {
		if strings.Contains(rules, "deny @nobody") {
			rules = strings.Replace(rules, "connect deny @nobody", "connect {\ndeny @nobody\nallow\n}", 1)
		}
		s.reload(withRules(rules))
		a.subscribe("more")
		a.request("/meta/unsubscribe", object{"channel": "more"})
	}
}

// The text is the same, but the file has another key.
func TestReloadNoticesAnotherKeyInTheSameFile(t *testing.T) {
	const one, two = "0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"
	file := filepath.Join(t.TempDir(), "secret")
	write := func(secret string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(secret), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(one)
	config := withRules("default allow\nconnect jwt {\nsecret {file." + file + "}\n}")
	s := serve(t, config).site("localhost")
	a := s.as("/push/websocket", token(t, one, object{"exp": time.Now().Add(time.Hour).Unix()}), "").subscribe("news")
	s.reload(config)
	a.publish("news", "still here")
	a.wantMessage("news", "still here")
	write(two)
	s.reload(config)
	a.wantCut()
	f := s.wantEffects("[] [connect]")
	if f["agents_cut"] != 1.0 {
		t.Errorf("the log has %v", f)
	}
}

// A counter is a backend that counts its requests.
type counter struct {
	asked  atomic.Int64
	answer atomic.Pointer[func(w http.ResponseWriter, r *http.Request)]
}

func newCounter(t *testing.T) (c *counter, address string) {
	t.Helper()
	c = new(counter)
	return c, backend(t, func(w http.ResponseWriter, r *http.Request) {
		c.asked.Add(1)
		if answer := c.answer.Load(); answer != nil {
			(*answer)(w, r)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
}

func (c *counter) says(answer func(w http.ResponseWriter, r *http.Request)) { c.answer.Store(&answer) }

func (c *counter) saysStatus(status int) {
	c.says(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
}

// A backend is asked again only if the gate has changed.
func TestReloadAsksBackendsOnlyAboutWhatChanged(t *testing.T) {
	c, address := newCounter(t)
	rules := func(more, uri string) string {
		return withRules(more + "\nconnect ask " + address + " {\nuri /connect\n}\nsubscribe ask " + address + " {\nuri " + uri + "\n}\npublish allow")
	}
	s := serve(t, rules("", "/subscribe")).site("localhost")
	a := s.connect("/push/websocket", nil).subscribe("news").subscribe("more")
	before := c.asked.Load()
	for _, config := range []string{
		rules("heartbeat 20s", "/subscribe"), rules("limits {\nagents 7\n}", "/subscribe"), rules("channel other {\nsubscribe deny\n}", "/subscribe"),
		replaced(t, rules("", "/subscribe"), "timeout subscribe 30s", "timeout subscribe 40s"),
	} {
		s.reload(config)
		a.publish("news", config)
		a.wantMessage("news", config)
	}
	if n := c.asked.Load(); n != before {
		t.Errorf("the backend was asked %d times more, though its gates are the same", n-before)
	}
	s.reload(rules("", "/subscribe?new"))
	f := s.wantEffects("[subscribe]")
	if n := c.asked.Load() - before; n != 2 || f["asked"] != 2.0 {
		t.Errorf("the backend was asked %d times, the log has %v; want twice, for the two subscriptions", n, f)
	}
}

func TestReloadWhileTheBackendIsAway(t *testing.T) {
	c, address := newCounter(t)
	const rules = "default allow\nlimits {\nframes_per_second unlimited\npublishes_per_second unlimited\n}" // the publisher is as fast as possible
	s := serve(t, withRules(rules)).site("localhost")
	a, b := s.connect("/push/websocket", nil).subscribe("news"), s.connect("/push/websocket", nil)
	c.saysStatus(http.StatusBadGateway)
	s.reload(withRules(rules + "\ngrace 30s\nsubscribe ask " + address + " {\nuri /\n}\nconnect ask " + address + " {\nuri /\n}"))
	for c.asked.Load() < 2 { // one question for each agent
		b.publish("news", "away")
		a.wantMessage("news", "away")
	}
	c.says(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	f := s.wantEffects("[connect subscribe]")
	if f["agents_cut"] != 0.0 || f["subscriptions_ended"] != 0.0 || f["unanswered"] != 0.0 {
		t.Errorf("the log has %v", f)
	}
	b.publish("news", "back")
	a.wantMessage("news", "back")
}

func TestReloadWhoseBackendStaysAway(t *testing.T) {
	c, address := newCounter(t)
	c.saysStatus(http.StatusServiceUnavailable)
	s := serve(t, withRules("default allow")).site("localhost")
	a, b := s.connect("/push/websocket", nil).subscribe("news").subscribe("other"), s.connect("/push/websocket", nil)
	began := time.Now()
	s.reload(withRules("default allow\ngrace 6s\nchannel news {\nsubscribe ask " + address + " {\nuri /\n}\n}"))
	b.publish("news", "the old answer holds")
	a.wantMessage("news", "the old answer holds")
	a.wantEnded("news", hub.CodeUnavailable)
	if took := time.Since(began); took < 5*time.Second {
		t.Errorf("it ended after %v", took)
	}
	b.publish("news", "is nobody's")
	b.publish("other", "goes on")
	a.wantMessage("other", "goes on")

	s.reload(withRules("default allow\ngrace 1s\nconnect ask " + address + " {\nuri /\n}"))
	a.wantCut()
	b.wantCut()
	if f := s.wantEffects("[connect channel news subscribe]"); f["agents_cut"] != 2.0 || f["unanswered"] != 2.0 {
		t.Errorf("the log has %v", f)
	}
}

// If a reload comes while a question is open, a late answer to the old gate does not
// count.
func TestLateAnswerToAnOldGateDoesNotCount(t *testing.T) {
	c, address := newCounter(t)
	hold := make(chan struct{})
	asked := make(chan struct{}, 8)
	s := serve(t, withRules("default allow\nsubscribe ask "+address+" {\nuri /\n}\npublish ask "+address+" {\nuri /\n}")).site("localhost")
	a, fresh := s.connect("/push/websocket", nil), s.connect("/push/websocket", nil).subscribe("news")
	c.says(func(w http.ResponseWriter, _ *http.Request) {
		asked <- struct{}{}
		<-hold
		w.WriteHeader(http.StatusNoContent)
	})
	subscribe := a.send("/meta/subscribe", object{"channel": "news"})
	publish := a.send("x", "1")
	<-asked
	<-asked
	s.reload(withRules("default allow\nsubscribe deny \"closed\"\npublish deny \"closed\""))
	close(hold)
	fresh.wantEnded("news", hub.CodeDenied)
	for range 2 {
		f := a.receive()
		if f["uuid"] != subscribe && f["uuid"] != publish || f["error"] != "closed" || f["code"] != "denied" {
			t.Errorf("got %v, want it refused by the new rules", f)
		}
	}
}

// Of two reloads at once, the last one counts for all agents. A failing reload in between
// does not count.
func TestLastOfSeveralReloadsCounts(t *testing.T) {
	s := serve(t, withRules("default allow")).site("localhost")
	var agents []*agent
	for range 10 {
		agents = append(agents, s.connect("/push/websocket", nil).subscribe("a").subscribe("b"))
	}
	closing := func(channel string) string {
		return withRules("default allow\nchannel " + channel + " {\nsubscribe deny \"closed\"\n}")
	}
	failing := strings.Replace(closing("a b"), "http://localhost {", "http://localhost {\n\troute {\n\t\tfails\n\t}", 1)
	var wg sync.WaitGroup
	var failures [3]error
	for i, config := range []string{closing("a"), failing, closing("b")} {
		wg.Go(func() { failures[i] = s.load(config) })
	}
	wg.Wait()
	if failures[0] != nil || failures[1] == nil || failures[2] != nil {
		t.Fatalf("loading: %v; want the second alone to fail", failures)
	}
	last, other := "a", "b"
	fresh := s.connect("/push/websocket", nil)
	if fresh.askToSubscribe("a")["successful"] == true {
		last, other = other, last
	}
	for _, a := range agents {
		// The last rules may apply to an agent before earlier ones did. Then it keeps what
		// only the earlier ones forbade.
		f := a.receive()
		if isEnd(f, other) {
			f = a.receive()
		}
		if !isEnd(f, last) || f["error"] != "closed" {
			t.Fatalf("got %v, want the end of %s", f, last)
		}
		a.wantRefused(a.askToSubscribe(last), hub.CodeDenied)
	}
}

func isEnd(f object, channel string) bool {
	data, _ := f["data"].(object)
	return f["channel"] == "/meta/unsubscribe" && data["channel"] == channel
}

func TestReloadOfOrigins(t *testing.T) {
	const one, two = "https://one.example", "https://two.example"
	config := func(origins string) string { return withRules(origins) }
	s := serve(t, config("origins "+one+" "+two)).site("localhost")
	own, of1, of2, program := s.as("/push/websocket", "", "http://localhost"), s.as("/push/websocket", "", one), s.as("/push/websocket", "", two), s.as("/push/websocket", "", "")
	s.reload(config("origins " + two + " " + one)) // the same
	s.reload(config("origins " + two))
	of1.wantCut()
	for _, a := range []*agent{own, of2, program} {
		a.subscribe("x")
	}
	s.reload(config(""))
	of2.wantCut()
	own.subscribe("y")
	program.subscribe("y")
}

func TestReloadOfTheNamespace(t *testing.T) {
	config := func(setting string) string {
		return "http://*.localhost {\n\tpushit {\n\t\tdefault allow\n\t\t" + setting + "\n\t}\n}\n"
	}
	s := serve(t, config("namespace {labels.1}"))
	one := s.site("one.localhost").connect("/push/websocket", nil).subscribe("x")
	tenant := s.site("two.localhost").as("/push/websocket", "", "")
	same, resp := s.site("one.localhost").upgrade("/push/websocket", http.Header{"Tenant": {"one"}})
	if same == nil {
		t.Fatal(resp.Status)
	}
	same.request("/meta/connect", nil)
	s.reload(config("namespace {labels.1}\n\t\theartbeat 20s"))
	one.subscribe("y")
	s.reload(config("namespace {header.Tenant}"))
	one.wantCut()
	tenant.wantCut()
	same.subscribe("y") // its namespace has not changed
	s.reload(config(""))
	same.wantCut()
}

// The test edits all parts of the endpoint, the site and the server. Each edit loads. No
// agent is closed, misses a message, or gets one twice.
func TestReloadOfAnySettingLosesNoMessage(t *testing.T) {
	cert, key := certificate(t, "localhost")
	other, otherKey := certificate(t, "localhost")
	site := func(global, before, block, tls string) string {
		return global + "\nhttps://localhost {\n\ttls " + tls + "\n" + before + "\n\tpushit {\n\t\tdefault allow\n" + block + "\n\t}\n}\n" +
			"http://plain.localhost {\n\tpushit {\n\t\tname plain\n\t\tdefault allow\n\t}\n}\n"
	}
	pair := cert + " " + key
	s := serve(t, site("", "", "", pair))
	secure := s.site("localhost")
	secure.tls = true
	plain := secure
	plain.host, plain.name, plain.tls = "plain.localhost", "srv1", false
	a, b := secure.connect("/push/websocket", nil).subscribe("news"), plain.connect("/push/websocket", nil).subscribe("news")
	edits := map[string]string{
		"heartbeat":       site("", "", "heartbeat 5s", pair),
		"handshake":       site("", "", "handshake 5s", pair),
		"grace":           site("", "", "grace 5s", pair),
		"origins":         site("", "", "origins https://app.example", pair),
		"a gate":          site("", "", "connect allow\nsubscribe cel `channel == \"news\"`", pair),
		"a block":         site("", "", "channel news {\nsubscribe allow\ndeliver cel `true`\n}", pair),
		"a timeout":       site("", "", "timeout subscribe 2s", pair),
		"certificates":    site("", "", "", other+" "+otherKey),
		"the site":        site("", "log\nencode\nheader X-Frame-Options DENY", "", pair),
		"server timeouts": site("{\n\tservers {\n\t\ttimeouts {\n\t\t\twrite 1s\n\t\t\tidle 1s\n\t\t\tread_body 1s\n\t\t}\n\t}\n}", "", "", pair),
		"grace_period":    site("{\n\tgrace_period 10ms\n}", "", "", pair),
		"logging":         site("{\n\tlog other {\n\t\toutput discard\n\t}\n}", "log {\n\t\toutput discard\n\t}", "", pair),
	}
	for _, l := range []string{
		"message_size 1KiB", "credentials_size 1KiB", "name_length 4", "channels_per_agent 1", "channels 1", "agents 1", "agents_per_ip 1",
		"unconnected_per_ip 1", "queue_messages 16", "queue_bytes 128KiB", "frames_per_second 50", "publishes_per_second 20",
	} {
		edits[l] = site("", "", "limits {\n\t\t\t"+l+"\n\t\t}", pair)
	}
	n := 0.0
	for what, edited := range edits {
		for range 2 { // once with the edit, and once without
			if err := s.load(edited); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			for _, x := range []*agent{a, b} {
				n++
				x.publish("news", n)
				x.wantMessage("news", n)
			}
			edited = site("", "", "", pair)
		}
	}
}

// A named route that a gate invokes, also through another one, is a part of the gate.
func TestReloadNoticesAChangeInANamedRoute(t *testing.T) {
	rules := func(auth, inner, more string) string {
		return "&(auth) {\n" + auth + "\n}\n&(inner) {\n" + inner + "\n}\n" +
			withRules(more+"\ndefault allow\nconnect route {\ninvoke auth\n}\nchannel staff {\nsubscribe any {\nuser\nroute {\ninvoke outer\n}\n}\n}") +
			"&(outer) {\nroute {\ninvoke inner\n}\n}\n"
	}
	const guests = "@guest header X-Role guest\nrespond @guest 403"
	s := serve(t, rules("vars a b", "vars a b", "")).site("localhost")
	guest, resp := s.open("/push/websocket", http.Header{"X-Role": {"guest"}}, nil)
	if guest == nil {
		t.Fatal(resp)
	}
	a := s.connect("/push/websocket", nil).subscribe("staff").subscribe("news")
	s.reload(rules("vars a b", "vars a b", "heartbeat 20s"))
	if f := s.wantEffects("[heartbeat] []"); f["asked"] != 0.0 {
		t.Errorf("%v were asked though the routes are the same", f["asked"])
	}
	s.reload(rules(guests, "vars a b", ""))
	guest.wantCut()
	a.subscribe("more")
	s.reload(rules(guests, "respond 403", ""))
	a.wantEnded("staff", hub.CodeDenied)
	a.publish("news", "goes on")
	a.wantMessage("news", "goes on")
}

// in_flight and the cache belong to the gate: they continue over a reload that does not
// change the gate.
func TestReloadKeepsInFlightAndTheCache(t *testing.T) {
	var mu sync.Mutex // guards the following
	running, most := 0, 0
	arrived, hold := make(chan struct{}, 64), make(chan struct{})
	address := backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			mu.Lock()
			running++
			most = max(most, running)
			mu.Unlock()
			arrived <- struct{}{}
			<-hold
			mu.Lock()
			running--
			mu.Unlock()
		}
		w.WriteHeader(http.StatusNoContent)
	})
	c, counted := newCounter(t)
	rules := func(more, cached string) string {
		return withRules(more + "\ndefault allow\nchannel probe/* {\nsubscribe ask " + address + " {\nuri /quick\n}\n}\n" +
			"channel slow/* {\nsubscribe {\ntimeout 1m\nask " + address + " {\nuri /slow\nin_flight 2\n}\n}\n}\n" +
			"channel cached {\nsubscribe {\nask " + counted + " {\nuri /" + cached + "\ncache 1m\n}\n}\n}")
	}
	s := serve(t, rules("", "a")).site("localhost")
	a, probe := s.connect("/push/websocket", nil), s.connect("/push/websocket", nil).subscribe("cached")
	const reloads = 4
	for i := range reloads {
		for n := range 2 {
			a.send("/meta/subscribe", object{"channel": fmt.Sprintf("slow/%d/%d", i, n)})
		}
		if i == 0 {
			<-arrived
			<-arrived
		}
		for n := range 5 { // all questions that can be in flight are
			probe.subscribe(fmt.Sprintf("probe/%d/%d", i, n))
		}
		s.reload(rules(fmt.Sprintf("heartbeat %ds", 20+i), "a"))
		s.connect("/push/websocket", nil).subscribe("cached")
	}
	if n := c.asked.Load(); n != 1 {
		t.Errorf("what an unchanged gate has cached was asked %d times, want once", n)
	}
	close(hold)
	for range 2 * reloads {
		if f := a.receive(); f["successful"] != true {
			t.Errorf("got %v", f)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if most > 2 {
		t.Errorf("%d questions were asked at once over the reloads, want 2 at most", most)
	}
	s.reload(rules("", "b"))
	s.connect("/push/websocket", nil).subscribe("cached")
	if n := c.asked.Load(); n < 2 {
		t.Error("a changed gate was not asked")
	}
}

// trusted_proxies decides which addresses a backend gets.
func TestReloadOfTrustedProxies(t *testing.T) {
	c, address := newCounter(t)
	rules := func(proxies, more string) string {
		return "{\n\tservers {\n\t\ttrusted_proxies static " + proxies + "\n\t}\n}\n" + withRules(more+"\ndefault allow\nsubscribe ask "+address+" {\nuri /\n}")
	}
	s := serve(t, rules("10.0.0.0/8 fd00::/8", "")).site("localhost")
	a := s.connect("/push/websocket", nil).subscribe("news")
	s.reload(rules("10.0.0.0/8 fd00::/8", "heartbeat 20s"))
	if f := s.wantEffects("[heartbeat] []"); f["asked"] != 0.0 {
		t.Errorf("%v were asked though all is the same", f["asked"])
	}
	c.saysStatus(http.StatusForbidden)
	s.reload(rules("10.0.0.0/8 127.0.0.1", "heartbeat 20s"))
	a.wantEnded("news", hub.CodeDenied)
}
