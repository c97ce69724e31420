// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package jsontext

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestStrictJSON(t *testing.T) {
	deep := func(open, inner, shut string, n int) string {
		return strings.Repeat(open, n) + inner + strings.Repeat(shut, n)
	}
	for _, tt := range []struct {
		name, text string
		want       string // a part of the reason, empty for valid
	}{
		{"null", `null`, ""},
		{"true", `true`, ""},
		{"false", `false`, ""},
		{"empty string", `""`, ""},
		{"empty object", `{}`, ""},
		{"empty array", `[]`, ""},
		{"space in what is empty", " [ { \t} ,[\r\n] ] ", ""},
		{"all kinds", `{"a":[1,"x",null,true,false,{"b":{}}],"c":-0.5e+10}`, ""},
		{"numbers", `[0,-0,10,1.5,0.25,1e5,1E-5,0e0,-12.0e+3,123456789012345678901234567890,1e999999]`, ""},
		{"escapes", `"\"\\\/\b\f\n\r\t\u0041\uD83D\ude00"`, ""},
		{"lone surrogate escape", `"\ud800"`, ""},
		{"surrogates in the wrong order", `"\udc00\ud800"`, ""},
		{"NUL as an escape", `"\u0000"`, ""},
		{"DEL is no control character to JSON", "\"\x7f\"", ""},
		{"line separators", "\"\u2028\u2029\"", ""},
		{"noncharacter", "\"\uFFFF\"", ""},
		{"byte order mark in a string", "\"\uFEFF\"", ""},
		{"one key at two levels", `{"a":{"a":{"a":1}},"b":{"a":2}}`, ""},
		{"one key in neighbors", `[{"a":1},{"a":1}]`, ""},
		{"keys that differ in case", `{"a":1,"A":2}`, ""},
		{"keys that look the same", "{\"\u00e9\":1,\"e\u0301\":2}", ""},
		{"the empty key", `{"":1}`, ""},
		{"32 arrays", deep("[", "1", "]", 32), ""},
		{"32 objects", deep(`{"a":`, "1", "}", 32), ""},
		{"string of 16 plain bytes", `"0123456789abcdef"`, ""},

		{"nothing", ``, "at byte 0: expected a value, got the end"},
		{"only space", "  ", "at byte 2: expected a value, got the end"},
		{"33 arrays", deep("[", "1", "]", 33), "at byte 32: objects and arrays can be at most 32 deep"},
		{"33 objects", deep(`{"a":`, "1", "}", 33), "at most 32 deep"},
		{"64 Ki of open arrays", deep("[", "", "", 64<<10), "at most 32 deep"},
		{"two values", `1 2`, "at byte 2: expected the end, got '2'"},
		{"closed twice", `{}}`, "at byte 2: expected the end, got '}'"},
		{"wrong bracket", `[1}`, "at byte 2: expected a comma or ], got '}'"},
		{"wrong brace", `{"a":1]`, "at byte 6: expected a comma or }, got ']'"},
		{"open array", `[1`, "expected a comma or ], got the end"},
		{"open object", `{"a":1`, "expected a comma or }, got the end"},
		{"open empty object", `{`, "expected a key in double quotes, got the end"},
		{"open empty array", `[`, "expected a value, got the end"},
		{"trailing comma in an array", `[1,]`, "at byte 3: expected a value, got ']'"},
		{"trailing comma in an object", `{"a":1,}`, "at byte 7: expected a key in double quotes, got '}'"},
		{"leading comma", `[,1]`, "at byte 1: expected a value, got ','"},
		{"no comma", `[1 2]`, "at byte 3: expected a comma or ], got '2'"},
		{"no colon", `{"a" 1}`, "at byte 5: expected a colon, got '1'"},
		{"no value", `{"a":}`, "at byte 5: expected a value, got '}'"},
		{"key without quotes", `{a:1}`, "at byte 1: expected a key in double quotes, got 'a'"},
		{"key that is a number", `{1:1}`, "at byte 1: expected a key in double quotes, got '1'"},
		{"single quotes", `['a']`, `at byte 1: expected a value, got '\''`},
		{"a comment", `[1/**/]`, "at byte 2: expected a comma or ], got '/'"},
		{"NaN", `NaN`, "at byte 0: expected a value, got 'N'"},
		{"Infinity", `-Infinity`, "at byte 1: expected a digit, got 'I'"},
		{"undefined", `undefined`, "expected a value, got 'u'"},
		{"half a literal", `tru`, "expected a value, got 't'"},
		{"literal and more", `nullx`, "at byte 4: expected the end, got 'x'"},
		{"literal in capitals", `True`, "expected a value, got 'T'"},
		{"leading zero", `01`, "at byte 1: expected the end, got '1'"},
		{"leading plus", `+1`, "expected a value, got '+'"},
		{"only a minus", `-`, "at byte 1: expected a digit, got the end"},
		{"point without digits before", `.5`, "expected a value, got '.'"},
		{"point without digits after", `1.`, "expected a digit, got the end"},
		{"exponent without digits", `[1e+]`, "at byte 4: expected a digit, got ']'"},
		{"hexadecimal", `0x10`, "at byte 1: expected the end, got 'x'"},
		{"open string", `"abc`, "at byte 4: a string has no closing quote"},
		{"open string that ends in a backslash", `"abc\`, "unknown escape"},
		{"line break in a string", "\"a\nb\"", "at byte 2: a control character in a string must be escaped"},
		{"NUL in a string", "\"a\x00b\"", "control character"},
		{"control character late in a string", "\"0123456789abcde\x1f\"", "at byte 16: a control character"},
		{"unknown escape", `"\x41"`, "at byte 1: unknown escape in a string"},
		{"escaped single quote", `"\'"`, "unknown escape"},
		{"short u escape", `"\u12"`, "unknown escape"},
		{"u escape that is not hexadecimal", `"\u12g4"`, "unknown escape"},
		{"capital U escape", `"\U0041"`, "unknown escape"},
		{"NUL for space", "[1,\x00 2]", `at byte 3: expected a value, got '\x00'`},
		{"no-break space for space", "[\u00a01]", `expected a value, got `},
		{"form feed for space", "[\f1]", `expected a value, got '\f'`},
		{"byte order mark", "\uFEFF1", "at byte 0: a byte order mark"},
		{"invalid UTF-8", "[\"a\xff\"]", "at byte 3: text must be valid UTF-8"},
		{"overlong UTF-8", "\"\xc0\xaf\"", "at byte 1: text must be valid UTF-8"},
		{"surrogate in UTF-8", "\"\xed\xa0\x80\"", "at byte 1: text must be valid UTF-8"},
		{"UTF-8 cut off", "\"\xe2\x82\"", "at byte 1: text must be valid UTF-8"},
		{"UTF-16", "\x00{\x00}", `expected a value, got '\x00'`},
		{"duplicate key", `{"a":1,"a":1}`, `at byte 7: duplicate key "a"`},
		{"duplicate key in an escape", `{"a":1,"\u0061":1}`, `duplicate key "a"`},
		{"duplicate key in two escapes", `{"\u0061\/":1,"a\u002F":1}`, `duplicate key "a/"`},
		{"duplicate empty key", `{"":1,"":1}`, `duplicate key ""`},
		{"duplicate key deep down", `[{"x":{"a":{},"b":[],"a":0}}]`, `duplicate key "a"`},
		{"duplicate key after an inner object", `{"a":{"b":1},"c":2,"a":3}`, `duplicate key "a"`},
		{"keys that readers without lone surrogates confuse", `{"\ud800":1,"\udfff":1}`, "duplicate key"},
		{"long duplicate key is cut", `{"` + strings.Repeat("é", 40) + `":1,"` + strings.Repeat("é", 40) + `":2}`, `"éééééééééééééééé"…`},
		{"key that could break a line", `{"a\nb":1,"a\nb":2}`, `duplicate key "a\nb"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := Check([]byte(tt.text))
			switch {
			case tt.want == "" && got != nil:
				t.Errorf("%.80q: refused: %v", tt.text, got)
			case tt.want != "" && got == nil:
				t.Errorf("%.80q: accepted, want %q", tt.text, tt.want)
			case got != nil && !strings.Contains(got.Error(), tt.want):
				t.Errorf("%.80q: %v, want … %q", tt.text, got, tt.want)
			}
			if want := oracle([]byte(tt.text)); (got == nil) != want {
				t.Errorf("%.80q: valid = %v, by encoding/json %v", tt.text, got == nil, want)
			}
		})
	}
}

