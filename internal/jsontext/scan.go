// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// Package jsontext scans, quotes and unquotes JSON. The server reads the frames of agents
// with it, and writes their answers. It is stricter than encoding/json: it refuses texts
// that two readers could understand differently. It copies as little as possible.
package jsontext

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"math/bits"
	"strconv"
	"sync"
	"unicode/utf8"
)

// MaxDepth is the maximum nesting of objects and arrays, including the outermost.
const MaxDepth = 32

// A Scanner reads JSON (RFC 8259), more strictly than the RFC requires. It refuses
// duplicate keys, because two readers could understand them differently. It refuses
// nesting deeper than MaxDepth, because other readers may crash on it. It reads the text
// once and does not recurse. It allocates only if an object has more keys than any it has
// read before.
//
// Its methods take the index at which to read and return the index after what they read.
// After a fault they return -1, and Fault says why.
type Scanner struct {
	src []byte
	// fault says why a method returned -1.
	fault string
	// space is set when white space is skipped. Members clears it before each
	// value.
	space bool

	// open are the objects and arrays that are not closed yet, outermost first.
	open  [MaxDepth]container
	depth int
	// keys are the keys of all open objects, outermost first.
	keys []keyAt
	// text holds the unescaped text of keys that have escapes.
	text []byte

	// slots is an open-addressed hash table of the keys of objects with more than
	// fewKeys keys. Keys of closed objects stay in it until Release. So the table
	// never has more keys than the input.
	slots   []slot
	used    int    // slots in use
	objects uint32 // objects and arrays opened so far; the id of the last one
}

type container struct {
	id     uint32
	object bool
	base   int // index of its first key in Scanner.keys
	// seen is the union of kindOf of the object's keys.
	seen uint64
}

// A keyAt holds the bounds of a key in src, or in text if the key has escapes.
type keyAt struct {
	from, to int32
	inText   bool
}

// A slot is empty when object is 0.
type slot struct {
	object uint32 // container.id
	hash   uint32
	key    int32 // index in Scanner.keys; valid while the object is open
}

const (
	// fewKeys is the number of keys up to which comparing a key with the earlier
	// ones of its kind is faster than hashing.
	fewKeys = 24
	// keepKeys and keepText limit the memory that a pooled Scanner keeps.
	keepKeys = 256
	keepText = 4 << 10
)

// seed is random, so that clients cannot make keys that collide.
var seed = maphash.MakeSeed()

var scanners = sync.Pool{New: func() any { return new(Scanner) }}

// Scan returns a Scanner for src. The caller must call Release.
func Scan(src []byte) *Scanner {
	s := scanners.Get().(*Scanner)
	s.src = src
	return s
}

// Release returns the Scanner to a pool. Do not use the Scanner, or slices that it
// returned, after that.
func (s *Scanner) Release() {
	s.src, s.fault, s.space, s.depth, s.objects = nil, "", false, 0, 0
	s.keys, s.text = s.keys[:0], s.text[:0]
	if s.used > 0 {
		clear(s.slots)
		s.used = 0
	}
	if cap(s.keys) > keepKeys {
		s.keys = nil
	}
	if cap(s.text) > keepText {
		s.text = nil
	}
	if len(s.slots) > 2*keepKeys {
		s.slots = nil
	}
	scanners.Put(s)
}

// fail notes why src cannot be read and returns -1. The reason may quote at most a
// character or a short key of the input, because the input may be secret.
func (s *Scanner) fail(at int, why string) int {
	s.fault = "JSON error at byte " + strconv.Itoa(at) + ": " + why
	return -1
}

// failWant is fail for a missing or unexpected byte.
func (s *Scanner) failWant(at int, want string) int {
	if at >= len(s.src) {
		return s.fail(at, "expected "+want+", got the end")
	}
	r, _ := utf8.DecodeRune(s.src[at:])
	return s.fail(at, fmt.Sprintf("expected %s, got %q", want, r))
}

