// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/push-it/pushit/hub"
)

// startSession runs a session on one end of an in-memory connection and returns
// the other. It must be called in a synctest bubble.
func startSession(t *testing.T, sockJS bool, a *fakeAgent, early ...[]byte) *peer {
	ours, theirs := net.Pipe()
	go newWSReader(ours, a, sockJS, defaultTimes).run(join(early...))
	synctest.Wait() // the agent has its Conn
	p := newPeer(t, theirs)
	if sockJS {
		p.want(opText, "o")
	}
	return p
}

// smallLimits allow 1,100 bytes a frame.
var smallLimits = hub.Limits{MessageSize: 1100, CredentialsSize: 10}

func TestMessagesReachTheAgent(t *testing.T) {
	for _, tc := range []struct {
		name   string
		sockJS bool
		in     [][]byte
		want   []string
	}{
		{"bare", false, [][]byte{text(`{"a":1}`), frame(opText, false, `{"b"`), frame(opContinuation, true, `:2}`)}, []string{`{"a":1}`, `{"b":2}`}},
		{"bare, what the hub is to judge", false, [][]byte{text(`[1,2]`), text(``), text(`garbage`)}, []string{`[1,2]`, ``, `garbage`}},
		{"SockJS", true, [][]byte{text(`["{\"a\":1}"]`), text(`["1","2"]`), text(`"3"`), frame(opText, false, `["4`), frame(opContinuation, true, `"]`)}, []string{`{"a":1}`, `1`, `2`, `3`, `4`}},
		{"SockJS, nothing", true, [][]byte{text(``), text(`[]`), text(`["after"]`)}, []string{`after`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newFakeAgent(smallLimits)
				p := startSession(t, tc.sockJS, a)
				p.send(tc.in...)
				p.send(closing(1000, ""))
				p.wantClose(1000, "")
				p.wantEnd()
				if got, want := <-a.left, "the peer closed: 1000"; got != want {
					t.Errorf("left: %q, want %q", got, want)
				}
				if got := a.messages(); !slices.Equal(got, tc.want) {
					t.Errorf("received %q, want %q", got, tc.want)
				}
				if a.touched == 0 {
					t.Error("the agent was not told that its peer lives")
				}
			})
		})
	}
}

func TestBytesBehindTheHandshakeAreHandled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFakeAgent(smallLimits)
		whole := join(text("first"), text("second"))
		p := startSession(t, false, a, whole[:13])
		p.send(whole[13:], frame(opClose, true, ""))
		p.want(opClose, "")
		p.wantEnd()
		<-a.left
		if got, want := a.messages(), []string{"first", "second"}; !slices.Equal(got, want) {
			t.Errorf("received %q, want %q", got, want)
		}
	})
}

// A message over the limit does not affect others. The agent gets its beginning, and all
// messages before and after it.
func TestMessagesTooLargeCostOnlyThemselves(t *testing.T) {
	x := strings.Repeat("x", 100<<10)
	frameOf := func(data string) string { return `{"channel":"c","uuid":"u","data":"` + data + `"}` }
	array := func(s string) string { return string(mustJSON(t, []string{s})) }
	for name, tc := range map[string]struct {
		sockJS bool
		in     []byte
		begins string // what the agent gets of it
	}{
		"bare":                  {false, text(frameOf(x)), `{"channel":"c","uuid":"u","data":"xxx`},
		"bare, in fragments":    {false, join(frame(opText, false, frameOf(x[:2000])), frame(opContinuation, false, x[:50_000]), frame(opContinuation, true, x)), `{"channel":"c","uuid":"u","data":"xxx`},
		"SockJS":                {true, text(array(frameOf(x))), `{"channel":"c","uuid":"u","data":"xxx`},
		"SockJS, one string":    {true, text(array(frameOf(x))[1:]), `{"channel":"c","uuid":"u","data":"xxx`},
		"SockJS, of escapes":    {true, text(array(frameOf("xxx" + strings.Repeat(`\"`, 50<<10)))), `{"channel":"c","uuid":"u","data":"xxx`},
		"SockJS, of emoji":      {true, text(array(frameOf("xxx" + strings.Repeat("😀", 50<<10)))), `{"channel":"c","uuid":"u","data":"xxx`},
		"SockJS, of garbage":    {true, text(x), ""},
		"not UTF-8, at the end": {false, text(frameOf(x) + "\xff"), `{"channel":"c","uuid":"u","data":"xxx`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newFakeAgent(smallLimits)
				p := startSession(t, tc.sockJS, a)
				small := func(s string) []byte {
					if tc.sockJS {
						s = array(s)
					}
					return text(s)
				}
				p.send(small("before"), tc.in, small("after"), closing(1000, ""))
				p.wantClose(1000, "")
				p.wantEnd()
				<-a.left
				got := a.messages()
				if len(got) != 3 || got[0] != "before" || !strings.HasPrefix(got[1], "too large: "+tc.begins) || got[2] != "after" {
					t.Errorf("received %.200q", got)
				}
			})
		})
	}
}