// oracle is what Scanner accepts, in the plain words of encoding/json.
func oracle(text []byte) bool {
	if !utf8.Valid(text) || !json.Valid(text) {
		return false
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	type container struct {
		keys  map[string]bool // nil for an array
		isKey bool            // the next string is a key
	}
	var open []*container
	for {
		token, err := d.Token()
		if err != nil {
			return true // the end
		}
		var in *container
		if len(open) > 0 {
			in = open[len(open)-1]
		}
		switch token {
		case json.Delim('{'), json.Delim('['):
			c := new(container)
			if token == json.Delim('{') {
				c.keys, c.isKey = make(map[string]bool), true
			}
			if in != nil {
				in.isKey = in.keys != nil
			}
			if open = append(open, c); len(open) > MaxDepth {
				return false
			}
		case json.Delim('}'), json.Delim(']'):
			open = open[:len(open)-1]
		default:
			if in == nil || in.keys == nil {
				continue
			}
			if !in.isKey {
				in.isKey = true
				continue
			}
			key := token.(string)
			if in.keys[key] {
				return false
			}
			in.keys[key], in.isKey = true, false
		}
	}
}

func FuzzJSON(f *testing.F) {
	for _, seed := range []string{
		`{"a":[1,"x",null,true,false,{"b":{}}],"c":-0.5e+10}`, `{"\u0061":1,"a":2}`, `{"\ud800":1,"\ufffd":2}`, ` [1 , 2] `, `"\ud83d\ude00"`,
		`{"a":1,"b":2,"c":3,"d":4,"e":5,"f":6,"g":7,"h":8,"i":9,"j":{"a":1,"b":2,"c":3,"d":4,"e":5,"f":6,"g":7,"h":8,"i":9,"a":0},"a":11}`,
		strings.Repeat("[", 33) + strings.Repeat("]", 33),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		r := Check(text)
		if got, want := r == nil, oracle(text); got != want {
			t.Fatalf("%q: valid = %v (%v), by encoding/json %v", text, got, r, want)
		}
		if r != nil {
			checkFault(t, r)
			return
		}
		trimmed := bytes.Trim(text, " \t\r\n")
		var want bytes.Buffer
		if err := json.Compact(&want, trimmed); err != nil {
			t.Fatal(err)
		}
		if got := Compact(nil, trimmed); !bytes.Equal(got, want.Bytes()) {
			t.Errorf("%q: compact: %q, want %q", text, got, want.Bytes())
		}
	})
}

