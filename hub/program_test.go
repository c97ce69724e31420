// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/push-it/pushit/hub"
)

// apiGate are Gates with the gate api only.
func apiGate(decide func(ctx context.Context, q *hub.Question) hub.Verdict) hub.Gates {
	return &gates{ask: asked{hub.GateAPI: decide}}
}

func allowAPI(context.Context, *hub.Question) hub.Verdict { return hub.Allow }

func TestProgramPublishesOnSeveralChannels(t *testing.T) {
	inBubble(t, hub.Policy{Gates: apiGate(allowAPI)}, func(b *bubble) {
		a, c := b.join("a", "b", "x/*"), b.join("b")
		program, r := b.hub.Authorize(b.Context(), b.policy, hub.Opening{})
		if r != nil {
			b.Fatal(r)
		}
		receipt, r := program.Publish(b.Context(), hub.Publication{Channels: []string{"a", "b", "x/1", "nobody"}, UUID: "u", Data: []byte("1")})
		if r != nil || receipt.UUID != "u" || receipt.Subscriptions != 4 || receipt.Repeated {
			b.Errorf("%+v, %v", receipt, r)
		}
		b.want(a, message("a", "u", "1"), message("b", "u", "1"), message("x/1", "u", "1"))
		b.want(c, message("b", "u", "1"))

		// A repetition with one more channel: only this channel gets the message.
		receipt, r = program.Publish(b.Context(), hub.Publication{Channels: []string{"a", "x/2"}, UUID: "u", Data: []byte("1")})
		if r != nil || receipt.Subscriptions != 1 || receipt.Repeated {
			b.Errorf("%+v, %v", receipt, r)
		}
		b.want(a, message("x/2", "u", "1"))
		if receipt, r = program.Publish(b.Context(), hub.Publication{Channels: []string{"a"}, UUID: "u", Data: []byte("1")}); r != nil || !receipt.Repeated {
			b.Errorf("%+v, %v", receipt, r)
		}
		// Other data under the same uuid is not published.
		if _, r = program.Publish(b.Context(), hub.Publication{Channels: []string{"x/3", "a"}, UUID: "u", Data: []byte("2")}); r == nil || r.Code != hub.CodeInvalid {
			b.Errorf("other data: %v", r)
		}
		if receipt, r = program.Publish(b.Context(), hub.Publication{Channels: []string{"x/3"}, UUID: "u", Data: []byte("3")}); r != nil || receipt.Repeated {
			b.Errorf("what was refused is remembered: %+v, %v", receipt, r)
		}
		b.want(a, message("x/3", "u", "3"))
	})
}

// After a broker has failed, the message can be published again.
func TestProgramRepeatsWhatFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := &flakyBroker{Broker: hub.NewMemoryBroker(), err: errors.New("away")}
		h, err := hub.New("test", broken)
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		p := h.Use(&hub.Policy{Mount: "test", Gates: apiGate(allowAPI)})
		program, r := h.Authorize(t.Context(), p, hub.Opening{})
		if r != nil {
			t.Fatal(r)
		}
		message := hub.Publication{Channels: []string{"a", "b"}, UUID: "u", Data: []byte("1")}
		broken.after = 1 // the first of the two is published
		if _, r = program.Publish(t.Context(), message); r == nil || r.Code != hub.CodeUnavailable || r.Retry <= 0 {
			t.Fatalf("%v", r)
		}
		broken.after = 100
		broken.published = nil
		if receipt, r := program.Publish(t.Context(), message); r != nil || receipt.Repeated {
			t.Fatalf("%+v, %v", receipt, r)
		}
		if !slices.Equal(broken.published, []string{"b"}) {
			t.Errorf("published again on %q, want b alone", broken.published)
		}
	})
}

// A flakyBroker fails after some messages.
type flakyBroker struct {
	hub.Broker
	err       error
	after     int
	published []string
}

func (f *flakyBroker) Publish(ctx context.Context, m *hub.Message) (hub.Position, error) {
	if f.after--; f.after < 0 {
		return hub.Position{}, f.err
	}
	f.published = append(f.published, m.Channel)
	return f.Broker.Publish(ctx, m)
}

