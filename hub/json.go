// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"math"
	"math/bits"
	"strconv"
	"sync"
	"unicode/utf16"
	"unicode/utf8"
)

// jsonMaxDepth is how many objects and arrays can stand inside one another, the
// outermost included.
const jsonMaxDepth = 32

// A jsonScanner reads JSON more strictly than RFC 8259 asks: what two readers
// could understand differently is refused (duplicate keys), and so is what is
// only good for making readers fall over (depth). It makes one pass, does not
// recurse, and allocates only for objects of more keys than any it has seen.
//
// Its methods take the index to go on from and return the one after what they
// read, or -1 after they have called fail.
type jsonScanner struct {
	src []byte
	// fault says why a method returned -1.
	fault *Refusal
	// space is set when white space is skipped. members clears it before each
	// value.
	space bool

	// open are the objects and arrays around the place that is read.
	open  [jsonMaxDepth]jsonContainer
	depth int
	// keys are those of all open objects, outermost first.
	keys []jsonKey
	// text holds what keys with escapes stand for.
	text []byte

	// slots are an open-addressed table of the keys of objects with more than
	// jsonFewKeys. Those of closed objects stay until the scanner is released:
	// all together cannot be more than the input has keys.
	slots   []jsonSlot
	used    int    // slots in use
	objects uint32 // objects and arrays opened so far: the next one's id
}

type jsonContainer struct {
	id     uint32
	object bool
	base   int // where its keys begin in jsonScanner.keys
	// seen has a bit for each kind of key, by jsonKind, that the object has.
	seen uint64
}

// A jsonKey says where a key is: in src, or, if it had escapes, in text.
type jsonKey struct {
	from, to int32
	inText   bool
}

// A jsonSlot is empty when object is 0.
type jsonSlot struct {
	object uint32 // jsonContainer.id
	hash   uint32
	key    int32 // in jsonScanner.keys; of meaning while the object is open
}

const (
	// jsonFewKeys is up to where comparing a key with those before it, if there
	// is one of its kind, is quicker than hashing all.
	jsonFewKeys = 24
	// jsonKeepKeys and jsonKeepText bound what a scanner at rest holds on to.
	jsonKeepKeys = 256
	jsonKeepText = 4 << 10
)

// jsonSeed is random, so that nobody can make keys that collide.
var jsonSeed = maphash.MakeSeed()

var jsonScanners = sync.Pool{New: func() any { return new(jsonScanner) }}

// jsonScan returns a scanner for src, to be released.
func jsonScan(src []byte) *jsonScanner {
	s := jsonScanners.Get().(*jsonScanner)
	s.src = src
	return s
}

// release gives the scanner back. Nothing that points into it may be used after
// that.
func (s *jsonScanner) release() {
	s.src, s.fault, s.space, s.depth, s.objects = nil, nil, false, 0, 0
	s.keys, s.text = s.keys[:0], s.text[:0]
	if s.used > 0 {
		clear(s.slots)
		s.used = 0
	}
	if cap(s.keys) > jsonKeepKeys {
		s.keys = nil
	}
	if cap(s.text) > jsonKeepText {
		s.text = nil
	}
	if len(s.slots) > 2*jsonKeepKeys {
		s.slots = nil
	}
	jsonScanners.Put(s)
}

// fail notes why src cannot be read and returns -1. Neither it nor its callers
// quote more of the input than a character or a short key: what is refused may
// be secret.
func (s *jsonScanner) fail(at int, why string) int {
	s.fault = refuse(CodeInvalid, "JSON error at byte "+strconv.Itoa(at)+": "+why)
	return -1
}

// failWant is fail for a byte that is missing or does not belong where it is.
func (s *jsonScanner) failWant(at int, want string) int {
	if at >= len(s.src) {
		return s.fail(at, "the end, where "+want+" should be")
	}
	r, _ := utf8.DecodeRune(s.src[at:])
	return s.fail(at, fmt.Sprintf("%q where %s should be", r, want))
}

// begin checks what holds for the text as a whole and returns where its first
// value begins.
func (s *jsonScanner) begin() int {
	if len(s.src) > math.MaxInt32 {
		return s.fail(math.MaxInt32, "nobody reads on from here")
	}
	if !utf8.Valid(s.src) {
		at := 0
		for {
			r, size := utf8.DecodeRune(s.src[at:])
			if r == utf8.RuneError && size <= 1 {
				return s.fail(at, "text must be valid UTF-8")
			}
			at += size
		}
	}
	if bytes.HasPrefix(s.src, []byte("\uFEFF")) {
		return s.fail(0, "a byte order mark cannot stand before it")
	}
	return s.skip(0)
}

