// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/push-it/pushit/hub"
)

// An rfcCase is a case of the Autobahn test suite, with the behavior that it expects of a
// server that accepts only text.
type rfcCase struct {
	name     string // Autobahn's number of it, and more
	send     []byte
	messages []string      // that the agent gets
	pongs    []string      // that the peer gets
	closed   hub.CloseCode // in the close frame; closesNot if there is none by itself
	reason   bool          // the close frame has a reason too: the peer has broken a rule
}

// closesNot means that the session goes on, and the test ends it.
const closesNot hub.CloseCode = 1

// rfcCases are the cases of Autobahn's groups 1 to 7, and small ones of 9 and 10.
func rfcCases() []rfcCase {
	var all rfcList
	all.frames()
	all.fragments()
	all.utf8()
	all.closes()
	all.limits()
	return all
}

// An rfcList is a list of cases that grows.
type rfcList []rfcCase

func (all *rfcList) add(c rfcCase) { *all = append(*all, c) }

// fine adds a case in which the agent gets the messages, and the session goes on.
func (all *rfcList) fine(name string, send []byte, messages ...string) {
	all.add(rfcCase{name: name, send: send, messages: messages, closed: closesNot})
}

// wrong adds a case in which the peer breaks a rule after the messages.
func (all *rfcList) wrong(name string, code hub.CloseCode, send []byte, messages ...string) {
	all.add(rfcCase{name: name, send: send, messages: messages, closed: code, reason: true})
}

// echoed adds a case in which the peer closes.
func (all *rfcList) echoed(name string, code hub.CloseCode, send []byte, messages ...string) {
	all.add(rfcCase{name: name, send: send, messages: messages, closed: code})
}

// valid adds a case for each text, in hexadecimal, that is UTF-8.
func (all *rfcList) valid(group string, list ...string) {
	for i, h := range list {
		s := bytesOf(h)
		all.fine(fmt.Sprintf("%s.%d %s", group, i+1, h), text(s), s)
		all.fine(fmt.Sprintf("%s.%d %s, a fragment for each byte", group, i+1, h), octets(s), s)
	}
}

// invalid adds a case for each text, in hexadecimal, that is no UTF-8.
func (all *rfcList) invalid(group string, list ...string) {
	for i, h := range list {
		s := bytesOf(h)
		all.wrong(fmt.Sprintf("%s.%d %s", group, i+1, h), 1007, text(s))
		all.wrong(fmt.Sprintf("%s.%d %s, a fragment for each byte", group, i+1, h), 1007, octets(s))
	}
}

func withRSV(rsv byte, f []byte) []byte {
	f[0] |= rsv << 4
	return f
}

// octets is a message in fragments of one byte.
func octets(s string) (send []byte) {
	for i := range len(s) {
		op := byte(opContinuation)
		if i == 0 {
			op = opText
		}
		send = append(send, frame(op, i == len(s)-1, s[i:i+1])...)
	}
	return send
}

// bytesOf decodes bytes in hexadecimal.
func bytesOf(s string) string {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return string(b)
}

const (
	kosme      = "κόσμε"
	editedUTF8 = kosme + "\xed\xa0\x80edited" // not valid
)

