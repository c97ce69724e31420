// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package expr

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"

	"github.com/push-it/pushit/hub"
)

// A client cannot make a rule expensive with 64 KiB of data.
func TestBounds(t *testing.T) {
	one := func(int) int { return 1 }
	self := func(i int) int { return i }
	text := func(n int) string { return strings.Repeat("a", n) }
	both := fmt.Sprintf(`{"a":%s,"b":%s}`, listOf(16000, self), listOf(16000, self))
	listAndText := fmt.Sprintf(`{"l":%s,"s":%q}`, listOf(16000, one), text(32000))
	for _, c := range []struct {
		expr, data string
		want       error
	}{
		{`message.data.all(x, message.data.all(y, x == y))`, listOf(32000, one), errTooManySteps},
		{`message.data.all(x, !(5 in message.data))`, listOf(32000, one), errTooManySteps},
		{`message.data.all(x, message.data == message.data)`, listOf(32000, one), errTooManySteps},
		{`message.data.map(x, message.data.map(y, y)).size() > 0`, listOf(32000, one), errTooManySteps},
		{`message.data.l.map(x, message.data.s + "!").size() > 0`, listAndText, errTooManySteps},
		{`message.data.l.map(x, message.data.s.split("")).size() > 0`, listAndText, errTooManySteps},
		{`message.data.l.all(x, message.data.s.matches("(a+a+)+b") == false)`, listAndText, errTooManySteps},
		{`message.data.l.all(x, regex.replace(message.data.s, "b", "c") != "")`, listAndText, errTooManySteps},
		{`lists.range(100).all(a, lists.range(100).all(b, lists.range(100).all(c, lists.range(100).all(d, a + b + c + d >= 0))))`, `1`, errTooManySteps},
		{`message.data.all(k, message.data.exists(l, true))`, manyMembers(), errTooManySteps},
		{`message.data.all(x, message.data.all(y, x == y))`, "[" + strings.TrimSuffix(strings.Repeat("["+strings.TrimSuffix(strings.Repeat("[1],", 160), ",")+"],", 100), ",") + "]", errTooManySteps},
		{`message.data.all(x, regex.extract(string(x), "^[0-9]{1,200}$").hasValue())`, listOf(16000, one), errTooManySteps},
		{`message.data.l.all(x, now.getHours(message.data.s.substring(0, 0) + "Europe/Zurich") >= 0)`, listAndText, errTooManySteps},
		{`message.data.distinct().size() > 0`, listOf(16000, self), errTooMany},
		{`sets.contains(message.data.a, message.data.b)`, both, errTooMany},
		{`sets.equivalent(message.data.a, message.data.b)`, both, errTooMany},
		{`sets.intersects(message.data.a, message.data.b)`, both, errTooMany},
		{`sets.contains(message.data, [[1]])`, "[" + strings.TrimSuffix(strings.Repeat("[1,1,1,1,1,1,1,1],", 6000)+strings.Repeat("[2,[3,[4]]],", 500), ",") + "]", errTooMany},
		{`lists.range(message.data).size() > 0`, `1000000000`, errors.New("exceeds maximum allowed (10000)")},
		{`message.data.replace("", message.data).size() > 0`, `"` + text(60000) + `"`, errValueSize},
		{`regex.replace(message.data, "a", message.data).size() > 0`, `"` + text(60000) + `"`, errValueSize},
		{`lists.range(1000).map(x, message.data).join(message.data).size() > 0`, `"` + text(1000) + `"`, errValueSize},
		{`message.data.a.indexOf(message.data.b) > 0`, fmt.Sprintf(`{"a":%q,"b":%q}`, text(40000), text(20000)+"b"), errTextTooLong},
		{`message.data.a.lastIndexOf(message.data.b) > 0`, fmt.Sprintf(`{"a":%q,"b":%q}`, text(40000), "b"+text(20000)), errTextTooLong},
		{`message.data.matches("a{100}b")`, `"` + text(60000) + `"`, errTextTooLong},
		{`matches(message.data, "[a-z]{1,64}@[a-z]{1,255}")`, `"` + text(60000) + `"`, errTextTooLong},
		{`regex.extractAll(message.data, "a{100}b").size() > 0`, `"` + text(60000) + `"`, errTextTooLong},
		{`"%.1000000f".format([message.data]).size() > 0`, `1.5`, errors.New("exceeds maximum allowed precision")},
	} {
		p, err := CompileBool(c.expr, ScopeOf(hub.GatePublish))
		if err != nil {
			// Mistakes in literals are found when the expression is compiled.
			if !strings.Contains(err.Error(), c.want.Error()) {
				t.Errorf("compiling %.80s: %v", c.expr, err)
			}
			continue
		}
		q, subject := question{data: c.data}.input(t)
		got, err := p.Bool(q, subject)
		if got || err == nil || !strings.Contains(err.Error(), c.want.Error()) {
			t.Errorf("%.80s: got %v, %v, want %v", c.expr, got, err, c.want)
		}
	}
	// Reasonable expressions stay below the bounds.
	for expr, data := range map[string]string{
		`message.data.all(x, x >= 0)`:                               listOf(11000, self),
		`message.data.map(x, x + x).size() == 11000`:                listOf(11000, self),
		`message.data.transformMap(k, v, v).size() == 6000`:         manyMembers(),
		`message.data.distinct().size() == 200`:                     listOf(200, self),
		`sets.contains([1, 2, 3], message.data)`:                    listOf(5000, one),
		`message.data.matches("^a+$")`:                              `"` + text(60000) + `"`,
		`message.data.indexOf("aab") == -1`:                         `"` + text(60000) + `"`,
		`message.data.replace("a", "bb").size() == 120000`:          `"` + text(60000) + `"`,
		`regex.replace(message.data, "^a", "long").size() == 60003`: `"` + text(60000) + `"`,
	} {
		if got, err := (question{data: data}).bool(t, expr); !got || err != nil {
			t.Errorf("%s: got %v, %v", expr, got, err)
		}
	}
}

