// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
)

// patience is how long a test waits for what has to come.
const patience = 20 * time.Second

// A sockJSClient is one session of a client of SockJS's fallback transports, that
// fails its test when something else comes than it expects.
type sockJSClient struct {
	t      *testing.T
	base   string // of the session
	query  string // of requests that receive
	header http.Header
	host   string // if not the server's
	client *http.Client

	// Of the request that receives.
	coming chan *http.Response // buffered(1): its response
	give   context.CancelFunc  // gives it up
	stream *bufio.Reader       // nil until the response has come
	body   io.Closer
}

// newSession returns the client of a session of its own, at the endpoint /push.
func newSockJSClient(t *testing.T, s *httptest.Server) *sockJSClient {
	return &sockJSClient{t: t, base: s.URL + "/push/000/" + uuid.NewString(), header: http.Header{}, client: http.DefaultClient}
}

// do makes a request to the session.
func (c *sockJSClient) do(ctx context.Context, method, path, body string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, c.base+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header = c.header.Clone()
	r.Host = c.host
	if _, ok := r.Header["Referer"]; !ok { // as pages of the site have it
		r.Header.Set("Referer", r.URL.Scheme+"://"+cmp.Or(c.host, r.URL.Host)+"/page?x=1")
	}
	return c.client.Do(r)
}

// ask makes a request and returns the whole answer.
func (c *sockJSClient) ask(method, path, body string) (status int, answer string, h http.Header) {
	c.t.Helper()
	resp, err := c.do(c.t.Context(), method, path, body)
	if err != nil {
		c.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }() // it was read
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return resp.StatusCode, string(text), resp.Header
}

// receiveOver begins a request that receives.
func (c *sockJSClient) receiveOver(transport string) {
	c.t.Helper()
	path := "/" + transport + c.query
	if receivings[transport].callback && c.query == "" {
		path += "?c=call"
	}
	ctx, cancel := context.WithCancel(c.t.Context())
	c.t.Cleanup(cancel)
	coming := make(chan *http.Response, 1)
	c.coming, c.give, c.stream = coming, cancel, nil
	asked := *c
	go func() {
		resp, err := asked.do(ctx, receivings[transport].method, path, "")
		if err != nil {
			resp = nil
		}
		coming <- resp
	}()
}

// response waits for the response that receives.
func (c *sockJSClient) response() *http.Response {
	c.t.Helper()
	select {
	case resp := <-c.coming:
		if resp == nil {
			c.t.Fatal("the request to receive failed")
		}
		if resp.StatusCode != http.StatusOK {
			text, _ := io.ReadAll(resp.Body)
			c.t.Fatalf("status %d: %s", resp.StatusCode, text)
		}
		c.stream, c.body = bufio.NewReader(resp.Body), resp.Body
		return resp
	case <-time.After(patience):
		c.t.Fatal("no response to receive came")
		return nil
	}
}

// reading waits for the response, if need be, and bounds the reading of it until
// the returned function is called.
func (c *sockJSClient) reading() (done func() bool) {
	c.t.Helper()
	if c.stream == nil {
		c.response()
	}
	return time.AfterFunc(patience, func() { _ = c.body.Close() }).Stop
}

// abort gives up the request that receives.
func (c *sockJSClient) abort() { c.give() }

// want reads exactly this text.
func (c *sockJSClient) want(text string) {
	c.t.Helper()
	got := make([]byte, len(text))
	n, err := c.readFull(got)
	if err != nil || string(got) != text {
		c.t.Fatalf("got %q, %v; want %q", shorten(got[:n]), err, shorten([]byte(text)))
	}
}

func shorten(p []byte) string {
	if len(p) > 300 {
		return string(p[:300]) + "…"
	}
	return string(p)
}

// all reads what is left of the response.
func (c *sockJSClient) all() string {
	c.t.Helper()
	defer c.reading()()
	text, err := io.ReadAll(c.stream)
	if err != nil {
		c.t.Fatal(err)
	}
	return string(text)
}

// readFull is io.ReadFull with patience.
func (c *sockJSClient) readFull(p []byte) (n int, err error) {
	defer c.reading()()
	return io.ReadFull(c.stream, p)
}

// wantEnd wants nothing more to come but what stands behind a frame.
func (c *sockJSClient) wantEnd() {
	c.t.Helper()
	if rest := strings.TrimPrefix(c.all(), "</script>"); strings.Trim(rest, "\r\n") != "" {
		c.t.Fatalf("got %q; want the end", shorten([]byte(rest)))
	}
}