// frames adds groups 1 to 4: framing, pings and pongs, reserved bits, opcodes.
func (all *rfcList) frames() {
	// 1: framing.
	for i, n := range []int{0, 125, 126, 127, 128, 65535, 65536} {
		all.fine(fmt.Sprintf("1.1.%d text of %d bytes", i+1, n), text(strings.Repeat("*", n)), strings.Repeat("*", n))
		all.wrong(fmt.Sprintf("1.2.%d binary of %d bytes", i+1, n), 1003, frame(opBinary, true, strings.Repeat("\xfe", n)))
	}

	// 2: pings and pongs.
	for i, payload := range []string{"", "Hello, world!", "\x00\xff\xfe\xfd\xfc\xfb\x00\xff", strings.Repeat("\xfe", 125)} {
		all.add(rfcCase{name: fmt.Sprintf("2.%d ping of %d bytes", i+1, len(payload)), send: frame(opPing, true, payload), pongs: []string{payload}, closed: closesNot})
	}
	all.wrong("2.5 ping of 126 bytes", 1002, frame(opPing, true, strings.Repeat("\xfe", 126)))
	all.fine("2.7 pong that nobody asked for", frame(opPong, true, ""))
	all.fine("2.8 pong with a payload that nobody asked for", frame(opPong, true, "unsolicited"))
	all.add(rfcCase{name: "2.9 pong, then ping", send: join(frame(opPong, true, "unsolicited"), frame(opPing, true, "ping")), pongs: []string{"ping"}, closed: closesNot})
	ten := rfcCase{name: "2.10 ten pings", closed: closesNot}
	for i := range 10 {
		ten.pongs = append(ten.pongs, fmt.Sprintf("payload-%d", i))
		ten.send = append(ten.send, frame(opPing, true, ten.pongs[i])...)
	}
	all.add(ten)

	// 3: reserved bits.
	all.wrong("3.1 RSV 1", 1002, withRSV(1, text("Hello, world!")))
	for rsv := range byte(3) {
		all.wrong(fmt.Sprintf("3.%d RSV %d behind a message", rsv+2, rsv+2), 1002, join(text("Hello, world!"), withRSV(rsv+2, text("Hello, world!")), frame(opPing, true, "")), "Hello, world!")
	}
	all.wrong("3.5 RSV 5 of binary", 1002, withRSV(5, frame(opBinary, true, "\x00\xff\xfe")))
	all.wrong("3.6 RSV 6 of a ping", 1002, withRSV(6, frame(opPing, true, "Hello, world!")))
	all.wrong("3.7 RSV 7 of a close", 1002, withRSV(7, closing(1000, "")))

	// 4: opcodes.
	for group, first := range map[int]byte{1: 3, 2: 11} {
		for i := range byte(5) {
			op, payload := first+i, ""
			if i%2 == 1 {
				payload = "reserved opcode payload"
			}
			all.wrong(fmt.Sprintf("4.%d.%d opcode %d", group, i+1, op), 1002, frame(op, true, payload))
			all.wrong(fmt.Sprintf("4.%d.%d opcode %d behind a message", group, i+1, op), 1002, join(text("Hello, world!"), frame(op, true, payload), frame(opPing, true, "")), "Hello, world!")
		}
	}
}

// fragments adds group 5.
func (all *rfcList) fragments() {
	all.wrong("5.1 ping in fragments", 1002, join(frame(opPing, false, "fragment1"), frame(opContinuation, true, "fragment2")))
	all.wrong("5.2 pong in fragments", 1002, join(frame(opPong, false, "fragment1"), frame(opContinuation, true, "fragment2")))
	all.fine("5.3 text in fragments", join(frame(opText, false, "fragment1"), frame(opContinuation, true, "fragment2")), "fragment1fragment2")
	all.add(rfcCase{
		name: "5.6 a ping between fragments", send: join(frame(opText, false, "fragment1"), frame(opPing, true, "ping"), frame(opContinuation, true, "fragment2")),
		messages: []string{"fragment1fragment2"}, pongs: []string{"ping"}, closed: closesNot,
	})
	all.wrong("5.9 the end of nothing", 1002, join(frame(opContinuation, true, "non-continuation payload"), text("Hello, world!")))
	all.wrong("5.12 the middle of nothing", 1002, join(frame(opContinuation, false, "non-continuation payload"), text("Hello, world!")))
	all.wrong("5.15 the middle of nothing, behind a message", 1002, join(frame(opText, false, "fragment1"), frame(opContinuation, true, "fragment2"), frame(opContinuation, false, "fragment3"), text("fragment4")), "fragment1fragment2")
	all.wrong("5.16 the middle of nothing, twice", 1002, join(frame(opContinuation, false, "fragment1"), frame(opText, false, "fragment2"), frame(opContinuation, true, "fragment3"), frame(opContinuation, false, "fragment4")))
	all.wrong("5.17 the end of nothing, twice", 1002, join(frame(opContinuation, true, "fragment1"), frame(opText, false, "fragment2"), frame(opContinuation, true, "fragment3"), frame(opContinuation, true, "fragment4")))
	all.wrong("5.18 both fragments are text", 1002, join(frame(opText, false, "fragment1"), frame(opText, true, "fragment2")))
	all.add(rfcCase{
		name: "5.19 pings between five fragments",
		send: join(frame(opText, false, "fragment1"), frame(opContinuation, false, "fragment2"), frame(opPing, true, "pongme 1!"),
			frame(opContinuation, false, "fragment3"), frame(opContinuation, false, "fragment4"), frame(opPing, true, "pongme 2!"), frame(opContinuation, true, "fragment5")),
		messages: []string{"fragment1fragment2fragment3fragment4fragment5"}, pongs: []string{"pongme 1!", "pongme 2!"}, closed: closesNot,
	})
	all.wrong("5.20 binary in fragments", 1003, join(frame(opBinary, false, "fragment1"), frame(opContinuation, true, "fragment2")))
}

