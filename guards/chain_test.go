// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/push-it/pushit/hub"
	lines "github.com/push-it/pushit/internal/sampler"
)

// Guards for tests.

type allowAll struct{}

func (allowAll) Decide(context.Context, *Question) Answer { return Answer{Kind: Allow} }
func (allowAll) Local()                                   {}
func (allowAll) Fixed() (Kind, bool)                      { return Allow, true }

// channelIs passes for channels and patterns whose name begins with it.
type channelIs string

func (c channelIs) Decide(_ context.Context, q *Question) Answer {
	if strings.HasPrefix(q.Channel, string(c)) {
		return Answer{Kind: Pass}
	}
	return Answer{Kind: Deny}
}

// always always gives the same answer, but is not Fixed.
type always Answer

func (a always) Decide(context.Context, *Question) Answer { return Answer(a) }

func (channelIs) Local() {}
func (always) Local()    {}
func (askFunc) Local()   {}

type askFunc func(ctx context.Context, q *Question) Answer

func (f askFunc) Decide(ctx context.Context, q *Question) Answer { return f(ctx, q) }

type remoteGuard struct{ always }

func (remoteGuard) Remote() {}

type bounded struct{ always }

func (bounded) CanApprove() bool { return false }

func named(guards ...Guard) (list []NamedGuard) {
	for i, g := range guards {
		list = append(list, NamedGuard{Name: string(rune('a' + i)), Guard: g})
	}
	return list
}

func gateOf(guards ...Guard) *GateConfig { return &GateConfig{Guards: named(guards...), Where: "here"} }

func gatesOf(namesAndGuards ...any) map[hub.GateName]*GateConfig {
	m := make(map[hub.GateName]*GateConfig)
	for i := 0; i < len(namesAndGuards); i += 2 {
		m[hub.GateName(namesAndGuards[i].(string))] = gateOf(namesAndGuards[i+1].(Guard))
	}
	return m
}

func testEnv() *Env { return &Env{Generation: NextGeneration(), Log: slog.New(slog.DiscardHandler)} }

// testAgent returns an agent that opened a session from 192.0.2.7.
func testAgent(t testing.TB, o hub.Opening) *hub.Agent {
	t.Helper()
	h, err := hub.New("test", nil)
	if err != nil {
		t.Fatal(err)
	}
	a, err := h.Open(h.Use(&hub.Policy{Mount: "test"}), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		a.Left("the test is over")
		h.Close()
	})
	return a
}

var sharedAgent *hub.Agent

// verdictOf reports whether a gate allows. A nil gate is open.
func verdictOf(t testing.TB, g hub.Gate, gate hub.GateName, channel string) bool {
	t.Helper()
	if g == nil {
		return true
	}
	if c, ok := g.(*Chain); ok && c == nil {
		t.Fatal("a nil chain in a gate")
	}
	if sharedAgent == nil {
		h, err := hub.New("test", nil)
		if err != nil {
			t.Fatal(err)
		}
		if sharedAgent, err = h.Open(h.Use(&hub.Policy{Mount: "test"}), hub.Opening{}); err != nil {
			t.Fatal(err)
		}
	}
	q := &hub.Question{Gate: gate, Agent: sharedAgent, Channel: channel, Pattern: hub.IsPattern(channel), Identity: new(hub.Identity)}
	return g.Decide(t.Context(), q).Refusal == nil
}

