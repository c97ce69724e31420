// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// decoded returns the strings of a SockJS message.
func decoded(in string) ([]string, error) {
	p := []byte(in)
	spans, err := decodeSockJS(p, nil)
	if err != nil {
		return nil, err
	}
	all := make([]string, len(spans))
	for i, at := range spans {
		all[i] = string(p[at.from:at.to])
	}
	return all, nil
}

func TestDecodeSockJS(t *testing.T) {
	for _, tc := range []struct {
		in   string
		want []string
	}{
		{`["a"]`, []string{"a"}},
		{`["a","b",""]`, []string{"a", "b", ""}},
		{" [ \t\"a\" ,\r\n\"b\" ] ", []string{"a", "b"}},
		{`"one"`, []string{"one"}},
		{` "one" `, []string{"one"}},
		{`[]`, []string{}},
		{` [ ] `, []string{}},
		{`["{\"channel\":\"a\",\"n\":[1]}"]`, []string{`{"channel":"a","n":[1]}`}},
		{`["\"\\\/\b\f\n\r\t"]`, []string{"\"\\/\b\f\n\r\t"}},
		{`["\u0041\u00e9\u20AC\ud83d\ude00\u0000\ufffd"]`, []string{"Aé€😀\x00\uFFFD"}},
		{`["é€😀"]`, []string{"é€😀"}},
	} {
		got, err := decoded(tc.in)
		if err != nil || !slices.Equal(got, tc.want) {
			t.Errorf("%s: %q, %v; want %q", tc.in, got, err, tc.want)
		}
	}
}

func TestDecodeSockJSRefuses(t *testing.T) {
	for _, in := range []string{
		``, ` `, `[1,2]`, `{"a":1}`, `[{"a":1}]`, `null`, `[null]`, `true`, `garbage`, `a["a"]`,
		`["a"`, `["a",`, `["a",]`, `[,"a"]`, `["a""b"]`, `["a" "b"]`, `["a"]]`, `["a"] x`, `["a"],["b"]`, `[`, `[ `,
		`"`, `"a`, `"a"b`, `"a","b"`, `["a]`, `[["a"]]`, `['a']`, "[\"\n\"]", "[\"\x00\"]",
		`["\x"]`, `["\"]`, `["\`, `["\u12"]`, `["\u12G4"]`, `["\u+123"]`, `["\`, `["\u`, `["\u004`,
		`["\ud800"]`, `["\udc00"]`, `["\ud800\ud800"]`, `["\ud800\u0041"]`, `["\ud800x"]`, `["\ud800\`, `["\ud83d\udE0"]`,
		"\ufeff[\"a\"]",
	} {
		if got, err := decoded(in); !errors.Is(err, errNotSockJS) {
			t.Errorf("%q: %q, %v; want it refused", in, got, err)
		}
	}
}

func TestDecodeSockJSBoundsStrings(t *testing.T) {
	array := func(n int) string { return `[` + strings.TrimSuffix(strings.Repeat(`"",`, n), ",") + `]` }
	if got, err := decoded(array(maxStrings)); err != nil || len(got) != maxStrings {
		t.Errorf("%d strings: %d, %v", maxStrings, len(got), err)
	}
	if _, err := decoded(array(maxStrings + 1)); !errors.Is(err, errStrings) {
		t.Errorf("%d strings: %v, want %v", maxStrings+1, err, errStrings)
	}
	if !strings.Contains(errStrings.Error(), fmt.Sprint(maxStrings)) {
		t.Errorf("the sentence %q does not name the bound", errStrings)
	}
}

func TestDecodeSockJSAllocatesNothing(t *testing.T) {
	in := []byte(`["{\"channel\":\"chat\",\"uuid\":\"1\",\"data\":\"é\"}","{\"n\":2}"]`)
	p := make([]byte, len(in))
	if got := testing.AllocsPerRun(100, func() {
		copy(p, in)
		var few [8]span
		if spans, err := decodeSockJS(p, few[:0]); err != nil || len(spans) != 2 {
			t.Fatal(len(spans), err)
		}
	}); got != 0 {
		t.Errorf("%v allocations", got)
	}
}

// referenceSockJS decodes with encoding/json.
func referenceSockJS(in []byte) (all []string, ok bool) {
	d := json.NewDecoder(bytes.NewReader(in))
	first, err := d.Token()
	if err != nil {
		return nil, false
	}
	switch v := first.(type) {
	case string:
		all = []string{v}
	case json.Delim:
		if v != '[' {
			return nil, false
		}
		all = []string{}
		for d.More() {
			t, err := d.Token()
			s, isString := t.(string)
			if err != nil || !isString {
				return nil, false
			}
			all = append(all, s)
		}
		if t, err := d.Token(); err != nil || t != json.Delim(']') {
			return nil, false
		}
	default:
		return nil, false
	}
	_, err = d.Token()
	return all, errors.Is(err, io.EOF)
}

// FuzzSockJSFrame: decodeSockJS accepts what encoding/json accepts, except lone surrogates,
// which encoding/json turns into U+FFFD.
func FuzzSockJSFrame(f *testing.F) {
	for _, s := range []string{
		`["a","b"]`, `"one"`, `[]`, `["\u0041\ud83d\ude00\n\/"]`, `["\ud800"]`, `[1,2]`, `{"a":1}`, `["a",]`, ` [ "a" , "b" ] `, `["é€😀"]`, `[["a"]]`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if !utf8.Valid(in) || bytes.Count(in, []byte(`"`)) > maxStrings {
			return
		}
		want, wantOK := referenceSockJS(in)
		got, err := decoded(string(in))
		switch {
		case err == nil && !wantOK:
			t.Errorf("%q is taken as %q", in, got)
		case err == nil && !slices.Equal(got, want):
			t.Errorf("%q = %q, want %q", in, got, want)
		case err != nil && wantOK && !bytes.Contains(bytes.ToLower(in), []byte(`\ud`)):
			t.Errorf("%q is refused: %v", in, err)
		}
		for _, s := range got {
			if !utf8.ValidString(s) {
				t.Errorf("%q gives the invalid %q", in, s)
			}
		}
	})
}