// A fuzzer seldom writes JSON that is whole; here most is, and the rest nearly.
func TestRandomJSONIsReadAsEncodingJSONReadsIt(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	valid := 0
	for range 5_000 {
		text := randomJSON(nil, rnd, 0)
		if rnd.IntN(2) == 0 && len(text) > 0 {
			const spoilers = "{}[],:\"\\0-.eE1 \n\x00\x1ftnu\xff\xc3"
			text[rnd.IntN(len(text))] = spoilers[rnd.IntN(len(spoilers))]
		}
		r := Check(text)
		if got, want := r == nil, oracle(text); got != want {
			t.Fatalf("%q: valid = %v (%v), by encoding/json %v", text, got, r, want)
		}
		if r == nil {
			valid++
		}
	}
	if valid < 1_000 || valid > 4_000 {
		t.Errorf("%d of 5,000 are valid: this tests little", valid)
	}
}

// randomJSON appends a value to dst, with all that JSON allows, and now and then
// a duplicate key or too much depth.
func randomJSON(dst []byte, rnd *rand.Rand, depth int) []byte {
	space := func() {
		for rnd.IntN(4) == 0 {
			dst = append(dst, " \t\r\n"[rnd.IntN(4)])
		}
	}
	pick := func(of ...string) { dst = append(dst, of[rnd.IntN(len(of))]...) }
	text := func() {
		dst = append(dst, '"')
		for range rnd.IntN(6) {
			pick("a", "b", "longer than a word", "é", "推", "😀", `\"`, `\\`, `\/`, `\n`, `\u0061`, `\u00e9`, `\ud83d\ude00`, `\ud83d`, `\uDE00`, "\u2028", "\x7f")
		}
		dst = append(dst, '"')
	}
	space()
	kind := rnd.IntN(10)
	if depth == 0 && rnd.IntN(50) == 0 { // around the limit
		n := MaxDepth - 1 + rnd.IntN(3)
		return append(append(dst, strings.Repeat("[", n)...), strings.Repeat("]", n)...)
	}
	switch {
	case kind < 3 && depth < 4:
		dst = append(dst, '{')
		for i := range rnd.IntN(1 + 40>>depth) {
			if i > 0 {
				dst = append(dst, ',')
			}
			space()
			if rnd.IntN(20) == 0 {
				text()
			} else {
				dst = fmt.Appendf(dst, `"%c%d"`, 'a'+rnd.IntN(26), rnd.IntN(1000))
			}
			space()
			dst = append(dst, ':')
			dst = randomJSON(dst, rnd, depth+1)
		}
		space()
		dst = append(dst, '}')
	case kind < 5 && depth < 4:
		dst = append(dst, '[')
		for i := range rnd.IntN(5) {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = randomJSON(dst, rnd, depth+1)
		}
		space()
		dst = append(dst, ']')
	case kind < 7:
		text()
	case kind < 9:
		pick("0", "-0", "17", "-1.25", "1e5", "1E-05", "0.0e+0", "12345678901234567890")
	default:
		pick("true", "false", "null")
	}
	space()
	return dst
}