// end checks that nothing but white space follows.
func (s *jsonScanner) end(i int) int {
	if i = s.skip(i); i < len(s.src) {
		return s.failWant(i, "the end")
	}
	return i
}

// skip skips white space.
func (s *jsonScanner) skip(i int) int {
	for i < len(s.src) {
		switch s.src[i] {
		case ' ', '\t', '\r', '\n':
			s.space = true
			i++
		default:
			return i
		}
	}
	return i
}

// at reports whether src has c at i.
func (s *jsonScanner) at(i int, c byte) bool { return i < len(s.src) && s.src[i] == c }

// members reads the object at i and calls member for each of its members once
// its value is read, with the key unescaped and the bounds of the value in src.
func (s *jsonScanner) members(i int, member func(key []byte, from, to int)) int {
	if !s.at(i, '{') {
		return s.failWant(i, "an object")
	}
	if i = s.push(i, true); i < 0 {
		return -1
	}
	i = s.skip(i)
	for more := !s.at(i, '}'); more; {
		if i = s.key(i); i < 0 {
			return -1
		}
		from, key := i, s.keys[len(s.keys)-1]
		s.space = false
		if i = s.value(i); i < 0 {
			return -1
		}
		member(s.bytes(key), from, i)
		i = s.skip(i)
		switch {
		case s.at(i, ','):
			i = s.skip(i + 1)
		case s.at(i, '}'):
			more = false
		default:
			return s.failWant(i, "a comma or }")
		}
	}
	s.pop()
	return i + 1
}

// value reads the value at i.
func (s *jsonScanner) value(i int) int {
	outside := s.depth
values:
	for {
		// A value begins at i.
		if i >= len(s.src) {
			return s.failWant(i, "a value")
		}
		switch c := s.src[i]; c {
		case '{', '[':
			if i = s.push(i, c == '{'); i < 0 {
				return -1
			}
			if i = s.skip(i); !s.at(i, c+2) { // in ASCII the closing bracket is two after the opening one
				if c == '{' {
					if i = s.key(i); i < 0 {
						return -1
					}
				}
				continue values
			}
			s.pop()
			i++
		case '"':
			i, _ = s.str(i)
		case 't':
			i = s.literal(i, "true")
		case 'f':
			i = s.literal(i, "false")
		case 'n':
			i = s.literal(i, "null")
		default:
			i = s.number(i)
		}
		if i < 0 {
			return -1
		}
		// A value has ended before i; objects and arrays may end with it.
		for {
			if s.depth == outside {
				return i
			}
			object := s.open[s.depth-1].object
			i = s.skip(i)
			switch {
			case s.at(i, ','):
				if i = s.skip(i + 1); object {
					if i = s.key(i); i < 0 {
						return -1
					}
				}
				continue values
			case object && !s.at(i, '}'):
				return s.failWant(i, "a comma or }")
			case !object && !s.at(i, ']'):
				return s.failWant(i, "a comma or ]")
			}
			s.pop()
			i++
		}
	}
}

// push opens the object or array at i.
func (s *jsonScanner) push(i int, object bool) int {
	if s.depth == jsonMaxDepth {
		return s.fail(i, "objects and arrays can be at most "+strconv.Itoa(jsonMaxDepth)+" deep")
	}
	s.objects++
	s.open[s.depth] = jsonContainer{id: s.objects, object: object, base: len(s.keys)}
	s.depth++
	return i + 1
}

// pop closes the innermost object or array.
func (s *jsonScanner) pop() {
	s.depth--
	s.keys = s.keys[:s.open[s.depth].base]
}

// key reads a key, the colon after it and the white space around that.
func (s *jsonScanner) key(i int) int {
	if !s.at(i, '"') {
		return s.failWant(i, "a key in double quotes")
	}
	end, escaped := s.str(i)
	if end < 0 {
		return -1
	}
	key := jsonKey{from: int32(i + 1), to: int32(end - 1)}
	if escaped {
		from := len(s.text)
		s.text, _ = jsonUnescape(s.text, s.src[i+1:end-1])
		key = jsonKey{from: int32(from), to: int32(len(s.text)), inText: true}
	}
	s.keys = append(s.keys, key)
	if s.duplicate(s.bytes(key)) {
		return s.fail(i, "a second "+jsonExcerpt(s.bytes(key))+" in one object")
	}
	if end = s.skip(end); !s.at(end, ':') {
		return s.failWant(end, "a colon")
	}
	return s.skip(end + 1)
}

