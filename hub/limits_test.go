// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/push-it/pushit/hub"
)

// What exceeds a limit is answered with a code and a sentence. The agent's other
// operations are not affected.
func TestTooMuch(t *testing.T) {
	limits := hub.Limits{MessageSize: 300, CredentialsSize: 100, NameLength: 20, ChannelsPerAgent: 2}
	long := strings.Repeat("n", 21)
	deep := strings.Repeat("[", 40) + strings.Repeat("]", 40)
	for _, c := range []struct{ name, frame, want string }{
		{"message", publish("a", "u", `"`+strings.Repeat("x", 300)+`"`), `"uuid":"u","error":"the message has 336 bytes; at most 300 are allowed","code":"limit"`},
		{"frame", publish("a", "u", `"`+strings.Repeat("x", 3000)+`"`), `"uuid":"u","error":"the frame has 3036 bytes; at most 1124 are allowed","code":"limit"`},
		{"channel's name", publish(long, "u", "1"), `"uuid":"u"`},
		{"subscription's name", subscribe(long), `"successful":false`},
		{"channels", subscribe("three"), `"successful":false,"error":"more than 2 channels for one agent","code":"limit"`},
		{"depth", publish("a", "u", deep), `"code":"invalid"`},
		{"duplicate key", `{"channel":"a","uuid":"u","data":1,"data":2}`, `"code":"invalid"`},
		{"duplicate key in data", publish("a", "u", `{"x":1,"x":2}`), `"code":"invalid"`},
		{"a duplicate by escape", publish("a", "u", `{"x":1,"\u0078":2}`), `"code":"invalid"`},
		{"array", `[1,2]`, `"code":"invalid"`},
		{"not a frame", `{"a":1}`, `"code":"invalid"`},
		{"empty", ``, `"code":"invalid"`},
		{"empty object", `{}`, `"code":"invalid"`},
		{"null", `null`, `"code":"invalid"`},
		{"a string", `"hello"`, `"code":"invalid"`},
		{"truncated", `{"channel":"a","uuid":"u","data":`, `"code":"invalid"`},
		{"trailing", publish("a", "u", "1") + "x", `"code":"invalid"`},
		{"two frames", publish("a", "u", "1") + publish("a", "v", "1"), `"code":"invalid"`},
		{"invalid UTF-8", publish("a", "u", "\"\xff\""), `"code":"invalid"`},
		{"invalid UTF-8 in a name", publish("a\xc3", "u", "1"), `"code":"invalid"`},
		{"control character", publish("a", "u", "\"\x01\""), `"code":"invalid"`},
		{"no uuid", `{"channel":"a","data":1}`, `"uuid":"???"`},
		{"uuid of a number", `{"channel":"a","uuid":7,"data":1}`, `"uuid":"???"`},
		{"uuid too long", publish("a", strings.Repeat("u", 65), "1"), `"uuid":"???"`},
		{"uuid with a quote", `{"channel":"a","uuid":"\"","data":1}`, `"uuid":"???"`},
		{"agentId with markup", `{"channel":"a","uuid":"u","agentId":"<b>","data":1}`, `"code":"invalid"`},
		{"wrong case", `{"Channel":"a","uuid":"u","data":1}`, `"code":"invalid"`},
		{"unknown key", `{"channel":"a","uuid":"u","payload":1}`, `"code":"invalid"`},
		{"unknown meta channel", publish("/meta/other", "u", "1"), `"uuid":"u"`},
		{"publish to the protocol", publish("/meta/close", "u", `1`), `"code":"invalid"`},
		{"publish on a pattern", publish("a/*", "u", "1"), `"code":"invalid"`},
		{"subscribe to n*", subscribe("n*"), `"code":"invalid"`},
		{"subscribe to a/*/b", subscribe("a/*/b"), `"code":"invalid"`},
		{"subscribe to **", subscribe("**"), `"code":"invalid"`},
		{"empty segment", publish("a//b", "u", "1"), `"code":"invalid"`},
		{"dot segment", publish("a/../b", "u", "1"), `"code":"invalid"`},
		{"space", publish("a b", "u", "1"), `"code":"invalid"`},
		{"placeholder", publish("{env.HOME}", "u", "1"), `"code":"invalid"`},
		{"subscribe without data", `{"channel":"/meta/subscribe","uuid":"u"}`, `"successful":false`},
		{"subscribe to a number", `{"channel":"/meta/subscribe","uuid":"u","data":{"channel":7}}`, `"successful":false`},
		{"subscribe to many", `{"channel":"/meta/subscribe","uuid":"u","data":{"channel":["a","b"]}}`, `"successful":false`},
		{"refresh as another", `{"channel":"/meta/connect","uuid":"u","agentId":"z"}`, `"successful":false`},
		{"refresh without an agentId", `{"channel":"/meta/connect","uuid":"u"}`, `"code":"invalid"`},
		{"credentials", `{"channel":"/meta/connect","uuid":"u","agentId":"agent1","data":{"credentials":"` + strings.Repeat("x", 200) + `"}}`, `"successful":false,"error":"the credentials have 202 bytes; at most 100 are allowed","code":"limit"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, hub.Policy{Limits: limits}, func(b *bubble) {
				p := b.join("one", "two")
				p.Send(c.frame)
				synctest.Wait()
				got := p.Conn.Lines()
				if len(got) != 1 || !strings.Contains(got[0], c.want) || !strings.Contains(got[0], `"code":"`) || strings.Contains(got[0], `"error":""`) {
					b.Errorf("answered %s, want one answer with %s, a code and a sentence", got, c.want)
				}
				p.Send(publish("one", "after", "1"))
				b.want(p, message("one", "after", "1"), published("after"))
			})
		})
	}
}

