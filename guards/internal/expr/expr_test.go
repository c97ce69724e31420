// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package expr

import (
	"net/http"
	"strings"
	"testing"

	"github.com/push-it/pushit/hub"
)

// A question is what an expression is evaluated about, with defaults for what a
// test leaves out.
type question struct {
	gate    hub.GateName // default: publish
	data    string       // of the message; default: null
	user    string
	claims  map[string]any
	opening hub.Opening
}

type object = map[string]any

// A fakeSubject has what guards would have found out.
type fakeSubject struct {
	user    string
	claims  map[string]any
	channel string
	opening *hub.Opening
}

func (s fakeSubject) User() string               { return s.user }
func (s fakeSubject) Claims() map[string]any     { return s.claims }
func (s fakeSubject) Attributes() map[string]any { return nil }
func (s fakeSubject) Replaced() []byte           { return nil }
func (s fakeSubject) Parts() []string            { return strings.Split(s.channel, "/") }
func (s fakeSubject) Header() http.Header {
	header := make(http.Header)
	for name, value := range s.opening.Fields {
		header.Add(name, value)
	}
	return header
}

func (c question) input(t testing.TB) (*hub.Question, Subject) {
	t.Helper()
	h, err := hub.New("expr", nil)
	if err != nil {
		t.Fatal(err)
	}
	a, err := h.Open(h.Use(&hub.Policy{Mount: "expr"}), c.opening)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		a.Left("the test is over")
		h.Close()
	})
	if c.gate == "" {
		c.gate = hub.GatePublish
	}
	q := &hub.Question{Gate: c.gate, Agent: a, Channel: "news"}
	if c.gate == hub.GatePublish || c.gate == hub.GateDeliver {
		var data []byte
		if c.data != "" {
			data = []byte(c.data)
		}
		q.Message = hub.NewMessage("news", "m-1", data)
	}
	return q, fakeSubject{c.user, c.claims, q.Channel, &c.opening}
}

// bool evaluates an expression that is true or false.
func (c question) bool(t testing.TB, expr string) (bool, error) {
	t.Helper()
	q, subject := c.input(t)
	p, err := CompileBool(expr, ScopeOf(q.Gate))
	if err != nil {
		t.Fatalf("compiling %s: %v", expr, err)
	}
	return p.Bool(q, subject)
}

// value evaluates an expression that makes data.
func (c question) value(t testing.TB, expr string) (string, error) {
	t.Helper()
	q, subject := c.input(t)
	p, err := CompileValue(expr, ScopeOf(q.Gate))
	if err != nil {
		t.Fatalf("compiling %s: %v", expr, err)
	}
	data, err := p.Value(q, subject)
	return string(data), err
}