// Fault returns why a method returned -1. It quotes at most a character or a short key of
// the input, because the input may be secret.
func (s *Scanner) Fault() string { return s.fault }

// SkippedSpace reports whether the value that Members has just read contains white space
// outside of strings.
func (s *Scanner) SkippedSpace() bool { return s.space }

// Spare returns an empty slice of the Scanner's own memory to append to, valid until
// Release. Appending overwrites the keys that Members passed.
func (s *Scanner) Spare() []byte { return s.text[:0] }

// Keep gives the slice from Spare back after it was appended to, so that the Scanner
// reuses the larger memory.
func (s *Scanner) Keep(spare []byte) { s.text = spare }

// Begin checks the encoding of the whole text and returns the index of its first Value.
func (s *Scanner) Begin() int {
	if len(s.src) > math.MaxInt32 {
		return s.fail(math.MaxInt32, "the text is too long")
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
		return s.fail(0, "a byte order mark is not allowed")
	}
	return s.skip(0)
}

// End checks that only white space follows.
func (s *Scanner) End(i int) int {
	if i = s.skip(i); i < len(s.src) {
		return s.failWant(i, "the end")
	}
	return i
}

// skip skips white space.
func (s *Scanner) skip(i int) int {
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
func (s *Scanner) at(i int, c byte) bool { return i < len(s.src) && s.src[i] == c }

// Members reads the object at i. It calls member for each member of the object after it
// has read the value, with the unescaped key and the bounds of the value in src.
func (s *Scanner) Members(i int, member func(key []byte, from, to int)) int {
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
		if i = s.Value(i); i < 0 {
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

// Value reads the value at i.
func (s *Scanner) Value(i int) int {
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
func (s *Scanner) push(i int, object bool) int {
	if s.depth == MaxDepth {
		return s.fail(i, "objects and arrays can be at most "+strconv.Itoa(MaxDepth)+" deep")
	}
	s.objects++
	s.open[s.depth] = container{id: s.objects, object: object, base: len(s.keys)}
	s.depth++
	return i + 1
}

// pop closes the innermost object or array.
func (s *Scanner) pop() {
	s.depth--
	s.keys = s.keys[:s.open[s.depth].base]
}

// key reads a key, the colon after it and the white space around the colon.
func (s *Scanner) key(i int) int {
	if !s.at(i, '"') {
		return s.failWant(i, "a key in double quotes")
	}
	end, escaped := s.str(i)
	if end < 0 {
		return -1
	}
	key := keyAt{from: int32(i + 1), to: int32(end - 1)}
	if escaped {
		from := len(s.text)
		s.text, _ = Unescape(s.text, s.src[i+1:end-1])
		key = keyAt{from: int32(from), to: int32(len(s.text)), inText: true}
	}
	s.keys = append(s.keys, key)
	if s.duplicate(s.bytes(key)) {
		return s.fail(i, "duplicate "+Excerpt(s.bytes(key)))
	}
	if end = s.skip(end); !s.at(end, ':') {
		return s.failWant(end, "a colon")
	}
	return s.skip(end + 1)
}

// bytes returns the unescaped text of a key.
func (s *Scanner) bytes(k keyAt) []byte {
	if k.inText {
		return s.text[k.from:k.to]
	}
	return s.src[k.from:k.to]
}

// duplicate reports whether key, the last of keys, is in its object already.
func (s *Scanner) duplicate(key []byte) bool {
	o := &s.open[s.depth-1]
	last := len(s.keys) - 1
	n := last - o.base
	if n < fewKeys {
		kind := kindOf(key)
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
	if n == fewKeys { // the earlier keys are not in the table yet
		for i := o.base; i < last; i++ {
			s.insert(o.id, i)
		}
	}
	return !s.insert(o.id, last)
}

// kindOf returns a number with one bit set. Equal keys have the same bit; different keys
// often have different bits.
func kindOf(key []byte) uint64 {
	n := len(key)
	if n == 0 {
		return 1
	}
	return 1 << (uint(key[0]+3*key[n-1]+5*key[n/2]+7*byte(n)) % 64)
}

// insert puts keys[key] of an object into slots and reports whether it is new.
func (s *Scanner) insert(object uint32, key int) bool {
	if 4*(s.used+1) > 3*len(s.slots) {
		s.grow()
	}
	text := s.bytes(s.keys[key])
	// Mix the object's id in, by a multiplication with 2^32 / the golden ratio, so that
	// equal keys of different objects do not collide.
	hash := uint32(maphash.Bytes(seed, text)) + object*0x9E3779B9
	for i := hash; ; i++ {
		at := &s.slots[int(i)&(len(s.slots)-1)]
		if at.object == 0 {
			*at = slot{object, hash, int32(key)}
			s.used++
			return true
		}
		if at.object == object && at.hash == hash && string(s.bytes(s.keys[at.key])) == string(text) {
			return false
		}
	}
}

// grow doubles the number of slots, which is a power of two.
func (s *Scanner) grow() {
	old := s.slots
	s.slots = make([]slot, max(128, 2*len(old)))
	for _, moved := range old {
		if moved.object == 0 {
			continue
		}
		i := moved.hash
		for s.slots[int(i)&(len(s.slots)-1)].object != 0 {
			i++
		}
		s.slots[int(i)&(len(s.slots)-1)] = moved
	}
}

// str reads the string at i and reports whether there is an escape in it.
func (s *Scanner) str(i int) (end int, escaped bool) {
	src := s.src
	for i++; ; {
		if i+8 <= len(src) {
			found := special(binary.LittleEndian.Uint64(src[i:]))
			if found == 0 {
				i += 8
				continue
			}
			i += bits.TrailingZeros64(found) / 8
		} else {
			for i < len(src) && src[i] >= ' ' && src[i] != '"' && src[i] != '\\' {
				i++
			}
			if i == len(src) {
				return s.fail(i, "a string has no closing quote"), false
			}
		}
		switch src[i] {
		case '"':
			return i + 1, escaped
		case '\\':
			_, n, _ := decodeEscape(src[i:])
			if n == 0 {
				return s.fail(i, "unknown escape in a string"), false
			}
			escaped = true
			i += n
		default:
			return s.fail(i, "a control character in a string must be escaped"), false
		}
	}
}

// special looks at eight bytes of a string at once for control characters, quotes and
// backslashes. In the result, the first such byte, in the order of memory, has its highest
// bit set; bits after it mean nothing. The result is 0 if there is none. Bytes of 0x80 and
// more are plain, because Begin has checked the UTF-8.
func special(eight uint64) uint64 {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	quote := eight ^ ones*'"'
	backslash := eight ^ ones*'\\'
	return ((eight-ones*' ')&^eight | (quote-ones)&^quote | (backslash-ones)&^backslash) & highs
}

func (s *Scanner) literal(i int, want string) int {
	if end := i + len(want); end <= len(s.src) && string(s.src[i:end]) == want {
		return end
	}
	return s.failWant(i, "a value")
}

// number reads the number at i (RFC 8259, section 6).
func (s *Scanner) number(i int) int {
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

// digits reads one or more digits.
func (s *Scanner) digits(i int) int {
	from := i
	for i < len(s.src) && '0' <= s.src[i] && s.src[i] <= '9' {
		i++
	}
	if i == from {
		return s.failWant(i, "a digit")
	}
	return i
}

// Check returns nil if text is one JSON value of any kind, else an error that says why not.
func Check(text []byte) error {
	s := Scan(text)
	defer s.Release()
	i := s.Begin()
	if i >= 0 {
		i = s.Value(i)
	}
	if i >= 0 {
		i = s.End(i)
	}
	if i < 0 {
		return errors.New(s.fault)
	}
	return nil
}