// checkFault checks what holds for every fault: agents, close frames and logs get
// to see it.
func checkFault(t *testing.T, fault error) {
	t.Helper()
	text := fault.Error()
	if len(text) == 0 || len(text) > 250 || !utf8.ValidString(text) {
		t.Errorf("fault is not 1 to 250 bytes of UTF-8: %d of %q", len(text), text)
	}
	for _, c := range text {
		if !strconv.IsPrint(c) {
			t.Errorf("fault has %q in it: %q", c, text)
		}
	}
}

// What special finds first must be what a look at each byte finds first.
func TestJSONSpecialFindsTheFirst(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	kinds := []byte{0, 0x1f, 0x20, 0x21, 0x22, 0x23, 0x5b, 0x5c, 0x5d, 0x7f, 0x80, 0x9f, 0xa0, 0xa2, 0xdc, 0xff}
	var eight [8]byte
	for range 200_000 {
		for i := range eight {
			eight[i] = kinds[rnd.IntN(len(kinds))]
		}
		want := slices.IndexFunc(eight[:], func(c byte) bool { return c < ' ' || c == '"' || c == '\\' })
		got := -1
		if m := special(binary.LittleEndian.Uint64(eight[:])); m != 0 {
			for got = 0; m&0x80 == 0; m >>= 8 {
				got++
			}
		}
		if got != want {
			t.Fatalf("%x: %d, want %d", eight, got, want)
		}
	}
}

