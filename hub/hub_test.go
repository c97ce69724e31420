// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/hub/hubtest"
)

// A bubble is a hub under test in a synctest bubble.
type bubble struct {
	*testing.T
	hub    *hub.Hub
	policy *hub.Policy
	peers  int
}

// inBubble calls f with a hub under policy. At the end all goroutines must have ended.
func inBubble(t *testing.T, policy hub.Policy, f func(b *bubble)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		h, err := hub.New("test", nil)
		if err != nil {
			t.Fatal(err)
		}
		policy.Mount = "test /push"
		f(&bubble{T: t, hub: h, policy: h.Use(&policy)})
		h.Close()
		synctest.Wait()
		if n := h.Agents(); n != 0 {
			t.Errorf("%d agents left", n)
		}
		if n := h.Channels(); n != 0 {
			t.Errorf("%d channels left", n)
		}
	})
}

// open opens a session, and discards what the opening writes.
func (b *bubble) open() *hubtest.Peer { return b.openOn(hubtest.NewConn()) }

func (b *bubble) openOn(c *hubtest.Conn) *hubtest.Peer {
	b.Helper()
	b.peers++
	p := hubtest.Open(b, b.hub, b.policy, hub.Opening{Transport: "test"}, c)
	synctest.Wait()
	b.want(p, "o")
	return p
}

// join opens a session, connects, and subscribes.
func (b *bubble) join(channels ...string) *hubtest.Peer {
	b.Helper()
	return b.joinOn(hubtest.NewConn(), channels...)
}

func (b *bubble) joinOn(c *hubtest.Conn, channels ...string) *hubtest.Peer {
	b.Helper()
	p := b.openOn(c)
	id := fmt.Sprint("agent", b.peers)
	p.Send(connect(id))
	synctest.Wait()
	b.want(p, connected(id))
	for _, ch := range channels {
		p.Send(subscribe(ch))
		synctest.Wait()
		b.want(p, subscribed(ch))
	}
	return p
}