// All combinations of answers.
func TestChainCombinesAnswers(t *testing.T) {
	pass, allow, deny, abstain := always{Kind: Pass}, always{Kind: Allow}, always{Kind: Deny, Reason: "no"}, always{}
	away := always{Kind: Unavailable, Retry: 7 * time.Second}
	never := askFunc(func(context.Context, *Question) Answer { t.Error("asked though decided"); return Answer{} })
	for name, c := range map[string]struct {
		guards []Guard
		code   hub.Code // "" if it is allowed
		reason string
		retry  time.Duration
	}{
		"pass":                {guards: []Guard{pass}},
		"abstain":             {guards: []Guard{abstain}, code: "denied", reason: reasonDenied},
		"abstain, pass":       {guards: []Guard{abstain, pass}},
		"pass, abstain":       {guards: []Guard{pass, abstain}},
		"pass, deny":          {guards: []Guard{pass, deny, never}, code: "denied", reason: "no"},
		"deny, pass":          {guards: []Guard{deny, never}, code: "denied", reason: "no"},
		"allow, deny":         {guards: []Guard{allow, never}},
		"pass, unavailable":   {guards: []Guard{pass, away, never}, code: "unavailable", reason: reasonUnavailable, retry: 7 * time.Second},
		"unavailable, allow":  {guards: []Guard{away, never}, code: "unavailable", reason: reasonUnavailable, retry: 7 * time.Second},
		"abstain twice":       {guards: []Guard{abstain, abstain}, code: "denied", reason: reasonDenied},
		"expired":             {guards: []Guard{always{Kind: Deny, Expired: true}}, code: "expired", reason: reasonExpired},
		"unavailable":         {guards: []Guard{always{Kind: Unavailable}}, code: "unavailable", reason: reasonUnavailable, retry: time.Second},
		"a panic":             {guards: []Guard{askFunc(func(context.Context, *Question) Answer { panic("s3cret") }), never}, code: "unavailable", reason: reasonUnavailable, retry: time.Second},
		"nonsense":            {guards: []Guard{always{Kind: 99}, never}, code: "unavailable", reason: reasonUnavailable, retry: time.Second},
		"any passes":          {guards: []Guard{&Any{guards: named(deny, away, pass)}}},
		"any never allows":    {guards: []Guard{&Any{guards: named(allow)}, deny}, code: "denied", reason: "no"},
		"any denies":          {guards: []Guard{&Any{guards: named(abstain, deny)}}, code: "denied", reason: "no"},
		"any is unavailable":  {guards: []Guard{&Any{guards: named(deny, away)}}, code: "unavailable", reason: reasonUnavailable, retry: 7 * time.Second},
		"any abstains":        {guards: []Guard{&Any{guards: named(abstain, abstain)}, pass}},
		"any abstains, alone": {guards: []Guard{&Any{guards: named(abstain)}}, code: "denied", reason: reasonDenied},
	} {
		t.Run(name, func(t *testing.T) {
			gate, err := compileGate("subscribe", gateOf(c.guards...), 0, testEnv(), newSampler(slog.New(slog.DiscardHandler)))
			if err != nil {
				t.Fatal(err)
			}
			v := gate.Decide(t.Context(), &hub.Question{Gate: "subscribe", Agent: testAgent(t, hub.Opening{}), Channel: "x"})
			if c.code == "" {
				if v.Refusal != nil {
					t.Errorf("refused: %v", v.Refusal)
				}
				return
			}
			if want := (hub.Refusal{Code: c.code, Reason: c.reason, Retry: c.retry}); v.Refusal == nil || *v.Refusal != want {
				t.Errorf("got %v, want %v", v.Refusal, &want)
			}
		})
	}
}

// If no guard in any passes, nothing is learned from them.
func TestAnyForgetsWhatOthersLearned(t *testing.T) {
	learned := Learned{User: "mallory", Grants: []string{"*"}}
	for _, kind := range []Kind{Abstain, Deny, Unavailable} {
		g := &Any{guards: named(always{Kind: kind, Learned: learned}, always{Kind: Abstain, Learned: learned})}
		a := g.Decide(t.Context(), questionOf(t, hub.Opening{}, ""))
		if a.Kind != kind || a.Learned.User != "" || a.Learned.Grants != nil {
			t.Errorf("%v: got %v, learned %+v", kind, a.Kind, a.Learned)
		}
	}
}