// inCloseFrame returns the code in the close frame for a violation: that of RFC 6455, section
// 7.4.1, if it has one.
func inCloseFrame(code hub.CloseCode, reason string) hub.CloseCode {
	switch reason {
	case errReserved.Error(), errOpcode.Error(), errUnmasked.Error(), errBigControl.Error(), errLength.Error(),
		errNoMessage.Error(), errInMessage.Error(), errClose.Error():
		return 1002
	case errBinary.Error():
		return 1003
	case errNotUTF8.Error():
		return 1007
	}
	if code == hub.CloseTooLarge {
		return 1009
	}
	return code
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Each violation is answered with a code and a sentence. Then the session ends, whatever else
// the peer sends.
func TestViolationsAreTold(t *testing.T) {
	x := strings.Repeat("x", 1<<12)
	pings := make([][]byte, idleBurst+1)
	empties := make([][]byte, idleBurst+1)
	nothings := make([][]byte, idleBurst+1)
	fragments := [][]byte{frame(opText, false, "")}
	for i := range pings {
		pings[i], empties[i], nothings[i] = frame(opPong, true, ""), text(""), text("[]")
		fragments = append(fragments, frame(opContinuation, false, ""))
	}
	const tooLarge = "a message may have at most 3224 bytes here"
	for _, tc := range []struct {
		name   string
		sockJS bool
		in     []byte
		code   hub.CloseCode
		reason string
	}{
		{"announced too large", false, rawFrame(opText, true, 1<<40, x[:9]), hub.CloseTooLarge, tooLarge},
		{"fragments announced too large", false, join(frame(opText, false, x[:1100]), rawFrame(opContinuation, true, maxSkipped, "x")), hub.CloseTooLarge, tooLarge},
		{"SockJS announced too large", true, rawFrame(opText, true, maxSkipped+1, `["x`), hub.CloseTooLarge, tooLarge},
		{"SockJS strings too many", true, text("[" + strings.Repeat(`"",`, maxStrings) + `""]`), hub.CloseInvalid, errStrings.Error()},
		{"SockJS numbers", true, text(`[1,2]`), hub.CloseInvalid, errNotSockJS.Error()},
		{"SockJS object, but not first", true, join(text("[]"), text(`{"a":1}`)), hub.CloseInvalid, errNotSockJS.Error()},
		{"SockJS garbage", true, text(`garbage`), hub.CloseInvalid, errNotSockJS.Error()},
		{"SockJS half an array", true, text(`["a"`), hub.CloseInvalid, errNotSockJS.Error()},
		{"SockJS trailing bytes", true, text(`["a"]x`), hub.CloseInvalid, errNotSockJS.Error()},
		{"SockJS lone surrogate", true, text(`["\ud800"]`), hub.CloseInvalid, errNotSockJS.Error()},
		{"SockJS good then bad", true, text(`["good",1]`), hub.CloseInvalid, errNotSockJS.Error()},
		{"unmasked", false, []byte("\x81\x05hello"), hub.CloseInvalid, errUnmasked.Error()},
		{"not WebSocket at all", false, []byte("POST / HTTP/1.1\r\n\r\n"), hub.CloseInvalid, errReserved.Error()},
		{"compressed", false, []byte("\xc1\x81abcdx"), hub.CloseInvalid, errReserved.Error()},
		{"unknown opcode", false, frame(3, true, ""), hub.CloseInvalid, errOpcode.Error()},
		{"binary", false, frame(opBinary, true, "x"), hub.CloseInvalid, errBinary.Error()},
		{"invalid UTF-8", false, text("\xff"), hub.CloseInvalid, errNotUTF8.Error()},
		{"SockJS invalid UTF-8", true, text("[\"\xff\"]"), hub.CloseInvalid, errNotUTF8.Error()},
		{"continuation of nothing", false, frame(opContinuation, true, ""), hub.CloseInvalid, errNoMessage.Error()},
		{"message within a message", false, join(frame(opText, false, "a"), text("b")), hub.CloseInvalid, errInMessage.Error()},
		{"ping too large", false, frame(opPing, true, x[:126]), hub.CloseInvalid, errBigControl.Error()},
		{"ping in fragments", false, frame(opPing, false, ""), hub.CloseInvalid, errBigControl.Error()},
		{"length not the shortest", false, []byte("\x81\xfe\x00\x01abcdx"), hub.CloseInvalid, errLength.Error()},
		{"close with a reserved code", false, closing(1005, ""), hub.CloseInvalid, errClose.Error()},
		{"too many pongs", false, join(pings...), hub.CloseLimit, "too many pings, pongs or empty frames"},
		{"too many empty fragments", false, join(fragments...), hub.CloseLimit, "too many pings, pongs or empty frames"},
		{"SockJS too many empty messages", true, join(empties...), hub.CloseLimit, "too many pings, pongs or empty frames"},
		{"SockJS too many empty arrays", true, join(nothings...), hub.CloseLimit, "too many pings, pongs or empty frames"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newFakeAgent(smallLimits)
				p := startSession(t, tc.sockJS, a)
				go func() {
					_, _ = p.nc.Write(tc.in) // the end of the test ends it
					_, _ = p.nc.Write([]byte("whatever more"))
				}()
				if tc.sockJS {
					p.want(opText, fmt.Sprintf("c[%d,%q]", tc.code, tc.reason))
				}
				p.wantClose(inCloseFrame(tc.code, tc.reason), tc.reason)
				p.wantEnd()
				<-a.left
				if code, reason := a.closedWith(); code != tc.code || reason != tc.reason {
					t.Errorf("closed with %d %q, want %d %q", code, reason, tc.code, tc.reason)
				}
				if len(tc.reason) > 120 {
					t.Errorf("the sentence has %d bytes, more than a close frame is promised", len(tc.reason))
				}
				if got := a.messages(); len(got) > 0 {
					t.Errorf("received %.60q", got)
				}
			})
		})
	}
}

func TestPingIsAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFakeAgent(smallLimits)
		p := startSession(t, false, a)
		payload := strings.Repeat("p", maxControl)
		p.send(frame(opPing, true, payload))
		p.want(opPong, payload)
		p.send(frame(opText, false, "in the midst "), frame(opPing, true, ""))
		p.want(opPong, "")
		p.send(frame(opContinuation, true, "of a message"), frame(opPong, true, "unasked"), frame(opClose, true, ""))
		p.want(opClose, "")
		<-a.left
		if got, want := a.messages(), []string{"in the midst of a message"}; !slices.Equal(got, want) {
			t.Errorf("received %q, want %q", got, want)
		}
	})
}

func TestPingsAtABearableRateAreBorne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFakeAgent(smallLimits)
		p := startSession(t, false, a)
		for range 10 * idleBurst {
			p.send(frame(opPing, true, ""))
			p.want(opPong, "")
			time.Sleep(time.Second / idlePerSecond) // the bubble's clock
		}
		p.send(frame(opClose, true, ""))
		p.want(opClose, "")
		<-a.left
	})
}

func TestAMessageHasItsTime(t *testing.T) {
	message := defaultTimes.message
	late := func(t *testing.T, p *peer, a *fakeAgent, began time.Time, slack time.Duration) {
		t.Helper()
		p.wantClose(hub.CloseTimeout, "a message took too long to arrive whole")
		if took := time.Since(began); took < message || took > message+slack {
			t.Errorf("closed after %v, want %v", took, message)
		}
		_ = p.nc.Close()
		<-a.left
	}
	for _, tc := range []struct {
		name  string
		begin []byte
	}{
		{"half a header", text("hello")[:1]},
		{"half a payload", text("hello")[:8]},
		{"a fragment", frame(opText, false, "hello")},
		{"half a ping", frame(opPing, true, "hello")[:8]},
		{"behind a whole message", join(text("hello"), text("hello")[:4])},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newFakeAgent(smallLimits)
				p := startSession(t, false, a)
				p.send(tc.begin)
				late(t, p, a, time.Now(), 0)
			})
		})
	}
	t.Run("drips and pings give no more", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a := newFakeAgent(smallLimits)
			p := startSession(t, false, a)
			began := time.Now()
			p.send(frame(opText, false, "hello"))
			go func() {
				for time.Since(began) < message-time.Second {
					time.Sleep(time.Second)
					if _, err := p.nc.Write(join(frame(opPong, true, ""), frame(opContinuation, false, "x"))); err != nil {
						t.Error(err)
						return
					}
				}
			}()
			late(t, p, a, began, 0)
		})
	})
	t.Run("each has its own, and idleness all the time", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a := newFakeAgent(smallLimits)
			p := startSession(t, false, a)
			for range 5 {
				p.send(text("hello")[:3])
				time.Sleep(message - time.Second)
				p.send(text("hello")[3:], text("next")[:2])
				time.Sleep(message - time.Second)
				p.send(text("next")[2:])
				time.Sleep(10 * message)
			}
			p.send(frame(opClose, true, ""))
			p.want(opClose, "")
			<-a.left
			if got := a.messages(); len(got) != 10 {
				t.Errorf("received %q", got)
			}
		})
	})
}