// want waits until all goroutines are idle, and compares the frames that p got.
func (b *bubble) want(p *hubtest.Peer, want ...string) {
	b.Helper()
	synctest.Wait()
	if got := p.Conn.Lines(); !slices.Equal(got, want) {
		b.Errorf("the agent got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

// wantSentAway checks that p is closed because the server stops, with a time to come back
// in the window for so many agents.
func (b *bubble) wantSentAway(p *hubtest.Peer, agents int) (retry time.Duration) {
	b.Helper()
	synctest.Wait()
	lines := p.Conn.Lines()
	var notice struct {
		Channel string
		Code    hub.CloseCode
		Error   string
		Retry   int64
	}
	if len(lines) == 0 || json.Unmarshal([]byte(lines[len(lines)-1]), &notice) != nil {
		b.Fatalf("the agent got %q, want /meta/close at the end", lines)
	}
	retry = time.Duration(notice.Retry) * time.Millisecond
	from, to := hub.ComeBackWindow(agents)
	if notice.Channel != "/meta/close" || notice.Code != hub.CloseUnavailable || notice.Error == "" || retry < from || retry > to {
		b.Errorf("the last was %s, want /meta/close with %d, a reason, and retry from %v to %v", lines[len(lines)-1], hub.CloseUnavailable, from, to)
	}
	b.wantClose(p, hub.CloseUnavailable)
	return retry
}

func (b *bubble) wantClose(p *hubtest.Peer, code hub.CloseCode) {
	b.Helper()
	synctest.Wait()
	switch got, reason, times := p.Conn.Closed(); {
	case times != 1:
		b.Errorf("Close was called %d times, want once", times)
	case got != code || reason == "":
		b.Errorf("closed with %d %q, want %d and a reason", got, reason, code)
	}
}

// The frames of the protocol, as hubtest.Conn returns them.

func connect(id string) string {
	return `{"channel":"/meta/connect","uuid":"c","agentId":"` + id + `","data":{"credentials":"s3cret"}}`
}

func connected(id string) string {
	return `{"channel":"/meta/connect","uuid":"c","agentId":"` + id + `","successful":true,"error":""}`
}

func subscribe(ch string) string {
	return `{"channel":"/meta/subscribe","uuid":"s","data":{"channel":"` + ch + `"}}`
}

func subscribed(ch string) string {
	return `{"channel":"/meta/subscribe","uuid":"s","data":{"channel":"` + ch + `"},"successful":true,"error":""}`
}

func unsubscribe(ch string) string {
	return `{"channel":"/meta/unsubscribe","uuid":"n","data":{"channel":"` + ch + `"}}`
}

func unsubscribed(ch string) string {
	return `{"channel":"/meta/unsubscribe","uuid":"n","data":{"channel":"` + ch + `"},"successful":true,"error":""}`
}

// publish returns a publish frame, and message the frame that subscribers get.
func publish(ch, uuid, data string) string {
	return `{"channel":"` + ch + `","uuid":"` + uuid + `","data":` + data + `}`
}

func message(ch, uuid, data string) string { return publish(ch, uuid, data) }

func published(uuid string) string { return `{"channel":"/meta/successful","uuid":"` + uuid + `"}` }

func TestPublishReachesEverySubscriberOnce(t *testing.T) {
	inBubble(t, hub.Policy{}, func(b *bubble) {
		exact := b.join("stories/5")
		pattern := b.join("stories/*")
		all := b.join("*")
		many := b.join("stories/*", "*", "stories/5", "stories/5")
		other := b.join("stories/6", "stories", "stories/5/comments", "storie/*")
		publisher := b.join("stories/5")

		publisher.Send(publish("stories/5", "u1", `{"a":[1,"x"]}`))
		m := message("stories/5", "u1", `{"a":[1,"x"]}`)
		for _, p := range []*hubtest.Peer{exact, pattern, all, many} {
			b.want(p, m)
		}
		b.want(other)
		b.want(publisher, m, published("u1"))
	})
}

func TestPatternsMatchBelowOnly(t *testing.T) {
	inBubble(t, hub.Policy{}, func(b *bubble) {
		p := b.join("a/b/*")
		publisher := b.join()
		for i, ch := range []string{"a/b", "a/b/c", "a/b/c/d", "a/bc/d", "a", "A/b/c"} {
			publisher.Send(publish(ch, fmt.Sprint(i), "0"))
		}
		b.want(p, message("a/b/c", "1", "0"), message("a/b/c/d", "2", "0"))
	})
}

func TestUnsubscribe(t *testing.T) {
	inBubble(t, hub.Policy{}, func(b *bubble) {
		p := b.join("news", "*")
		publisher := b.join()
		p.Send(unsubscribe("*"))
		b.want(p, unsubscribed("*"))
		publisher.Send(publish("news", "1", "1"), publish("weather", "2", "2"))
		b.want(p, message("news", "1", "1"))
		p.Send(unsubscribe("news"), unsubscribe("news"), unsubscribe("never/there"))
		b.want(p, unsubscribed("news"), unsubscribed("news"), unsubscribed("never/there"))
		publisher.Send(publish("news", "3", "3"))
		b.want(p)
		p.Send(subscribe("news"))
		b.want(p, subscribed("news"))
		publisher.Send(publish("news", "4", "4"))
		b.want(p, message("news", "4", "4"))
	})
}

// While other agents publish as fast as they can: no message of a channel comes before
// the answer to the subscribe, or after the answer to the unsubscribe.
func TestNothingOutsideASubscription(t *testing.T) {
	h, err := hub.New("test", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	policy := h.Use(&hub.Policy{Limits: hub.Limits{
		QueueMessages: 1 << 20, QueueBytes: 1 << 30, FramesPerSecond: hub.Unlimited, PublishesPerSecond: hub.Unlimited,
	}})
	subscriber := hubtest.Open(t, h, policy, hub.Opening{}, hubtest.NewConn())
	subscriber.Send(connect("s"))

	var wg sync.WaitGroup
	stop := make(chan struct{})
	for n := range 2 {
		wg.Go(func() {
			p := hubtest.Open(t, h, policy, hub.Opening{}, hubtest.NewConn())
			p.Send(connect("p"))
			for i := 0; ; i++ {
				select {
				case <-stop:
					p.Leave()
					return
				default:
					p.Send(publish("a/b", fmt.Sprint(n, "-", i), "0"))
				}
			}
		})
	}
	channels := []string{"a/b", "a/*", "*"}
	for i := range 3000 {
		ch := channels[i%len(channels)]
		subscriber.Send(subscribe(ch), unsubscribe(ch))
	}
	close(stop)
	wg.Wait()
	subscriber.Leave()

	var on bool
	seen := make(map[string]bool)
	for _, line := range subscriber.Conn.Lines() {
		switch {
		case strings.Contains(line, "/meta/subscribe"):
			on = true
		case strings.Contains(line, "/meta/unsubscribe"):
			on = false
		case strings.HasPrefix(line, `{"channel":"a/b"`):
			if !on {
				t.Fatalf("not subscribed, but got %s", line)
			}
			if seen[line] {
				t.Fatalf("got twice: %s", line)
			}
			seen[line] = true
		}
	}
	t.Logf("%d messages got through", len(seen))
}

// All subscribers get all messages of a channel in the same order. The messages of one
// agent keep their order.
func TestOrder(t *testing.T) {
	h, err := hub.New("test", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	policy := h.Use(&hub.Policy{Limits: hub.Limits{
		QueueMessages: 1 << 20, QueueBytes: 1 << 30, FramesPerSecond: hub.Unlimited, PublishesPerSecond: hub.Unlimited,
	}})
	var subscribers []*hubtest.Peer
	for i := range 6 {
		c := hubtest.NewConn()
		c.Blocks, c.Roomy = i%3 == 1, i == 4
		if i%3 == 2 {
			c.Take = func(n int) int { return rand.IntN(n + 1) }
		}
		p := hubtest.Open(t, h, policy, hub.Opening{}, c)
		p.Send(connect("s"), subscribe([]string{"a/b", "a/*"}[i%2]))
		await(t, p, "/meta/subscribe")
		subscribers = append(subscribers, p)
	}
	const publishers, each = 4, 500
	var wg sync.WaitGroup
	for n := range publishers {
		wg.Go(func() {
			p := hubtest.Open(t, h, policy, hub.Opening{}, hubtest.NewConn())
			p.Send(connect(fmt.Sprint("p", n)))
			for i := range each {
				p.Send(publish("a/b", fmt.Sprintf("%d-%d", n, i), fmt.Sprintf("[%d,%d]", n, i)))
			}
			p.Leave()
		})
	}
	wg.Wait()
	var first []string
	for i, p := range subscribers {
		got := messagesOf(t, p, publishers*each)
		next := make([]int, publishers)
		for _, line := range got {
			var n, k int
			if _, err := fmt.Sscanf(line[strings.Index(line, `"data":`):], `"data":[%d,%d]`, &n, &k); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			if next[n] != k {
				t.Fatalf("subscriber %d got message %d of publisher %d, want %d", i, k, n, next[n])
			}
			next[n]++
		}
		if i == 0 {
			first = got
		} else if !slices.Equal(first, got) {
			t.Errorf("subscribers 0 and %d got the channel in different orders", i)
		}
	}
}

// await waits for a frame with the given text, and discards the frames before it.
func await(t *testing.T, p *hubtest.Peer, text string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); p.Conn.AwaitWrite(time.Until(deadline)) {
		if slices.ContainsFunc(p.Conn.Lines(), func(line string) bool { return strings.Contains(line, text) }) {
			return
		}
	}
	t.Fatalf("no %s came", text)
}

// messagesOf waits for count messages of a peer, and returns them in order.
func messagesOf(t *testing.T, p *hubtest.Peer, count int) (got []string) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for len(got) < count && time.Now().Before(deadline) {
		p.Conn.AwaitWrite(time.Until(deadline))
		for _, line := range p.Conn.Lines() {
			if strings.HasPrefix(line, `{"channel":"a/b"`) {
				got = append(got, line)
			}
		}
	}
	if len(got) != count {
		t.Fatalf("got %d messages, want %d", len(got), count)
	}
	return got
}

func TestStuckAgentIsClosedAndDelaysNoOther(t *testing.T) {
	inBubble(t, hub.Policy{Limits: hub.Limits{QueueMessages: 4}}, func(b *bubble) {
		stuck, quick, publisher := b.join("news"), b.join("news"), b.join()
		stuck.Conn.Stall(true)
		var want []string
		for i := range 6 { // one is being written, three wait, the fifth exceeds the limit
			publisher.Send(publish("news", fmt.Sprint(i), "0"))
			synctest.Wait()
			want = append(want, message("news", fmt.Sprint(i), "0"))
		}
		b.want(quick, want...)
		time.Sleep(3 * time.Second) // the agent has this time to read the close notice
		b.wantClose(stuck, hub.CloseSlow)
		b.want(stuck)
		select {
		case <-stuck.Gone():
		default:
			t.Error("the agent has not left")
		}
	})
}

// An agent that was too slow, but reads again, gets the rest of the message that was half
// written, and then the notice.
func TestSlowAgentIsTold(t *testing.T) {
	inBubble(t, hub.Policy{Limits: hub.Limits{QueueMessages: 4}}, func(b *bubble) {
		slow, publisher := b.join("news"), b.join()
		taken := 0
		slow.Conn.Take = func(int) int { taken = 7; return 7 }
		publisher.Send(publish("news", "0", "0"))
		synctest.Wait()
		slow.Conn.Stall(true)
		publisher.Send(publish("news", "1", "0"))
		synctest.Wait()
		slow.Conn.Take = nil
		for i := range 6 {
			publisher.Send(publish("news", fmt.Sprint("x", i), "0"))
		}
		synctest.Wait()
		slow.Conn.Stall(false)
		if taken == 0 {
			t.Fatal("nothing was written in part")
		}
		b.want(slow, message("news", "0", "0"), message("news", "1", "0"),
			`{"channel":"/meta/close","code":4430,"error":"you read slower than messages arrive on your channels","retry":1000}`)
		b.wantClose(slow, hub.CloseSlow)
	})
}

func TestQueueIsBoundedInBytes(t *testing.T) {
	inBubble(t, hub.Policy{Limits: hub.Limits{QueueBytes: 1000}}, func(b *bubble) {
		stuck, publisher := b.join("news"), b.join()
		stuck.Conn.Stall(true)
		data := `"` + strings.Repeat("x", 400) + `"`
		for i := range 2 {
			publisher.Send(publish("news", fmt.Sprint(i), data))
		}
		synctest.Wait()
		if !stuck.Agent.IsConnected() {
			t.Error("closed before the limit was reached")
		}
		publisher.Send(publish("news", "3", data))
		time.Sleep(2 * time.Second) // the publisher waits for the only reader first
		if stuck.Agent.IsConnected() {
			t.Error("still connected over the limit")
		}
		// A message that is larger than the whole queue gets through if the queue is
		// empty.
		roomy := b.join("news")
		publisher.Send(publish("news", "4", `"`+strings.Repeat("y", 2000)+`"`))
		synctest.Wait()
		if got := roomy.Conn.Lines(); len(got) != 1 {
			t.Errorf("got %d messages, want 1", len(got))
		}
	})
}

// Messages that queue up during a write are joined in one write.
func TestQueuedMessagesAreJoined(t *testing.T) {
	for _, blocks := range []bool{false, true} {
		t.Run(fmt.Sprintf("blocks=%v", blocks), func(t *testing.T) {
			inBubble(t, hub.Policy{}, func(b *bubble) {
				c := hubtest.NewConn()
				c.Blocks = blocks
				p, publisher := b.joinOn(c, "news"), b.join()
				c.Stall(true)
				publisher.Send(publish("news", "first", "0"))
				synctest.Wait()
				before := c.Writes()
				want := []string{message("news", "first", "0")}
				for i := range 20 {
					publisher.Send(publish("news", fmt.Sprint(i), "0"))
					want = append(want, message("news", fmt.Sprint(i), "0"))
				}
				synctest.Wait()
				c.Stall(false)
				b.want(p, want...)
				if got := c.Writes() - before; got != 2 {
					t.Errorf("%d writes, want 2: the one that waited and one for all the rest", got)
				}
			})
		})
	}
}

// After a Conn was stuck and has recovered, writes do not block again, and the deadline
// of the blocking writes is removed.
func TestDeadlineDoesNotOutliveTheWrite(t *testing.T) {
	inBubble(t, hub.Policy{}, func(b *bubble) {
		p, publisher := b.join("news"), b.join()
		p.Conn.Stall(true)
		publisher.Send(publish("news", "1", "0"))
		synctest.Wait()
		p.Conn.Stall(false)
		b.want(p, message("news", "1", "0"))
		time.Sleep(11 * time.Second)
		publisher.Send(publish("news", "2", "0"))
		b.want(p, message("news", "2", "0"))
	})
}

func TestWriteDeadline(t *testing.T) {
	inBubble(t, hub.Policy{Heartbeat: time.Hour}, func(b *bubble) {
		p, publisher := b.join("news"), b.join()
		p.Conn.Stall(true)
		publisher.Send(publish("news", "1", "0"))
		time.Sleep(9 * time.Second)
		synctest.Wait()
		if !p.Agent.IsConnected() {
			t.Fatal("given up too early")
		}
		time.Sleep(2 * time.Second)
		b.wantClose(p, hub.CloseSlow)
	})
}

func TestHandshakeDeadline(t *testing.T) {
	inBubble(t, hub.Policy{Handshake: 3 * time.Second}, func(b *bubble) {
		silent := b.open()
		late := b.open()
		time.Sleep(2900 * time.Millisecond)
		late.Send(connect("late"))
		b.want(late, connected("late"))
		b.want(silent)
		time.Sleep(time.Second)
		b.want(silent, `{"channel":"/meta/close","code":4408,"error":"/meta/connect did not arrive in time","retry":1000}`)
		b.wantClose(silent, hub.CloseTimeout)
		time.Sleep(5 * time.Second)
		if !late.Agent.IsConnected() {
			t.Error("who connected in time was closed")
		}
	})
}

func TestHeartbeatAndSilence(t *testing.T) {
	inBubble(t, hub.Policy{Heartbeat: 10 * time.Second}, func(b *bubble) {
		alive, dead := b.join(), b.join()
		for range 60 {
			time.Sleep(time.Second)
			alive.Agent.Touch()
		}
		synctest.Wait()
		if n := len(alive.Conn.Lines()); n < 5 || n > 7 {
			t.Errorf("%d heartbeats in 60 s, want about 6", n)
		}
		if !alive.Agent.IsConnected() {
			t.Error("who is heard was closed")
		}
		b.wantClose(dead, hub.CloseTimeout)
		lines := dead.Conn.Lines()
		if got := lines[len(lines)-1]; !strings.Contains(got, `"code":4408`) {
			t.Errorf("the last word was %s", got)
		}
		if n := len(lines); n < 2 || n > 4 {
			t.Errorf("%d lines before the end, want one or two heartbeats and a notice: %q", n, lines)
		}
	})
}

func TestHeartbeatsAreSpread(t *testing.T) {
	inBubble(t, hub.Policy{Heartbeat: 10 * time.Second, Limits: hub.Limits{UnconnectedPerIP: hub.Unlimited}}, func(b *bubble) {
		var peers []*hubtest.Peer
		for range 100 {
			peers = append(peers, b.join())
		}
		time.Sleep(7500 * time.Millisecond)
		synctest.Wait()
		beaten := 0
		for _, p := range peers {
			beaten += len(p.Conn.Lines())
		}
		if beaten < 25 || beaten > 75 {
			t.Errorf("%d of 100 heartbeats in the first half of their time, want about 50", beaten)
		}
	})
}

func TestRepeatedPublishes(t *testing.T) {
	inBubble(t, hub.Policy{}, func(b *bubble) {
		s, p := b.join("a", "b"), b.openAs("same")
		p.Send(publish("a", "u", "1"))
		b.want(s, message("a", "u", "1"))
		b.want(p, published("u"))

		p.Send(publish("a", "u", "1"))
		b.want(s)
		b.want(p, published("u"))

		p.Send(publish("a", "u", "2"))
		b.want(s)
		b.want(p, `{"channel":"/meta/error","uuid":"u","error":"this uuid was already used for other data on this channel","code":"invalid"}`)

		p.Send(publish("b", "u", "2")) // another channel, another publication
		b.want(s, message("b", "u", "2"))
		b.want(p, published("u"))

		b.openAs("other").Send(publish("a", "u", "1")) // another agent
		b.want(s, message("a", "u", "1"))

		p.Leave() // it comes back, and repeats what was not answered
		p = b.openAs("same")
		p.Send(publish("a", "u", "1"))
		b.want(s)
		b.want(p, published("u"))

		for range 13 {
			time.Sleep(10 * time.Second)
			s.Agent.Touch()
			p.Agent.Touch()
		}
		synctest.Wait()
		s.Conn.Lines()
		p.Conn.Lines()
		p.Send(publish("a", "u", "1")) // after two minutes it is not a repetition
		b.want(s, message("a", "u", "1"))
	})
}

func (b *bubble) openAs(id string) *hubtest.Peer {
	b.Helper()
	p := b.open()
	p.Send(connect(id))
	b.want(p, connected(id))
	return p
}

// A user who comes back under another agentId is still the same user.
func TestRepeatedPublishOfAUser(t *testing.T) {
	inBubble(t, hub.Policy{}, func(b *bubble) {
		s := b.join("a")
		for i, user := range []string{"bob", "bob", "eve"} {
			p := hubtest.Open(b, b.hub, b.policy, hub.Opening{User: user}, hubtest.NewConn())
			p.Send(connect(fmt.Sprint("tab", i)), publish("a", "u", "1"))
			synctest.Wait()
		}
		b.want(s, message("a", "u", "1"), message("a", "u", "1"))
	})
}

type failingBroker struct {
	hub.Broker
	fail bool
}

func (f *failingBroker) Publish(ctx context.Context, m *hub.Message) (hub.Position, error) {
	if f.fail {
		return hub.Position{}, errors.New("away: 10.0.0.7:4222 refused")
	}
	return f.Broker.Publish(ctx, m)
}

func TestBrokerAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broker := &failingBroker{Broker: hub.NewMemoryBroker(), fail: true}
		h, err := hub.New("test", broker)
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		b := &bubble{T: t, hub: h, policy: h.Use(&hub.Policy{})}
		p := b.join("a")
		p.Send(publish("a", "u", "1"))
		b.want(p, `{"channel":"/meta/error","uuid":"u","error":"the server could not publish the message; try again","code":"unavailable","retry":1000}`)
		broker.fail = false
		p.Send(publish("a", "u", "1")) // not published before, so not a repetition
		b.want(p, message("a", "u", "1"), published("u"))
	})
}

