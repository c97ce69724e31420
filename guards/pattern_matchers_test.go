// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"net/http"
	"strings"
	"testing"

	"github.com/push-it/pushit/hub"
)

// askPattern asks a guard about a subscription to a channel or a pattern.
func (a *asker) askPattern(g Guard, channel string) Answer {
	q := a.question(hub.GateSubscribe, channel)
	q.Pattern = hub.IsPattern(channel)
	return askOne(a.t.Context(), g, q)
}

// No matcher takes a pattern for the name of a channel, and none takes a "*" in what
// somebody has sent, or in the channel, for a wildcard. The agent here has "*" and "users/*"
// wherever an agent can write.
func TestNoMatcherIsFooledByStars(t *testing.T) {
	hostile := func(o *hub.Opening) {
		o.Host, o.URI = "users", "/push?of=users/*&of=users/bob&any=x"
		o.Header = snapshotOf("Cookie", "of=users/*; star=*", "X-Of", "users/*", "X-Star", "*", "X-Tenant", "acme", "X-Bob", "users/bob")
	}
	for text, want := range map[string]struct{ pattern, name Kind }{
		// The "*" of the pattern is no wildcard.
		"allow {\nheader X-Bob {pushit.channel}\n}":                                     {Deny, Allow},
		"allow {\nnot header X-Bob {pushit.channel}\n}":                                 {Deny, Abstain},
		"deny {\nheader X-Bob {pushit.channel}\n}":                                      {Deny, Deny},
		"deny {\nnot header X-Bob {pushit.channel}\n}":                                  {Deny, Abstain},
		"allow {\nquery of={pushit.channel}\n}":                                         {Deny, Allow},
		"allow {\nhost {pushit.channel}\n}":                                             {Deny, Abstain},
		"allow {\npath /{pushit.channel}\n}":                                            {Deny, Abstain},
		"allow {\nexpression `header({'X-Bob': '\\{pushit.channel}'})`\n}":              {Deny, Allow},
		"allow {\nexpression `!query({'of': '\\{pushit.channel}'})`\n}":                 {Deny, Abstain},
		"route {\n@no not header X-Bob {pushit.channel}\nrespond @no 403\n}":            {Deny, Pass},
		"route {\n@no not query of={pushit.channel}\nrespond @no 403\n}":                {Deny, Pass},
		"route {\nhandle {\n@no not header X-Bob {pushit.channel}\nerror @no 403\n}\n}": {Deny, Pass},

		// The pattern is no name.
		"allow {\nexpression `{pushit.channel} == {http.request.header.X-Of}`\n}":                       {Deny, Abstain},
		"allow {\nexpression `{pushit.channel} == {http.request.cookie.of}`\n}":                         {Deny, Abstain},
		"allow {\nexpression `{pushit.channel} == {http.request.uri.query.of}`\n}":                      {Deny, Abstain},
		"allow {\nexpression `{pushit.channel} == 'users/' + {http.request.header.X-Star}`\n}":          {Deny, Abstain},
		"allow {\nexpression `{pushit.channel} == 'users/' + {http.request.header.X-Tenant}`\n}":        {Abstain, Abstain},
		"allow {\nvars {pushit.channel} {http.request.header.X-Of}\n}":                                  {Deny, Abstain},
		"allow {\nvars {http.request.header.X-Of} {pushit.channel}\n}":                                  {Deny, Abstain},
		"allow {\nvars {pushit.channel} {http.request.header.X-Bob}\n}":                                 {Abstain, Allow},
		"route {\n@no not vars {pushit.channel} {http.request.cookie.of}\nrespond @no 403\n}":           {Deny, Deny},
		"route {\n@no expression `{pushit.channel} != {http.request.header.X-Of}`\nrespond @no 403\n}":  {Deny, Deny},
		"route {\n@no expression `{pushit.channel} != {http.request.header.X-Bob}`\nrespond @no 403\n}": {Deny, Pass},

		// A segment that the pattern does not name is not an empty one.
		"allow {\nexpression `{pushit.parts.1} == {http.request.header.X-None}`\n}":                    {Deny, Abstain},
		"allow {\nvars {pushit.parts.1} {pushit.agent.user}\n}":                                        {Deny, Abstain},
		"deny {\nnot vars {pushit.parts.1} bob\n}":                                                     {Deny, Abstain},
		"allow {\nvars {pushit.parts.0} users\n}":                                                      {Allow, Allow},
		"route {\n@no expression `{pushit.parts.1} != {http.request.header.X-None}`\nerror @no 403\n}": {Deny, Deny},

		// What the rule itself says counts.
		"allow {\nexpression `{pushit.channel} == 'users/*' || {pushit.channel} == 'users/bob'`\n}": {Allow, Allow},
		"allow {\nvars {pushit.channel} users/* users/bob\n}":                                       {Allow, Allow},
		"allow {\nvars_regexp {pushit.channel} ^users/\n}":                                          {Allow, Allow},
		"allow {\nexpression `{pushit.channel}.startsWith('users/')`\n}":                            {Allow, Allow},
		"allow {\nheader X-Of users/*\n}":                                                           {Allow, Allow},

		// Nobody chooses the wildcard that a rule looks for.
		"allow {\nheader X-Tenant {http.request.header.X-Star}\n}":                          {Deny, Deny},
		"allow {\nquery any={http.request.cookie.star}\n}":                                  {Deny, Deny},
		"allow {\nheader X-Tenant {pushit.agent.claims.tenant}\n}":                          {Deny, Deny},
		"allow {\nheader X-Tenant {pushit.agent.claims.real}\n}":                            {Allow, Allow},
		"route {\n@no not header X-Tenant {pushit.agent.claims.tenant}\nrespond @no 403\n}": {Deny, Deny},
		"route {\n@no not header X-Tenant {pushit.agent.claims.real}\nrespond @no 403\n}":   {Pass, Pass},
	} {
		g := remoteGuardOf(t, "%s", text)
		for channel, kind := range map[string]Kind{"users/*": want.pattern, "users/bob": want.name} {
			a := newAsker(t, hostile).looking(g)
			q := a.question(hub.GateSubscribe, channel)
			q.Pattern = hub.IsPattern(channel)
			q.Learned.Claims = map[string]any{"tenant": "*", "real": "acme"}
			wantKind(t, text+" of "+channel, askOne(t.Context(), g, q), kind)
		}
	}
}

