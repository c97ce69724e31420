// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"log/slog"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/push-it/pushit/guards/internal/expr"
	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/hub/hubtest"
)

// A celQuestion is a question for tests, with the parts that matter.
type celQuestion struct {
	gate    hub.GateName // default: publish
	channel string       // default, if the gate has a channel: news
	pattern bool
	data    string // of the message; default: null
	from    *hub.Sender

	user        string // that the connect gate learned
	claims      map[string]any
	attributes  map[string]any
	header      []hub.HeaderField // learned
	replaced    string            // data that a guard before has put in place of the message's
	credentials string
	opening     hub.Opening
}

// ask makes the Question. The agent is called tab-1, the message m-1.
func (c celQuestion) ask(t testing.TB) *Question {
	t.Helper()
	h, err := hub.New("cel", nil)
	if err != nil {
		t.Fatal(err)
	}
	a, err := h.Open(h.Use(&hub.Policy{Mount: "cel"}), c.opening)
	if err != nil {
		t.Fatal(err)
	}
	a.Start(hubtest.NewConn())
	a.Receive([]byte(`{"channel":"/meta/connect","uuid":"c","agentId":"tab-1"}`))
	t.Cleanup(func() {
		a.Left("the test is over")
		h.Close()
	})
	if c.gate == "" {
		c.gate = hub.GatePublish
	}
	if c.channel == "" && c.gate != hub.GateConnect && c.gate != hub.GateDisconnect {
		c.channel = "news"
	}
	hq := &hub.Question{Gate: c.gate, Agent: a, Channel: c.channel, Pattern: c.pattern, Identity: a.Identity()}
	if c.credentials != "" {
		hq.Credentials = []byte(c.credentials)
	}
	if c.gate == hub.GatePublish || c.gate == hub.GateDeliver {
		var data []byte
		if c.data != "" {
			data = []byte(c.data)
		}
		hq.Message = hub.NewMessage(c.channel, "m-1", data)
		hq.Message.From = c.from
	}
	q := &Question{Question: hq, Env: &Env{Log: slog.New(slog.DiscardHandler), Learned: []string{"X-User"}}}
	q.Learned = Learned{User: c.user, Claims: c.claims, Attributes: c.attributes, Header: c.header}
	if c.replaced != "" {
		q.Learned.Data = []byte(c.replaced)
	}
	return q
}

// bool compiles and evaluates an expression. The error is from the evaluation.
func (c celQuestion) bool(t testing.TB, src string) (bool, error) {
	t.Helper()
	q := c.ask(t)
	p, err := expr.CompileBool(src, expr.ScopeOf(q.Gate))
	if err != nil {
		t.Fatalf("compiling %s: %v", src, err)
	}
	return p.Bool(q.Question, session{q})
}

// value compiles and evaluates an expression. The error is from the evaluation.
func (c celQuestion) value(t testing.TB, src string) (string, error) {
	t.Helper()
	q := c.ask(t)
	p, err := expr.CompileValue(src, expr.ScopeOf(q.Gate))
	if err != nil {
		t.Fatalf("compiling %s: %v", src, err)
	}
	data, err := p.Value(q.Question, session{q})
	return string(data), err
}

// A celCase is a question and the answer that a rule must give.
type celCase struct {
	name string
	ask  celQuestion
	want string // "pass", "deny", "deny: reason" or, for a transform, data
}

type celMap = map[string]any