// A lingeringConn is a Conn whose Close waits.
type lingeringConn struct {
	*hubtest.Conn
	goOn chan struct{} // closed by the test
}

func (c *lingeringConn) Close(code hub.CloseCode, reason string) {
	<-c.goOn
	c.Conn.Close(code, reason)
}

// Flushers write to Conns that block, if these have room. Then nobody waits for one that is
// stuck, or whose Close waits, although they are of the same flusher.
func TestFlushersDoNotWaitForConnsWithRoom(t *testing.T) {
	inBubble(t, hub.Policy{}, func(b *bubble) {
		var conns []*lingeringConn
		var agents []*hub.Agent
		for i := range 4 * runtime.GOMAXPROCS(0) {
			c := &lingeringConn{hubtest.NewConn(), make(chan struct{})}
			c.Blocks, c.Roomy = true, true
			a, err := b.hub.Open(b.policy, hub.Opening{})
			if err != nil {
				t.Fatal(err)
			}
			a.Start(c)
			a.Receive([]byte(connect(fmt.Sprint("a", i))))
			a.Receive([]byte(subscribe("news")))
			conns, agents = append(conns, c), append(agents, a)
		}
		synctest.Wait()
		for _, c := range conns {
			c.Lines()
		}
		publisher := b.join()
		agents[0].Close(hub.CloseLimit, "the test wants it", 0)
		conns[1].Stall(true)
		conns[2].Fail(errors.New("gone"))
		for _, size := range []int{10, 10_000} {
			data := `"` + strings.Repeat("x", size) + `"`
			publisher.Send(publish("news", fmt.Sprint(size), data))
			b.want(publisher, published(fmt.Sprint(size)))
			for i, c := range conns[3:] {
				if got := c.Lines(); len(got) != 1 || got[0] != message("news", fmt.Sprint(size), data) {
					t.Errorf("agent %d got %d frames of %d bytes", i+3, len(got), size)
				}
			}
		}
		if got := conns[1].Lines(); got != nil {
			t.Errorf("the stuck Conn got %q", got)
		}
		conns[1].Stall(false)
		synctest.Wait()
		if got := conns[1].Lines(); len(got) != 2 {
			t.Errorf("the Conn that was stuck got %d messages, want 2", len(got))
		}
		for i, c := range conns {
			close(c.goOn)
			agents[i].Left("the end")
		}
		synctest.Wait()
		for i, want := range map[int]int{0: 1, 2: 1} {
			if _, _, closes := conns[i].Closed(); closes != want {
				t.Errorf("Conn %d was closed %d times", i, closes)
			}
		}
	})
}