func TestMistakes(t *testing.T) {
	for _, c := range []struct {
		gate       hub.GateName
		expr, want string
	}{
		{hub.GatePublish, `agent.usr == "bob"`, "agent has no usr; did you mean user?\n\tagent.usr == \"bob\"\n\t     ^"},
		{hub.GatePublish, `has(agent.usr)`, "agent has no usr; did you mean user?"},
		{hub.GatePublish, `agent.shoe_size > 40`, "agent has no shoe_size; it has agentId, attributes, claims, credentials, remote_ip, user, uuid"},
		{hub.GatePublish, `request.header["x"] == "a"`, "request has no header; did you mean headers?"},
		{hub.GatePublish, `mesage.data == 1`, "unknown name mesage; did you mean message?"},
		{hub.GatePublish, `user == "bob"`, "unknown name user; did you mean agent.user?"},
		{hub.GatePublish, `agent.user == bob`, `write text in quotes: "bob"`},
		{hub.GatePublish, `message.user == "bob"`, "message.user is known only at deliver; here the publisher is the agent"},
		{hub.GatePublish, `channel.startWith("a")`, "unknown function startWith; did you mean startsWith?\n\tchannel.startWith(\"a\")\n\t        ^"},
		{hub.GatePublish, `agent.user == 5`, "== cannot be used with (string or null, int)\n\tagent.user == 5\n\t           ^"},
		{hub.GatePublish, `parts.contains("a")`, "contains cannot be used with list(string).(string); to search a list, write in"},
		{hub.GatePublish, `agent.user.name == "a"`, "string or null has no fields"},
		{hub.GatePublish, `channel`, "this must be true or false but is a string"},
		{hub.GatePublish, `size(parts)`, "this must be true or false but is an int"},
		{hub.GatePublish, `agent`, "this must be true or false but is an object, agent"},
		{hub.GatePublish, `agent.claims.?admin`, "this may have no value; add what to use then: .orValue(false)"},
		{hub.GatePublish, `agent.user = "bob"`, "write == to compare"},
		{hub.GatePublish, `agent.user === "bob"`, "write == for equal and != for not equal"},
		{hub.GatePublish, `agent.user == "a" and channel == "b"`, "write && for and"},
		{hub.GatePublish, `agent.user == "a" | channel == "b"`, "write || for or"},
		{hub.GatePublish, `not is_pattern`, "write ! for not"},
		{hub.GatePublish, `{http.auth.user.id} == "bob"`, "expressions cannot have placeholders"},
		{hub.GatePublish, `agent.user == "and not"  "or"`, "this is not CEL: extraneous input"},
		{hub.GatePublish, `agent.user ==`, "something is missing at the end"},
		{hub.GatePublish, `(agent.user == "a"`, "missing ')' at the end"},
		{hub.GatePublish, " \n", "the expression is empty"},
		{hub.GatePublish, "parts[0] == \"a\" &&\n\t\tagent.usr == \"b\"", "agent has no usr; did you mean user? (line 2 of the expression)\n\tagent.usr == \"b\"\n\t     ^"},
		{hub.GatePublish, "channel == \"ünï\" && agent.usr == \"b\"", "\n\tchannel == \"ünï\" && agent.usr == \"b\"\n\t                         ^"},
		{hub.GatePublish, `now.getHours("Europe/Zurych") < 8`, `unknown time zone "Europe/Zurych"`},
		{hub.GatePublish, `now.getHours("+1") < 8`, `unknown time zone "+1"`},
		{hub.GatePublish, `now > timestamp("yesterday")`, "timestamp"},
		{hub.GatePublish, `cidr("10.0.0.0/33").containsIP(agent.remote_ip)`, "prefix length out of range"},
		{hub.GatePublish, `channel.matches("^a(")`, "missing closing )"},
		{hub.GatePublish, `channel.matches(".{1000}.{1000}")`, "2002 steps; at most 1000 are allowed"},
		{hub.GatePublish, `channel.matches("^users/" + agent.user)`, "must be text in quotes"},
		{hub.GatePublish, `regex.extract(message.data, message.data).hasValue()`, "must be text in quotes"},
		{hub.GatePublish, `[1].all(a, [1].all(b, [1].all(c, [1].all(d, [1].all(e, e == 1)))))`, "loops can be nested at most 4 deep"},
		{hub.GatePublish, `["a", "b"].exists(p, matches(channel, p))`, "must be text in quotes"},
		{hub.GateSubscribe, `message.data == 1`, "there is no message at subscribe; publish and deliver have one\n\tmessage.data == 1\n\t^"},
		{hub.GateConnect, `message.data == 1`, "there is no message at connect"},
		{hub.GateConnect, `channel == "a"`, "there is no channel at connect, which is not about a channel"},
		{hub.GateDisconnect, `parts[0] == "a"`, "there is no parts at disconnect"},
		{hub.GateConnect, `is_pattern`, "there is no is_pattern at connect"},
	} {
		_, err := CompileBool(c.expr, ScopeOf(c.gate))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %s: got\n%v\nwant\n%s", c.gate, c.expr, err, c.want)
		}
	}
	for expr, want := range map[string]string{
		"agent":                "this is an object, agent, which cannot be written as JSON; name its fields",
		"message.data.?x":      "this may have no value; add what to use then: .orValue(null)",
		`ip("1.2.3.4")`:        "which cannot be written as JSON",
		"type(message.data)":   "which cannot be written as JSON",
		"message.dat":          "did you mean data?",
		`{"a": message.data]`:  "this is not CEL",
		`optional.of("a")`:     "this may have no value",
		`agent.user.matches()`: "matches",
	} {
		if _, err := CompileValue(expr, ScopeOf(hub.GateDeliver)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", expr, err, want)
		}
	}
}

