// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/push-it/pushit/internal/jsontext"
)

func TestDecodeFrame(t *testing.T) {
	for _, tt := range []struct {
		name, frame string
		want        inbound
		data        string
	}{
		{
			"a publish", `{"channel":"stories/5","uuid":"u-1","agentId":"a_1","data":{"text":"hi"}}`,
			inbound{channel: "stories/5", uuid: "u-1", agentID: "a_1", hasAgentID: true},
			`{"text":"hi"}`,
		},
		{"keys in any order", `{"data":1,"agentId":"a","uuid":"u","channel":"c"}`, inbound{channel: "c", uuid: "u", agentID: "a", hasAgentID: true}, `1`},
		{"no agentId, no data", `{"channel":"c","uuid":"u"}`, inbound{channel: "c", uuid: "u"}, ``},
		{"data null", `{"channel":"c","uuid":"u","data":null}`, inbound{channel: "c", uuid: "u"}, `null`},
		{"escapes in keys and values", `{"ch\u0061nnel":"\u0063\/d","uuid":"\u0075","agentId":"\u0061"}`, inbound{channel: "c/d", uuid: "u", agentID: "a", hasAgentID: true}, ``},
		{"a surrogate pair in the channel", `{"channel":"\ud83c\udf89","uuid":"u"}`, inbound{channel: "🎉", uuid: "u"}, ``},
		{"a lone surrogate in data", `{"channel":"c","uuid":"u","data":"\ud800"}`, inbound{channel: "c", uuid: "u"}, `"\ud800"`},
		{"white space goes", " {\r\n\t\"channel\" : \"c\" , \"uuid\" : \"u\" , \"data\" :\n [ 1 , { \"a b\" : \" \\\" \" } ]\n} ", inbound{channel: "c", uuid: "u"}, `[1,{"a b":" \" "}]`},
		{"numbers and escapes stay as they were", `{"channel":"c","uuid":"u","data":[1.0,1e2,"\u0041"]}`, inbound{channel: "c", uuid: "u"}, `[1.0,1e2,"\u0041"]`},
		{"names are not checked yet", `{"channel":"/meta/subscribe","uuid":"u","data":{"channel":"*"}}`, inbound{channel: "/meta/subscribe", uuid: "u"}, `{"channel":"*"}`},
		{"longest ids", `{"channel":"c","uuid":"` + strings.Repeat("Z", 64) + `","agentId":"` + strings.Repeat("9", 64) + `"}`, inbound{channel: "c", uuid: strings.Repeat("Z", 64), agentID: strings.Repeat("9", 64), hasAgentID: true}, ``},
		{"32 deep", `{"channel":"c","uuid":"u","data":` + strings.Repeat("[", 31) + strings.Repeat("]", 31) + `}`, inbound{channel: "c", uuid: "u"}, strings.Repeat("[", 31) + strings.Repeat("]", 31)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, r := decodeFrame([]byte(tt.frame))
			if r != nil {
				t.Fatalf("refused: %v", r)
			}
			if string(got.data) != tt.data || (got.data == nil) != (tt.data == "") {
				t.Errorf("data = %q, want %q", got.data, tt.data)
			}
			got.data = nil
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("%+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestDecodeFrameRefuses(t *testing.T) {
	for _, tt := range []struct {
		name, frame string
		uuid        string // the uuid in the answer
		want        string
	}{
		{"nothing", ``, "", "cannot be empty"},
		{"white space", " \n", "", "expected an object, got the end"},
		{"an array", `[1,2]`, "", "a frame must be one JSON object"},
		{"an array of a frame", `[{"channel":"c","uuid":"u"}]`, "", "a frame must be one JSON object"},
		{"a string", `"{\"channel\":\"c\",\"uuid\":\"u\"}"`, "", "a frame must be one JSON object"},
		{"null", `null`, "", "a frame must be one JSON object"},
		{"words", `hello`, "", "a frame must be one JSON object"},
		{"another object", `{"a":1}`, "", `a frame has no key "a": its keys are channel, uuid, agentId and data`},
		{"an empty object", `{}`, "", "uuid is missing"},
		{"no channel", `{"uuid":"u"}`, "u", "channel is missing"},
		{"no uuid", `{"channel":"c"}`, "", "uuid is missing"},
		{"two frames", `{"channel":"c","uuid":"u"}{"channel":"c","uuid":"v"}`, "u", "JSON error at byte 26: expected the end, got '{'"},
		{"cut off", `{"channel":"c","uuid":"u"`, "u", "expected a comma or }, got the end"},
		{"cut off early", `{"channel":"c","uu`, "", "a string has no closing quote"},
		{"fault before the uuid", `{"channel":c,"uuid":"u"}`, "", "expected a value, got 'c'"},
		{"fault after the uuid", `{"uuid":"u","channel":c}`, "u", "expected a value, got 'c'"},
		{"unknown key", `{"channel":"c","extra":{"x":[1]},"uuid":"u"}`, "u", `no key "extra"`},
		{"key in capitals", `{"Channel":"c","uuid":"u"}`, "u", `no key "Channel"`},
		{"agentid is not agentId", `{"channel":"c","uuid":"u","agentid":"a"}`, "u", `no key "agentid"`},
		{"the first of two unknown keys", `{"x":1,"y":2,"uuid":"u"}`, "u", `no key "x"`},
		{"faults in channel and agentId", `{"channel":5,"uuid":"u","agentId":5}`, "u", "channel must be a string"},
		{"the empty key", `{"channel":"c","uuid":"u","":1}`, "u", `no key ""`},
		{"long unknown key", `{"uuid":"u","` + strings.Repeat("k", 5000) + `":1}`, "u", `no key "` + strings.Repeat("k", 32) + `"…: its keys`},
		{"unknown key that is not printable", `{"uuid":"u","\u0000\u202e":1}`, "u", `no key "\x00\u202e"`},
		{"channel twice", `{"channel":"c","uuid":"u","channel":"d"}`, "u", `duplicate key "channel"`},
		{"uuid twice", `{"channel":"c","uuid":"u","uuid":"v"}`, "u", `duplicate key "uuid"`},
		{"uuid twice, one in escapes", `{"channel":"c","\u0075uid":"u","uuid":"v"}`, "u", `duplicate key "uuid"`},
		{"data twice", `{"channel":"c","uuid":"u","data":1,"data":2}`, "u", `duplicate key "data"`},
		{"duplicate key in data", `{"channel":"c","uuid":"u","data":{"a":1,"a":2}}`, "u", `duplicate key "a"`},
		{"duplicate key in data before the uuid", `{"channel":"c","data":{"a":1,"a":2},"uuid":"u"}`, "", `duplicate key "a"`},
		{"33 deep", `{"channel":"c","uuid":"u","data":` + strings.Repeat("[", 32) + strings.Repeat("]", 32) + `}`, "u", "at most 32 deep"},
		{"channel is a number", `{"channel":5,"uuid":"u"}`, "u", "channel must be a string"},
		{"channel is null", `{"channel":null,"uuid":"u"}`, "u", "channel must be a string"},
		{"channel is empty", `{"channel":"","uuid":"u"}`, "u", "channel cannot be empty"},
		{"channel is too long", `{"channel":"` + strings.Repeat("c", 256) + `","uuid":"u"}`, "u", "channel can have at most 255 bytes; this one has 256"},
		{"channel is half a character", `{"channel":"a\ud83c","uuid":"u"}`, "u", "half a surrogate pair"},
		{"uuid is a number", `{"channel":"c","uuid":5}`, "", "uuid must be a string of 1 to 64"},
		{"uuid is null", `{"channel":"c","uuid":null}`, "", "uuid must be a string"},
		{"uuid is an object", `{"channel":"c","uuid":{"uuid":"u"}}`, "", "uuid must be a string"},
		{"uuid is empty", `{"channel":"c","uuid":""}`, "", "uuid must be a string"},
		{"uuid is too long", `{"channel":"c","uuid":"` + strings.Repeat("u", 65) + `"}`, "", "uuid must be a string"},
		{"uuid has a space", `{"channel":"c","uuid":"u 1"}`, "", "uuid must be a string"},
		{"uuid has a quote", `{"channel":"c","uuid":"u\"1"}`, "", "uuid must be a string"},
		{"uuid has a letter of another script", `{"channel":"c","uuid":"ü"}`, "", "uuid must be a string"},
		{"uuid is half a character", `{"channel":"c","uuid":"\ud83c"}`, "", "uuid must be a string"},
		{"uuid is ???", `{"channel":"c","uuid":"???"}`, "", "uuid must be a string"},
		{"agentId is null", `{"channel":"c","uuid":"u","agentId":null}`, "u", "agentId must be a string of 1 to 64"},
		{"agentId is empty", `{"channel":"c","uuid":"u","agentId":""}`, "u", "agentId must be a string"},
		{"agentId is markup", `{"channel":"c","uuid":"u","agentId":"<img>"}`, "u", "agentId must be a string"},
		{"agentId is too long", `{"channel":"c","uuid":"u","agentId":"` + strings.Repeat("a", 65) + `"}`, "u", "agentId must be a string"},
		{"byte order mark", "\uFEFF" + `{"channel":"c","uuid":"u"}`, "", "a byte order mark"},
		{"invalid UTF-8", "{\"channel\":\"c\",\"uuid\":\"u\",\"data\":\"\xff\"}", "", "JSON error at byte 34: text must be valid UTF-8"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in, r := decodeFrame([]byte(tt.frame))
			if r == nil {
				t.Fatalf("accepted, want %q", tt.want)
			}
			if !strings.Contains(r.Reason, tt.want) {
				t.Errorf("%q, want … %q", r.Reason, tt.want)
			}
			if !reflect.DeepEqual(in, inbound{uuid: tt.uuid}) {
				t.Errorf("%+v, want only the uuid %q", in, tt.uuid)
			}
			checkReason(t, r)
		})
	}
}

func TestDecodedFrameSurvivesItsBytes(t *testing.T) {
	frame := []byte(`{"channel":"c/d","uuid":"u1","agentId":"a1","data":[1 , 2]}`)
	in, r := decodeFrame(frame)
	if r != nil {
		t.Fatal(r)
	}
	clear(frame)
	for range 100 { // scanners that are reused do not change it
		_, _ = decodeFrame([]byte(`{"channel":"\u0078","uuid":"\u0078","agentId":"\u0078"}`))
	}
	if in.channel != "c/d" || in.uuid != "u1" || in.agentID != "a1" {
		t.Errorf("%+v", in)
	}
}

func TestDataAliasTheFrameWhereTheyCan(t *testing.T) {
	frame := []byte(` { "channel" : "c" , "data" : {"a b":[1,2]} , "uuid" : "u" } `)
	in, r := decodeFrame(frame)
	if r != nil {
		t.Fatal(r)
	}
	if at := bytes.Index(frame, in.data); at < 0 || &in.data[0] != &frame[at] {
		t.Error("data without white space are a copy")
	}
	if cap(in.data) != len(in.data) {
		t.Error("what is appended to data would overwrite the frame")
	}
}

func TestMetaChannel(t *testing.T) {
	for _, tt := range []struct{ data, want, refused string }{
		{`{"channel":"stories/5"}`, "stories/5", ""},
		{`{"other":{"channel":"no"},"channel":"a\/*","more":[]}`, "a/*", ""},
		{`{"ch\u0061nnel":"c"}`, "c", ""},
		{``, "", `data.channel is missing: data must be like {"channel":"stories/5"}`},
		{`null`, "", "data.channel is missing"},
		{`{}`, "", "data.channel is missing"},
		{`{"Channel":"c"}`, "", "data.channel is missing"},
		{`"stories/5"`, "", "data must be an object"},
		{`["stories/5"]`, "", "data must be an object"},
		{`5`, "", "data must be an object"},
		{`{"channel":5}`, "", "data.channel must be a string"},
		{`{"channel":["c"]}`, "", "data.channel must be a string"},
		{`{"channel":""}`, "", "data.channel cannot be empty"},
		{`{"channel":"\udc00"}`, "", "data.channel cannot contain half a surrogate pair"},
		{`{"channel":"` + strings.Repeat("c", 256) + `"}`, "", "data.channel can have at most 255 bytes"},
	} {
		got, r := metaChannel(frameData(t, tt.data))
		if got != tt.want {
			t.Errorf("%s: %q, want %q", tt.data, got, tt.want)
		}
		checkRefusal(t, tt.data, r, tt.refused)
	}
}

func TestMetaCredentials(t *testing.T) {
	for _, tt := range []struct{ data, want, refused string }{
		{`{"credentials":{"token":"t"}}`, `{"token":"t"}`, ""},
		{`{"other":1,"credentials":"t"}`, `"t"`, ""},
		{`{"credentials":false}`, `false`, ""},
		{`{"credentials":null}`, ``, ""},
		{`{}`, ``, ""},
		{`null`, ``, ""},
		{``, ``, ""},
		{`"token"`, ``, "data must be an object"},
		{`[{"credentials":1}]`, ``, "data must be an object"},
	} {
		got, r := metaCredentials(frameData(t, tt.data))
		if string(got) != tt.want || (got == nil) != (tt.want == "") {
			t.Errorf("%s: %q, want %q", tt.data, got, tt.want)
		}
		checkRefusal(t, tt.data, r, tt.refused)
	}
}

// frameData decodes a frame with this data.
func frameData(t *testing.T, data string) []byte {
	t.Helper()
	frame := `{"channel":"/meta/x","uuid":"u"}`
	if data != "" {
		frame = `{"channel":"/meta/x","uuid":"u","data":` + data + `}`
	}
	in, r := decodeFrame([]byte(frame))
	if r != nil {
		t.Fatalf("%s: %v", data, r)
	}
	return in.data
}

func TestRefusalsDoNotQuoteValues(t *testing.T) {
	const secret = "hunter2"
	for _, frame := range []string{
		`{"channel":"/meta/connect","uuid":"u","agentId":"a","data":{"credentials":"` + secret + `}`,
		`{"channel":"/meta/connect","uuid":"u","agentId":"a","data":{"credentials":"` + secret + "\n" + `"}}`,
		`{"channel":"/meta/connect","uuid":"u","agentId":"a","data":{"credentials":` + secret + `}}`,
		`{"channel":"/meta/connect","uuid":"u","agentId":"a","credentials":"` + secret + `"}`,
		`{"channel":"/meta/connect","uuid":"u","agentId":"` + secret + `!"}`,
		`{"channel":"/meta/connect","uuid":"u","agentId":"a","data":{"credentials":"\x` + secret + `"}}`,
		secret,
	} {
		if _, r := decodeFrame([]byte(frame)); r == nil || strings.Contains(r.Reason, secret) {
			t.Errorf("%s: %v", frame, r)
		}
	}
	if r := CheckName(secret+" ", MaxNameLength); r == nil || strings.Contains(r.Reason, secret) {
		t.Errorf("%v", r)
	}
}

func TestRetryIsInMilliseconds(t *testing.T) {
	for _, tt := range []struct {
		retry time.Duration
		want  string
	}{
		{time.Nanosecond, "1"},
		{time.Millisecond, "1"},
		{time.Millisecond + 1, "2"},
		{1500 * time.Millisecond, "1500"},
		{math.MaxInt64, "9223372036855"},
		{NoRetry, "false"},
	} {
		refusal := string(appendError(nil, "u", &Refusal{CodeLimit, "too much", tt.retry}))
		if want := `{"channel":"/meta/error","uuid":"u","error":"too much","code":"limit","retry":` + tt.want + `}`; refusal != want {
			t.Errorf("%v: %s, want %s", tt.retry, refusal, want)
		}
		notice := string(appendClose(nil, CloseSlow, "slow", tt.retry))
		if want := `{"channel":"/meta/close","code":4430,"error":"slow","retry":` + tt.want + `}`; notice != want {
			t.Errorf("%v: %s, want %s", tt.retry, notice, want)
		}
	}
}

func TestPublishesAreDecodedInOneAllocation(t *testing.T) {
	if info, ok := debug.ReadBuildInfo(); ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		t.Skip("the race detector makes pools forget on purpose")
	}
	frame := frameOfSize(1 << 10)
	if got := testing.AllocsPerRun(200, func() {
		if _, r := decodeFrame(frame); r != nil {
			t.Fatal(r)
		}
	}); got > 1 {
		t.Errorf("%v allocations", got)
	}
}

func FuzzFrame(f *testing.F) {
	for _, seed := range []string{
		`{"channel":"/meta/connect","uuid":"u","agentId":"a","data":{"credentials":{"token":"t"}}}`,
		`{"channel":"/meta/subscribe","uuid":"u","agentId":"a","data":{"channel":"stories/*"}}`,
		`{"channel":"/meta/unsubscribe","uuid":"u","data":{"channel":"\ud83c\udf89"}}`,
		`{"channel":"stories/5","uuid":"u","data":{"text":"hi \ud800"}}`,
		`{"channel":"stories/5","uuid":"u"}`,
		" {\n\"channel\" : \"c\" , \"uuid\" : \"u\" , \"data\" : [ 1 , 2 ] } ",
		`{"ch\u0061nnel":"c","uuid":"u","uuid":"v"}`, `[1,2]`, `{"a":1}`, ``, `null`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		in, r := decodeFrame(frame)
		var want map[string]json.RawMessage
		isObject := jsontext.Check(frame) == nil && json.Unmarshal(frame, &want) == nil && want != nil
		if r != nil {
			checkReason(t, r)
			if !reflect.DeepEqual(in, inbound{uuid: in.uuid}) {
				t.Errorf("%q: more than the uuid of what is refused: %+v", frame, in)
			}
			if in.uuid != "" && !isIDByTheBook(in.uuid) {
				t.Errorf("%q: uuid %q", frame, in.uuid)
			}
			checkAnswer(t, appendError(nil, in.uuid, r), map[string]any{"channel": "/meta/error", "uuid": orUnknown(in.uuid), "code": "invalid", "error": r.Reason})
			if isObject && frameIsGoodByTheBook(want) {
				t.Errorf("%q: refused: %v", frame, r)
			}
			return
		}
		if !isObject || !frameIsGoodByTheBook(want) {
			t.Fatalf("%q: accepted", frame)
		}
		checkDecoded(t, &in, want)
		checkFrameAnswers(t, &in)
	})
}