// utf8 adds group 6.
func (all *rfcList) utf8() {
	all.fine("6.1.1 empty", text(""), "")
	all.fine("6.1.2 empty fragments", join(frame(opText, false, ""), frame(opContinuation, false, ""), frame(opContinuation, true, "")), "")
	all.fine("6.1.3 the middle fragment is not empty", join(frame(opText, false, ""), frame(opContinuation, false, "middle frame payload"), frame(opContinuation, true, "")), "middle frame payload")
	const hello = "Hello-µ@ßöäüàá-UTF-8!!"
	all.fine("6.2.1 valid", text(hello), hello)
	at := strings.Index(hello, "@")
	all.fine("6.2.2 cut between characters", join(frame(opText, false, hello[:at]), frame(opContinuation, true, hello[at:])), hello)
	all.fine("6.2.3 a fragment for each byte", octets(hello), hello)
	all.fine("6.2.4 a fragment for each byte", octets(kosme), kosme)
	all.wrong("6.3.1 invalid", 1007, text(editedUTF8))
	all.wrong("6.3.2 invalid, a fragment for each byte", 1007, octets(editedUTF8))
	// The invalid bytes arrive; the rest of the message never does.
	tooHigh, start := bytesOf("f4 90 80 80"), bytesOf("f4")
	all.wrong("6.4.1 invalid in the second of three fragments", 1007, join(frame(opText, false, kosme), frame(opContinuation, false, tooHigh)))
	all.wrong("6.4.2 invalid from the second fragment on", 1007, join(frame(opText, false, kosme+start), frame(opContinuation, false, tooHigh[1:2])))
	all.wrong("6.4.3 invalid in the middle of a frame", 1007, rawFrame(opText, true, 100, kosme+tooHigh))
	all.wrong("6.4.4 invalid at the second byte of a character", 1007, rawFrame(opText, true, 100, kosme+tooHigh[:2]))
	for n := 1; n <= len(kosme); n++ {
		group := fmt.Sprintf("6.6.%d", n)
		if strings.ToValidUTF8(kosme[:n], "") == kosme[:n] {
			all.valid(group, hex.EncodeToString([]byte(kosme[:n])))
		} else {
			all.invalid(group, hex.EncodeToString([]byte(kosme[:n])))
		}
	}
	each := func(from, to int, behind string) string { // the bytes from to to, each with something behind it
		var s strings.Builder
		for b := from; b <= to; b++ {
			fmt.Fprintf(&s, "%02x%s", b, behind)
		}
		return s.String()
	}
	all.valid("6.7", "00", "c2 80", "e0 a0 80", "f0 90 80 80")
	all.invalid("6.8", "f8 88 80 80 80", "fc 84 80 80 80 80")
	all.valid("6.9", "7f", "df bf", "ef bf bf", "f4 8f bf bf")
	all.invalid("6.10", "f7 bf bf bf", "fb bf bf bf bf", "fd bf bf bf bf bf")
	all.valid("6.11", "ed 9f bf", "ee 80 80", "ef bf bd", "f4 8f bf bf")
	all.invalid("6.11 too high", "f4 90 80 80")
	all.invalid("6.12", "80", "bf", "80 bf", "80 bf 80", "80 bf 80 bf", "80 bf 80 bf 80", "80 bf 80 bf 80 bf", each(0x80, 0xBE, ""))
	all.invalid("6.13", each(0xC0, 0xDF, "20"), each(0xE0, 0xEF, "20"), each(0xF0, 0xF7, "20"), each(0xF8, 0xFB, "20"), each(0xFC, 0xFD, "20"))
	cut := []string{"c0", "e0 80", "f0 80 80", "f8 80 80 80", "fc 80 80 80 80", "df", "ef bf", "f7 bf bf", "fb bf bf bf", "fd bf bf bf bf"}
	all.invalid("6.14", cut...)
	all.invalid("6.15", strings.Join(cut, " "))
	all.invalid("6.16", "fe", "ff", "fe fe ff ff")
	all.invalid("6.17", "c0 af", "e0 80 af", "f0 80 80 af", "f8 80 80 80 af", "fc 80 80 80 80 af")
	all.invalid("6.18", "c1 bf", "e0 9f bf", "f0 8f bf bf", "f8 87 bf bf bf", "fc 83 bf bf bf bf")
	all.invalid("6.19", "c0 80", "e0 80 80", "f0 80 80 80", "f8 80 80 80 80", "fc 80 80 80 80 80")
	all.invalid("6.20", "ed a0 80", "ed ad bf", "ed ae 80", "ed af bf", "ed b0 80", "ed be 80", "ed bf bf")
	all.invalid("6.21", "ed a0 80 ed b0 80", "ed a0 80 ed bf bf", "ed ad bf ed b0 80", "ed ad bf ed bf bf", "ed ae 80 ed b0 80", "ed ae 80 ed bf bf", "ed af bf ed b0 80", "ed af bf ed bf bf")
	var nonCharacters []string
	for plane := range rune(17) {
		nonCharacters = append(nonCharacters, hex.EncodeToString([]byte(string(plane<<16|0xFFFE))), hex.EncodeToString([]byte(string(plane<<16|0xFFFF))))
	}
	all.valid("6.22", nonCharacters...)
	all.valid("6.23", "ef bf b9", "ef bf ba", "ef bf bb", "ef bf bc", "ef bf bd", "ef bf be", "ef bf bf")
}