// A guard asks its backend nothing that the pattern does not say.
func TestBackendsAreNotAskedWhatThePatternLacks(t *testing.T) {
	u := newServer(t, statusOnly(http.StatusNoContent))
	for _, text := range []string{
		"ask %s {\nuri /may?user={pushit.parts.1}\n}",
		"forward_auth %s {\nuri /may/{pushit.escaped.parts.1}\n}",
		"forward_auth %s {\nuri /\nheader_up X-User {pushit.parts.1}\n}",
	} {
		g := remoteGuardOf(t, text, u.addr())
		a := newAsker(t, nil)
		before := u.times()
		wantKind(t, text, a.askPattern(g, "users/*"), Deny)
		if u.times() != before {
			t.Errorf("%s: the backend was asked about a pattern that has no such segment", text)
		}
		wantKind(t, text, a.askPattern(g, "users/bob/*"), Pass)
		wantKind(t, text, a.askPattern(g, "users/bob"), Pass)
	}
}

// A rule that would misunderstand every pattern is a mistake where patterns are allowed.
func TestRulesThatMisunderstandPatterns(t *testing.T) {
	for text, want := range map[string]string{
		"allow {\nheader X-Bob {pushit.channel}\n}":                                                       "the matcher header",
		"deny {\nnot query of={pushit.escaped.channel}\n}":                                                "the matcher query",
		"any {\nallow {\nhost {pushit.channel}\n}\n}":                                                     "the matcher host",
		"allow {\nexpression `path('\\{pushit.channel}')`\n}":                                             "the matcher path()",
		"route {\n@no not header X-Bob {pushit.channel}\nrespond @no 403\n}":                              "the matcher header",
		"route {\nvars of {pushit.channel}\n@no not vars of {http.request.header.X}\nrespond @no 403\n}":  "a directive puts {pushit.channel}",
		"route {\nrequest_header X-Of {pushit.channel}\n@no not header X-Of users/*\nrespond @no 403\n}":  "a directive puts {pushit.channel}",
		"route {\nmap {pushit.channel} {own} {\na b\n}\n@no not vars {own} b\nrespond @no 403\n}":         "a directive puts {pushit.channel}",
		"route {\nrewrite ?of={pushit.channel}\n@no not query of=users/bob\nrespond @no 403\n}":           "a directive puts {pushit.channel}",
		"allow {\nexpression `{pushit.channel} == {http.request.header.X}`\n}":                            "",
		"allow {\nvars {pushit.channel} users/*\n}":                                                       "",
		"allow {\nheader X-Tenant {pushit.namespace}\n}":                                                  "",
		"forward_auth 127.0.0.1:1 {\nuri /?of={pushit.channel}\nheader_up X {pushit.channel}\n}":          "",
		"route {\nforward_auth 127.0.0.1:1 {\nuri /?of={pushit.channel}\ncopy_headers X\n}\n}":            "",
		"route {\nrewrite /?of={pushit.channel}\nreverse_proxy 127.0.0.1:1\n}":                            "",
		"ask 127.0.0.1:1 {\nuri /\nheader_up X-Of {pushit.channel}\n}":                                    "",
		"route {\n@no expression `{pushit.channel} != {http.request.header.X-Of}`\nrespond @no 403\n}":    "",
		"route {\n@no not header X-Tenant {pushit.agent.claims.tenant}\nrespond @no 403\n}":               "",
		"route {\n@no not header_regexp X-Tenant ^a\nrequest_header X-Of {pushit.gate}\nerror @no 403\n}": "",
	} {
		g := []NamedGuard{{Name: "under test", Guard: remoteGuardOf(t, "%s", text)}, {Name: "allow", Guard: allowAll{}}}
		for _, gate := range []hub.GateName{hub.GateSubscribe, hub.GatePresence, hub.GateHistory} {
			for _, patterns := range []bool{true, false} {
				gates := gatesOf("subscribe", allowAll{})
				gates[gate] = &GateConfig{Guards: g, Where: "Caddyfile:7"}
				c := PolicyConfig{
					Gates:  gatesOf("connect", allowAll{}, "publish", allowAll{}, "subscribe", denyAll{}),
					Blocks: []BlockConfig{{Match: []string{"users/*"}, Patterns: patterns, Gates: gates, Where: "block"}},
				}
				_, err := Compile(c, testEnv())
				if want == "" || !patterns {
					if err != nil {
						t.Errorf("%s: %v", text, err)
					}
					continue
				}
				for _, part := range []string{want, string(gate), "Caddyfile:7", "users/*", "cel `channel =="} {
					if err == nil || !strings.Contains(err.Error(), part) {
						t.Errorf("%s in %s: %v, want an error with %q", text, gate, err, part)
					}
				}
			}
		}
	}
}

// Mistakes in expressions that nothing would find later.
func TestExpressionsThatHideWhatTheyRead(t *testing.T) {
	for _, c := range []struct{ guard, want string }{
		{`{"guard":"allow","match":[{"expression":"ph(req, 'pushit.' + 'channel') == 'a'"}]}`, "write the placeholder itself"},
		{`{"guard":"route","handler":{"handler":"subroute","routes":[{"match":[{"expression":"ph(req, 'a') == 'b'"}]}]}}`, "write the placeholder itself"},
		{`{"guard":"allow","match":[{"expression":{}}]}`, `as an object with "expr" and "name"`},
		{`{"guard":"route","handler":{"handler":"subroute","routes":[{"match":[{"expression":{"expr":"true"}}]}]}}`, `as an object with "expr" and "name"`},
	} {
		_, err := loadRemote(t, []byte(c.guard))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error with %q", c.guard, err, c.want)
		}
	}
}