// Duplicates must be found on both sides of fewKeys, whatever is nested
// between, also when the table has grown.
func TestDuplicateKeysAreFoundAtAnyDistance(t *testing.T) {
	for _, n := range []int{2, fewKeys - 1, fewKeys, fewKeys + 1, fewKeys + 2, 50, 1000} {
		for _, again := range []int{0, n / 2, n - 1} {
			var b strings.Builder
			b.WriteByte('{')
			for i := range n {
				// Each value is an object with the keys of the outer one.
				fmt.Fprintf(&b, `"k%d":{"k%d":[{"k0":0,"k1":0,"k2":0,"k3":0,"k4":0,"k5":0,"k6":0,"k7":0,"k8":0,"k9":0}]},`, i, i)
			}
			unique := b.String() + `"last":0}`
			if r := Check([]byte(unique)); r != nil {
				t.Fatalf("%d keys: %v", n, r)
			}
			double := b.String() + fmt.Sprintf(`"k%d":0}`, again)
			if Check([]byte(double)) == nil {
				t.Errorf("%d keys: the second k%d is not found", n, again)
			}
		}
	}
}

// A scanner that goes back to the pool must not hold on to what it has read.
func TestScannerAtRestHoldsNothing(t *testing.T) {
	many := manyKeys(2000)
	for _, text := range []string{`{"a":{"b\n":[{"c":1}]}}`, `{"a":{"b\n":[{"c":`, string(many), `{"` + strings.Repeat(`\n`, 10_000) + `":1}`} {
		s := new(Scanner)
		s.src = []byte(text)
		s.Value(0)
		s.Release()
		if s.src != nil || s.fault != "" || len(s.keys) != 0 || len(s.text) != 0 || s.used != 0 || s.depth != 0 {
			t.Errorf("%.40s: not empty: %+v", text, s)
		}
		if cap(s.keys) > keepKeys || cap(s.text) > keepText || len(s.slots) > 2*keepKeys {
			t.Errorf("%.40s: keeps %d keys, %d bytes, %d slots", text, cap(s.keys), cap(s.text), len(s.slots))
		}
		for _, kept := range s.slots {
			if kept.object != 0 {
				t.Errorf("%.40s: keeps a slot", text)
			}
		}
	}
}

// manyKeys returns an object of n keys.
func manyKeys(n int) []byte {
	b := []byte{'{'}
	for i := range n {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(strconv.AppendInt(append(b, '"'), int64(i), 36), `":0`...)
	}
	return append(b, '}')
}

func BenchmarkJSON(b *testing.B) {
	wide := manyKeys(8000)
	nested := bytes.Repeat([]byte(`{"a":0,"b":0,"c":0,"d":0,"e":0,"f":0,"g":0,"h":0,"i":0},`), 1100)
	hashed := bytes.Repeat(append(manyKeys(fewKeys+1), ','), 400)
	// Keys of one kind: no shortcut helps.
	var alike []byte
	for range 500 {
		alike = append(alike, '{')
		for i := range fewKeys {
			alike = fmt.Appendf(alike, `"-%c-%c-":0,`, 'a'+i%5, 'a'+i/5)
		}
		alike[len(alike)-1] = '}'
		alike = append(alike, ',')
	}
	for _, bm := range []struct {
		name string
		text []byte
	}{
		{"8000 keys", wide},
		{"objects of 9 keys", append(append([]byte{'['}, nested...), '0', ']')},
		{"objects with a table", append(append([]byte{'['}, hashed...), '0', ']')},
		{"objects of keys alike", append(append([]byte{'['}, alike...), '0', ']')},
		{"numbers", append(append([]byte{'['}, bytes.Repeat([]byte("-1.25e3,"), 8000)...), '0', ']')},
		{"one string", append(append([]byte{'"'}, bytes.Repeat([]byte("x"), 64000)...), '"')},
		{"one string in Chinese", append(append([]byte{'"'}, bytes.Repeat([]byte("推送"), 10000)...), '"')},
		{"escapes", append(append([]byte{'"'}, bytes.Repeat([]byte(`a\n`), 20000)...), '"')},
	} {
		b.Run(bm.name, func(b *testing.B) {
			b.SetBytes(int64(len(bm.text)))
			b.ReportAllocs()
			for b.Loop() {
				if r := Check(bm.text); r != nil {
					b.Fatal(r)
				}
			}
		})
	}
}