// frame reads the next frame: "o", "h", "a[…]", "c[…]". At the end it is empty.
func (c *sockJSClient) frame(transport string) string {
	c.t.Helper()
	defer c.reading()()
	for {
		line, err := c.stream.ReadString('\n')
		if err != nil {
			if err != io.EOF || line != "" {
				c.t.Fatalf("%q, %v", line, err)
			}
			return ""
		}
		if f := undress(c.t, transport, line); f != "" {
			return f
		}
	}
}

// undress takes away what a transport puts around a frame. What is not a line
// with a frame is empty.
func undress(t *testing.T, transport, line string) (frame string) {
	t.Helper()
	line = strings.TrimRight(line, "\r\n")
	var quoted string
	switch transport {
	case "xhr", "xhr_streaming":
		if strings.HasPrefix(line, "hhh") {
			return ""
		}
		return line
	case "eventsource":
		data, ok := strings.CutPrefix(line, "data: ")
		if !ok {
			return ""
		}
		frame, err := url.PathUnescape(data)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		return frame
	case "htmlfile":
		if !strings.HasPrefix(line, "p(") {
			return ""
		}
		quoted = strings.TrimSuffix(strings.TrimPrefix(line, "p("), ");")
	case "jsonp":
		quoted = strings.TrimSuffix(strings.TrimPrefix(line, "/**/call("), ");")
	}
	if err := json.Unmarshal([]byte(quoted), &frame); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	return frame
}

// receive returns the next object, from as many requests as it takes, and
// begins one if none is under way.
func (c *sockJSClient) receive(transport string) []string {
	c.t.Helper()
	for range 1000 {
		if c.coming == nil {
			c.receiveOver(transport)
		}
		switch f := c.frame(transport); {
		case f == "":
			c.coming = nil
		case f[0] == 'a':
			return objects(c.t, f)
		case f != "o" && f != "h":
			c.t.Fatalf("got %q", f)
		}
	}
	c.t.Fatal("nothing came in 1000 requests")
	return nil
}

// objects are those of a frame a[…].
func objects(t *testing.T, frame string) (list []string) {
	t.Helper()
	if err := json.Unmarshal([]byte(strings.TrimPrefix(frame, "a")), &list); err != nil {
		t.Fatalf("%q: %v", shorten([]byte(frame)), err)
	}
	return list
}

// receiveN returns the next n objects.
func (c *sockJSClient) receiveN(transport string, n int) (list []string) {
	c.t.Helper()
	for len(list) < n {
		list = append(list, c.receive(transport)...)
	}
	return list
}

// send sends objects over xhr_send.
func (c *sockJSClient) send(objects ...string) {
	c.t.Helper()
	body, err := json.Marshal(objects)
	if err != nil {
		c.t.Fatal(err)
	}
	if status, answer, _ := c.ask(http.MethodPost, "/xhr_send", string(body)); status != http.StatusNoContent {
		c.t.Fatalf("sending: status %d: %s", status, answer)
	}
}

const (
	metaConnect   = `{"channel":"/meta/connect","uuid":"1","agentId":"a"}`
	metaSubscribe = `{"channel":"/meta/subscribe","uuid":"2","data":{"channel":"room"}}`
)

// connect opens the session, connects and subscribes to the channel room.
func (c *sockJSClient) connect(transport string) {
	c.t.Helper()
	c.receiveOver(transport)
	if f := c.frame(transport); f != "o" {
		c.t.Fatalf("the session begins with %q", f)
	}
	c.send(metaConnect, metaSubscribe)
	for _, answer := range c.receiveN(transport, 2) {
		if !strings.Contains(answer, `"successful":true`) {
			c.t.Fatalf("answer %s", answer)
		}
	}
}

// publish publishes data on the channel room.
func (c *sockJSClient) publish(data any) {
	c.t.Helper()
	c.send(publication(c.t, data))
}

func publication(t *testing.T, data any) string {
	t.Helper()
	text, err := json.Marshal(data)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf(`{"channel":"room","uuid":%q,"data":%s}`, uuid.NewString(), text)
}

// messages returns the data of the next n messages; answers are left out.
func (c *sockJSClient) messages(transport string, n int) (data []string) {
	c.t.Helper()
	for len(data) < n {
		for _, object := range c.receive(transport) {
			if d, ok := dataOf(c.t, object); ok {
				data = append(data, d)
			}
		}
	}
	return data
}

// dataOf returns the data of an object that is a message.
func dataOf(t *testing.T, object string) (data string, ok bool) {
	t.Helper()
	var m struct {
		Channel string          `json:"channel"`
		Data    json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal([]byte(object), &m); err != nil {
		t.Fatalf("%q: %v", object, err)
	}
	return string(m.Data), !strings.HasPrefix(m.Channel, "/meta/")
}