func TestNumbers(t *testing.T) {
	for _, c := range []struct{ json, kind, text string }{
		{"5", "int", "5"},
		{"5.0", "int", "5"},
		{"5e0", "int", "5"},
		{"-0", "int", "0"},
		{"-0.0", "int", "0"},
		{"5.5", "double", "5.5"},
		{"1e-7", "double", "1e-7"},
		{"9007199254740993", "int", "9007199254740993"},        // float64 does not have this number
		{"9223372036854775807", "int", "9223372036854775807"},  // 1<<63 - 1
		{"9223372036854775808", "uint", "9223372036854775808"}, // 1<<63
		{"18446744073709551616", "double", "18446744073709552000"},
		{"1e100", "double", "1e+100"},
	} {
		q := question{data: c.json}
		if got, err := q.bool(t, "type(message.data) == "+c.kind); !got || err != nil {
			t.Errorf("%s is not %s: %v", c.json, c.kind, err)
		}
		if got, err := q.value(t, "[message.data]"); got != "["+c.text+"]" || err != nil {
			t.Errorf("%s became %s, %v", c.json, got, err)
		}
	}
	for expr, data := range map[string]string{
		`message.data[0] == message.data[1]`:                       `[5,5.0]`,
		`message.data[0] < message.data[1]`:                        `[9007199254740992,9007199254740993]`,
		`message.data[0] != message.data[1]`:                       `[9223372036854775808,9223372036854775809]`,
		`message.data[0] + 1 == 6 && message.data[1] + 0.5 == 6.0`: `[5.0,5.5]`,
		`message.data[0] < 5.5 && message.data[0] > 4u`:            `[5]`,
	} {
		if got, err := (question{data: data}).bool(t, expr); !got || err != nil {
			t.Errorf("%s with %s: got %v, %v", expr, data, got, err)
		}
	}
}

func TestValue(t *testing.T) {
	q := question{data: `{"s":"a\"\u00e9<\u0007\ud83d\ude00","l":[1,[]],"o":{}}`, user: "bob"}
	for _, c := range []struct{ expr, want string }{
		{`null`, `null`},
		{`true`, `true`},
		{`1u`, `1`},
		{`-7`, `-7`},
		{`0.25`, `0.25`},
		{`"a\"\\b\n"`, `"a\"\\b\n"`},
		{`b"\x00\xff"`, `"AP8="`},
		{`timestamp("2026-01-02T03:04:05.5+01:00")`, `"2026-01-02T02:04:05.5Z"`},
		{`duration("90s") + duration("500ms")`, `"90.5s"`},
		{`[1, "a", null, [], {}]`, `[1,"a",null,[],{}]`},
		{`{"b": 1, "a": {"z": 1.5}, "c": agent.user}`, `{"a":{"z":1.5},"b":1,"c":"bob"}`},
		{`{1: "a", 2u: "b", true: "c"}`, `{"1":"a","2":"b","true":"c"}`},
		{`{"by": agent.user, "data": message.data}`, `{"by":"bob","data":{"l":[1,[]],"o":{},"s":"a\"é\u003c\u0007😀"}}`},
		{`{?"x": message.data.?x, ?"o": message.data.?o}`, `{"o":{}}`},
		{`message.data.l.map(x, string(x) == "1")`, ``},
		{`message.data`, `{"s":"a\"\u00e9<\u0007\ud83d\ude00","l":[1,[]],"o":{}}`},
		{`message.data.l`, `[1,[]]`},
		{`parts`, `["news"]`},
	} {
		got, err := q.value(t, c.expr)
		if c.want == "" && err == nil {
			t.Errorf("%s made %s", c.expr, got)
		}
		if c.want != "" && (got != c.want || err != nil) {
			t.Errorf("%s made %s, %v, want %s", c.expr, got, err, c.want)
		}
	}
	q.data = `{"long":"` + strings.Repeat("x", 1000) + `"}`
	for expr, want := range map[string]string{
		`[agent]`:                                "pushit.Agent cannot be written as JSON",
		`[message.data.?x]`:                      ".orValue(null)",
		`1.0 / 0.0`:                              "cannot be written as JSON",
		`{1: "a", "1": "b"}`:                     "two keys",
		`{"a": type(1)}`:                         "cannot be written as JSON",
		`message.data.missing`:                   "no such key",
		`lists.range(2000).map(x, message.data)`: errValueSize.Error(),
	} {
		if got, err := q.value(t, expr); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s made %.50s, %v, want %s", expr, got, err, want)
		}
	}
	deep := question{data: strings.Repeat("[", 31) + strings.Repeat("]", 31)}
	if got, err := deep.value(t, "message.data.map(x, x)"); got != deep.data || err != nil {
		t.Errorf("31 deep: %s, %v", got, err)
	}
	if _, err := deep.value(t, "[message.data]"); err == nil {
		t.Error("32 deep can be made")
	}
}

// If a transform changes nothing, the message need not be encoded again.
func TestValueUnchanged(t *testing.T) {
	for _, gate := range []hub.GateName{hub.GatePublish, hub.GateDeliver} {
		q, subject := question{gate: gate, data: `{ "n": 1.0 }`}.input(t)
		p, err := CompileValue(`true ? message.data : {"a": 1}`, ScopeOf(gate))
		if err != nil {
			t.Fatal(err)
		}
		data, err := p.Value(q, subject)
		if err != nil || &data[0] != &q.Message.Data[0] {
			t.Errorf("%s: got other bytes: %s, %v", gate, data, err)
		}
	}
}