// A hookedBroker calls before when a message is published, but not applied yet.
type hookedBroker struct {
	hub.Broker
	before func()
}

func (h *hookedBroker) Publish(ctx context.Context, m *hub.Message) (hub.Position, error) {
	h.before()
	return h.Broker.Publish(ctx, m)
}

// A message that is being published goes to those who subscribe meanwhile, even if all who
// were subscribed before have left.
func TestChannelIsReplacedDuringAPublish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broker := &hookedBroker{Broker: hub.NewMemoryBroker(), before: func() {}}
		h, err := hub.New("test", broker)
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		b := &bubble{T: t, hub: h, policy: h.Use(&hub.Policy{})}
		publisher, old, next, all := b.join(), b.join("a"), b.join(), b.join("*")
		broker.before = func() {
			old.Agent.Receive([]byte(`{"channel":"/meta/unsubscribe","uuid":"n","data":{"channel":"a"}}`))
			next.Agent.Receive([]byte(subscribe("a")))
		}
		publisher.Send(publish("a", "u", "1"))
		b.want(publisher, published("u"))
		b.want(all, message("a", "u", "1"))
		b.want(next, subscribed("a"), message("a", "u", "1"))
		b.want(old, `{"channel":"/meta/unsubscribe","uuid":"n","data":{"channel":"a"},"successful":true,"error":""}`)
	})
}