func TestHubCloses(t *testing.T) {
	t.Parallel()
	t.Run("and the peer answers", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a := newFakeAgent(smallLimits)
			p := startSession(t, true, a)
			a.Close(hub.CloseSlow, `too "slow"`, 0)
			p.want(opText, `c[4430,"too \"slow\""]`)
			p.wantClose(hub.CloseSlow, `too "slow"`)
			began := time.Now()
			p.send(text(`["late"]`), closing(4430, ""))
			p.wantEnd()
			if reason := <-a.left; reason != "the peer closed: 4430" || time.Since(began) > 0 {
				t.Errorf("left: %q after %v", reason, time.Since(began))
			}
		})
	})
	t.Run("and the peer is silent", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a := newFakeAgent(smallLimits)
			p := startSession(t, false, a)
			a.Close(hub.CloseCut, "cut", 0)
			p.wantClose(hub.CloseCut, "cut")
			began := time.Now()
			p.wantEnd()
			if reason, took := <-a.left, time.Since(began); reason != "the peer did not answer the close frame in time" || took != defaultTimes.closing {
				t.Errorf("left: %q after %v", reason, took)
			}
		})
	})
	t.Run("and the peer goes on talking", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a := newFakeAgent(smallLimits)
			p := startSession(t, false, a)
			a.Close(hub.CloseCut, "cut", 0)
			p.wantClose(hub.CloseCut, "cut")
			began := time.Now()
			for {
				// The deadline of the incomplete message must not replace the one of closing.
				if _, err := p.nc.Write(join(text("hello"), text("hello")[:3])); err != nil {
					break
				}
				time.Sleep(100 * time.Millisecond)
			}
			<-a.left
			if took := time.Since(began); took > defaultTimes.closing+100*time.Millisecond {
				t.Errorf("ended after %v, want %v", took, defaultTimes.closing)
			}
			if got := a.messages(); len(got) > 0 {
				t.Errorf("received %q", got)
			}
		})
	})
	t.Run("and the peer floods", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a := newFakeAgent(smallLimits)
			p := startSession(t, false, a)
			a.Close(hub.CloseCut, "cut", 0)
			p.wantClose(hub.CloseCut, "cut")
			flood, sent := make([]byte, 1<<20), 0
			for {
				n, err := p.nc.Write(flood)
				if sent += n; err != nil {
					break
				}
			}
			<-a.left
			if sent > maxDropped+2*readSize {
				t.Errorf("%d bytes were read, want %d at most", sent, maxDropped)
			}
		})
	})
	t.Run("and the peer reads nothing", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a := newFakeAgent(smallLimits)
			startSession(t, false, a)
			began := time.Now()
			a.Close(hub.CloseCut, "cut", 0)
			<-a.left
			if took := time.Since(began); took != defaultTimes.goodbye {
				t.Errorf("ended after %v, want %v", took, defaultTimes.goodbye)
			}
		})
	})
}

func TestAViolationWithoutAnEndEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFakeAgent(smallLimits)
		a.mute = true
		p := startSession(t, false, a)
		began := time.Now()
		p.send(text("\xff"))
		p.wantEnd()
		if reason, took := <-a.left, time.Since(began); reason != "the connection failed: "+errNoGoodbye.Error() || took != defaultTimes.notice {
			t.Errorf("left: %q after %v", reason, took)
		}
	})
}

func TestConnectionLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFakeAgent(smallLimits)
		p := startSession(t, false, a)
		p.send(text("hello")[:4])
		_ = p.nc.Close()
		if got, want := <-a.left, "the connection ended without a close frame"; got != want {
			t.Errorf("left: %q, want %q", got, want)
		}
	})
}

func TestPeerClosesWhileTheHubWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFakeAgent(smallLimits)
		p := startSession(t, false, a)
		a.Send(appendBare(nil, []byte("never read"))) // it blocks until the agent has left
		p.send(closing(1001, "going"))
		if got, want := <-a.left, "the peer closed: 1001"; got != want {
			t.Errorf("left: %q, want %q", got, want)
		}
		p.wantEnd() // a close frame in the midst of the other would be garbage
	})
}

// TestPeerClosesWhileAFrameIsWritten: the peer gets the whole frame, and then the answer to its
// close frame.
func TestPeerClosesWhileAFrameIsWritten(t *testing.T) {
	t.Parallel()
	for name, pair := range map[string]func(*testing.T) (net.Conn, net.Conn){
		"tcp": func(t *testing.T) (net.Conn, net.Conn) { return socketPair(t, "tcp") },
		"tls": tlsPair,
	} {
		t.Run(name, func(t *testing.T) {
			ours, theirs := pair(t)
			_ = theirs.SetDeadline(time.Now().Add(patience))
			long := *defaultTimes
			long.goodbye = patience
			a := newFakeAgent(hub.Limits{})
			go newWSReader(ours, a, false, &long).run(nil)
			p := newPeer(t, theirs)
			a.awaitStart(t)
			large := strings.Repeat("*", 16<<20) // more than any buffer between
			written := append(appendHeader(nil, opText, len(large)), large...)
			a.Send(written)
			head := make([]byte, 100)
			if _, err := io.ReadFull(theirs, head); err != nil {
				t.Fatal(err)
			}
			p.send(closing(1000, ""))
			a.awaitGone(t)
			if _, err := io.CopyN(io.Discard, theirs, int64(len(written)-len(head))); err != nil {
				t.Fatalf("the frame is not whole: %v", err)
			}
			p.wantClose(1000, "")
			if op, payload, err := p.read(); !errors.Is(err, io.EOF) {
				t.Errorf("behind the close frame: %x %q, %v; want the end", op, payload, err)
			}
			<-a.left
		})
	}
}

// TestPeerClosesAndDoesNotRead: if a peer does not read the frame, the write ends in time, and
// the connection is closed. TLS cannot announce the end inside a record.
func TestPeerClosesAndDoesNotRead(t *testing.T) {
	t.Parallel()
	for name, pair := range map[string]func(*testing.T) (net.Conn, net.Conn){
		"tcp": func(t *testing.T) (net.Conn, net.Conn) { return socketPair(t, "tcp") },
		"tls": tlsPair,
	} {
		t.Run(name, func(t *testing.T) {
			ours, theirs := pair(t)
			_ = theirs.SetDeadline(time.Now().Add(patience))
			short := *defaultTimes
			short.goodbye = 10 * time.Millisecond
			a := newFakeAgent(hub.Limits{})
			go newWSReader(ours, a, false, &short).run(nil)
			p := newPeer(t, theirs)
			a.awaitStart(t)
			large := strings.Repeat("*", 16<<20)
			a.Send(append(appendHeader(nil, opText, len(large)), large...))
			head := make([]byte, 100)
			if _, err := io.ReadFull(theirs, head); err != nil {
				t.Fatal(err)
			}
			p.send(closing(1000, ""))
			<-a.left
			// EOF ends Copy without an error. TLS misses its end, and says so.
			if _, err := io.Copy(io.Discard, theirs); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("the connection ends with %v", err)
			}
		})
	}
}