// Claims and attributes come from guards, also those of other packages.
func TestOddTypes(t *testing.T) {
	type own struct{ A int }
	var nilMap map[string]any
	var nilPointer *own
	for name, v := range map[string]any{
		"struct": own{1}, "pointer": &own{1}, "nil pointer": nilPointer, "nil map": nilMap, "nil": nil, "func": func() {}, "chan": make(chan int),
		"map of ints": map[int]string{1: "a"}, "list of maps": []map[string]any{{"n": float64(1)}}, "bytes": []byte("a"), "time": time.Now(), "duration": time.Second,
		"number": json.Number("12"), "no number": json.Number("x"), "raw": json.RawMessage(`{"a":[1]}`), "no raw": json.RawMessage(`{`), "uint8": uint8(1),
		"float32": float32(2), "error": errors.New("e"), "array": [2]int{1, 2}, "complex": complex(1, 1), "any map": map[any]any{"a": 1},
	} {
		q := question{claims: object{"x": v}}
		for _, expr := range []string{
			`agent.claims.x == "a"`, `agent.claims.x.a == 1`, `agent.claims.x[0] == 1`, `size(agent.claims.x) == 1`, `"a" in agent.claims.x`,
			`agent.claims == {"x": 1}`, `agent.claims.x.exists(e, e == 3)`, `string(agent.claims.x) == "a"`, `agent.claims.?x.?y.hasValue()`,
		} {
			if _, err := q.bool(t, expr); err != nil && strings.Contains(err.Error(), "internal error") {
				t.Errorf("%s of %s: %v", expr, name, err)
			}
		}
		if data, err := q.value(t, `{"x": agent.claims.x}`); err == nil && !json.Valid([]byte(data)) {
			t.Errorf("%s became %s", name, data)
		}
	}
	if got, err := (question{claims: object{"l": []map[string]any{{"n": float64(5)}}}}).bool(t, `type(agent.claims.l[0].n) == int`); !got || err != nil {
		t.Errorf("a whole number in a list of maps: %v, %v", got, err)
	}
}