func TestReloadMovesAgents(t *testing.T) {
	inBubble(t, hub.Policy{}, func(b *bubble) {
		p, publisher := b.join("news"), b.join()
		elsewhere := b.hub.Use(&hub.Policy{Mount: "test /other"})
		failed := b.hub.Use(&hub.Policy{Mount: b.policy.Mount})
		b.hub.Drop(failed) // a configuration that failed to load
		if got := p.Agent.Policy(); got != b.policy {
			t.Error("a failed reload changed the policy")
		}
		next := b.hub.Use(&hub.Policy{Mount: b.policy.Mount, Limits: hub.Limits{MessageSize: 60}})
		b.hub.Drop(b.policy)
		if got := p.Agent.Policy(); got != next {
			t.Error("the agent is not under the new policy")
		}
		publisher.Send(publish("news", "1", "1"), publish("news", "2", `"`+strings.Repeat("x", 60)+`"`))
		b.want(p, message("news", "1", "1"))
		b.want(publisher, published("1"), `{"channel":"/meta/error","uuid":"2","error":"the message has 99 bytes; at most 60 are allowed","code":"limit"}`)

		b.hub.Drop(next)
		b.want(p, `{"channel":"/meta/close","code":4410,"error":"this endpoint is no longer served","retry":false}`)
		b.wantClose(p, hub.CloseEndpoint)
		if _, err := b.hub.Open(next, hub.Opening{}); err == nil {
			t.Error("a session was opened under a policy that is gone")
		}
		b.hub.Drop(elsewhere)
	})
}