// The rules in the documentation, as in a Caddyfile, and what they answer.
var celRules = []struct {
	name  string
	gate  hub.GateName
	rule  string
	cases []celCase
}{
	{
		"everybody has an inbox of their own", hub.GateSubscribe,
		"cel `parts[0] == \"users\" && parts[1] == agent.user` \"this inbox is not yours\"",
		[]celCase{
			{"bob, his own", celQuestion{channel: "users/bob", user: "bob"}, "pass"},
			{"bob, below his own", celQuestion{channel: "users/bob/mail", user: "bob"}, "pass"},
			{"bob, everything below his own", celQuestion{channel: "users/bob/*", pattern: true, user: "bob"}, "pass"},
			{"bob, another's", celQuestion{channel: "users/amy", user: "bob"}, "deny: this inbox is not yours"},
			{"bob, one that differs in case", celQuestion{channel: "users/Bob", user: "bob"}, "deny: this inbox is not yours"},
			{"bob, all", celQuestion{channel: "users/*", pattern: true, user: "bob"}, "deny"},
			{"bob, no inbox", celQuestion{channel: "users", user: "bob"}, "deny"},
			{"nobody, anybody's", celQuestion{channel: "users/bob"}, "deny: this inbox is not yours"},
			{"nobody, one called null", celQuestion{channel: "users/null"}, "deny: this inbox is not yours"},
			{"a user called *, all", celQuestion{channel: "users/*", pattern: true, user: "*"}, "deny"},
		},
	},
	{
		"editors only", hub.GatePublish,
		"cel `agent.claims.?role.orValue(\"\") == \"editor\"`",
		[]celCase{
			{"an editor", celQuestion{claims: celMap{"role": "editor"}}, "pass"},
			{"another", celQuestion{claims: celMap{"role": "reader"}}, "deny"},
			{"a list of roles", celQuestion{claims: celMap{"role": []any{"editor"}}}, "deny"},
			{"without a role", celQuestion{claims: celMap{}}, "deny"},
			{"without claims", celQuestion{}, "deny"},
		},
	},
	{
		"a channel that only staff writes on", hub.GatePublish,
		"cel `parts[0] != \"announcements\" || \"staff\" in agent.claims.?groups.orValue([])` \"only staff writes here\"",
		[]celCase{
			{"staff", celQuestion{channel: "announcements/today", claims: celMap{"groups": []any{"all", "staff"}}}, "pass"},
			{"others", celQuestion{channel: "announcements/today", claims: celMap{"groups": []any{"all"}}}, "deny: only staff writes here"},
			{"nobody", celQuestion{channel: "announcements"}, "deny: only staff writes here"},
			{"other channels", celQuestion{channel: "chat"}, "pass"},
		},
	},
	{
		"size and shape of data", hub.GatePublish,
		"cel `size(message.data) == 2 && type(message.data.text) == string && size(message.data.text) in lists.range(281)\n\t&& message.data.color in [\"red\", \"blue\"]` \"a text of at most 280 characters, and a color\"",
		[]celCase{
			{"right", celQuestion{data: `{"text":"grüezi","color":"red"}`}, "pass"},
			{"280 characters", celQuestion{data: `{"text":"` + strings.Repeat("ü", 280) + `","color":"red"}`}, "pass"},
			{"281 characters", celQuestion{data: `{"text":"` + strings.Repeat("ü", 281) + `","color":"red"}`}, "deny: a text of at most 280 characters, and a color"},
			{"another color", celQuestion{data: `{"text":"hi","color":"mauve"}`}, "deny: a text of at most 280 characters, and a color"},
			{"one field more", celQuestion{data: `{"text":"hi","color":"red","html":"<b>"}`}, "deny: a text of at most 280 characters, and a color"},
			{"no text", celQuestion{data: `{"txt":"hi","color":"red"}`}, "deny"},
			{"a list for a text", celQuestion{data: `{"text":["hi"],"color":"red"}`}, "deny: a text of at most 280 characters, and a color"},
			{"a text for an object", celQuestion{data: `"hi"`}, "deny"},
			{"nothing", celQuestion{data: `null`}, "deny"},
		},
	},
	{
		"a tenant for each host", hub.GateSubscribe,
		"cel `request.host == parts[0] + \".example.com\"`",
		[]celCase{
			{"its own", celQuestion{channel: "acme/orders", opening: hub.Opening{Host: "acme.example.com"}}, "pass"},
			{"its own, on a port and in capitals", celQuestion{channel: "acme/orders", opening: hub.Opening{Host: "ACME.example.com:8443"}}, "pass"},
			{"another's", celQuestion{channel: "umbrella/orders", opening: hub.Opening{Host: "acme.example.com"}}, "deny"},
			{"all", celQuestion{channel: "*", pattern: true, opening: hub.Opening{Host: "acme.example.com"}}, "deny"},
		},
	},
	{
		"what an agent may spend", hub.GatePublish,
		"cel `message.data.amount > 0 && message.data.amount <= agent.claims.?limit.orValue(100)` \"too much\"",
		[]celCase{
			{"little", celQuestion{data: `{"amount":100}`}, "pass"},
			{"little, with cents", celQuestion{data: `{"amount":99.5}`}, "pass"},
			{"too much", celQuestion{data: `{"amount":100.01}`}, "deny: too much"},
			{"far too much", celQuestion{data: `{"amount":1e300}`}, "deny: too much"},
			{"more than there is", celQuestion{data: `{"amount":1e999}`}, "deny"},
			{"less than nothing", celQuestion{data: `{"amount":-1}`}, "deny: too much"},
			{"much, who may", celQuestion{data: `{"amount":5000}`, claims: celMap{"limit": float64(5000)}}, "pass"},
			{"a text", celQuestion{data: `{"amount":"100"}`}, "deny"},
		},
	},
	{
		"hide a field from all but moderators", hub.GateDeliver,
		"transform `agent.claims.?role.orValue(\"\") == \"moderator\" ? message.data : message.data.transformMap(k, v, k != \"email\", v)`",
		[]celCase{
			{"others", celQuestion{data: `{"text":"hi","email":"bob@example.com","n":[1,2.5,{"x":null}]}`}, `{"n":[1,2.5,{"x":null}],"text":"hi"}`},
			{"moderators", celQuestion{data: `{"text":"hi","email":"bob@example.com", "n":1.10}`, claims: celMap{"role": "moderator"}}, `{"text":"hi","email":"bob@example.com", "n":1.10}`},
			{"nothing to hide", celQuestion{data: `{}`}, `{}`},
			{"not an object", celQuestion{data: `"text"`}, "deny"},
		},
	},
	{
		"moderators see what is hidden", hub.GateDeliver,
		"cel `!message.data.?hidden.orValue(false) || message.agent == agent.uuid || \"moderator\" in agent.claims.?roles.orValue([])`",
		[]celCase{
			{"in the open", celQuestion{data: `{"text":"hi"}`}, "pass"},
			{"hidden", celQuestion{data: `{"hidden":true}`, from: &hub.Sender{User: "amy", UUID: "other"}}, "deny"},
			{"hidden, moderators", celQuestion{data: `{"hidden":true}`, claims: celMap{"roles": []any{"moderator"}}}, "pass"},
			{"hidden, of nobody", celQuestion{data: `{"hidden":true}`}, "deny"},
			{"hidden, with another word", celQuestion{data: `{"hidden":"yes"}`}, "deny"},
			{"no object", celQuestion{data: `5`}, "pass"},
		},
	},
	{
		"an address range that is kept out", hub.GateConnect,
		"cel `!cidr(\"203.0.113.0/24\").containsIP(agent.remote_ip) && !cidr(\"2001:db8::/32\").containsIP(agent.remote_ip)` \"not from there\"",
		[]celCase{
			{"outside", celQuestion{opening: hub.Opening{RemoteIP: netip.MustParseAddr("198.51.100.7")}}, "pass"},
			{"inside", celQuestion{opening: hub.Opening{RemoteIP: netip.MustParseAddr("203.0.113.9")}}, "deny: not from there"},
			{"inside, written as IPv6", celQuestion{opening: hub.Opening{RemoteIP: netip.MustParseAddr("::ffff:203.0.113.9")}}, "deny: not from there"},
			{"inside, IPv6 with a zone", celQuestion{opening: hub.Opening{RemoteIP: netip.MustParseAddr("2001:db8::1%eth0")}}, "deny: not from there"},
			{"outside, IPv6", celQuestion{opening: hub.Opening{RemoteIP: netip.MustParseAddr("2001:db9::1")}}, "pass"},
			{"from nowhere", celQuestion{}, "deny"},
		},
	},
}