// bytes returns what a key stands for.
func (s *jsonScanner) bytes(k jsonKey) []byte {
	if k.inText {
		return s.text[k.from:k.to]
	}
	return s.src[k.from:k.to]
}

// duplicate reports whether key, the last of keys, is in its object already.
func (s *jsonScanner) duplicate(key []byte) bool {
	o := &s.open[s.depth-1]
	last := len(s.keys) - 1
	n := last - o.base
	if n < jsonFewKeys {
		kind := jsonKind(key)
		if o.seen&kind == 0 {
			o.seen |= kind
			return false
		}
		for _, k := range s.keys[o.base:last] {
			if string(s.bytes(k)) == string(key) {
				return true
			}
		}
		return false
	}
	if n == jsonFewKeys { // the ones before have only been compared so far
		for i := o.base; i < last; i++ {
			s.insert(o.id, i)
		}
	}
	return !s.insert(o.id, last)
}

// jsonKind returns one bit, the same for equal keys and often another for
// others.
func jsonKind(key []byte) uint64 {
	n := len(key)
	if n == 0 {
		return 1
	}
	return 1 << (uint(key[0]+3*key[n-1]+5*key[n/2]+7*byte(n)) % 64)
}

// insert puts keys[key] of an object into slots and reports whether it was not
// there.
func (s *jsonScanner) insert(object uint32, key int) bool {
	if 4*(s.used+1) > 3*len(s.slots) {
		s.grow()
	}
	text := s.bytes(s.keys[key])
	// The object's id is mixed in by a multiplication with 2^32 / the golden
	// ratio, so that the same keys in many objects do not meet.
	hash := uint32(maphash.Bytes(jsonSeed, text)) + object*0x9E3779B9
	for i := hash; ; i++ {
		slot := &s.slots[int(i)&(len(s.slots)-1)]
		if slot.object == 0 {
			*slot = jsonSlot{object, hash, int32(key)}
			s.used++
			return true
		}
		if slot.object == object && slot.hash == hash && string(s.bytes(s.keys[slot.key])) == string(text) {
			return false
		}
	}
}

// grow doubles slots, whose number is a power of two.
func (s *jsonScanner) grow() {
	old := s.slots
	s.slots = make([]jsonSlot, max(128, 2*len(old)))
	for _, slot := range old {
		if slot.object == 0 {
			continue
		}
		i := slot.hash
		for s.slots[int(i)&(len(s.slots)-1)].object != 0 {
			i++
		}
		s.slots[int(i)&(len(s.slots)-1)] = slot
	}
}

// str reads the string at i and reports whether there is an escape in it.
func (s *jsonScanner) str(i int) (end int, escaped bool) {
	src := s.src
	for i++; ; {
		if i+8 <= len(src) {
			special := jsonSpecial(binary.LittleEndian.Uint64(src[i:]))
			if special == 0 {
				i += 8
				continue
			}
			i += bits.TrailingZeros64(special) / 8
		} else {
			for i < len(src) && src[i] >= ' ' && src[i] != '"' && src[i] != '\\' {
				i++
			}
			if i == len(src) {
				return s.fail(i, "the end, inside a string"), false
			}
		}
		switch src[i] {
		case '"':
			return i + 1, escaped
		case '\\':
			n := jsonEscapeLen(src[i:])
			if n == 0 {
				return s.fail(i, "no such escape in a string"), false
			}
			escaped = true
			i += n
		default:
			return s.fail(i, "a control character in a string must be escaped"), false
		}
	}
}

// jsonSpecial finds what ends a run of plain characters in a string, in eight
// bytes at once: of the bytes that are less than a space, a quote or a
// backslash, the first one, in the order of memory, has its highest bit set in
// the result. What is set after it means nothing. Bytes of 0x80 and more are
// plain: that they are UTF-8 has been checked.
func jsonSpecial(eight uint64) uint64 {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	quote := eight ^ ones*'"'
	backslash := eight ^ ones*'\\'
	return ((eight-ones*' ')&^eight | (quote-ones)&^quote | (backslash-ones)&^backslash) & highs
}

// jsonEscapeLen returns the length of the escape that b begins with, 0 if it is
// none.
func jsonEscapeLen(b []byte) int {
	if len(b) < 2 {
		return 0
	}
	switch b[1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2
	case 'u':
		if jsonHex4(b) >= 0 {
			return 6
		}
	}
	return 0
}

