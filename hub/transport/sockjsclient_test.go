// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/push-it/pushit/internal/wireclient"
)

// patience is how long a test waits for an event.
const patience = 20 * time.Second

// A sockJSClient is a session of a client of SockJS's fallback transports. It fails its test if
// it does not get what it expects.
type sockJSClient struct {
	wireclient.Fallback
	t *testing.T
}

// newSockJSClient returns the client of a session of its own, at the endpoint /push.
func newSockJSClient(t *testing.T, s *httptest.Server) *sockJSClient {
	return &sockJSClient{t: t, Fallback: wireclient.Fallback{
		HTTP: s.Client(), URL: wireclient.NewSession(s.URL + "/push"),
		Header: http.Header{}, Page: "/page?x=1", Patience: patience,
	}}
}

// ask makes a request and returns the whole answer.
func (c *sockJSClient) ask(method, path, body string) (status int, answer string, h http.Header) {
	c.t.Helper()
	resp, err := c.Do(c.t.Context(), method, path, body)
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

// receiveOver begins a request to receive. It does not end an earlier one.
func (c *sockJSClient) receiveOver(transport string) {
	c.t.Helper()
	c.Transport = transport
	c.t.Cleanup(c.Begin(c.t.Context()).Cancel)
}

// response waits for the response to the request to receive.
func (c *sockJSClient) response() *http.Response {
	c.t.Helper()
	resp, err := c.Stream().Response()
	if err != nil {
		c.t.Fatal(err)
	}
	return resp
}

// abort cancels the request to receive.
func (c *sockJSClient) abort() { c.Stream().Cancel() }

// finish reads the rest of the response, if there is one.
func (c *sockJSClient) finish() {
	c.t.Helper()
	if c.Receiving() {
		c.all()
		c.GiveUp()
	}
}

// want reads exactly this text.
func (c *sockJSClient) want(text string) {
	c.t.Helper()
	got := make([]byte, len(text))
	n, err := io.ReadFull(c.Stream(), got)
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

// all reads and returns the rest of the response.
func (c *sockJSClient) all() string {
	c.t.Helper()
	text, err := io.ReadAll(c.Stream())
	if err != nil {
		c.t.Fatal(err)
	}
	return string(text)
}

// wantEnd wants nothing more to come but what stands behind a frame.
func (c *sockJSClient) wantEnd() {
	c.t.Helper()
	if rest := strings.TrimPrefix(c.all(), "</script>"); strings.Trim(rest, "\r\n") != "" {
		c.t.Fatalf("got %q; want the end", shorten([]byte(rest)))
	}
}

// frame reads the next frame: "o", "h", "a[…]", "c[…]". At the end it is empty.
func (c *sockJSClient) frame() string {
	c.t.Helper()
	frame, err := c.Stream().Frame()
	if err != nil && !errors.Is(err, wireclient.ErrEnded) {
		c.t.Fatal(err)
	}
	return frame
}

// undress removes what a transport puts around a frame.
func undress(t *testing.T, transport, line string) (frame string) {
	t.Helper()
	frame, err := wireclient.Undress(transport, line)
	if err != nil {
		t.Fatal(err)
	}
	return frame
}

// receive returns the next object, from as many requests as it takes, and
// begins one if none is under way.
func (c *sockJSClient) receive(transport string) []string {
	c.t.Helper()
	for range 1000 {
		if !c.Receiving() {
			c.receiveOver(transport)
		}
		switch f := c.frame(); {
		case f == "":
			c.GiveUp()
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
func objects(t *testing.T, frame string) []string {
	t.Helper()
	list, err := wireclient.Objects(frame)
	if err != nil {
		t.Fatal(err)
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
	if f := c.frame(); f != "o" {
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