func TestCELRules(t *testing.T) {
	for _, r := range celRules {
		t.Run(r.name, func(t *testing.T) {
			decide := celRule(t, r.gate, r.rule)
			for _, c := range r.cases {
				c.ask.gate = r.gate
				if got := decide(c.ask.ask(t)); got != c.want {
					t.Errorf("%s: got %q, want %q", c.name, got, c.want)
				}
			}
		})
	}
}

// The tenth rule. The clock of the bubble starts on a Saturday.
func TestCELRuleTimeWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		decide := celRule(t, hub.GatePublish, celTimeWindow)
		for _, c := range []struct{ at, want string }{
			{"2000-01-01T12:00:00+01:00", "deny: we are closed"}, // Saturday
			{"2000-01-03T07:59:59+01:00", "deny: we are closed"},
			{"2000-01-03T08:00:00+01:00", "pass"},
			{"2000-01-03T17:59:59+01:00", "pass"},
			{"2000-01-03T18:00:00+01:00", "deny: we are closed"},
			{"2000-07-03T08:00:00+02:00", "pass"}, // in summer
		} {
			at, err := time.Parse(time.RFC3339, c.at)
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Until(at))
			if got := decide(celQuestion{}.ask(t)); got != c.want {
				t.Errorf("at %s: got %q, want %q", c.at, got, c.want)
			}
		}
	})
}