// closes adds group 7.
func (all *rfcList) closes() {
	all.echoed("7.1.1 a message, then close", 1000, join(text("Hello World!"), closing(1000, "")), "Hello World!")
	all.echoed("7.1.2 close, twice", 1000, join(closing(1000, ""), closing(1001, "")))
	all.echoed("7.1.3 close, then a ping", 1000, join(closing(1000, ""), frame(opPing, true, "")))
	all.echoed("7.1.4 close, then a message", 1000, join(closing(1000, ""), text("Hello World!")))
	all.echoed("7.1.5 close between fragments", 1000, join(frame(opText, false, "fragment1"), closing(1000, ""), frame(opContinuation, true, "fragment2")))
	large := strings.Repeat("BAsd7&jh23", 10_000)
	all.echoed("7.1.6 a large message, close, then a ping", 1000, join(text(large), text("Hello World!"), closing(1000, ""), frame(opPing, true, "")), large, "Hello World!")
	all.echoed("7.3.1 close without a payload", 0, frame(opClose, true, ""))
	all.wrong("7.3.2 close with one byte", 1002, frame(opClose, true, "a"))
	all.echoed("7.3.3 close with a code", 1000, closing(1000, ""))
	all.echoed("7.3.4 close with a reason", 1000, closing(1000, "Hello World!"))
	all.echoed("7.3.5 close with the longest reason", 1000, closing(1000, strings.Repeat("*", 123)))
	all.wrong("7.3.6 close with a reason too long", 1002, closing(1000, strings.Repeat("*", 124)))
	all.wrong("7.5.1 close with a reason that is no UTF-8", 1002, closing(1000, editedUTF8))
	for i, code := range []hub.CloseCode{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999} {
		all.echoed(fmt.Sprintf("7.7.%d close with %d", i+1, code), code, closing(code, ""))
	}
	for i, code := range []hub.CloseCode{0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999, 5000, 65535} {
		all.wrong(fmt.Sprintf("7.9.%d close with %d", i+1, code), 1002, closing(code, ""))
		all.wrong(fmt.Sprintf("7.9.%d close with %d and a reason", i+1, code), 1002, join(closing(code, "Hello World!"), text("late")))
	}
}

// limits adds groups 9 and 10.
func (all *rfcList) limits() {
	for _, n := range []int{64, 1300, 4096} {
		var send []byte
		for from := 0; from < 1<<16; from += n {
			op := byte(opContinuation)
			if from == 0 {
				op = opText
			}
			send = append(send, frame(op, from+n >= 1<<16, strings.Repeat("*", min(n, 1<<16-from)))...)
		}
		all.fine(fmt.Sprintf("9.3 fragments of %d bytes", n), send, strings.Repeat("*", 1<<16))
	}
	most := bodyLimit(hub.Limits{}.WithDefaults())
	over := strings.Repeat("*", most+1)
	all.fine("9.1 text at the limit", text(over[:most]), over[:most])
	all.fine("9.1 text over the limit costs itself", join(text(over), text("after")), "too large: "+over[:most], "after")
	all.wrong("9.1 text that is not skipped", 1009, rawFrame(opText, true, maxSkipped+1, "*"))
	all.wrong("9.2 binary over the limit", 1003, frame(opBinary, true, over))
}

