// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

const apiSecret = "a secret of the backend"

const apiConfig = `
	http://site.test {
		pushit /push {
			default allow
			api bearer "` + apiSecret + `"
			limits {
				message_size 1KiB
			}
		}
		respond "the site" 200
	}`

// post makes a POST to the site and returns status, header and body.
func (s site) post(path, contentType, body string, header http.Header) (status int, h http.Header, answer string) {
	s.t.Helper()
	resp := s.postBody(path, contentType, strings.NewReader(body), header)
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(text)
}

func (s site) postBody(path, contentType string, body io.Reader, header http.Header) *http.Response {
	s.t.Helper()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return s.dial(ctx) }}
	s.t.Cleanup(transport.CloseIdleConnections)
	client := http.Client{Timeout: burstPatience, Transport: transport}
	r, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, "http://"+s.host+path, body)
	if err != nil {
		s.t.Fatal(err)
	}
	maps.Copy(r.Header, header)
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	resp, err := client.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp
}

func asBackend() http.Header { return http.Header{"Authorization": {"Bearer " + apiSecret}} }

// A backend publishes one message, an array, and a message for several channels.
func TestProgramsPublish(t *testing.T) {
	s := serve(t, apiConfig).site("site.test")
	a, _ := s.open("/push/websocket", nil, nil)
	a.subscribe("news").subscribe("stories/*")
	b, _ := s.open("/push/websocket", nil, nil)
	b.subscribe("news")

	status, h, body := s.post("/push/publish", "application/json", `{"channel":"news","uuid":"u1","data":{"n": 1}}`, asBackend())
	if want := `{"uuid":"u1","subscriptions":2}` + "\n"; status != http.StatusOK || body != want || !strings.HasPrefix(h.Get("Content-Type"), "application/json") {
		t.Fatalf("status %d, %s, %q; want 200 and %q", status, h.Get("Content-Type"), body, want)
	}
	for _, subscriber := range []*agent{a, b} {
		if m := subscriber.receive(); m["channel"] != "news" || m["uuid"] != "u1" || !reflect.DeepEqual(m["data"], object{"n": 1.0}) {
			t.Errorf("received %v", m)
		}
	}

	status, _, body = s.post("/push/publish", "application/json; charset=utf-8", `[
		{"channels": ["news", "stories/5"], "data": "both", "uuid": "u2"},
		{"channel": "nobody", "data": null}
	]`, asBackend())
	var answers []struct {
		UUID          string
		Subscriptions int
	}
	if err := json.Unmarshal([]byte(body), &answers); err != nil || status != http.StatusOK || len(answers) != 2 {
		t.Fatalf("status %d, %q", status, body)
	}
	if answers[0].UUID != "u2" || answers[0].Subscriptions != 3 || answers[1].UUID == "" || answers[1].Subscriptions != 0 {
		t.Errorf("answers %+v", answers)
	}
	a.wantMessage("news", "both")
	a.wantMessage("stories/5", "both")
	b.wantMessage("news", "both")

	// A repeated uuid publishes nothing, and the answer says so.
	status, _, body = s.post("/push/publish", "application/json", `{"channel":"news","uuid":"u1","data":{"n":1}}`, asBackend())
	if want := `{"uuid":"u1","subscriptions":0,"repeated":true}` + "\n"; status != http.StatusOK || body != want {
		t.Errorf("a repeat: status %d, %q; want %q", status, body, want)
	}
	status, _, body = s.post("/push/publish", "application/json", `{"channel":"news","uuid":"u1","data":2}`, asBackend())
	if status != http.StatusBadRequest || !strings.Contains(body, "other data") {
		t.Errorf("other data for the same uuid: status %d, %q", status, body)
	}
	status, _, _ = s.post("/push/publish", "application/json", `{"channel":"news","data":"last"}`, asBackend())
	if status != http.StatusOK {
		t.Errorf("status %d", status)
	}
	a.wantMessage("news", "last")
	b.wantMessage("news", "last")
}