// celTimeWindow is the tenth rule, which depends on the time.
const celTimeWindow = "cel `now.getDayOfWeek(\"Europe/Zurich\") in [1, 2, 3, 4, 5] && now.getHours(\"Europe/Zurich\") >= 8 && now.getHours(\"Europe/Zurich\") < 18` \"we are closed\""

// docs/gates.md has these ten rules and no others.
func TestCELRulesAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../docs/gates.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	for _, fence := range regexp.MustCompile("(?s)\n```text\n(.*?)\n```\n").FindAllSubmatch(text, -1) {
		documented = append(documented, string(fence[1]))
	}
	var want []string
	for _, r := range celRules {
		want = append(want, r.rule)
	}
	if want = append(want, celTimeWindow); !slices.Equal(documented, want) {
		t.Errorf("docs/gates.md has\n%s\n\nand the tests have\n%s", strings.Join(documented, "\n\n"), strings.Join(want, "\n\n"))
	}
}

// docs/gates.md has a row for each name that an expression can use.
func TestCELNamesAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../docs/gates.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## CEL\n")
	section, _, _ = strings.Cut(section, "\n## ")
	documented := make(map[string]bool)
	for _, row := range regexp.MustCompile(`(?m)^\| ([^|]+) \|`).FindAllStringSubmatch(section, -1) {
		for _, name := range regexp.MustCompile("`([a-zA-Z_.]+)`").FindAllStringSubmatch(row[1], -1) {
			documented[name[1]] = true
		}
	}
	for _, name := range expr.Names(expr.ScopeOf(hub.GateDeliver)) {
		if !documented[name] {
			t.Errorf("docs/gates.md lacks %s", name)
		}
		delete(documented, name)
	}
	for name := range documented {
		t.Errorf("docs/gates.md has %s, which no expression can use", name)
	}
}

