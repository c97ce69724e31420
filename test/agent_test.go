// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/internal/wireclient"
)

// An agent is a WebSocket client. It fails its test if it gets something unexpected, or
// nothing.
type agent struct {
	t    *testing.T
	ws   *wireclient.WebSocket
	conn net.Conn // the connection of ws
	kept []object // received, but not asked for yet
}

// A patientConn bounds each Read and Write, not all of them together: how long a test
// takes depends on the machine.
type patientConn struct{ net.Conn }

func (c patientConn) Read(p []byte) (int, error) {
	_ = c.SetReadDeadline(time.Now().Add(fallbackPatience)) // if it fails, reading fails too
	return c.Conn.Read(p)
}

func (c patientConn) Write(p []byte) (int, error) {
	_ = c.SetWriteDeadline(time.Now().Add(fallbackPatience)) // if it fails, writing fails too
	return c.Conn.Write(p)
}

// uuids counts the frames of all agents, so that no two frames have the same uuid.
var uuids atomic.Int64

// upgrade asks for a WebSocket at path. It returns the agent, or, if there is none, the
// response, whose body it has closed.
func (s site) upgrade(path string, header http.Header) (*agent, *http.Response) {
	s.t.Helper()
	conn, err := s.dial(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close() }) // it may be closed already
	conn = patientConn{conn}
	ws, resp, err := wireclient.Open(conn, &wireclient.Upgrade{Host: s.host, Path: path, Header: header})
	switch {
	case resp == nil:
		s.t.Fatal(err)
	case ws == nil:
		_ = resp.Body.Close() // the test needs only the status
		if resp.StatusCode == http.StatusSwitchingProtocols {
			s.t.Fatal(err)
		}
		return nil, resp
	}
	return &agent{t: s.t, ws: ws, conn: conn}, resp
}

// connect opens a session of bare JSON at path, and connects.
func (s site) connect(path string, header http.Header) *agent {
	s.t.Helper()
	a, resp := s.upgrade(path, header)
	if a == nil {
		s.t.Fatalf("upgrading at %s: status %d", path, resp.StatusCode)
	}
	a.request("/meta/connect", object{"credentials": nil})
	return a
}

// open opens a session of bare JSON at path, and connects with the credentials. It also
// returns the answer.
func (s site) open(path string, header http.Header, credentials any) (*agent, object) {
	s.t.Helper()
	a, resp := s.upgrade(path, header)
	if a == nil {
		s.t.Fatalf("upgrading at %s: status %d", path, resp.StatusCode)
	}
	return a, a.ask("/meta/connect", object{"credentials": credentials})
}

// ask sends a frame and returns its answer. It keeps messages that come first for
// receive.
func (a *agent) ask(channel string, data any) object {
	a.t.Helper()
	uuid := a.send(channel, data)
	var before []object
	for {
		f := a.receive()
		if f["uuid"] == uuid && f["channel"] != channel || f["successful"] != nil {
			a.kept = before
			return f
		}
		before = append(before, f)
	}
}

// wantAllowed checks that the subscription or publication is allowed.
func (a *agent) wantAllowed(f object) {
	a.t.Helper()
	if f["successful"] != true && f["channel"] != "/meta/successful" {
		a.t.Errorf("answered with %v, want it allowed", f)
	}
}

// wantRefused checks that it is refused with that code.
func (a *agent) wantRefused(f object, code hub.Code) {
	a.t.Helper()
	if f["successful"] == true || f["channel"] == "/meta/successful" || f["code"] != string(code) {
		a.t.Errorf("answered with %v, want it refused with the code %s", f, code)
	}
}

// askToSubscribe subscribes and returns the answer.
func (a *agent) askToSubscribe(channel string) object {
	a.t.Helper()
	return a.ask("/meta/subscribe", object{"channel": channel})
}

// subscribe subscribes to a channel.
func (a *agent) subscribe(channel string) *agent {
	a.t.Helper()
	a.request("/meta/subscribe", object{"channel": channel})
	return a
}

// request sends a frame to a /meta/ channel, which must succeed.
func (a *agent) request(channel string, data any) {
	a.t.Helper()
	uuid := a.send(channel, data)
	f := a.receive()
	if f["channel"] != channel || f["uuid"] != uuid || f["successful"] != true {
		a.t.Fatalf("%s was answered with %v", channel, f)
	}
}

// send sends a frame and returns its uuid.
func (a *agent) send(channel string, data any) (uuid string) {
	a.t.Helper()
	uuid = "u" + strconv.FormatInt(uuids.Add(1), 10)
	a.sendAs(uuid, channel, data)
	return uuid
}

// sendAs is send with a uuid.
func (a *agent) sendAs(uuid, channel string, data any) {
	a.t.Helper()
	text, err := json.Marshal(object{"channel": channel, "uuid": uuid, "agentId": "tester", "data": data})
	if err != nil {
		a.t.Fatal(err)
	}
	a.write(wireclient.OpText, text)
}