// The coding identity is no coding, in whatever case.
func TestBodiesOfProgramsWithoutEncoding(t *testing.T) {
	s := serve(t, apiConfig).site("site.test")
	for _, encoding := range []string{"identity", "Identity"} {
		header := asBackend()
		header.Set("Content-Encoding", encoding)
		if status, _, body := s.post("/push/publish", "application/json", `{"channel":"a","data":1}`, header); status != 200 {
			t.Errorf("%s: status %d, %q", encoding, status, body)
		}
	}
}

// A mistake is answered with a status and a sentence, and nothing is published.
func TestMistakesOfPrograms(t *testing.T) {
	s := serve(t, apiConfig).site("site.test")
	a, _ := s.open("/push/websocket", nil, nil)
	a.subscribe("*")
	for name, c := range map[string]struct {
		contentType, body string
		header            http.Header
		status            int
		answer            string
	}{
		"no token":          {"application/json", `{"channel":"a","data":1}`, nil, 401, "A token is needed.\n"},
		"another token":     {"application/json", `{"channel":"a","data":1}`, http.Header{"Authorization": {"Bearer nonsense"}}, 403, "The token is not valid.\n"},
		"no type":           {"", `{"channel":"a","data":1}`, asBackend(), 415, "Send application/json"},
		"a form":            {"application/x-www-form-urlencoded", `channel=a`, asBackend(), 415, "Send application/json"},
		"compressed":        {"application/json", "x", http.Header{"Authorization": asBackend()["Authorization"], "Content-Encoding": {"gzip"}}, 415, "Compressed"},
		"empty":             {"application/json", " ", asBackend(), 400, "The body is empty"},
		"no JSON":           {"application/json", `{"channel":`, asBackend(), 400, "The body is not JSON"},
		"no object":         {"application/json", `5`, asBackend(), 400, "a message must be an object"},
		"no channel":        {"application/json", `{"data":1,"uuid":"x"}`, asBackend(), 400, "channel is missing"},
		"no data":           {"application/json", `{"channel":"a"}`, asBackend(), 400, "data is missing"},
		"unknown key":       {"application/json", `{"channel":"a","data":1,"chanel":1}`, asBackend(), 400, `no key \"chanel\"`},
		"key twice":         {"application/json", `{"channel":"a","data":1,"data":2}`, asBackend(), 400, "duplicate key"},
		"both":              {"application/json", `{"channel":"a","channels":["b"],"data":1}`, asBackend(), 400, "not both"},
		"no channels":       {"application/json", `{"channels":[],"data":1}`, asBackend(), 400, "1 to 16"},
		"too many channels": {"application/json", `{"channels":["1","2","3","4","5","6","7","8","9","10","11","12","13","14","15","16","17"],"data":1}`, asBackend(), 400, "1 to 16"},
		"a pattern":         {"application/json", `{"channel":"a/*","data":1}`, asBackend(), 400, "*"},
		"of the protocol":   {"application/json", `{"channel":"/meta/connect","data":1}`, asBackend(), 400, "meta"},
		"uuid":              {"application/json", `{"channel":"a","data":1,"uuid":"not one"}`, asBackend(), 400, "uuid"},
		"too large":         {"application/json", `{"channel":"a","data":"` + strings.Repeat("x", 1100) + `"}`, asBackend(), 413, "at most 1024 are allowed"},
		"one of an array":   {"application/json", `[{"channel":"a","data":1},{"channel":"a"}]`, asBackend(), 400, "message 1: data is missing"},
		"too many":          {"application/json", "[" + strings.Repeat(`{"channel":"a","data":1},`, 1000) + `{"channel":"a","data":1}]`, asBackend(), 413, "1000"},
		"foreign page":      {"application/json", `{"channel":"a","data":1}`, http.Header{"Authorization": asBackend()["Authorization"], "Origin": {"https://evil.example"}}, 403, "Pages of this origin"},
	} {
		status, h, body := s.post("/push/publish", c.contentType, c.body, c.header)
		if status != c.status || !strings.Contains(body, c.answer) {
			t.Errorf("%s: status %d, %q; want %d and %q", name, status, body, c.status, c.answer)
		}
		if (status == 401) != (h.Get("WWW-Authenticate") != "") {
			t.Errorf("%s: status %d with WWW-Authenticate %q", name, status, h.Get("WWW-Authenticate"))
		}
	}
	if status, body := s.get("/push/publish", asBackend()); status != http.StatusMethodNotAllowed {
		t.Errorf("GET: status %d, %q", status, body)
	}
	if status, _, _ := s.post("/push/publish", "application/json", `{"channel":"a","data":"the only one"}`, asBackend()); status != http.StatusOK {
		t.Errorf("status %d", status)
	}
	a.wantMessage("a", "the only one")
}