// celRule parses a line of a Caddyfile, and returns a function that answers questions.
func celRule(t *testing.T, gate hub.GateName, rule string) func(*Question) string {
	t.Helper()
	d := caddyfile.NewTestDispenser(rule)
	if strings.HasPrefix(rule, "transform ") {
		d.Next()
		d.NextArg()
		p, err := expr.CompileValue(d.Val(), expr.ScopeOf(gate))
		if err != nil {
			t.Fatal(err)
		}
		return func(q *Question) string {
			data, err := p.Value(q.Question, session{q})
			if err != nil {
				return "deny"
			}
			return string(data)
		}
	}
	c := new(CEL)
	if err := c.UnmarshalCaddyfile(d); err != nil {
		t.Fatal(err)
	}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	if err := c.ForGate(gate); err != nil {
		t.Fatal(err)
	}
	return func(q *Question) string {
		a := c.Decide(t.Context(), q)
		switch {
		case a.Kind == Deny && a.Reason == "" && a.Err == nil && c.Reason != "":
			t.Error("denied without the reason")
		case a.Err != nil && a.Reason != "":
			t.Error("the agent is told of an error")
		case a.Reason != "":
			return a.Kind.String() + ": " + a.Reason
		}
		return a.Kind.String()
	}
}

func TestCELCaddyfile(t *testing.T) {
	for _, c := range []struct{ line, expr, reason, mistake string }{
		{line: "cel `agent.user == \"bob\"`", expr: `agent.user == "bob"`},
		{line: "cel `agent.user == \"bob\"` \"not you\"", expr: `agent.user == "bob"`, reason: "not you"},
		{line: "cel `agent.user == \"bob\"` nobody", expr: `agent.user == "bob"`, reason: "nobody"},
		{line: `cel "agent.user == 'bob'"`, expr: `agent.user == 'bob'`},
		{line: `cel "agent.user == \"bob\"" "not you"`, expr: `agent.user == "bob"`, reason: "not you"},
		{line: "cel is_pattern", expr: "is_pattern"},
		{line: "cel !is_pattern \"no patterns\"", expr: "!is_pattern", reason: "no patterns"},
		{line: "cel `{\n\t\"a\": 1\n}.a == 1`", expr: "{\n\t\"a\": 1\n}.a == 1"},
		{line: "cel", mistake: "cel needs an expression, in backquotes: cel `agent.user == \"bob\"`"},
		{line: `cel agent.user == "bob"`, mistake: "put the expression in backquotes: cel `agent.user == \"bob\"`"},
		{line: `cel agent.user =="bob"`, mistake: "put the expression in backquotes: cel `agent.user ==\"bob\"`"},
		{line: `cel agent.user == "bob" "not you"`, mistake: "put the expression in backquotes: cel `agent.user == \"bob\" \"not you\"`"},
		{line: "cel `true` not you", mistake: "put the reason in quotes: cel `true` \"not you\""},
		{line: "cel `true` \"not you\" at all", mistake: "put the reason in quotes"},
		{line: "cel `true` {\n\treason no\n}", mistake: "cel takes no block"},
	} {
		var g CEL
		err := g.UnmarshalCaddyfile(caddyfile.NewTestDispenser(c.line))
		switch {
		case c.mistake == "" && err != nil:
			t.Errorf("%s: %v", c.line, err)
		case c.mistake == "" && (g.Expr != c.expr || g.Reason != c.reason):
			t.Errorf("%s: got %q and %q", c.line, g.Expr, g.Reason)
		case c.mistake != "" && (err == nil || !strings.Contains(err.Error(), c.mistake)):
			t.Errorf("%s: got %v, want %s", c.line, err, c.mistake)
		}
	}
	if err := new(CEL).Validate(); err == nil || !strings.Contains(err.Error(), "empty") {
		t.Errorf("an empty expression: %v", err)
	}
	if err := (&CEL{Expr: `agent.usr == "bob"`}).Validate(); err == nil || !strings.Contains(err.Error(), "did you mean user?") {
		t.Errorf("a misspelt field: %v", err)
	}
}