func TestHubCloses(t *testing.T) {
	inBubble(t, hub.Policy{}, func(b *bubble) {
		p, fresh := b.join("news"), b.open()
		unstarted, err := b.hub.Open(b.policy, hub.Opening{})
		if err != nil {
			t.Fatal(err)
		}
		b.hub.Close()
		b.hub.Close()
		for _, p := range []*hubtest.Peer{p, fresh} {
			b.wantSentAway(p, 2)
		}
		if _, err := b.hub.Open(b.policy, hub.Opening{}); err == nil {
			t.Error("a session was opened on a closed hub")
		}
		c := hubtest.NewConn() // its upgrade ended after the hub was closed
		unstarted.Start(c)
		synctest.Wait()
		if code, _, times := c.Closed(); code != hub.CloseUnavailable || times != 1 {
			t.Errorf("closed %d times with %d", times, code)
		}
		unstarted.Left("closed")
	})
}

func TestAdmission(t *testing.T) {
	address := func(s string) hub.Opening { return hub.Opening{RemoteIP: netip.MustParseAddr(s)} }
	inBubble(t, hub.Policy{Limits: hub.Limits{Agents: 6, AgentsPerIP: 3, UnconnectedPerIP: 2}}, func(b *bubble) {
		open := func(ip string) *hubtest.Peer {
			return hubtest.Open(b, b.hub, b.policy, address(ip), hubtest.NewConn())
		}
		refused := func(ip string, want hub.Code) {
			b.Helper()
			_, err := b.hub.Open(b.policy, address(ip))
			var r *hub.Refusal
			if !errors.As(err, &r) || r.Code != want || r.Retry <= 0 || r.Reason == "" {
				b.Errorf("Open from %s: %v, want a refusal with code %s and advice", ip, err, want)
			}
		}
		first := open("192.0.2.1")
		second := open("192.0.2.1")
		refused("192.0.2.1", hub.CodeLimit) // two sessions that have not connected
		refused("::ffff:192.0.2.1", hub.CodeLimit)
		first.Send(connect("a"))
		synctest.Wait()
		third := open("192.0.2.1")
		second.Send(connect("b"))
		synctest.Wait()
		refused("192.0.2.1", hub.CodeLimit) // three sessions
		open("192.0.2.2")
		open("2001:db8:0:1::1")
		open("2001:db8:0:1:ffff::2")              // the same /64
		refused("192.0.2.9", hub.CodeUnavailable) // six sessions
		third.Leave()
		refused("2001:db8:0:1::3", hub.CodeLimit)
		open("2001:db8:0:2::3")
	})
}

