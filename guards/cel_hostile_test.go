// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"fmt"
	"strings"
	"testing"

	"github.com/push-it/pushit/hub"
)

// celList returns a JSON array of n numbers, each f(i).
func celList(n int, f func(int) int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, ",%d", f(i))
	}
	return "[" + strings.TrimPrefix(b.String(), ",") + "]"
}

// Questions that try to fool rules.
func TestCELHostile(t *testing.T) {
	inbox := `parts[0] == "users" && parts[1] == agent.user`
	for _, c := range []struct {
		name string
		ask  celQuestion
		expr string
	}{
		{"nobody is not the user null", celQuestion{channel: "users/null"}, inbox},
		{"nobody is not the empty text", celQuestion{data: `""`}, `message.data == agent.user`},
		{"nobody is not in a list", celQuestion{}, `agent.user in ["", "null"]`},
		{"nobody has no name to begin", celQuestion{}, `agent.user.startsWith("")`},
		{"an empty user is nobody", celQuestion{user: ""}, `agent.user != null`},
		{"a user called *", celQuestion{gate: hub.GateSubscribe, channel: "users/*", pattern: true, user: "*"}, inbox},
		{"a user called * unsubscribes", celQuestion{gate: hub.GateUnsubscribe, channel: "*", pattern: true, user: "*"}, `parts[0] == agent.user`},
		{"a claim called *", celQuestion{gate: hub.GateSubscribe, channel: "users/*", pattern: true, claims: celMap{"name": "*"}}, `channel == "users/" + agent.claims.name`},
		{"a claim that is a pattern", celQuestion{gate: hub.GateSubscribe, channel: "users/*", pattern: true, claims: celMap{"a": []any{"users/*"}}}, `channel in agent.claims.a`},
		{"a claim whose key is a pattern", celQuestion{gate: hub.GateSubscribe, channel: "users/*", pattern: true, claims: celMap{"a": map[string]any{"users/*": true}}}, `channel in agent.claims.a`},
		{"a claim called * ends a name", celQuestion{gate: hub.GateSubscribe, channel: "users/*", pattern: true, claims: celMap{"name": "users/*"}}, `channel.endsWith(agent.claims.name) || agent.claims.name.startsWith(channel)`},
		{"credentials that are a pattern", celQuestion{gate: hub.GateSubscribe, channel: "users/*", pattern: true, credentials: `{"of":"users/*"}`}, `channel == agent.credentials.of`},
		{"a header field that is a pattern", celQuestion{gate: hub.GateSubscribe, channel: "users/*", pattern: true, opening: hub.Opening{Header: "X-Of:users/*\n"}}, `channel == request.headers["x-of"]`},
		{"a cookie that is a pattern", celQuestion{gate: hub.GateSubscribe, channel: "users/*", pattern: true, opening: hub.Opening{Header: "Cookie:of=users/*\n"}}, `channel == request.cookies["of"]`},
		{"a query that is a pattern", celQuestion{gate: hub.GateSubscribe, channel: "users/*", pattern: true, opening: hub.Opening{URI: "/push?of=users/*"}}, `channel == request.query["of"]`},
		{"a host that is a pattern", celQuestion{gate: hub.GateSubscribe, channel: "users/*", pattern: true, opening: hub.Opening{Host: "*"}}, `channel == "users/" + request.host`},
		{"a user called like an expression", celQuestion{channel: "users/bob", user: `" || true || "`}, inbox},
		{"a user called like a placeholder", celQuestion{user: "{env.HOME}"}, `agent.user.contains("/")`},
		{"a user with a NUL", celQuestion{channel: "users/bob", user: "bob\x00"}, inbox},
		{"a NUL in data", celQuestion{data: `"ok\u0000"`}, `message.data == "ok"`},
		{"another Unicode form", celQuestion{channel: "users/é", user: "e\u0301"}, inbox},
		{"letters that look alike", celQuestion{channel: "users/bоb", user: "bob"}, inbox}, // a Cyrillic о
		{"half a surrogate pair", celQuestion{data: `"\ud800"`}, `message.data == ""`},
		{"a key that objects have elsewhere", celQuestion{data: `{"__proto__":{"admin":true}}`}, `message.data.admin`},
		{"a claim that is not a text", celQuestion{claims: celMap{"role": true}}, `agent.claims.role == "true"`},
		{"a claim that is null", celQuestion{claims: celMap{"role": nil}}, `agent.claims.?role.orValue("editor") == "editor"`},
		{"claims that are not maps all the way", celQuestion{claims: celMap{"a": "b"}}, `agent.claims.a.b.c == ""`},
		{"the cookie of another name", celQuestion{opening: hub.Opening{Header: "Cookie:xsid=1\n"}}, `request.cookies.sid == "1"`},
		{"two of a header field", celQuestion{opening: hub.Opening{Header: "X-A:1\nX-A:2\n"}}, `request.headers["x-a"] == "1" || request.headers["x-a"] == "2"`},
		{"a field that is the server's", celQuestion{opening: hub.Opening{Header: "x-user:root\npushit-grant:*\n"}}, `request.headers.?x_user.orValue("") == "root" || request.headers["x-user"] == "root"`},
		{"a division by nothing", celQuestion{data: `0`}, `1 / message.data == 1`},
		{"a number beyond all", celQuestion{data: `1e999`}, `message.data > 0`},
		{"a sum that overflows", celQuestion{data: `9223372036854775807`}, `message.data + 1 < 0`},
		{"an index that is too large", celQuestion{data: `9223372036854775807`}, `parts[message.data] == "news"`},
		{"an index below", celQuestion{data: `-1`}, `parts[message.data] == "news"`},
		{"an index between", celQuestion{data: `0.5`}, `parts[message.data] == "news"`},
		{"a time zone of the client's", celQuestion{data: `"../../etc/passwd"`}, `now.getHours(message.data) >= 0`},
		{"31 objects deep", celQuestion{data: strings.Repeat(`{"a":`, 31) + `1` + strings.Repeat(`}`, 31)}, `message.data == 1`},
	} {
		if got, err := c.ask.bool(t, c.expr); got {
			t.Errorf("%s: %s is true (%v)", c.name, c.expr, err)
		}
	}
}