// Without the gate there is no API.
func TestNoAPIWithoutItsGate(t *testing.T) {
	s := serve(t, `
	http://site.test {
		pushit /push {
			default allow
		}
		respond "the site" 200
	}`).site("site.test")
	status, _, body := s.post("/push/publish", "application/json", `{"channel":"a","data":1}`, asBackend())
	if status != http.StatusNotFound || !strings.Contains(body, "no api gate") {
		t.Errorf("status %d, %q", status, body)
	}
}

// The rate limit refuses a message with 429 and a time to try again. It slows a stream
// down.
func TestRateOfPrograms(t *testing.T) {
	s := serve(t, strings.Replace(apiConfig, "message_size 1KiB", "api_publishes_per_second 10", 1)).site("site.test")
	var last int
	var h http.Header
	for range 1000 { // more than 60 on a machine so busy that 10 more are allowed meanwhile
		var body string
		if last, h, body = s.post("/push/publish", "application/json", `{"channel":"a","data":1}`, asBackend()); last != http.StatusOK {
			if last != http.StatusTooManyRequests || !strings.Contains(body, `"code":"limit"`) || h.Get("Retry-After") == "" {
				t.Errorf("status %d, %q, Retry-After %q", last, body, h.Get("Retry-After"))
			}
			break
		}
	}
	if last == http.StatusOK {
		t.Error("1000 messages went out at 10 a second, with 50 at once")
	}
	_, _, body := s.post("/push/publish", "application/x-ndjson", strings.Repeat(`{"channel":"a","data":1}`+"\n", 5), asBackend())
	if n := strings.Count(body, `"subscriptions"`); n != 5 || strings.Contains(body, "error") {
		t.Errorf("%d of 5 messages of a stream went out: %q", n, body)
	}
}

// A stream publishes each line when it comes, in order, and answers each.
func TestProgramsStream(t *testing.T) {
	s := serve(t, apiConfig).site("site.test")
	a, _ := s.open("/push/websocket", nil, nil)
	a.subscribe("answer")
	from, to := io.Pipe()
	answered := make(chan *http.Response, 1)
	go func() { answered <- s.postBody("/push/publish", "application/x-ndjson", from, asBackend()) }()
	var lines *bufio.Scanner
	for n := range 5 {
		if _, err := fmt.Fprintf(to, "\n{\"channel\":\"answer\",\"data\":%d,\"uuid\":\"t%d\"}\n", n, n); err != nil {
			t.Fatal(err)
		}
		if lines == nil {
			resp := <-answered
			defer func() { _ = resp.Body.Close() }()
			lines = bufio.NewScanner(resp.Body)
		}
		if !lines.Scan() || lines.Text() != fmt.Sprintf(`{"uuid":"t%d","subscriptions":1}`, n) {
			t.Fatalf("answer %d is %q, %v", n, lines.Text(), lines.Err())
		}
		a.wantMessage("answer", float64(n)) // before the stream has ended
	}
	for _, line := range []string{`{"channel":"a/*","data":1}`, `{"channel":"answer","data":"still here"}`, `{"chan`, `{"channel":"answer","data":"never"}`} {
		if _, err := io.WriteString(to, line+"\n"); err != nil && line[2] == 'c' && !strings.Contains(line, "never") {
			t.Fatal(err)
		}
		if strings.Contains(line, "never") {
			break
		}
		if !lines.Scan() {
			t.Fatalf("no answer to %s: %v", line, lines.Err())
		}
		if refused := strings.Contains(lines.Text(), `"code":"invalid"`); refused != !strings.Contains(line, "still here") {
			t.Errorf("%s is answered %s", line, lines.Text())
		}
	}
	_ = to.Close()
	if lines.Scan() {
		t.Errorf("after a line that is no JSON came %s", lines.Text())
	}
	a.wantMessage("answer", "still here")
}

