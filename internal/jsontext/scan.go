// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// Package jsontext scans, quotes and unquotes JSON: what agents send is read here,
// and what they get is written here. It is stricter than encoding/json where two
// readers could understand a text differently, and copies nothing that it need not.
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

// MaxDepth is how many objects and arrays can stand inside one another, the
// outermost included.
const MaxDepth = 32

// A Scanner reads JSON (RFC 8259) more strictly than it asks. The Scanner
// refuses duplicate keys, which two readers could understand differently, and
// nesting over MaxDepth, which only serves to make readers fall over. It makes one
// pass, does not recurse, and allocates only for objects of more keys than any it
// has seen.
//
// Its methods take the index to go on from and return the index after what they
// read. They return -1 after a fault, which Fault explains.
type Scanner struct {
	src []byte
	// fault says why a method returned -1.
	fault string
	// space is set when white space is skipped. members clears it before each
	// value.
	space bool

	// open are the objects and arrays around the place that is read.
	open  [MaxDepth]container
	depth int
	// keys are those of all open objects, outermost first.
	keys []keyAt
	// text holds what keys with escapes stand for.
	text []byte

	// slots are an open-addressed table of the keys of objects with more than
	// fewKeys. Those of closed objects stay until the scanner is released:
	// all together cannot be more than the input has keys.
	slots   []slot
	used    int    // slots in use
	objects uint32 // objects and arrays opened so far: the next one's id
}

type container struct {
	id     uint32
	object bool
	base   int // where its keys begin in Scanner.keys
	// seen has a bit for each kind of key, by kindOf, that the object has.
	seen uint64
}

// A keyAt says where a key is: in src, or, if it had escapes, in text.
type keyAt struct {
	from, to int32
	inText   bool
}

// A slot is empty when object is 0.
type slot struct {
	object uint32 // container.id
	hash   uint32
	key    int32 // in Scanner.keys; of meaning while the object is open
}

const (
	// fewKeys is up to where comparing a key with those before it, if there
	// is one of its kind, is quicker than hashing all.
	fewKeys = 24
	// keepKeys and keepText bound what a scanner at rest holds on to.
	keepKeys = 256
	keepText = 4 << 10
)

// seed is random, so that nobody can make keys that collide.
var seed = maphash.MakeSeed()

var scanners = sync.Pool{New: func() any { return new(Scanner) }}

// Scan returns a Scanner for src. The caller releases it.
func Scan(src []byte) *Scanner {
	s := scanners.Get().(*Scanner)
	s.src = src
	return s
}

// Release gives the Scanner back to a pool. Nothing that points into it may be used
// after that.
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

// fail notes why src cannot be read and returns -1. Neither it nor its callers
// quote more of the input than a character or a short key: what is refused may
// be secret.
func (s *Scanner) fail(at int, why string) int {
	s.fault = "JSON error at byte " + strconv.Itoa(at) + ": " + why
	return -1
}

// failWant is fail for a byte that is missing or does not belong where it is.
func (s *Scanner) failWant(at int, want string) int {
	if at >= len(s.src) {
		return s.fail(at, "the end, where "+want+" should be")
	}
	r, _ := utf8.DecodeRune(s.src[at:])
	return s.fail(at, fmt.Sprintf("%q where %s should be", r, want))
}

// Fault says why a method returned -1: a sentence that quotes no more of the input
// than a character or a short key, since what is refused may be secret.
func (s *Scanner) Fault() string { return s.fault }

// SkippedSpace reports whether the value that Members has just read has white space
// in it, outside of strings.
func (s *Scanner) SkippedSpace() bool { return s.space }

// Spare returns an empty slice to append to, which the Scanner lends until it is
// released. Keys that Members passed are overwritten. Keep gives it back grown.
func (s *Scanner) Spare() []byte { return s.text[:0] }

// Keep makes the Scanner reuse what was appended to Spare.
func (s *Scanner) Keep(spare []byte) { s.text = spare }

// Begin checks what holds for the text as a whole and returns where its first
// Value begins.
func (s *Scanner) Begin() int {
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

// End checks that nothing but white space follows.
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

// Members reads the object at i and calls member for each of its members once
// its value is read, with the key unescaped and the bounds of the value in src.
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

// value reads the value at i.
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

// key reads a key, the colon after it and the white space around that.
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
		return s.fail(i, "a second "+Excerpt(s.bytes(key))+" in one object")
	}
	if end = s.skip(end); !s.at(end, ':') {
		return s.failWant(end, "a colon")
	}
	return s.skip(end + 1)
}

// bytes returns what a key stands for.
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
	if n == fewKeys { // the ones before have only been compared so far
		for i := o.base; i < last; i++ {
			s.insert(o.id, i)
		}
	}
	return !s.insert(o.id, last)
}

// kindOf returns one bit, the same for equal keys and often another for
// others.
func kindOf(key []byte) uint64 {
	n := len(key)
	if n == 0 {
		return 1
	}
	return 1 << (uint(key[0]+3*key[n-1]+5*key[n/2]+7*byte(n)) % 64)
}

// insert puts keys[key] of an object into slots and reports whether it was not
// there.
func (s *Scanner) insert(object uint32, key int) bool {
	if 4*(s.used+1) > 3*len(s.slots) {
		s.grow()
	}
	text := s.bytes(s.keys[key])
	// The object's id is mixed in by a multiplication with 2^32 / the golden
	// ratio, so that the same keys in many objects do not meet.
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

// grow doubles slots, whose number is a power of two.
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
				return s.fail(i, "the end, inside a string"), false
			}
		}
		switch src[i] {
		case '"':
			return i + 1, escaped
		case '\\':
			_, n, _ := decodeEscape(src[i:])
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

// special finds what ends a run of plain characters in a string, in eight
// bytes at once: of the bytes that are less than a space, a quote or a
// backslash, the first one, in the order of memory, has its highest bit set in
// the result. What is set after it means nothing. Bytes of 0x80 and more are
// plain: that they are UTF-8 has been checked.
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

// digits reads one digit or more.
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

// Check reads text as one JSON value of any kind. The error is the Scanner's fault.
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