func orUnknown(uuid string) string {
	if uuid == "" {
		return "???"
	}
	return uuid
}

// isIDByTheBook implements R12 of PROTOCOL.md.
func isIDByTheBook(id string) bool {
	return 1 <= len(id) && len(id) <= 64 && strings.Trim(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") == ""
}

// frameIsGoodByTheBook implements R14 of PROTOCOL.md, for strict JSON.
func frameIsGoodByTheBook(frame map[string]json.RawMessage) bool {
	for key, value := range frame {
		text, isText := textOf(value)
		switch key {
		case "channel":
			if !isText || text == "" || len(text) > 255 || halfSurrogate(value) {
				return false
			}
		case "uuid", "agentId":
			if !isText || !isIDByTheBook(text) {
				return false
			}
		case "data":
		default:
			return false
		}
	}
	return frame["channel"] != nil && frame["uuid"] != nil
}

func textOf(value json.RawMessage) (text string, ok bool) {
	if value[0] != '"' {
		return "", false
	}
	return text, json.Unmarshal(value, &text) == nil
}

// halfSurrogate reports whether a string had half a surrogate pair, which encoding/json
// replaces by U+FFFD.
func halfSurrogate(value json.RawMessage) bool {
	text, _ := textOf(value)
	plain := strings.Count(string(value), "\uFFFD")
	for i := 0; i+6 <= len(value); i++ {
		if value[i] == '\\' {
			if strings.EqualFold(string(value[i:i+6]), `\ufffd`) {
				plain++
			}
			i++
		}
	}
	return strings.Count(text, "\uFFFD") != plain
}

func checkDecoded(t *testing.T, in *inbound, want map[string]json.RawMessage) {
	t.Helper()
	channel, _ := textOf(want["channel"])
	uuid, _ := textOf(want["uuid"])
	agentID := ""
	if want["agentId"] != nil {
		agentID, _ = textOf(want["agentId"])
	}
	if in.channel != channel || in.uuid != uuid || in.agentID != agentID || in.hasAgentID != (want["agentId"] != nil) {
		t.Errorf("%+v, want channel %q, uuid %q, agentId %q", in, channel, uuid, agentID)
	}
	if want["data"] == nil {
		if in.data != nil {
			t.Errorf("data = %q, want none", in.data)
		}
		return
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, want["data"]); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(in.data, compact.Bytes()) {
		t.Errorf("data = %q, want %q", in.data, compact.Bytes())
	}
}

// checkFrameAnswers checks each possible answer to a frame.
func checkFrameAnswers(t *testing.T, in *inbound) {
	t.Helper()
	refusal := &Refusal{CodeLimit, "\"too\" much \x00\xff<\u2028>", 1500 * time.Microsecond}
	reason := "\"too\" much \x00\uFFFD<\u2028>"
	var data any
	if in.data != nil {
		data = decodeJSON(t, in.data)
	}
	checkAnswer(t, appendMessage(nil, in.channel, in.uuid, in.data), map[string]any{"channel": in.channel, "uuid": in.uuid, "data": data})
	checkAnswer(t, appendPublished(nil, in.uuid, ""), map[string]any{"channel": "/meta/successful", "uuid": in.uuid})
	checkAnswer(t, appendError(nil, in.uuid, refusal), map[string]any{"channel": "/meta/error", "uuid": in.uuid, "error": reason, "code": "limit", "retry": json.Number("2")})
	checkAnswer(t, appendClose(nil, CloseCut, reason, 0), map[string]any{"channel": "/meta/close", "code": json.Number("4403"), "error": reason, "retry": json.Number("0")})

	same := map[string]any{"channel": in.channel, "uuid": in.uuid}
	if in.hasAgentID {
		same["agentId"] = in.agentID
	}
	if in.data != nil {
		same["data"] = data
	}
	same["successful"], same["error"] = true, ""
	checkAnswer(t, appendSubscribed(nil, in, nil), same)
	same["successful"], same["error"], same["code"], same["retry"] = false, reason, "limit", json.Number("2")
	checkAnswer(t, appendSubscribed(nil, in, refusal), same)
	same["channel"] = "/meta/connect"
	delete(same, "data")
	checkAnswer(t, appendConnected(nil, in.uuid, in.agentID, time.Time{}, refusal), same)

	checkMembers(t, in.data, data)
}

// checkMembers checks the decoded data of a /meta/ frame.
func checkMembers(t *testing.T, data []byte, decoded any) {
	t.Helper()
	members, _ := decoded.(map[string]any)
	channel, r := metaChannel(data)
	if want, _ := members["channel"].(string); r == nil && channel != want || r != nil && channel != "" {
		t.Errorf("%q: channel %q (%v), want %q", data, channel, r, want)
	}
	if r != nil {
		checkReason(t, r)
	}
	credentials, r := metaCredentials(data)
	if r != nil {
		checkReason(t, r)
	}
	if want := members["credentials"]; want == nil && credentials != nil || want != nil && !reflect.DeepEqual(decodeJSON(t, credentials), want) {
		t.Errorf("%q: credentials %q (%v), want %v", data, credentials, r, want)
	}
}

// checkAnswer checks that a frame is one line of strict JSON with the expected contents.
func checkAnswer(t *testing.T, frame []byte, want map[string]any) {
	t.Helper()
	if r := jsontext.Check(frame); r != nil {
		t.Errorf("%q: %v", frame, r)
	}
	if bytes.ContainsAny(frame, "\r\n") {
		t.Errorf("%q: a line break", frame)
	}
	if got := decodeJSON(t, frame); !reflect.DeepEqual(got, any(want)) {
		t.Errorf("%q: %v, want %v", frame, got, want)
	}
}

func decodeJSON(t *testing.T, text []byte) (v any) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return v
}