// jsonHex4 returns the value of a \u escape at the begin of b, -1 if it is none.
func jsonHex4(b []byte) rune {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return -1
	}
	var r rune
	for _, c := range b[2:6] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return -1
		}
		r = r<<4 | rune(c)
	}
	return r
}

func (s *jsonScanner) literal(i int, want string) int {
	if end := i + len(want); end <= len(s.src) && string(s.src[i:end]) == want {
		return end
	}
	return s.failWant(i, "a value")
}

// number reads the number at i (RFC 8259, section 6).
func (s *jsonScanner) number(i int) int {
	from := i
	if s.at(i, '-') {
		i++
	}
	switch {
	case s.at(i, '0'):
		i++
	case i < len(s.src) && '1' <= s.src[i] && s.src[i] <= '9':
		i = s.digits(i)
	case i == from:
		return s.failWant(i, "a value")
	default:
		return s.failWant(i, "a digit")
	}
	if s.at(i, '.') {
		if i = s.digits(i + 1); i < 0 {
			return -1
		}
	}
	if s.at(i, 'e') || s.at(i, 'E') {
		i++
		if s.at(i, '+') || s.at(i, '-') {
			i++
		}
		i = s.digits(i)
	}
	return i
}

// digits reads one digit or more.
func (s *jsonScanner) digits(i int) int {
	from := i
	for i < len(s.src) && '0' <= s.src[i] && s.src[i] <= '9' {
		i++
	}
	if i == from {
		return s.failWant(i, "a digit")
	}
	return i
}

// jsonUnescape appends to dst what the inside of a JSON string stands for, which
// must have been read already. A surrogate without its other half becomes
// U+FFFD, as most readers have it, and whole is false then.
func jsonUnescape(dst, inside []byte) (out []byte, whole bool) {
	whole = true
	i := bytes.IndexByte(inside, '\\')
	if i < 0 {
		return append(dst, inside...), true
	}
	dst = append(dst, inside[:i]...)
	for i < len(inside) {
		c := inside[i]
		if c != '\\' {
			dst = append(dst, c)
			i++
			continue
		}
		c = inside[i+1]
		i += 2
		switch c {
		case 'b':
			c = '\b'
		case 'f':
			c = '\f'
		case 'n':
			c = '\n'
		case 'r':
			c = '\r'
		case 't':
			c = '\t'
		case 'u':
			r := jsonHex4(inside[i-2:])
			i += 4
			if utf16.IsSurrogate(r) {
				if r = utf16.DecodeRune(r, jsonHex4(inside[i:])); r != utf8.RuneError {
					i += 6
				} else {
					whole = false
				}
			}
			dst = utf8.AppendRune(dst, r)
			continue
		}
		dst = append(dst, c)
	}
	return dst, whole
}

// jsonCompact appends to dst the value that value has read, without white space
// outside of strings.
func jsonCompact(dst, value []byte) []byte {
	inString := false
	for i := 0; i < len(value); i++ {
		switch c := value[i]; {
		case !inString && (c == ' ' || c == '\t' || c == '\r' || c == '\n'):
			continue
		case c == '"':
			inString = !inString
		case c == '\\':
			dst = append(dst, c)
			i++
		}
		dst = append(dst, value[i])
	}
	return dst
}

// jsonAppendString appends text to dst as a JSON string. What is not valid UTF-8
// in it becomes U+FFFD.
func jsonAppendString(dst []byte, text string) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	done := 0 // what of text is in dst
	for i := 0; i < len(text); {
		switch c := text[i]; {
		case c == '"' || c == '\\':
			dst = append(append(dst, text[done:i]...), '\\', c)
		case c < ' ':
			dst = append(append(dst, text[done:i]...), '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		case c < utf8.RuneSelf:
			i++
			continue
		default:
			r, size := utf8.DecodeRuneInString(text[i:])
			if r != utf8.RuneError || size > 1 {
				i += size
				continue
			}
			dst = append(append(dst, text[done:i]...), "\uFFFD"...)
		}
		i++
		done = i
	}
	return append(append(dst, text[done:]...), '"')
}

// jsonExcerptLen is the most bytes of a key that a refusal quotes.
const jsonExcerptLen = 32

// jsonExcerpt quotes a key for a sentence: short, in one line, printable.
func jsonExcerpt(key []byte) string {
	more := ""
	if len(key) > jsonExcerptLen {
		for n := jsonExcerptLen; ; n-- {
			if utf8.RuneStart(key[n]) {
				key, more = key[:n], "…"
				break
			}
		}
	}
	return "key " + strconv.Quote(string(key)) + more
}
