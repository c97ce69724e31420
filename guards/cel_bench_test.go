// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"strings"
	"testing"

	"github.com/push-it/pushit/guards/internal/expr"
	"github.com/push-it/pushit/hub"
)

func BenchmarkCEL(b *testing.B) {
	kib := `{"text":"` + strings.Repeat("x", 700) + `","tags":["a","b","c","d"],"n":1,"at":{"x":1.5,"y":2.5},"more":[1,2,3,4,5,6,7,8,9,10]}`
	headers := strings.Repeat("X-Some-Header:some value\n", 10) + "Cookie:sid=1; theme=dark\n"
	for _, bench := range []struct {
		name, expr string
		ask        celQuestion
	}{
		{"user", `agent.user == "bob"`, celQuestion{user: "bob"}},
		{"inbox", `parts[0] == "users" && parts[1] == agent.user`, celQuestion{channel: "users/bob", user: "bob"}},
		{"claim", `agent.claims.?role.orValue("") == "editor"`, celQuestion{claims: celMap{"role": "editor"}}},
		{"group", `"staff" in agent.claims.groups`, celQuestion{claims: celMap{"groups": []any{"all", "staff"}}}},
		{"matches", `channel.matches("^users/[a-z]+$")`, celQuestion{channel: "users/bob"}},
		{"cidr", `cidr("192.0.2.0/24").containsIP("192.0.2.1")`, celQuestion{}},
		{"zone", `now.getHours("Europe/Zurich") >= 0`, celQuestion{}},
		{"host", `request.host == "example.com"`, celQuestion{opening: hub.Opening{Host: "example.com"}}},
		{"cookie", `request.cookies.sid == "1"`, celQuestion{opening: hub.Opening{Header: headers}}},
		{"data 1KiB", `size(message.data.text) < 1000 && message.data.n == 1`, celQuestion{data: kib}},
		{"data 1KiB, loop", `message.data.tags.all(t, t in ["a", "b", "c", "d"])`, celQuestion{data: kib}},
		{"deliver 1KiB", `size(message.data.text) < 1000 && message.data.n == 1`, celQuestion{gate: hub.GateDeliver, data: kib}},
		{"data 64KiB, loop", `message.data.all(x, x > 0)`, celQuestion{data: celList(32000, func(int) int { return 1 })}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			q := bench.ask.ask(b)
			p, err := expr.CompileBool(bench.expr, expr.ScopeOf(q.Gate))
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if yes, err := p.Bool(q.Question, session{q}); !yes || err != nil {
					b.Fatal(yes, err)
				}
			}
		})
	}
	b.Run("transform 1KiB", func(b *testing.B) {
		q := celQuestion{gate: hub.GateDeliver, data: kib}.ask(b)
		p, err := expr.CompileValue(`message.data.transformMap(k, v, k != "n", v)`, expr.ScopeOf(hub.GateDeliver))
		if err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			if _, err := p.Value(q.Question, session{q}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("compile", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := expr.CompileBool(`parts[0] == "users" && parts[1] == agent.user`, expr.ScopeOf(hub.GatePublish)); err != nil {
				b.Fatal(err)
			}
		}
	})
}