func TestGuardsLearnFromThoseBefore(t *testing.T) {
	soon, later := time.Now().Add(time.Minute), time.Now().Add(time.Hour)
	first := always{Kind: Pass, Learned: Learned{User: "bob", Claims: map[string]any{"a": 1, "b": 1}, Expires: later, Grants: []string{"x"}}}
	failed := &Any{guards: named(always{Kind: Deny, Learned: Learned{User: "mallory", Grants: []string{"*"}}}, always{Kind: Pass})}
	abstained := always{Learned: Learned{User: "mallory"}}
	second := always{Kind: Pass, Learned: Learned{User: "eve", Claims: map[string]any{"b": 2}, Expires: soon, Subscribe: []string{"y"}}}
	var seen Learned
	last := askFunc(func(_ context.Context, q *Question) Answer {
		seen = q.Learned
		return Answer{Kind: Pass}
	})
	c, err := compileGate("connect", gateOf(first, failed, abstained, second, last), 0, testEnv(), newSampler(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	c.recheck = time.Hour
	v := c.Decide(t.Context(), &hub.Question{Gate: "connect", Agent: testAgent(t, hub.Opening{}), Identity: &hub.Identity{User: "yesterday's", Grants: []string{"old"}}})
	id := v.Identity
	if seen.User != "bob" || id.User != "bob" || id.Claims["a"] != 1 || id.Claims["b"] != 2 || !id.Expires.Equal(soon) ||
		len(id.Grants) != 1 || id.Grants[0] != "x" || len(v.Subscribe) != 1 || !v.Expires.Equal(soon) || v.Recheck != time.Hour {
		t.Errorf("learned %+v, verdict %+v", id, v)
	}
}

func TestGranted(t *testing.T) {
	g := new(Granted)
	for _, c := range []struct {
		channel string
		grants  []string
		want    Kind
	}{
		{"a", nil, Abstain},
		{"a", []string{"a"}, Pass},
		{"a/b", []string{"a"}, Abstain},
		{"a/b", []string{"x", "a/*"}, Pass},
		{"a", []string{"a/*"}, Abstain},
		{"a/*", []string{"a/b"}, Abstain},
		{"a/*", []string{"a/*"}, Pass},
		{"a/b/*", []string{"a/*"}, Pass},
		{"a/*", []string{"a/b/*"}, Abstain},
		{"*", []string{"a/*"}, Abstain},
		{"*", []string{"*"}, Pass},
		{"a", []string{"", "{", "/", "a"}, Pass},
	} {
		q := &Question{Question: &hub.Question{Channel: c.channel}, Learned: Learned{Grants: c.grants}}
		if got := g.Decide(t.Context(), q).Kind; got != c.want {
			t.Errorf("%s with grants %q: %v, want %v", c.channel, c.grants, got, c.want)
		}
	}
}

func TestWhichGateGoverns(t *testing.T) {
	pass, deny := always{Kind: Pass}, always{Kind: Deny}
	p, err := Compile(PolicyConfig{
		Gates: gatesOf("connect", pass, "subscribe", deny, "publish", deny),
		Blocks: []BlockConfig{
			{Match: []string{"news/sport"}, Gates: gatesOf("publish", pass), Where: "1"},
			{Match: []string{"news/*", "weather"}, Gates: gatesOf("subscribe", pass), Where: "2"},
			{Match: []string{"*"}, Gates: gatesOf("publish", pass, "deliver", pass), Where: "3"},
		},
	}, testEnv())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		gate    hub.GateName
		channel string
		where   string
		allowed bool
	}{
		{"subscribe", "news/sport", "2", true}, // the first block has no subscribe gate
		{"publish", "news/sport", "1", true},
		{"subscribe", "weather", "2", true},
		{"subscribe", "weather/now", "", false},
		{"subscribe", "other", "", false},
		{"publish", "other", "3", true},
		{"connect", "", "", true},
	} {
		chain, where := p.Find(c.gate, c.channel)
		if where != c.where || chain == nil {
			t.Errorf("%s of %s is governed by %q, want %q", c.gate, c.channel, where, c.where)
		}
		if got := verdictOf(t, p.Gate(c.gate, c.channel), c.gate, c.channel); got != c.allowed {
			t.Errorf("%s of %s: %v, want %v", c.gate, c.channel, got, c.allowed)
		}
	}
	if p.Gate("unsubscribe", "x") != nil || p.Gate("disconnect", "") != nil {
		t.Error("gates that are not written are asked")
	}
	if p.DeliverGate("x") == nil {
		t.Error("the deliver gate is not found")
	}
}

func TestDefaults(t *testing.T) {
	open, err := Compile(PolicyConfig{}, testEnv())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range gateNames {
		if open.Gate(name, "x") != nil {
			t.Errorf("%s is asked though nothing is written", name)
		}
	}
	if g, r := open.Pattern("*"); g != nil || r != nil {
		t.Error("patterns are not open though nothing is written")
	}
	closed, err := Compile(PolicyConfig{Default: DefaultDeny}, testEnv())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []hub.GateName{"connect", "subscribe", "publish"} {
		if verdictOf(t, closed.Gate(name, "x"), name, "x") {
			t.Errorf("%s is open in spite of default deny", name)
		}
	}
	if closed.DeliverGate("x") != nil || closed.Gate("unsubscribe", "x") != nil || closed.Gate("disconnect", "") != nil {
		t.Error("default deny spoke for deliver, unsubscribe or disconnect")
	}
	if _, r := closed.Pattern("*"); r == nil {
		t.Error("patterns are open in spite of default deny")
	}
}

func TestMistakesInPolicies(t *testing.T) {
	pass, deny, allow := always{Kind: Pass}, bounded{always{Kind: Deny}}, allowAll{}
	base := func(more ...any) PolicyConfig {
		return PolicyConfig{Gates: gatesOf(append([]any{"connect", pass, "subscribe", pass, "publish", pass}, more...)...)}
	}
	block := func(where, match string, namesAndGuards ...any) BlockConfig {
		return BlockConfig{Match: strings.Fields(match), Gates: gatesOf(namesAndGuards...), Where: where}
	}
	with := func(c PolicyConfig, blocks ...BlockConfig) PolicyConfig {
		c.Blocks = blocks
		return c
	}
	gate := func(name hub.GateName, g GateConfig) PolicyConfig {
		c := base()
		g.Where = "here"
		c.Gates[name] = &g
		return c
	}
	for name, c := range map[string]struct {
		config PolicyConfig
		want   []string
	}{
		"open gates":            {PolicyConfig{Gates: gatesOf("subscribe", pass)}, []string{"connect and publish", "default deny"}},
		"open by a block":       {with(PolicyConfig{}, block("b", "x", "publish", pass)), []string{"connect and subscribe and publish"}},
		"shadowed":              {with(base(), block("one", "*", "publish", pass), block("two", "a/*", "publish", pass)), []string{"publish", "two", "one", "never reached"}},
		"shadowed by two":       {with(base(), block("one", "a b/*", "publish", pass), block("two", "a b/c", "publish", pass)), []string{"two", "one"}},
		"connect in a block":    {with(base(), block("one", "*", "connect", pass)), []string{"not about a channel"}},
		"no pattern":            {with(base(), block("one", "")), []string{"channel news/*"}},
		"bad pattern":           {with(base(), block("one", "n*", "publish", pass)), []string{"startsWith", "one"}},
		"never allows":          {gate("publish", GateConfig{Guards: named(deny, deny)}), []string{"can never allow", "here"}},
		"no guard":              {gate("publish", GateConfig{}), []string{"write allow"}},
		"only a transform":      {gate("publish", GateConfig{Transform: "message.data"}), []string{"write allow"}},
		"behind allow":          {gate("publish", GateConfig{Guards: named(allow, pass)}), []string{"b is never asked", "the a before it"}},
		"behind deny":           {gate("publish", GateConfig{Guards: named(pass, denyAll{}, pass)}), []string{"c is never asked"}},
		"remote before deliver": {gate("deliver", GateConfig{Guards: named(remoteGuard{pass})}), []string{"too slow for each delivery"}},
		"remote inside any":     {gate("deliver", GateConfig{Guards: named(&Any{guards: named(remoteGuard{pass})})}), []string{"too slow for each delivery"}},
		"to in subscribe":       {gate("subscribe", GateConfig{Guards: named(pass), To: []string{"x"}}), []string{"only in publish"}},
		"transform in connect":  {gate("connect", GateConfig{Guards: named(pass), Transform: "1"}), []string{"publish and deliver"}},
		"recheck on publish":    {gate("publish", GateConfig{Guards: named(pass), Recheck: time.Minute}), []string{"connect, subscribe and presence"}},
		"to the protocol":       {gate("publish", GateConfig{Guards: named(pass), To: []string{"/meta/close"}}), []string{"/meta/"}},
		"to a pattern":          {gate("publish", GateConfig{Guards: named(pass), To: []string{"a/*"}}), []string{"to a/*"}},
		"to too many":           {gate("publish", GateConfig{Guards: named(pass), To: strings.Fields(strings.Repeat("x ", 17))}), []string{"16"}},
		"discard and to":        {gate("publish", GateConfig{Guards: named(pass), Discard: true, To: []string{"x"}}), []string{"remove to and transform"}},
		"bad transform":         {gate("publish", GateConfig{Guards: named(pass), Transform: "mesage.data"}), []string{"transform"}},
		"patterns alone":        {with(base(), BlockConfig{Match: []string{"x/*"}, Patterns: true, Gates: gatesOf("publish", pass), Where: "one"}), []string{"subscribe gate of its own"}},
	} {
		_, err := Compile(c.config, testEnv())
		for _, want := range c.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want an error with %q", name, err, want)
			}
		}
	}
	for name, config := range map[string]PolicyConfig{
		"a bare deny":             gate("publish", GateConfig{Guards: named(denyAll{})}),
		"deny by rule, then pass": gate("publish", GateConfig{Guards: named(deny, pass)}),
		"blocks that overlap":     with(base(), block("one", "a/*", "publish", pass), block("two", "*", "publish", pass)),
		"another gate":            with(base(), block("one", "*", "publish", pass), block("two", "a/*", "subscribe", pass)),
		"only deliver transform":  gate("deliver", GateConfig{Transform: "message.data"}),
	} {
		if _, err := Compile(config, testEnv()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The log says everything that an operator needs about refusals, is bounded, and shows no
// credentials.
func TestRefusalsAreLogged(t *testing.T) {
	var out bytes.Buffer
	env := testEnv()
	env.Log = slog.New(slog.NewTextHandler(&out, nil))
	c, err := compileGate("publish", gateOf(always{Kind: Deny, Reason: "not you", Err: errors.New("bob is banned")}), 0, env, newSampler(env.Log))
	if err != nil {
		t.Fatal(err)
	}
	a := testAgent(t, hub.Opening{User: "bob"})
	q := &hub.Question{Gate: "publish", Agent: a, Channel: "news", Message: hub.NewMessage("news", "u", nil), Credentials: []byte(`"s3cret"`)}
	for range 1000 {
		c.Decide(t.Context(), q)
	}
	log := out.String()
	for _, want := range []string{"level=INFO", "denied", "gate=publish", "guard=a", "channel=news", "agent=" + a.UUID(), "user=bob", `reason="not you"`, `error="bob is banned"`} {
		if !strings.Contains(log, want) {
			t.Errorf("the log lacks %q", want)
		}
	}
	if strings.Contains(log, "s3cret") {
		t.Error("the log has the credentials")
	}
	if n := strings.Count(log, "\n"); n > 2*lines.LinesPerSecond {
		t.Errorf("%d lines for 1000 denials, want about %d", n, lines.LinesPerSecond)
	}
}

func TestDeliverChain(t *testing.T) {
	m := hub.NewMessage("x", "u", []byte(`{"a":1,"secret":2}`))
	a := testAgent(t, hub.Opening{})
	deliver := func(g GateConfig) *hub.Message {
		t.Helper()
		c, err := compileGate("deliver", &g, 0, testEnv(), newSampler(slog.New(slog.DiscardHandler)))
		if err != nil {
			t.Fatal(err)
		}
		return c.Deliver(a, m)
	}
	if got := deliver(GateConfig{Guards: named(always{Kind: Pass})}); got != m {
		t.Errorf("passed as %v", got)
	}
	for _, k := range []Kind{Deny, Unavailable, Abstain} {
		if got := deliver(GateConfig{Guards: named(always{Kind: k})}); got != nil {
			t.Errorf("%v was delivered", k)
		}
	}
	if got := deliver(GateConfig{Guards: named(askFunc(func(context.Context, *Question) Answer { panic("x") }))}); got != nil {
		t.Error("a panic was delivered")
	}
	if got := deliver(GateConfig{Transform: `{"a": message.data.a}`}); got == nil || string(got.Data) != `{"a":1}` || got.UUID != "u" || got.Channel != "x" {
		t.Errorf("transformed to %v", got)
	}
	if got := deliver(GateConfig{Transform: `message.data.none`}); got != nil {
		t.Errorf("a failed transform was delivered: %v", got)
	}
}

func TestPublishVerbs(t *testing.T) {
	a := testAgent(t, hub.Opening{User: "bob"})
	for name, c := range map[string]struct {
		gate GateConfig
		want *hub.Publishing
	}{
		"as it is":  {GateConfig{Guards: named(always{Kind: Pass})}, nil},
		"to":        {GateConfig{Guards: named(always{Kind: Pass}), To: []string{"y", "z"}}, &hub.Publishing{Channels: []string{"y", "z"}}},
		"transform": {GateConfig{Guards: named(always{Kind: Pass}), Transform: `{"by": agent.user, "text": message.data}`}, &hub.Publishing{Data: []byte(`{"by":"bob","text":7}`)}},
		"discard":   {GateConfig{Guards: named(always{Kind: Pass}), Discard: true}, &hub.Publishing{Discard: true}},
		"a backend's data, then transform": {
			GateConfig{Guards: named(always{Kind: Pass, Learned: Learned{Data: []byte(`8`)}}), Transform: `message.data + 1`},
			&hub.Publishing{Data: []byte(`9`)},
		},
		"a backend drops it": {GateConfig{Guards: named(always{Kind: Pass, Learned: Learned{Drop: true}}), To: []string{"y"}}, &hub.Publishing{Channels: []string{"y"}, Discard: true}},
	} {
		chain, err := compileGate("publish", &c.gate, 0, testEnv(), newSampler(slog.New(slog.DiscardHandler)))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		v := chain.Decide(t.Context(), &hub.Question{Gate: "publish", Agent: a, Channel: "x", Message: hub.NewMessage("x", "u", []byte("7")), Identity: new(hub.Identity)})
		switch {
		case v.Refusal != nil:
			t.Errorf("%s: refused: %v", name, v.Refusal)
		case (v.Publish == nil) != (c.want == nil):
			t.Errorf("%s: %+v, want %+v", name, v.Publish, c.want)
		case c.want != nil && (strings.Join(v.Publish.Channels, " ") != strings.Join(c.want.Channels, " ") || string(v.Publish.Data) != string(c.want.Data) || v.Publish.Discard != c.want.Discard):
			t.Errorf("%s: %+v, want %+v", name, v.Publish, c.want)
		}
	}
	twice := GateConfig{Guards: named(always{Kind: Pass}), To: []string{"y", "z", "y"}}
	if _, err := compileGate("publish", &twice, 0, testEnv(), newSampler(slog.New(slog.DiscardHandler))); err == nil || !strings.Contains(err.Error(), "y twice") {
		t.Errorf("to y z y: %v, want an error", err)
	}
	// If the data lacks something, that is the publisher's mistake. If the claims lack
	// something, it is not.
	blameless := GateConfig{Guards: named(always{Kind: Pass}), Transform: `agent.claims.none`}
	if chain, err := compileGate("publish", &blameless, 0, testEnv(), newSampler(slog.New(slog.DiscardHandler))); err != nil {
		t.Error(err)
	} else if v := chain.Decide(t.Context(), &hub.Question{Gate: "publish", Agent: a, Channel: "x", Message: hub.NewMessage("x", "u", []byte("7")), Identity: new(hub.Identity)}); v.Refusal == nil || v.Refusal.Code != hub.CodeUnavailable {
		t.Errorf("a transform that failed for a claim: %v, want unavailable", v.Refusal)
	}
	failing := GateConfig{Guards: named(always{Kind: Pass}), Transform: `message.data.none`}
	chain, err := compileGate("publish", &failing, 0, testEnv(), newSampler(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	for data, want := range map[string]string{`{"text":1}`: "it lacks the member none", `"hi"`: "does not accept this data", `7`: "does not accept this data", `{"none":1e400}`: "does not accept this data"} {
		v := chain.Decide(t.Context(), &hub.Question{Gate: "publish", Agent: a, Channel: "x", Message: hub.NewMessage("x", "u", []byte(data)), Identity: new(hub.Identity)})
		if v.Refusal == nil || v.Refusal.Code != hub.CodeInvalid || !strings.Contains(v.Refusal.Reason, want) || v.Refusal.Retry != 0 {
			t.Errorf("a transform that fails for %s: %v, want invalid: … %s", data, v.Refusal, want)
		}
	}
}

// A user called "*" gets no pattern from a rule that compares names.
func TestUserCalledStar(t *testing.T) {
	own := askFunc(func(_ context.Context, q *Question) Answer {
		if q.Channel == "users/"+q.User() {
			return Answer{Kind: Pass}
		}
		return Answer{Kind: Deny}
	})
	c, err := compileGate("subscribe", gateOf(own), 0, testEnv(), newSampler(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	a := testAgent(t, hub.Opening{User: "*"})
	if v := c.Decide(t.Context(), &hub.Question{Gate: "subscribe", Agent: a, Channel: "users/*", Pattern: true}); v.Refusal == nil {
		t.Error("allowed")
	}
	for pattern, want := range map[string]int{"users/*": 1, "*": 0, "a/b/*": 2} {
		q := Question{Question: &hub.Question{Channel: pattern, Pattern: true}}
		if got := q.Parts(); len(got) != want {
			t.Errorf("the parts of %s are %q", pattern, got)
		}
	}
}

// The source of a user's name decides who the agent is, not the order of the guards.
func TestWhoCounts(t *testing.T) {
	ask := always{Kind: Pass, Learned: Learned{User: "by ask"}}
	jwt := always{Kind: Pass, Learned: Learned{User: "by jwt", UserBy: UserByToken}}
	header := always{Kind: Pass, Learned: Learned{User: "by header", UserBy: UserByHeader}}
	login := always{Kind: Pass, Learned: Learned{User: "by login", UserBy: UserByLogin}}
	nobody := always{Kind: Pass}
	for _, c := range []struct {
		guards []Guard
		want   string
	}{
		{[]Guard{ask, jwt, header, login, nobody}, "by login"},
		{[]Guard{login, header, jwt, ask}, "by login"},
		{[]Guard{jwt, header}, "by header"},
		{[]Guard{ask, nobody, jwt}, "by jwt"},
		{[]Guard{nobody, ask}, "by ask"},
		{[]Guard{nobody}, ""},
	} {
		chain, err := compileGate("connect", gateOf(c.guards...), 0, testEnv(), newSampler(slog.New(slog.DiscardHandler)))
		if err != nil {
			t.Fatal(err)
		}
		v := chain.Decide(t.Context(), &hub.Question{Gate: "connect", Agent: testAgent(t, hub.Opening{})})
		if v.Identity.User != c.want {
			t.Errorf("the user is %q, want %q", v.Identity.User, c.want)
		}
	}
}

// A guard that is not Local is asked with a deadline, and never for a delivery.
func TestOnlyLocalGuardsAreAskedInPlace(t *testing.T) {
	foreign := struct{ Guard }{always{Kind: Pass}} // without Local
	c, err := compileGate("publish", gateOf(foreign), 0, testEnv(), newSampler(slog.New(slog.DiscardHandler)))
	if err != nil || c.Local() {
		t.Errorf("local: %v, %v", c.Local(), err)
	}
	if _, err := compileGate("deliver", gateOf(foreign), 0, testEnv(), newSampler(slog.New(slog.DiscardHandler))); err == nil {
		t.Error("a guard that may block stands before deliveries")
	}
}