// Silence is noticed at the second heartbeat without a frame in between. The first
// heartbeat comes after half an interval to a whole one.
func TestSilenceIsNoticedInTime(t *testing.T) {
	const interval = 10 * time.Second
	inBubble(t, hub.Policy{Heartbeat: interval, Limits: hub.Limits{UnconnectedPerIP: hub.Unlimited}}, func(b *bubble) {
		var peers []*hubtest.Peer
		for range 50 {
			peers = append(peers, b.join())
		}
		time.Sleep(interval*7/4 - time.Second)
		synctest.Wait()
		for _, p := range peers {
			if !p.Agent.IsConnected() {
				b.Fatal("closed too early")
			}
		}
		time.Sleep(interval + 2*time.Second)
		for _, p := range peers {
			b.wantClose(p, hub.CloseTimeout)
		}
	})
}

// An agent that leaves is no longer counted, connected or not.
func TestAdmissionOfThoseWhoLeave(t *testing.T) {
	opening := hub.Opening{RemoteIP: netip.MustParseAddr("192.0.2.1")}
	inBubble(t, hub.Policy{Limits: hub.Limits{AgentsPerIP: 4, UnconnectedPerIP: 2}}, func(b *bubble) {
		open := func() *hubtest.Peer { return hubtest.Open(b, b.hub, b.policy, opening, hubtest.NewConn()) }
		oneMore := func(what string) {
			b.Helper()
			p := open()
			if _, err := b.hub.Open(b.policy, opening); err == nil {
				b.Errorf("%s: a third one that has not connected was let in", what)
			}
			p.Leave()
		}
		open() // it stays, and never connects
		for range 5 {
			open().Leave()
		}
		oneMore("after those who had not connected")
		for range 5 {
			p := open()
			p.Send(connect("a"))
			synctest.Wait()
			p.Leave()
		}
		oneMore("after those who had connected")
	})
}

func TestRefusedUpgradeFreesItsPlace(t *testing.T) {
	inBubble(t, hub.Policy{Limits: hub.Limits{Agents: 1}}, func(b *bubble) {
		for range 3 {
			a, err := b.hub.Open(b.policy, hub.Opening{RemoteIP: netip.MustParseAddr("192.0.2.1")})
			if err != nil {
				b.Fatal(err)
			}
			a.Left("the upgrade failed")
		}
	})
}

func TestHeaderBlock(t *testing.T) {
	fields := [][2]string{{"Cookie", "a=b; c=d:e"}, {"X-Empty", ""}, {"X-Split", "a\r\nb"}, {"X\nY", "z"}, {"Cookie", "more"}}
	o := hub.Opening{Header: hub.HeaderBlock(func(yield func(string, string) bool) {
		for _, f := range fields {
			if !yield(f[0], f[1]) {
				return
			}
		}
	})}
	var got [][2]string
	for name, value := range o.Fields {
		got = append(got, [2]string{name, value})
	}
	want := [][2]string{fields[0], fields[1], fields[4]}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
