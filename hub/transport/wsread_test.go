// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/push-it/pushit/hub"
)

// A recordingSink records all calls.
type recordingSink struct {
	max    int
	events []string
}

func (s *recordingSink) limit() int { return s.max }

func (s *recordingSink) message(p []byte) error {
	s.events = append(s.events, "message "+string(p))
	clear(p) // it may
	return nil
}

func (s *recordingSink) tooLarge(p []byte) error {
	s.events = append(s.events, "too large "+string(p))
	return nil
}

func (s *recordingSink) ping(op byte, p []byte) error {
	s.events = append(s.events, fmt.Sprintf("ping %x %s", op, p))
	return nil
}

func (s *recordingSink) closed(code hub.CloseCode) error {
	s.events = append(s.events, fmt.Sprintf("closed %d", code))
	return &peerClosed{code}
}

func (s *recordingSink) idle() error {
	s.events = append(s.events, "idle")
	return nil
}

func (s *recordingSink) inflate(dst, p []byte, most int, cut bool) ([]byte, bool, error) {
	return inflate(dst, p, most, cut)
}

// readAll feeds in to a frameReader in pieces of these sizes, repeating the last size, and
// returns the events, including errors.
func readAll(t *testing.T, in []byte, limit int, sizes ...byte) []string {
	t.Helper()
	return readAllBy(t, new(frameReader), in, limit, sizes...)
}

// readAllBy is readAll with that frameReader.
func readAllBy(t *testing.T, f *frameReader, in []byte, limit int, sizes ...byte) []string {
	t.Helper()
	s := &recordingSink{max: limit}
	f.sink = s
	in = bytes.Clone(in)
	for len(in) > 0 {
		n := len(in)
		if len(sizes) > 0 {
			n = min(n, int(sizes[0])+1)
			if len(sizes) > 1 {
				sizes = sizes[1:]
			}
		}
		piece := in[:n:n]
		in = in[n:]
		for len(piece) > 0 {
			rest, err := f.feed(piece)
			if err != nil {
				s.events = append(s.events, "error "+err.Error())
			}
			if bye, ok := errors.AsType[*peerClosed](err); ok {
				_ = bye
				f.drop()
				return s.events
			}
			if len(rest) >= len(piece) && err == nil {
				t.Fatalf("feed took nothing of %d bytes", len(piece))
			}
			piece = rest
		}
		if f.partial != nil && cap(*f.partial) > max(limit, maxPooled) || cap(f.control) > 256 {
			t.Fatalf("%d bytes are held for a message, %d for a control frame; the limit is %d", cap(*f.partial), cap(f.control), limit)
		}
		if f.dropping && f.partial != nil {
			t.Fatal("a buffer is held although messages are dropped")
		}
	}
	f.drop()
	return s.events
}

func TestReadFrames(t *testing.T) {
	const limit = 1000
	long := strings.Repeat("x", limit)
	for _, tc := range []struct {
		name string
		in   []byte
		want []string
	}{
		{"a message", text("hello"), []string{"message hello"}},
		{"an empty one", text(""), []string{"message "}},
		{"several in one piece", join(text("a"), text("b"), text("c")), []string{"message a", "message b", "message c"}},
		{"the largest", text(long), []string{"message " + long}},
		{"fragments", join(frame(opText, false, "he"), frame(opContinuation, false, "l"), frame(opContinuation, true, "lo")), []string{"message hello"}},
		{"empty fragments", join(frame(opText, false, ""), frame(opContinuation, false, ""), frame(opContinuation, true, "")), []string{"idle", "idle", "message "}},
		{"a ping between fragments", join(frame(opText, false, "a"), frame(opPing, true, "p"), frame(opContinuation, true, "b")), []string{"ping 9 p", "message ab"}},
		{"a character over two fragments", join(frame(opText, false, "\xc3"), frame(opContinuation, true, "\xa9")), []string{"message é"}},
		{"a pong", frame(opPong, true, ""), []string{"ping a "}},
		{"the largest ping", frame(opPing, true, long[:125]), []string{"ping 9 " + long[:125]}},
		{"a close", join(closing(1000, "done"), text("late")), []string{"closed 1000", "error the peer closed: 1000"}},
		{"a close without a code", frame(opClose, true, ""), []string{"closed 0", "error the peer closed"}},

		{"one byte too many", join(text(long+"x"), text("after")), []string{"too large " + long, "message after"}},
		{
			"too many over fragments", join(frame(opText, false, long), frame(opPing, true, ""), frame(opContinuation, true, "x"), text("after")),
			[]string{"ping 9 ", "too large " + long, "message after"},
		},
		{"an absurd length", []byte("\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00" + long), []string{"error a message may have at most 1000 bytes here"}},
		{"binary", join(frame(opBinary, true, "x"), text("dropped")), []string{"error " + errBinary.Error()}},
		{"empty binary", join(frame(opBinary, true, ""), text("dropped")), []string{"error " + errBinary.Error()}},
		{"a continuation of nothing", frame(opContinuation, true, "x"), []string{"error " + errNoMessage.Error()}},
		{"a continuation after the end", join(text("a"), frame(opContinuation, true, "x")), []string{"message a", "error " + errNoMessage.Error()}},
		{"a message within a message", join(frame(opText, false, "a"), text("b")), []string{"error " + errInMessage.Error()}},
		{"invalid UTF-8", text("\xff"), []string{"error " + errNotUTF8.Error()}},
		{"half a character", text("\xc3"), []string{"error " + errNotUTF8.Error()}},
		{"a surrogate in UTF-8", text("\xed\xa0\x80"), []string{"error " + errNotUTF8.Error()}},
		{"invalid UTF-8 over fragments", join(frame(opText, false, "\xc3"), frame(opContinuation, true, "x")), []string{"error " + errNotUTF8.Error()}},
		{"unmasked", join([]byte("\x81\x01a"), closing(1000, "")), []string{"error " + errUnmasked.Error()}},
		{"a reserved bit", join([]byte("\xc1\x81abcda"), text("dropped")), []string{"error " + errReserved.Error()}},
		{"a close of one byte", frame(opClose, true, "x"), []string{"error " + errClose.Error()}},
		{"a close with 1005", closing(1005, ""), []string{"error " + errClose.Error()}},
		{"a close with invalid UTF-8", closing(1000, "\xff"), []string{"error " + errClose.Error()}},
		{
			"the close after a violation is seen", join(text("\xff"), text("dropped"), frame(opPing, true, ""), frame(opBinary, false, "x"), closing(1001, "")),
			[]string{"error " + errNotUTF8.Error(), "closed 1001", "error the peer closed: 1001"},
		},
		{"a bad close after a violation is one", join(text("\xff"), closing(1005, "")), []string{"error " + errNotUTF8.Error(), "closed 0", "error the peer closed"}},
		{"a bad header after a violation is told too", join(text("\xff"), []byte("\xff\xff"), closing(1000, "")), []string{"error " + errNotUTF8.Error(), "error " + errReserved.Error()}},
		{"invalid UTF-8 is told before the message has ended", rawFrame(opText, false, 100, "\xc3\xa9\xc3\xc3"), []string{"error " + errNotUTF8.Error()}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := readAll(t, tc.in, limit); !slices.Equal(got, tc.want) {
				t.Errorf("in one piece: %q, want %q", got, tc.want)
			}
			if got := readAll(t, tc.in, limit, 0); !slices.Equal(got, tc.want) {
				t.Errorf("byte by byte: %q, want %q", got, tc.want)
			}
		})
	}
}

