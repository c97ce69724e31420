// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"bytes"
	"compress/flate"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/push-it/pushit/hub"
)

// Messages on a WebSocket can be compressed with permessage-deflate (RFC 7692), if the
// configuration wants it and the client offers it. Each message is compressed on its own. So
// it is compressed once for all its recipients, a connection keeps no memory for it, and the
// size of a message says nothing about those before it.

// deflateFrom is the smallest frame that is compressed, in bytes. A smaller one does not become
// much smaller.
const deflateFrom = 256

// compressed is the bit in the first byte of a frame which says that the message is compressed.
const compressed = 0x40

// The forms for clients that take compressed messages.
var deflatedForms = map[*hub.Form]*hub.Form{
	bareForm:   hub.NewForm(deflating(appendBare), bareForm.Opening, bareForm.Heartbeat),
	sockJSForm: hub.NewForm(deflating(appendSockJS), sockJSForm.Opening, sockJSForm.Heartbeat),
	legacyForm: hub.NewForm(deflating(appendLegacy), legacyForm.Opening, legacyForm.Heartbeat),
}

// deflating returns a function that appends the frame of wrap with its payload compressed, if
// that makes it smaller.
func deflating(wrap func(dst, object []byte) []byte) func(dst, object []byte) []byte {
	return func(dst, object []byte) []byte {
		at := len(dst)
		dst = wrap(dst, object)
		if len(dst)-at < deflateFrom {
			return dst
		}
		payload := dst[at:]
		switch payload[1] {
		case 127:
			payload = payload[10:]
		case 126:
			payload = payload[4:]
		default:
			payload = payload[2:]
		}
		d := deflaters.Get().(*deflater)
		defer d.putBack()
		small := d.deflate(payload)
		if len(small) >= len(payload) {
			return dst
		}
		return append(appendHeader(dst[:at], compressed|opText, len(small)), small...)
	}
}

// A deflater compresses one message after the other.
type deflater struct {
	w   *flate.Writer
	out bytes.Buffer
}

var deflaters = sync.Pool{New: func() any {
	d := new(deflater)
	d.w, _ = flate.NewWriter(&d.out, flate.BestSpeed) // the level is a valid one
	return d
}}

// flushed ends what a flate.Writer has flushed. It is left out of a message (RFC 7692, section
// 7.2.1).
const flushed = "\x00\x00\xff\xff"

// deflate compresses p. The result is valid until d is put back.
func (d *deflater) deflate(p []byte) []byte {
	d.out.Reset()
	d.w.Reset(&d.out)
	_, _ = d.w.Write(p) // a bytes.Buffer takes everything
	_ = d.w.Flush()
	return bytes.TrimSuffix(d.out.Bytes(), []byte(flushed))
}

func (d *deflater) putBack() {
	if d.out.Cap() > maxPooled { // the rest is larger than that
		d.out = bytes.Buffer{}
	}
	deflaters.Put(d)
}

// An inflater undoes what a client has compressed.
type inflater struct {
	r    io.ReadCloser // also a flate.Resetter
	p    bytes.Reader
	tail strings.Reader
}

var inflaters = sync.Pool{New: func() any { return &inflater{r: flate.NewReader(nil)} }}

// inflate appends the message of p to dst, no more than most bytes. more reports whether it has
// more. cut says that p is only the beginning of a message: then there is always an error, and
// what could be read is appended. Any other error means that p is no compressed message.
func inflate(dst, p []byte, most int, cut bool) (_ []byte, more bool, err error) {
	i := inflaters.Get().(*inflater)
	defer inflaters.Put(i)
	i.p.Reset(p)
	if i.tail.Reset(""); !cut {
		i.tail.Reset(flushed + "\x01\x00\x00\xff\xff") // what was left out, and an empty last block
	}
	defer i.p.Reset(nil)
	if err = i.r.(flate.Resetter).Reset(io.MultiReader(&i.p, &i.tail), nil); err != nil {
		return dst, false, err
	}
	for begin := len(dst); ; {
		if len(dst) == cap(dst) {
			dst = slices.Grow(dst, min(len(dst)+firstMessage, begin+most+1-len(dst)))
		}
		n, err := i.r.Read(dst[len(dst):min(cap(dst), begin+most+1)])
		switch dst = dst[:len(dst)+n]; {
		case len(dst) > begin+most:
			return dst[:begin+most], true, nil
		case err == io.EOF:
			return dst, false, nil
		case err != nil:
			return dst, false, err
		}
	}
}

// A message of a few bytes can become one of the largest size, and the tables of compressed
// blocks can take a thousand times as long to read as other bytes. So a connection may use only
// a share of the time of a processor for it: after a message, it waits inflateWait times as long
// as that took until the next one is read, but not longer than longestInflate: pongs wait, too.
const (
	inflateWait    = 19 // 5 %
	longestInflate = time.Second
)

// inflate implements sink.
func (r *wsReader) inflate(dst, p []byte, most int, cut bool) (_ []byte, more bool, err error) {
	if wait := r.inflates - time.Since(epoch); wait > 0 && r.inflates != 0 { // a clock of a test may be before the epoch
		r.agent.EndBatch()
		time.Sleep(wait)
		r.agent.BeginBatch()
	}
	begun := time.Since(epoch)
	dst, more, err = inflate(dst, p, most, cut)
	end := time.Since(epoch)
	r.inflates = end + min(inflateWait*(end-begun), longestInflate)
	return dst, more, err
}

// agreeOnDeflate returns the extension to agree on (RFC 7692, section 7.1), empty for none.
// offers are the header fields Sec-WebSocket-Extensions of the client.
func agreeOnDeflate(offers []string) string {
	for _, field := range offers {
		for offer := range strings.SplitSeq(field, ",") {
			if answer := answerToOffer(offer); answer != "" {
				return answer
			}
		}
	}
	return ""
}

// answerToOffer returns the answer to one offer, empty if it is of something else, or wants
// what flate cannot do: a smaller window.
func answerToOffer(offer string) string {
	name, rest, _ := strings.Cut(offer, ";")
	if strings.TrimSpace(name) != "permessage-deflate" {
		return ""
	}
	answer := "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
	if strings.TrimSpace(rest) == "" {
		return answer
	}
	seen := make(map[string]bool)
	for parameter := range strings.SplitSeq(rest, ";") {
		name, value, has := strings.Cut(parameter, "=")
		name, value = strings.TrimSpace(name), strings.Trim(strings.TrimSpace(value), `"`)
		if seen[name] {
			return ""
		}
		seen[name] = true
		switch {
		case (name == "server_no_context_takeover" || name == "client_no_context_takeover") && !has:
		case name == "client_max_window_bits" && (!has || isWindow(value)): // any window can be read
		case name == "server_max_window_bits" && value == "15":
			answer += "; server_max_window_bits=15"
		default:
			return ""
		}
	}
	return answer
}

// isWindow reports whether text is the logarithm of the size of a window.
func isWindow(text string) bool {
	switch text {
	case "8", "9", "10", "11", "12", "13", "14", "15":
		return true
	}
	return false
}