// Each limit allows exactly its value, and refuses one more.
func TestLimitsAreWhatIsAllowed(t *testing.T) {
	const size = 3000
	sized := func(n int) string {
		empty := publish("a", "u", `""`)
		return publish("a", "u", `"`+strings.Repeat("x", n-len(empty))+`"`)
	}
	inBubble(t, hub.Policy{Limits: hub.Limits{MessageSize: size, CredentialsSize: 100}}, func(b *bubble) {
		p := b.join()
		p.Send(sized(size))
		b.want(p, published("u"))
		p.Send(sized(size + 1))
		b.want(p, `{"channel":"/meta/error","uuid":"u","error":"the frame has 3001 bytes; at most 3000 are allowed","code":"limit"}`)
	})
	inBubble(t, hub.Policy{Limits: hub.Limits{MessageSize: 256, CredentialsSize: 100}}, func(b *bubble) {
		p := b.open()
		p.Send(`{"channel":"/meta/connect","uuid":"c","agentId":"a","data":{"credentials":"` + strings.Repeat("x", 98) + `"}}`)
		b.want(p, connected("a"))
		p.Send(sized(256))
		b.want(p, published("u"))
		p.Send(sized(257))
		b.want(p, `{"channel":"/meta/error","uuid":"u","error":"the message has 257 bytes; at most 256 are allowed","code":"limit"}`)
	})
}

func TestTooLargeCredentialsAtFirst(t *testing.T) {
	inBubble(t, hub.Policy{Limits: hub.Limits{CredentialsSize: 100}}, func(b *bubble) {
		p := b.open()
		p.Send(`{"channel":"/meta/connect","uuid":"u","agentId":"a","data":{"credentials":"` + strings.Repeat("x", 100) + `"}}`)
		b.want(p, `{"channel":"/meta/connect","uuid":"u","agentId":"a","successful":false,"error":"the credentials have 102 bytes; at most 100 are allowed","code":"limit"}`)
		p.Send(connect("a"))
		b.want(p, connected("a"))
	})
}

func TestTooManyChannels(t *testing.T) {
	inBubble(t, hub.Policy{Limits: hub.Limits{Channels: 3}}, func(b *bubble) {
		p := b.join("one", "two/*", "three")
		p.Send(subscribe("four"))
		b.want(p, `{"channel":"/meta/subscribe","uuid":"s","data":{"channel":"four"},"successful":false,"error":"the server has reached its limit of 3 channels","code":"limit"}`)
		b.join("three") // it was subscribed already
		p.Send(unsubscribe("one"), subscribe("four"))
		b.want(p, unsubscribed("one"), subscribed("four"))
	})
}

func TestTooManyPublishes(t *testing.T) {
	inBubble(t, hub.Policy{Limits: hub.Limits{PublishesPerSecond: 2}}, func(b *bubble) {
		p := b.join()
		var want []string
		for i := range 10 {
			p.Send(publish("a", fmt.Sprint(i), "1"))
			want = append(want, published(fmt.Sprint(i)))
		}
		p.Send(publish("a", "over", "1"))
		b.want(p, append(want, `{"channel":"/meta/error","uuid":"over","error":"more than 2 publishes a second","code":"limit","retry":500}`)...)
		time.Sleep(500 * time.Millisecond)
		p.Send(publish("a", "over", "1"))
		b.want(p, published("over"))
	})
}

func TestTooManyFrames(t *testing.T) {
	inBubble(t, hub.Policy{Limits: hub.Limits{FramesPerSecond: 10}}, func(b *bubble) {
		p := b.join()
		for range 60 {
			p.Send(unsubscribe("a"))
		}
		synctest.Wait()
		lines := p.Conn.Lines()
		if len(lines) != 50 || lines[49] != `{"channel":"/meta/close","code":4429,"error":"more than 10 frames a second","retry":1000}` {
			b.Errorf("%d lines, the last %s", len(lines), lines[len(lines)-1])
		}
		b.wantClose(p, hub.CloseLimit)
	})
}

func TestUnlimited(t *testing.T) {
	inBubble(t, hub.Policy{Limits: hub.Limits{
		FramesPerSecond: hub.Unlimited, PublishesPerSecond: hub.Unlimited, Agents: hub.Unlimited,
		AgentsPerIP: hub.Unlimited, UnconnectedPerIP: hub.Unlimited, Channels: hub.Unlimited,
	}}, func(b *bubble) {
		p := b.join("a")
		for i := range 2000 {
			p.Send(publish("b", fmt.Sprint(i), "1"))
		}
		synctest.Wait()
		if n := len(p.Conn.Lines()); n != 2000 {
			b.Errorf("%d answers, want 2000", n)
		}
	})
}