// frameOfSize returns a publish of about size bytes, as an application sends it.
func frameOfSize(size int) []byte {
	b := []byte(`{"channel":"stories/5","uuid":"0190f6ae-7d0c-7c5e-9f4e-3c1d2b0a9e8f","agentId":"tab-1","data":{"type":"comment","by":"Ann","at":1763900000000`)
	if size > 250 {
		b = append(b, `,"items":[`...)
		for i := 0; len(b)+60 < size; i++ {
			if i > 0 {
				b = append(b, ',')
			}
			b = fmt.Appendf(b, `{"id":%d,"text":"a line of \"text\", not long","ok":true}`, i)
		}
		b = append(b, ']')
	}
	return append(b, `}}`...)
}

func BenchmarkDecodeFrame(b *testing.B) {
	for _, size := range []int{150, 1 << 10, 64 << 10} {
		frame := frameOfSize(size)
		b.Run(fmt.Sprint(len(frame)), func(b *testing.B) {
			b.SetBytes(int64(len(frame)))
			b.ReportAllocs()
			for b.Loop() {
				if _, r := decodeFrame(frame); r != nil {
					b.Fatal(r)
				}
			}
		})
	}
	b.Run("64 KiB of keys", func(b *testing.B) {
		frame := bytes.Replace(frameOfSize(150), []byte(`"type"`), append(append([]byte(`"keys":`), manyKeys(7500)...), `,"type"`...), 1)
		b.SetBytes(int64(len(frame)))
		b.ReportAllocs()
		for b.Loop() {
			if _, r := decodeFrame(frame); r != nil {
				b.Fatal(r)
			}
		}
	})
}

func BenchmarkCheckName(b *testing.B) {
	for _, name := range []string{"stories/5", strings.Repeat("推送", 42)} {
		b.Run(fmt.Sprint(len(name)), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if r := CheckName(name, MaxNameLength); r != nil {
					b.Fatal(r)
				}
			}
		})
	}
}

// checkReason checks a Refusal of this package's readers. Agents, close frames and logs
// show it.
func checkReason(t *testing.T, r *Refusal) {
	t.Helper()
	if r.Code != CodeInvalid || r.Retry != 0 {
		t.Errorf("code %v, retry %v: want invalid, no advice", r.Code, r.Retry)
	}
	if len(r.Reason) == 0 || len(r.Reason) > 250 || !utf8.ValidString(r.Reason) {
		t.Errorf("reason is not 1 to 250 bytes of UTF-8: %d of %q", len(r.Reason), r.Reason)
	}
	for _, c := range r.Reason {
		if !strconv.IsPrint(c) {
			t.Errorf("reason has %q in it: %q", c, r.Reason)
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
