// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package pushit_test

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/push-it/pushit/hub"
)

// An agent is a WebSocket client as the tests need one: it fails its test when
// something else comes than it expects, and when nothing comes.
type agent struct {
	t    *testing.T
	conn net.Conn
	from *bufio.Reader
	kept []object // what came, but was not asked for yet
}

// uuids counts the frames of all agents, so that none is taken for a repeated one.
var uuids atomic.Int64

// The opcodes of WebSocket frames (RFC 6455, section 5.2).
const (
	opText  = 1
	opClose = 8
	opPing  = 9
	opPong  = 10
)

// upgrade asks for a WebSocket at path. It returns the agent when it gets one,
// and otherwise the response, whose body it has closed.
func (s site) upgrade(path string, header http.Header) (*agent, *http.Response) {
	s.t.Helper()
	conn, err := s.dial(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close() }) // it may be closed already
	_ = conn.SetDeadline(time.Now().Add(patience))

	r, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, "http://"+s.host+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	maps.Copy(r.Header, header)
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", "websocket")
	r.Header.Set("Sec-WebSocket-Version", "13")
	r.Header.Set("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==") // of RFC 6455, section 1.3
	if err := r.Write(conn); err != nil {
		s.t.Fatal(err)
	}
	from := bufio.NewReader(conn)
	resp, err := http.ReadResponse(from, r)
	if err != nil {
		s.t.Fatal(err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		_ = resp.Body.Close()
		return nil, resp
	}
	if got, want := resp.Header.Get("Sec-WebSocket-Accept"), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="; got != want {
		s.t.Errorf("Sec-WebSocket-Accept = %q, want %q", got, want)
	}
	return &agent{t: s.t, conn: conn, from: from}, resp
}

// connect opens a session at path, of bare JSON, and connects.
func (s site) connect(path string, header http.Header) *agent {
	s.t.Helper()
	a, resp := s.upgrade(path, header)
	if a == nil {
		s.t.Fatalf("upgrading at %s: status %d", path, resp.StatusCode)
	}
	a.request("/meta/connect", object{"credentials": nil})
	return a
}

// open opens a session at path, of bare JSON, and connects with the credentials.
// It returns the answer too.
func (s site) open(path string, header http.Header, credentials any) (*agent, object) {
	s.t.Helper()
	a, resp := s.upgrade(path, header)
	if a == nil {
		s.t.Fatalf("upgrading at %s: status %d", path, resp.StatusCode)
	}
	return a, a.ask("/meta/connect", object{"credentials": credentials})
}

// ask sends a frame and returns its answer. A message that comes before, the
// agent's own perhaps, is kept for receive.
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

// wantAllowed wants the subscription or publication to be allowed.
func (a *agent) wantAllowed(f object) {
	a.t.Helper()
	if f["successful"] != true && f["channel"] != "/meta/successful" {
		a.t.Errorf("answered with %v, want it allowed", f)
	}
}

// wantRefused wants it to be refused with that code.
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

// request sends a frame of a /meta/ channel and wants it to be successful.
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
	text, err := json.Marshal(object{"channel": channel, "uuid": uuid, "agentId": "tester", "data": data})
	if err != nil {
		a.t.Fatal(err)
	}
	a.write(opText, text)
	return uuid
}

// publish publishes and wants that to be acknowledged. A message that comes before
// the acknowledgement, the agent's own perhaps, is kept for receive.
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

// wantMessage wants the next frame to be that message.
func (a *agent) wantMessage(channel string, data any) {
	a.t.Helper()
	a.wantInAnyOrder(isMessage(channel, data))
}

// wantEnded wants the next frame to tell that the server has ended a subscription.
func (a *agent) wantEnded(channel string, code hub.Code) {
	a.t.Helper()
	a.wantInAnyOrder(isEnded(channel, code))
}

// An expectation is what a frame is to be.
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

// wantInAnyOrder wants the next frames to be these, in any order, and no other
// between them.
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

// wantCut wants the session to be ended by policy, and the page told to come back.
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

// wantClose wants the session to be ended by the server, with that code in its
// notice and in the close frame.
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
	if op != opClose || len(payload) < 2 || int(binary.BigEndian.Uint16(payload)) != code {
		a.t.Fatalf("got opcode %d and %q, want a close frame with %d", op, payload, code)
	}
	a.write(opClose, payload[:2])
	if _, err := a.from.ReadByte(); err != io.EOF {
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

// receiveText returns the next text message, and answers pings before it.
func (a *agent) receiveText() []byte {
	a.t.Helper()
	for {
		switch op, payload := a.read(); op {
		case opText:
			return payload
		case opPing:
			a.write(opPong, payload)
		default:
			a.t.Fatalf("got opcode %d and %q, want text", op, payload)
		}
	}
}

// read reads one WebSocket frame. The server sends none in fragments.
func (a *agent) read() (op byte, payload []byte) {
	a.t.Helper()
	var head [10]byte
	a.must(io.ReadFull(a.from, head[:2]))
	if head[0]&0xf0 != 0x80 || head[1]&0x80 != 0 {
		a.t.Fatalf("frame head % x: want it whole and not masked", head[:2])
	}
	n := uint64(head[1])
	switch n {
	case 126:
		a.must(io.ReadFull(a.from, head[2:4]))
		n = uint64(binary.BigEndian.Uint16(head[2:]))
	case 127:
		a.must(io.ReadFull(a.from, head[2:10]))
		n = binary.BigEndian.Uint64(head[2:])
	}
	payload = make([]byte, n)
	a.must(io.ReadFull(a.from, payload))
	return head[0] & 0x0f, payload
}

// write writes one WebSocket frame, masked as those of clients have to be.
func (a *agent) write(op byte, payload []byte) {
	a.t.Helper()
	mask := [4]byte{1, 2, 3, 4}
	frame := []byte{0x80 | op}
	switch n := len(payload); {
	case n < 126:
		frame = append(frame, 0x80|byte(n))
	case n < 1<<16:
		frame = binary.BigEndian.AppendUint16(append(frame, 0x80|126), uint16(n))
	default:
		frame = binary.BigEndian.AppendUint64(append(frame, 0x80|127), uint64(n))
	}
	frame = append(frame, mask[:]...)
	for i, c := range payload {
		frame = append(frame, c^mask[i%4])
	}
	a.must(a.conn.Write(frame))
}

func (a *agent) must(_ int, err error) {
	a.t.Helper()
	if err != nil {
		a.t.Fatal(err)
	}
}