// Expressions that are too large for the compiler are errors, not crashes.
func TestHugeExpressions(t *testing.T) {
	for name, expr := range map[string]string{
		"parentheses": strings.Repeat("(", 10000) + "true" + strings.Repeat(")", 10000),
		"nots":        strings.Repeat("!", 10000) + "true",
		"text":        `channel == "` + strings.Repeat("x", 200000) + `"`,
		"lists":       strings.Repeat("[", 1000) + strings.Repeat("]", 1000) + " == []",
		"bytes":       "channel == \"\xff\"",
	} {
		if p, err := CompileBool(expr, ScopeOf(hub.GatePublish)); err == nil {
			if _, err := p.Bool(question{}.input(t)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		} else if len(err.Error()) > 1000 {
			t.Errorf("%s: an error of %d bytes", name, len(err.Error()))
		}
	}
}

// Data of a client does not fill the log.
func TestErrorsAreShort(t *testing.T) {
	_, err := question{data: `"` + strings.Repeat("ü", 30000) + `"`}.bool(t, `{"a": true}[message.data]`)
	if err == nil || len(err.Error()) > maxErrorText+len("…") {
		t.Errorf("got an error of %d bytes", len(err.Error()))
	}
}

func TestConcurrently(t *testing.T) {
	p, err := CompileBool(`message.data.l.exists(x, x == 3) && message.data.?none.orValue(true) && agent.claims.n == 1 && request.headers["x-a"] == "1"`, ScopeOf(hub.GateDeliver))
	if err != nil {
		t.Fatal(err)
	}
	value, err := CompileValue(`message.data.transformMap(k, v, k != "l", v)`, ScopeOf(hub.GateDeliver))
	if err != nil {
		t.Fatal(err)
	}
	q, subject := question{
		gate: hub.GateDeliver, data: `{"l":[1,2,3],"o":{"a":1}}`, claims: object{"n": float64(1)},
		opening: hub.Opening{Header: "X-A:1\n"},
	}.input(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 200 {
				if yes, err := p.Bool(q, subject); !yes || err != nil {
					t.Errorf("got %v, %v", yes, err)
					return
				}
				if data, err := value.Value(q, subject); string(data) != `{"o":{"a":1}}` || err != nil {
					t.Errorf("got %s, %v", data, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// Two messages with the same uuid are not confused.
func TestDeliveriesApart(t *testing.T) {
	p, err := CompileBool(`message.data == 1`, ScopeOf(hub.GateDeliver))
	if err != nil {
		t.Fatal(err)
	}
	first, subject := question{gate: hub.GateDeliver, data: `1`}.input(t)
	second, _ := question{gate: hub.GateDeliver, data: `2`}.input(t)
	for range 3 {
		if yes, err := p.Bool(first, subject); !yes || err != nil {
			t.Errorf("the first: %v, %v", yes, err)
		}
		if yes, err := p.Bool(second, subject); yes || err != nil {
			t.Errorf("the second: %v, %v", yes, err)
		}
	}
}

// manyMembers returns an object with 6,000 members.
func manyMembers() string {
	var b strings.Builder
	for i := range 6000 {
		fmt.Fprintf(&b, `,"k%d":1`, i)
	}
	return "{" + strings.TrimPrefix(b.String(), ",") + "}"
}

// listOf returns a JSON array of n numbers, each f(i).
func listOf(n int, f func(int) int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, ",%d", f(i))
	}
	return "[" + strings.TrimPrefix(b.String(), ",") + "]"
}

// A bound is what is allowed, and one more is too much.
func TestBoundsAreWhatIsAllowed(t *testing.T) {
	text := func(n int) ref.Val { return types.String(strings.Repeat("a", n)) }
	list := func(n int) ref.Val {
		return types.DefaultTypeAdapter.NativeToValue(slices.Repeat([]string{"a"}, n))
	}
	for _, c := range []struct {
		name  string
		bound bound
		args  []ref.Val
		over  []ref.Val
		want  error
	}{
		{"a search", boundSearch, []ref.Val{text(maxScan / 64), text(64)}, []ref.Val{text(maxScan/64 + 1), text(64)}, errTextTooLong},
		// A list is a step itself, and so is each text in it.
		{"pairs", bounds["sets.contains"], []ref.Val{list(maxPairs/100 - 1), list(99)}, []ref.Val{list(maxPairs / 100), list(99)}, errTooMany},
		{"pairs of one list", bounds["distinct"], []ref.Val{list(315)}, []ref.Val{list(316)}, errTooMany},
		{"a replacement", boundReplace, []ref.Val{text(1000), text(1), text(maxValue/1000 - 1)}, []ref.Val{text(1000), text(1), text(maxValue / 1000)}, errValueSize},
		{"a join", boundJoin, []ref.Val{list(1000), text(maxValue/1000 - 1)}, []ref.Val{list(1000), text(maxValue / 1000)}, errValueSize},
	} {
		if _, err := c.bound(c.args); err != nil {
			t.Errorf("%s, as much as there may be: %v", c.name, err)
		}
		if _, err := c.bound(c.over); !errors.Is(err, c.want) {
			t.Errorf("%s, and one more: %v, want %v", c.name, err, c.want)
		}
	}
}