func TestWhatIsAnnouncedTakesNoMemory(t *testing.T) {
	s := &recordingSink{max: 1 << 30}
	f := &frameReader{sink: s}
	if _, err := f.feed(rawFrame(opText, true, 1<<29, "a beginning")); err != nil {
		t.Fatal(err)
	}
	if got := cap(*f.partial); got > maxPooled {
		t.Errorf("%d bytes are held for a message of which 11 have come", got)
	}
}

func TestProgress(t *testing.T) {
	type state struct{ open, fresh bool }
	f := &frameReader{sink: &recordingSink{max: 100}}
	for i, step := range []struct {
		in   []byte
		want state
	}{
		{text("whole"), state{false, true}},
		{text("begun")[:3], state{true, false}},
		{text("begun")[3:], state{false, true}},
		{join(text("whole"), text("begun")[:1]), state{true, true}},
		{text("begun")[1:], state{false, true}},
		{frame(opText, false, "fragment"), state{true, false}},
		{frame(opPing, true, "a ping gives a message no more time"), state{true, false}},
		{frame(opContinuation, false, ""), state{true, false}},
		{frame(opContinuation, true, ""), state{false, true}},
		{frame(opPing, true, "ping")[:8], state{true, false}},
		{frame(opPing, true, "ping")[8:], state{false, true}},
	} {
		if _, err := f.feed(step.in); err != nil {
			t.Fatal(err)
		}
		var got state
		if got.open, got.fresh = f.progress(); got != step.want {
			t.Errorf("step %d: %+v, want %+v", i, got, step.want)
		}
	}
}

func TestReadingAMessageAllocatesNothing(t *testing.T) {
	s := &countingSink{max: 64 << 10}
	f := &frameReader{sink: s}
	short, long := text(strings.Repeat("s", 120)), text(strings.Repeat("l", 20<<10))
	buf := make([]byte, readSize)
	feed := func(in []byte) {
		for len(in) > 0 {
			n := copy(buf, in)
			in = in[n:]
			if _, err := f.feed(buf[:n]); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := testing.AllocsPerRun(200, func() { feed(short) }); got != 0 {
		t.Errorf("a message in one piece: %v allocations", got)
	}
	got := testing.AllocsPerRun(200, func() { feed(long) })
	t.Logf("a message of 20 KiB in pieces of 4 KiB: %v allocations", got)
	if got > 0 && !raceEnabled {
		t.Errorf("a message in pieces: %v allocations", got)
	}
	if s.bytes == 0 {
		t.Error("nothing came")
	}
}

type countingSink struct {
	recordingSink
	max, bytes int
}

func (s *countingSink) limit() int { return s.max }

func (s *countingSink) message(p []byte) error {
	s.bytes += len(p)
	return nil
}

// FuzzReadFrames: no input panics, the frameReader holds no more than the limit allows (readAll
// checks it), and the sizes of the pieces make no difference.
func FuzzReadFrames(f *testing.F) {
	f.Add(text("hello"), []byte{0})
	f.Add(join(frame(opText, false, "a"), frame(opPing, true, "p"), frame(opContinuation, true, "b")), []byte{1, 2, 3})
	f.Add(join(text(strings.Repeat("x", 300)), closing(1000, "bye")), []byte{7})
	f.Add(join(text("\xff"), text("dropped"), closing(1001, "")), []byte{5, 1})
	f.Add(rawFrame(opText, true, 1<<20, "short"), []byte{3})
	f.Add(join(frame(opBinary, false, ""), frame(opContinuation, true, "b")), []byte{2})
	f.Add([]byte("\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00"), []byte{0})
	f.Fuzz(func(t *testing.T, in, sizes []byte) {
		const limit = 400
		whole := readAll(t, in, limit)
		if pieces := readAll(t, in, limit, sizes...); !slices.Equal(whole, pieces) {
			t.Errorf("in one piece: %q\nin pieces: %q", whole, pieces)
		}
	})
}