// Ten thousand messages over one stream, and many requests at once, all arrive in order.
func TestProgramsPublishALot(t *testing.T) {
	config := strings.Replace(apiConfig, "message_size 1KiB", "api_publishes_per_second unlimited\nqueue_messages 100000\nqueue_bytes 64MiB", 1)
	s := serve(t, config).site("site.test")
	a, _ := s.open("/push/websocket", nil, nil)
	a.subscribe("many")
	const messages, requests = 2000, 100
	var body strings.Builder
	for n := range messages {
		fmt.Fprintf(&body, "{\"channel\":\"many\",\"data\":%d}\n", n)
	}
	resp := s.postBody("/push/publish", "application/x-ndjson", strings.NewReader(body.String()), asBackend())
	text, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil || strings.Count(string(text), `"subscriptions":1`) != messages {
		t.Fatalf("%d of %d were answered: %v", strings.Count(string(text), `"subscriptions":1`), messages, err)
	}
	for n := range messages {
		a.wantMessage("many", float64(n))
	}
	var wg sync.WaitGroup
	for n := range requests {
		wg.Go(func() {
			if status, _, body := s.post("/push/publish", "application/json", fmt.Sprintf(`{"channel":"many","data":%d}`, n), asBackend()); status != http.StatusOK {
				t.Errorf("request %d: status %d, %q", n, status, body)
			}
		})
	}
	wg.Wait()
	var got []int
	for range requests {
		got = append(got, int(a.receive()["data"].(float64)))
	}
	slices.Sort(got)
	for n, data := range got {
		if n != data {
			t.Fatalf("message %d is missing", n)
		}
	}
}

// If a reload changes the gate, it is asked again in the middle of a stream.
func TestReloadEndsTheRightOfAStream(t *testing.T) {
	server := serve(t, apiConfig)
	s := server.site("site.test")
	from, to := io.Pipe()
	answered := make(chan *http.Response, 1)
	go func() { answered <- s.postBody("/push/publish", "application/x-ndjson", from, asBackend()) }()
	line := `{"channel":"a","data":1}` + "\n"
	if _, err := io.WriteString(to, line); err != nil {
		t.Fatal(err)
	}
	resp := <-answered
	defer func() { _ = resp.Body.Close() }()
	lines := bufio.NewScanner(resp.Body)
	if !lines.Scan() || !strings.Contains(lines.Text(), `"subscriptions":0`) {
		t.Fatalf("%q, %v", lines.Text(), lines.Err())
	}
	if err := server.load(strings.Replace(apiConfig, apiSecret, "another secret of it", 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(to, line); err != nil {
		t.Fatal(err)
	}
	if !lines.Scan() || !strings.Contains(lines.Text(), `"code":"denied"`) {
		t.Errorf("after a reload: %q, %v", lines.Text(), lines.Err())
	}
	_ = to.Close()
}

// A request whose body never comes does not delay a server that stops.
func TestStopDoesNotWaitForHalfSentPublishes(t *testing.T) {
	config := strings.Replace(apiConfig, "site.test", "localhost", 1)
	s := serve(t, strings.Replace(config, "default allow", "default allow\n\t\t\tdrain 1s", 1)).site("localhost")
	s.elsewhere = s.addr(s.name) // unknown after Caddy has stopped
	for _, header := range []string{"Content-Type: application/json\r\nExpect: 100-continue\r\n", "Content-Type: application/x-ndjson\r\n"} {
		_, r := s.halfSent("POST", "/push/publish", "Authorization: Bearer "+apiSecret+"\r\nContent-Length: 1000\r\n"+header, "{")
		if _, err := r.ReadByte(); err != nil { // the body is being read
			t.Fatal(err)
		}
	}
	stopped := s.stopping()
	select {
	case <-stopped:
	case <-time.After(15 * time.Second): // the body of a request has 30 s in all
		t.Fatal("Caddy waits for bodies that do not come")
	}
}