// play sends a case as the peer, in pieces of that size, and checks what comes, with that many
// answers to its messages. It returns the texts that came. The peer sends no close frame, not
// even as an answer, except to end a session that goes on.
func (c *rfcCase) play(t *testing.T, p *peer, size, answers int) (texts []string) {
	t.Helper()
	_ = p.nc.SetDeadline(time.Now().Add(patience))
	for piece := range slices.Chunk(c.send, size) {
		p.send(piece)
	}
	want := c.closed
	var pongs []string
	for {
		if want == closesNot && len(texts) == answers && len(pongs) == len(c.pongs) {
			want = 1000
			p.send(closing(1000, ""))
		}
		op, payload, err := p.read()
		switch {
		case err != nil:
			t.Fatalf("no close frame came: %v", err)
		case op == opText:
			texts = append(texts, payload)
			continue
		case op == opPong:
			pongs = append(pongs, payload)
			continue
		case op != opClose:
			t.Fatalf("got %x %q", op, payload)
		}
		code := noCode
		if len(payload) >= 2 {
			code = hub.CloseCode(binary.BigEndian.Uint16([]byte(payload)))
		}
		if code != want || c.reason != (len(payload) > 2) {
			t.Errorf("closed with %d %q, want %d", code, payload, want)
		}
		break
	}
	if !slices.Equal(pongs, c.pongs) {
		t.Errorf("pongs %q, want %q", pongs, c.pongs)
	}
	if op, payload, err := p.read(); !errors.Is(err, io.EOF) { // it waits for nothing
		t.Errorf("behind the close frame: %x %q, %v; want the end at once", op, payload, err)
	}
	return texts
}

// sizes returns the sizes of pieces in which the case is sent.
func (c *rfcCase) sizes() []int {
	if len(c.send) > 1000 {
		return []int{len(c.send), 997}
	}
	return []int{len(c.send), 1}
}

// TestAutobahn plays the cases to a wsReader without deadlines: if it waited for a peer that has
// closed, or has broken a rule, it would wait for ever.
func TestAutobahn(t *testing.T) {
	t.Parallel()
	for name, pair := range map[string]func(*testing.T) (net.Conn, net.Conn){
		"tcp": func(t *testing.T) (net.Conn, net.Conn) { return socketPair(t, "tcp") },
		"tls": tlsPair,
	} {
		t.Run(name, func(t *testing.T) {
			for _, c := range rfcCases() {
				for _, size := range c.sizes() {
					t.Run(fmt.Sprintf("%s in pieces of %d", c.name, size), func(t *testing.T) {
						ours, theirs := pair(t)
						a := newFakeAgent(hub.Limits{})
						go newWSReader(ours, a, false, patient).run(nil)
						p := newPeer(t, theirs)
						c.play(t, p, size, 0)
						<-a.left // though the peer has not closed
						if got := a.messages(); !slices.Equal(got, c.messages) {
							t.Errorf("received %.300q, want %.300q", got, c.messages)
						}
						_ = theirs.Close()
					})
				}
			}
		})
	}
}

// TestAutobahnOverHTTP plays the cases to a server. Its hub answers each message.
func TestAutobahnOverHTTP(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(*httptest.Server){"http": (*httptest.Server).Start, "https": (*httptest.Server).StartTLS} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewUnstartedServer(handler(newEndpoint(t, hub.Limits{})))
			start(s)
			t.Cleanup(s.Close)
			for _, c := range rfcCases() {
				t.Run(c.name, func(t *testing.T) {
					p := open(t, s, "/push/websocket")
					texts := c.play(t, p, len(c.send), len(c.messages))
					if n := len(texts); c.reason && n > 0 && strings.Contains(texts[n-1], `"/meta/close"`) {
						texts = texts[:n-1]
					} else if c.reason {
						t.Errorf("the notice of the end is missing: %q", texts)
					}
					if len(texts) != len(c.messages) && (c.closed == closesNot || c.reason) { // a side that has closed does not answer
						t.Errorf("answers %q to messages %.300q", texts, c.messages)
					}
					_ = p.nc.Close()
				})
			}
		})
	}
}