// publish publishes, and waits until it is acknowledged. It keeps messages that come
// first for receive.
func (a *agent) publish(channel string, data any) {
	a.t.Helper()
	uuid := a.send(channel, data)
	var before []object
	for {
		f := a.receive()
		if f["channel"] == "/meta/successful" && f["uuid"] == uuid {
			a.kept = before
			return
		}
		if f["data"] == nil {
			a.t.Fatalf("publishing on %s was answered with %v", channel, f)
		}
		before = append(before, f)
	}
}

// wantMessage checks that the next frame is that message.
func (a *agent) wantMessage(channel string, data any) {
	a.t.Helper()
	a.wantInAnyOrder(isMessage(channel, data))
}

// wantEnded checks that the next frame says that the server has ended a subscription.
func (a *agent) wantEnded(channel string, code hub.Code) {
	a.t.Helper()
	a.wantInAnyOrder(isEnded(channel, code))
}

// An expectation describes a frame.
type expectation struct {
	text string
	is   func(object) bool
}

func isMessage(channel string, data any) expectation {
	return expectation{
		fmt.Sprintf("%v on %s", data, channel),
		func(f object) bool { return f["channel"] == channel && f["data"] == data },
	}
}

func isEnded(channel string, code hub.Code) expectation {
	return expectation{
		fmt.Sprintf("the end of the subscription to %s, with the code %s", channel, code),
		func(f object) bool {
			data, _ := f["data"].(object)
			return f["channel"] == "/meta/unsubscribe" && data["channel"] == channel && f["code"] == string(code)
		},
	}
}

// wantInAnyOrder checks that the next frames are these, in any order.
func (a *agent) wantInAnyOrder(want ...expectation) {
	a.t.Helper()
	for len(want) > 0 {
		f := a.receive()
		i := slices.IndexFunc(want, func(e expectation) bool { return e.is(f) })
		if i < 0 {
			a.t.Fatalf("got %v, want %s", f, want[0].text)
		}
		want = slices.Delete(want, i, i+1)
	}
}

// wantCut checks that a policy ends the session, and that the page is told to come back.
func (a *agent) wantCut() (reason string) {
	a.t.Helper()
	f := a.receive()
	if retry, _ := f["retry"].(float64); f["channel"] != "/meta/close" || f["code"] != float64(hub.CloseCut) || retry < 1000 {
		a.t.Fatalf("got %v, want /meta/close with %d and a retry", f, hub.CloseCut)
	}
	a.wantCloseFrame(int(hub.CloseCut))
	reason, _ = f["error"].(string)
	return reason
}

// wantClose checks that the server ends the session, with that code in the notice and in
// the close frame.
func (a *agent) wantClose(code int) {
	a.t.Helper()
	if f := a.receive(); f["channel"] != "/meta/close" || f["code"] != float64(code) {
		a.t.Fatalf("got %v, want /meta/close with %d", f, code)
	}
	a.wantCloseFrame(code)
}

func (a *agent) wantCloseFrame(code int) {
	a.t.Helper()
	op, payload := a.read()
	if op != wireclient.OpClose || len(payload) < 2 || int(binary.BigEndian.Uint16(payload)) != code {
		a.t.Fatalf("got opcode %d and %q, want a close frame with %d", op, payload, code)
	}
	a.write(wireclient.OpClose, payload[:2])
	if _, _, err := a.ws.ReadFrame(); !errors.Is(err, io.EOF) {
		a.t.Errorf("after the close frames: %v, want EOF", err)
	}
}

// receive returns the next frame that is JSON.
func (a *agent) receive() object {
	a.t.Helper()
	if len(a.kept) > 0 {
		f := a.kept[0]
		a.kept = a.kept[1:]
		return f
	}
	text := a.receiveText()
	var f object
	if err := json.Unmarshal(text, &f); err != nil {
		a.t.Fatalf("%s: %v", text, err)
	}
	return f
}

// receiveText returns the next text message, and answers pings that come first. The text
// is valid until the next call.
func (a *agent) receiveText() []byte {
	a.t.Helper()
	text, err := a.ws.Read()
	if err != nil {
		a.t.Fatalf("got %v, want text", err)
	}
	return text
}

// read reads one WebSocket frame, and answers nothing. The payload is valid until the
// next call.
func (a *agent) read() (op byte, payload []byte) {
	a.t.Helper()
	op, payload, err := a.ws.ReadFrame()
	if err != nil {
		a.t.Fatal(err)
	}
	return op, payload
}

// write writes one WebSocket frame.
func (a *agent) write(op byte, payload []byte) {
	a.t.Helper()
	if err := a.ws.Write(op, payload); err != nil {
		a.t.Fatal(err)
	}
}