func TestProgramsAreAuthorized(t *testing.T) {
	verdict := hub.Verdict{Identity: &hub.Identity{User: "backend"}, Recheck: time.Minute}
	asked := 0
	rules := apiGate(func(context.Context, *hub.Question) hub.Verdict { asked++; return verdict })
	inBubble(t, hub.Policy{Gates: rules}, func(b *bubble) {
		publish := func(program *hub.Program) *hub.Refusal {
			_, r := program.Publish(b.Context(), hub.Publication{Channels: []string{"a"}, Data: []byte("1")})
			return r
		}
		program, r := b.hub.Authorize(b.Context(), b.policy, hub.Opening{})
		if r != nil || publish(program) != nil || publish(program) != nil || asked != 1 {
			b.Fatalf("%v; asked %d times, want once", r, asked)
		}
		time.Sleep(time.Minute)
		if r := publish(program); r != nil || asked != 2 {
			b.Errorf("after recheck: %v, asked %d times, want twice", r, asked)
		}
		verdict = denied("no more")
		time.Sleep(time.Minute)
		if r := publish(program); r == nil || r.Reason != "no more" {
			b.Errorf("denied at recheck: %v", r)
		}
		if _, r := b.hub.Authorize(b.Context(), b.policy, hub.Opening{}); r == nil {
			b.Error("a denied program is authorized")
		}
		// The gate of the newest configuration decides. Without an endpoint nothing can
		// be published.
		verdict = hub.Allow
		b.reload(hub.Policy{Gates: gatesOf(nil)})
		if r := publish(program); r == nil || r.Code != hub.CodeDenied {
			b.Errorf("without the gate: %v", r)
		}
		b.hub.Drop(b.policy)
		if r := publish(program); r == nil || r.Code != hub.CodeUnavailable {
			b.Errorf("without the endpoint: %v", r)
		}
	})
}

// A gate that hangs delays a program for its timeout only, and costs one goroutine.
func TestProgramWhoseGateHangs(t *testing.T) {
	inBubble(t, hub.Policy{Gates: apiGate(hangs)}, func(b *bubble) {
		if _, r := b.hub.Authorize(b.Context(), b.policy, hub.Opening{}); r == nil || r.Code != hub.CodeUnavailable {
			b.Errorf("%v", r)
		}
		ctx, cancel := context.WithCancel(b.Context())
		cancel()
		if _, r := b.hub.Authorize(ctx, b.policy, hub.Opening{}); r == nil {
			b.Error("a program that is gone is authorized")
		}
	})
}

func TestDecodePublication(t *testing.T) {
	for text, want := range map[string]string{
		`{"channel":"a","data":1}`:                                    `[a]  1`,
		` {"uuid":"u-1","data":{ "x": [1, 2] },"channels":["a","b"]}`: `[a b] u-1 {"x":[1,2]}`,
		`{"channels":["a","a","b"],"data":null}`:                      `[a b]  null`,
		"{\"channel\":\"\\u00e4\",\"data\":\"\\u00e4\"}":              `[ä]  "\u00e4"`,
		`{"channel":"a","data":1,"except":"x","history":true}`:        `[a]  1`,
	} {
		p, r := hub.DecodePublication([]byte(text))
		if got := fmt.Sprintf("%v %s %s", p.Channels, p.UUID, p.Data); r != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", text, got, r, want)
		}
	}
	for _, text := range []string{
		``, `1`, `"a"`, `[]`, `{`, `{}`, `{"channel":"a"}`, `{"data":1}`, `{"channel":1,"data":1}`, `{"channel":"","data":1}`,
		`{"channel":"a/*","data":1}`, `{"channel":"/meta/connect","data":1}`, `{"channels":"a","data":1}`, `{"channels":[1],"data":1}`,
		`{"channels":[],"data":1}`, `{"channel":"a","channels":["b"],"data":1}`, `{"channel":"a","data":1,"uuid":"a b"}`,
		`{"channel":"a","data":1,"uuid":""}`, `{"channel":"a","data":1,"echo":false}`, `{"channel":"a","data":1,"except":""}`,
		`{"channel":"a","data":1,"except":null}`, `{"channel":"a","data":1,"history":0}`, `{"channel":"a","data":1,"x":1}`, `{"channel":"a","data":1} 2`, `{"channel":"\ud800","data":1}`,
		`{"channels":["\ud800"],"data":1}`, `{"channel":"a","channel":"b","data":1}`, "{\"channel\":\"a\",\"data\":\"\xff\"}",
	} {
		if p, r := hub.DecodePublication([]byte(text)); r == nil || r.Code != hub.CodeInvalid {
			t.Errorf("%s: %+v, %v", text, p, r)
		}
	}
}

func FuzzDecodePublication(f *testing.F) {
	f.Add([]byte(`{"channels":["a","b"],"uuid":"u","data":{"x":[1,2.5e3,null,"\u00e4"]}}`))
	f.Add([]byte(`{"channel":"a","data":1}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, r := hub.DecodePublication(text)
		if r != nil {
			return
		}
		if len(p.Channels) == 0 || len(p.Channels) > hub.MaxPublicationChannels || len(p.Data) == 0 {
			t.Fatalf("%+v", p)
		}
		for _, ch := range p.Channels {
			if r := hub.CheckName(ch, hub.MaxNameLength); r != nil {
				t.Fatalf("%q: %v", ch, r)
			}
		}
		if m := hub.NewMessage(p.Channels[0], "u", p.Data); string(m.Data) != string(p.Data) {
			t.Fatalf("%q became %q", p.Data, m.Data)
		}
	})
}