func TestCELDecide(t *testing.T) {
	q := celQuestion{}.ask(t)
	if a := (&CEL{Expr: "true"}).Decide(t.Context(), q); a.Kind != Unavailable || a.Err == nil {
		t.Errorf("without ForGate: %v, %v", a.Kind, a.Err)
	}
	for _, c := range []struct {
		expr   string
		kind   Kind
		reason string
		failed bool
	}{
		{`true`, Pass, "", false},
		{`false`, Deny, "a reason", false},
		{`agent.claims.role == "x"`, Deny, "", true},
		{`agent.claims.?admin.orValue("yes")`, Deny, "", true}, // "yes" is not true
		{`parts[7] == "x" || true`, Pass, "", false},           // in CEL this is true, because one side is
	} {
		g := &CEL{Expr: c.expr, Reason: "a reason"}
		if err := g.ForGate(hub.GatePublish); err != nil {
			t.Fatal(err)
		}
		a := g.Decide(t.Context(), q)
		if a.Kind != c.kind || a.Reason != c.reason || (a.Err != nil) != c.failed {
			t.Errorf("%s: got %v, %q, %v", c.expr, a.Kind, a.Reason, a.Err)
		}
	}
}

func TestCELVariables(t *testing.T) {
	everything := celQuestion{
		channel:     "stories/5/comments",
		data:        `{"a":{"b":[1,2]},"none":null,"nul":"\u0000"}`,
		user:        "bob",
		claims:      celMap{"groups": []any{"staff"}, "exp": float64(4102444800), "score": 1.5, "nested": celMap{"deep": []string{"x"}}},
		attributes:  celMap{"color": "red"},
		credentials: `{"token":"t","pin":1234}`,
		header:      []hub.HeaderField{{Name: "X-User", Value: "learned"}, {Name: "X-Role", Value: "editor"}},
		opening: hub.Opening{
			RemoteIP: netip.MustParseAddr("192.0.2.1"), Host: "Example.com:8443", URI: "/my%20push?token=a%26b&token=second&e=",
			Header: hub.HeaderBlock(func(yield func(name, value string) bool) {
				_ = yield("X-User", "typed by the client") && yield("Pushit-Grant", "*") && yield("X-Two", "1") && yield("X-Two", "2") &&
					yield("Cookie", "sid=first; theme=dark; sid=second") && yield("Accept-Language", "de")
			}),
		},
	}
	for _, c := range []struct {
		expr string
		want bool
	}{
		{`agent.uuid.matches("^[0-9a-f-]{36}$") && agent.agentId == "tab-1"`, true},
		{`agent.user == "bob" && agent.user in ["amy", "bob"] && agent.user.startsWith("b") && has(agent.user)`, true},
		{`"staff" in agent.claims.groups && agent.claims.?missing.orValue(7) == 7 && !has(agent.claims.missing)`, true},
		{`timestamp(agent.claims.exp) > now && type(agent.claims.exp) == int && agent.claims.score > 1`, true},
		{`agent.claims.nested.deep[0] == "x" && agent.attributes.color == "red"`, true},
		{`agent.credentials.token == "t" && agent.credentials.pin + 1 == 1235`, true},
		{`agent.remote_ip == "192.0.2.1"`, true},
		{`channel == "stories/5/comments" && parts == ["stories", "5", "comments"] && !is_pattern && size(parts) == 3`, true},
		{`message.uuid == "m-1" && message.data.a.b[1] == 2 && message.data.none == null && message.data.nul == "\x00"`, true},
		{`message.data.?a.?x.?y.orValue("no") == "no" && message.data.a.?b[5].orValue(0) == 0`, true},
		{`request.host == "example.com" && request.path == "/my push"`, true},
		{`request.query.token == "a&b" && request.query.e == "" && !("x" in request.query)`, true},
		{`request.cookies.sid == "first" && request.cookies["theme"] == "dark"`, true},
		{`request.headers["X-Two"] == "1, 2" && request.headers["x-two"] == "1, 2" && "Accept-language" in request.headers`, true},
		{`request.headers["X-User"] == "learned" && request.headers["x-role"] == "editor"`, true},
		{`"Pushit-Grant" in request.headers || request.headers.exists(k, k != k.lowerAscii())`, false},
		{`request.headers.?nothing.hasValue() || has(request.headers.nothing)`, false},
		{`now > timestamp("2000-01-01T00:00:00Z") && now - now == duration("0s")`, true},
		{`dyn(agent).user == "bob" && agent == agent && [agent].exists(a, a.user == "bob")`, true},
		{`cel.bind(x, message.data.a.b, x[0] == 1 && x[1] == 2)`, true},
		{`math.greatest(1, 2) == 2 && sets.contains(["a", "b"], ["b"]) && ["b", "a"].sort() == ["a", "b"] && "a-b".split("-").join("+") == "a+b"`, true},
		{`regex.extract(channel, "^stories/([0-9]+)/").orValue("") == "5" && regex.replace(channel, "[0-9]", "N") == "stories/N/comments"`, true},
		{`"aXbX".replace("X", "y", 1) == "aybX" && "abc".indexOf("c") == 2 && "abc".lastIndexOf("a") == 0 && [1, 1].distinct() == [1]`, true},
		{`regex.extractAll(channel, "s").size() == 3 && matches(channel, "comments$") && !channel.matches("^comments")`, true},
	} {
		if got, err := everything.bool(t, c.expr); got != c.want || err != nil {
			t.Errorf("%s: got %v, %v", c.expr, got, err)
		}
	}
	nothing := celQuestion{}
	for _, expr := range []string{
		`agent.user == null && !has(agent.user) && agent.user != "" && agent.?user.orValue("guest") == "guest"`,
		`size(agent.claims) == 0 && size(agent.attributes) == 0 && agent.credentials == null && agent.remote_ip == null`,
		`agent.credentials.?token.orValue("") == "" && message.data == null && message.data.?x.orValue(1) == 1`,
		`request.host == "" && request.path == "" && size(request.headers) == 0 && size(request.cookies) == 0 && size(request.query) == 0`,
	} {
		if got, err := nothing.bool(t, expr); !got || err != nil {
			t.Errorf("of nothing, %s: got %v, %v", expr, got, err)
		}
	}
	delivery := celQuestion{gate: hub.GateDeliver, data: `1`, from: &hub.Sender{User: "amy", UUID: "u-1"}}
	if got, err := delivery.bool(t, `message.user == "amy" && message.agent == "u-1" && message.data == 1 && !is_pattern`); !got || err != nil {
		t.Errorf("of a delivery: %v, %v", got, err)
	}
	delivery.from = &hub.Sender{}
	if got, err := delivery.bool(t, `message.user == null && message.agent == null`); !got || err != nil {
		t.Errorf("of a delivery from nobody: %v, %v", got, err)
	}
	delivery.from = nil
	if got, err := delivery.bool(t, `message.user == null && message.agent == null`); !got || err != nil {
		t.Errorf("of a delivery from outside: %v, %v", got, err)
	}
	pattern := celQuestion{gate: hub.GateSubscribe, channel: "stories/*", pattern: true}
	if got, err := pattern.bool(t, `is_pattern && channel == "stories/*" && parts == ["stories"]`); !got || err != nil {
		t.Errorf("of a pattern: %v, %v", got, err)
	}
	pattern.channel = "*"
	if got, err := pattern.bool(t, `is_pattern && parts == []`); !got || err != nil {
		t.Errorf("of the pattern of everything: %v, %v", got, err)
	}
	if got, err := (celQuestion{gate: hub.GateConnect, credentials: `"secret"`}).bool(t, `agent.credentials == "secret"`); !got || err != nil {
		t.Errorf("of credentials: %v, %v", got, err)
	}
	if got, err := (celQuestion{data: `{"n":1}`, replaced: `{"n":2}`}).bool(t, `message.data.n == 2`); !got || err != nil {
		t.Errorf("of data that was replaced: %v, %v", got, err)
	}
}
