// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package nats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/internal/natsserver"
)

// A replica is a hub.Sink that notes what it gets.
type replica struct {
	*Broker
	mu      sync.Mutex // guards the following
	epochs  []hub.Epoch
	entries []string // "number channel uuid"
	byUUID  map[string]int
	lost    []uint64
	behind  bool
}

func (r *replica) Reset(e hub.Epoch, _, _ uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.epochs = append(r.epochs, e)
	r.entries, r.byUUID = nil, make(map[string]int)
}

func (r *replica) Entry(seq uint64, _ time.Time, m *hub.Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.entries = append(r.entries, fmt.Sprint(seq, " ", m.Channel, " ", m.UUID))
	r.byUUID[m.UUID]++
}

func (r *replica) Floor(string, uint64, string) {}

func (r *replica) Lost(from, to uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lost = append(r.lost, from, to)
}

func (r *replica) Behind(behind bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.behind = behind
}

// has reports whether the replica has a message.
func (r *replica) has(uuid string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.byUUID[uuid] > 0
}

func (r *replica) isBehind() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.behind
}

// start starts a Broker. change may be nil.
func start(tb testing.TB, o Options, change func(*Broker)) (*replica, error) {
	tb.Helper()
	b, err := New(o)
	if err != nil {
		tb.Fatal(err)
	}
	if change != nil {
		change(b)
	}
	r := &replica{Broker: b, byUUID: make(map[string]int)}
	tb.Cleanup(func() { _ = b.Close() })
	return r, b.Start(tb.Context(), r)
}

// unlessAway calls f again while it finds that NATS is away: a server on a busy machine may be
// silent for longer than f waits.
func unlessAway(f func() error) (err error) {
	for late := time.Now().Add(patience); ; {
		if err = f(); !errors.Is(err, ErrAway) || time.Now().After(late) {
			return err
		}
	}
}

// refusal returns why NATS refuses a node. A node that NATS does not answer starts all the
// same.
func refusal(tb testing.TB, o Options) error {
	tb.Helper()
	return unlessAway(func() error {
		r, err := start(tb, o, nil)
		if err == nil {
			_ = r.Close()
			err = fmt.Errorf("it starts: %w", ErrAway)
		}
		return err
	})
}

func started(tb testing.TB, o Options) *replica {
	tb.Helper()
	r, err := start(tb, o, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

func message(channel, uuid string) *hub.Message {
	return hub.NewMessage(channel, uuid, []byte(`"x"`)).By("test").Keep(hub.HistoryRule{Count: 100, TTL: time.Hour})
}

// say publishes until that succeeds.
func (r *replica) say(tb testing.TB, m *hub.Message) {
	tb.Helper()
	for late := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		_, err := r.Publish(context.Background(), m)
		if err == nil {
			return
		}
		if time.Now().After(late) {
			tb.Fatal(err)
		}
	}
}

// TestFaults kills and stops servers, cuts nodes off, and throws live messages away, while all
// nodes publish. In the end each node has all that was acknowledged, once, in one order.
func TestFaults(t *testing.T) { eachVersion(t, testFaults) }

func testFaults(t *testing.T, v *natsserver.Version) {
	if runtime.GOOS != "linux" {
		t.Skip("this test stops processes as only Linux does here")
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	servers := v.NewCluster(t, 3, "")
	var proxies []*natsserver.Proxy
	var nodes []*replica
	for i, s := range servers {
		p := natsserver.NewProxy(t, s.Addr())
		proxies = append(proxies, p)
		other := natsserver.NewProxy(t, servers[(i+1)%3].Addr())
		o := Options{Hub: "faults", Node: fmt.Sprint("n", i), URLs: []string{p.URL(), other.URL()}, Keep: hub.HistoryRule{Count: 100_000, TTL: time.Hour}, Log: logger(t)}
		dropping := rand.New(rand.NewPCG(seed, uint64(i)))
		r, err := start(t, o, func(b *Broker) {
			b.drop = func(uint64) bool { return dropping.IntN(50) == 0 }
		})
		if err != nil {
			t.Fatal(err)
		}
		nodes = append(nodes, r)
	}

	const publishers = 4 // at each node
	acknowledged := make([][]string, len(nodes)*publishers)
	var count atomic.Int64 // of acknowledged
	over := make(chan struct{})
	var publishing sync.WaitGroup
	for p := range acknowledged {
		publishing.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-over:
					return
				default:
				}
				id := fmt.Sprintf("%d-%d", p, n)
				for range 20 { // as a client does, with the same uuid
					if _, err := nodes[p%3].Publish(context.Background(), message(fmt.Sprint("c", n%5), id)); err == nil {
						acknowledged[p] = append(acknowledged[p], id)
						count.Add(1)
						break
					} else if errors.Is(err, hub.ErrConflict) {
						t.Errorf("%s: %v", id, err)
					}
					time.Sleep(50 * time.Millisecond)
				}
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
	for i := range 3 {
		victim := random.IntN(3)
		time.Sleep(500 * time.Millisecond)
		switch s, p := servers[victim], proxies[victim]; i {
		case 0:
			s.Kill()
			time.Sleep(time.Duration(random.IntN(1000)) * time.Millisecond)
			s.Start()
			s.Await()
		case 1:
			s.Hang(true)
			time.Sleep(4 * time.Second)
			s.Hang(false)
		case 2:
			p.Mute(true)
			time.Sleep(3 * time.Second)
			p.Mute(false)
		}
		before := nodes[victim]
		await(t, "the end of the fault", func() bool { return !before.isBehind() })
	}
	await(t, "enough messages, some of which each node has to read from the stream", func() bool {
		return count.Load() >= 100 && !slices.ContainsFunc(nodes, func(r *replica) bool { return r.Stats().Filled == 0 })
	})
	close(over)
	publishing.Wait()
	for i, r := range nodes {
		r.say(t, message("last", fmt.Sprint("last", i)))
	}
	for i, r := range nodes {
		await(t, "all messages", func() bool { return r.has("last0") && r.has("last1") && r.has("last2") })
		r.mu.Lock()
		if len(r.epochs) != 1 || len(r.lost) > 0 {
			t.Errorf("node %d has the epochs %v, and has lost %v", i, r.epochs, r.lost)
		}
		for id, n := range r.byUUID {
			if n != 1 {
				t.Errorf("node %d has %s %d times", i, id, n)
			}
		}
		for _, ids := range acknowledged {
			for _, id := range ids {
				if r.byUUID[id] != 1 {
					t.Errorf("node %d has %s %d times, and it was acknowledged", i, id, r.byUUID[id])
				}
			}
		}
		t.Logf("node %d: %d entries, %d acknowledged, %d filled", i, len(r.entries), count.Load(), r.Stats().Filled)
		if i > 0 && strings.Join(r.entries, "\n") != strings.Join(nodes[0].entries, "\n") {
			t.Errorf("node %d has other entries than node 0", i)
		}
		r.mu.Unlock()
	}
}

// A node that knows that it misses something, and cannot read it at once, is behind.
func TestSlowFill(t *testing.T) {
	t.Parallel()
	b, err := New(Options{Hub: "slow", URLs: []string{natsserver.New(t, "").URL()}, Log: logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer b.end()
	r := &replica{Broker: b, byUUID: make(map[string]int)}
	b.sink, b.shortFor = r, 0
	l, err := b.dial()
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	b.link.Store(l)
	awaitConnected(t, l)
	await(t, "the stream", func() bool { return b.log.begin(b) == nil && !r.isBehind() && len(r.epochs) == 1 })
	if err := b.log.fill(1); err != nil { // no server has it
		t.Fatal(err)
	}
	if !r.isBehind() {
		t.Error("it does not say that it is behind")
	}
	await(t, "it to know the end of the stream", func() bool { return b.log.look() == nil })
	if r.isBehind() {
		t.Error("it is behind, though it has all that there is")
	}
}

// A leader that is alone answers for a while as if nothing had happened. But the others may go on
// without it, so a node that is connected to it is behind.
func TestLeaderAlone(t *testing.T) { eachVersion(t, testLeaderAlone) }

func testLeaderAlone(t *testing.T, v *natsserver.Version) {
	if runtime.GOOS != "linux" {
		t.Skip("this test stops processes as only Linux does here")
	}
	servers := v.NewCluster(t, 3, "")
	var nodes []*replica
	for i, s := range servers {
		nodes = append(nodes, started(t, Options{Hub: "alone", Node: fmt.Sprint("n", i), URLs: []string{s.URL()}, Replicas: 3, Log: logger(t)}))
	}
	nodes[0].say(t, message("a", "1"))
	leader := -1
	await(t, "a leader", func() bool {
		info, err := nodes[0].info()
		if err != nil || info.isCutOff() {
			return false
		}
		leader = slices.Index([]string{"n0", "n1", "n2"}, info.Cluster.Leader)
		return leader >= 0
	})
	r := nodes[leader]
	await(t, "the beginning", func() bool { return !r.isBehind() })
	for i, s := range servers {
		if i != leader {
			s.Hang(true)
		}
	}
	await(t, "it to be behind, while the leader answers", func() bool {
		_, err := r.info()
		return err == nil && r.isBehind()
	})
	for i, s := range servers {
		if i != leader {
			s.Hang(false)
		}
	}
	await(t, "the end of the fault", func() bool { return !r.isBehind() })
	r.say(t, message("a", "2"))
	await(t, "the message", func() bool { return r.has("2") })
}

func TestIsCutOff(t *testing.T) {
	for text, want := range map[string]bool{
		`{}`:                           false,
		`{"cluster": {"leader": "a"}}`: false,
		`{"cluster": {"leader": "a", "replicas": [{"active": 100000000}, {"active": 900000000}]}}`:                                          false,
		`{"cluster": {"leader": "a", "replicas": [{"active": 100000000}, {"active": 9000000000, "offline": true}]}}`:                        false,
		`{"cluster": {"leader": "a", "replicas": [{"active": 4000000000}, {"active": 9000000000}]}}`:                                        true,
		`{"cluster": {"leader": "a", "replicas": [{"active": 1}, {"active": 9000000000}, {"active": 9000000000}, {"active": 9000000000}]}}`: true,
		`{"cluster": {"leader": "a", "replicas": [{"active": 1}, {"active": 1}, {"active": 9000000000}, {"active": 9000000000}]}}`:          false,
		`{"cluster": {"leader": "a", "replicas": [{"active": 9000000000}]}}`:                                                                true,
	} {
		i := new(streamInfo)
		if err := json.Unmarshal([]byte(text), i); err != nil || i.isCutOff() != want {
			t.Errorf("%s: cut off %t, %v", text, i.isCutOff(), err)
		}
	}
}

// Without NATS the server starts, publishes fail, and as soon as NATS is there all works.
func TestAwayAtStart(t *testing.T) { eachVersion(t, testAwayAtStart) }

func testAwayAtStart(t *testing.T, v *natsserver.Version) {
	s := v.Absent(t, "")
	log := &logText{t: t}
	r := started(t, Options{Hub: "away", URLs: []string{s.URL()}, Log: slog.New(slog.NewTextHandler(log, nil))})
	if !r.isBehind() || len(r.epochs) > 0 || r.Stats().Connected || !r.Stats().Behind {
		t.Errorf("without NATS: behind %t, epochs %v, %+v", r.isBehind(), r.epochs, r.Stats())
	}
	if _, err := r.Publish(t.Context(), message("a", "1")); !errors.Is(err, ErrAway) {
		t.Errorf("a publish without NATS: %v", err)
	}
	await(t, "NATS to be away for long", r.isAway)
	if r.patience() != awayPatience {
		t.Errorf("a publish may take %v", r.patience())
	}
	if err := r.Bus().Broadcast("x", nil); err == nil {
		t.Error("a broadcast without NATS succeeds")
	}
	away := func() int {
		log.mu.Lock()
		defer log.mu.Unlock()
		return strings.Count(string(log.text), "NATS cannot be reached: nothing is published")
	}
	await(t, "the log to say so", func() bool { return away() > 0 })
	if n := away(); n != 1 {
		t.Errorf("the log says %d times that NATS is away", n)
	}
	s.Start()
	r.say(t, message("a", "2"))
	await(t, "the message", func() bool { return r.has("2") })
	await(t, "its end", func() bool { return !r.isBehind() && r.Stats().Connected })
	if r.patience() != publishPatience {
		t.Errorf("a publish may take %v when NATS is back", r.patience())
	}
	if r.has("1") {
		t.Error("a message that was refused was published later")
	}
	s.Restart()
	r.say(t, message("a", "3"))
	await(t, "the second message", func() bool { return r.has("3") })
	if len(r.epochs) != 1 {
		t.Errorf("a restart of NATS: the epochs are %v", r.epochs)
	}
	log.mu.Lock()
	defer log.mu.Unlock()
	log.over = true
}

// A single server keeps each message once, whatever a node wants: some versions of NATS let a
// stream have more replicas, and have lost it after a restart.
func TestSingleServer(t *testing.T) { eachVersion(t, testSingleServer) }

func testSingleServer(t *testing.T, v *natsserver.Version) {
	s := v.New(t, "")
	o := Options{Hub: "single", Node: "a", URLs: []string{s.URL()}, Log: logger(t)}
	r := started(t, o)
	r.say(t, message("a", "1"))
	o.Node, o.Replicas = "b", 3
	if err := refusal(t, o); err == nil || !strings.Contains(err.Error(), "single NATS server: write replicas 1") {
		t.Errorf("three replicas: %v", err)
	}
	o.Node = "a"
	r.Resize(o) // a reload: the hub goes on, and the log says it
	r.say(t, message("a", "2"))
	s.Restart()
	r.say(t, message("a", "3"))
	await(t, "the messages", func() bool { return r.has("1") && r.has("2") && r.has("3") })
	if len(r.epochs) != 1 {
		t.Errorf("the epochs are %v", r.epochs)
	}
	if i, err := r.info(); err != nil || !i.isAlone() || i.State.Last != 3 {
		t.Errorf("the stream is %+v, %v", i, err)
	}
	i := new(streamInfo)
	for text, alone := range map[string]bool{`{}`: true, `{"cluster": {"leader": "n"}}`: true, `{"cluster": {"name": "c", "leader": "n"}}`: false} {
		*i = streamInfo{}
		if err := json.Unmarshal([]byte(text), i); err != nil || i.isAlone() != alone {
			t.Errorf("%s: alone %t, %v", text, i.isAlone(), err)
		}
	}
}

// A node that was away for too long is told what it has lost, and goes on.
func TestEviction(t *testing.T) {
	t.Parallel()
	s := natsserver.New(t, "")
	p := natsserver.NewProxy(t, s.Addr())
	o := Options{Hub: "small", Node: "a", URLs: []string{s.URL()}, MaxBytes: MinMaxBytes, Log: logger(t)}
	writer := started(t, o)
	o.Node, o.URLs = "b", []string{p.URL()}
	reader := started(t, o)
	writer.say(t, message("a", "first"))
	await(t, "the first", func() bool { return reader.has("first") })
	p.Down(true)
	await(t, "it to know that it is away", reader.isBehind)
	data := []byte(`"` + strings.Repeat("x", 40_000) + `"`)
	for n := range 60 {
		writer.say(t, hub.NewMessage("a", fmt.Sprint(n), data).By("test").Keep(hub.HistoryRule{Count: 100, TTL: time.Hour}))
	}
	p.Down(false)
	await(t, "the last", func() bool { return reader.has("59") })
	await(t, "its end", func() bool { return !reader.isBehind() })
	reader.mu.Lock()
	defer reader.mu.Unlock()
	if len(reader.lost) != 2 || reader.lost[0] != 2 || reader.byUUID["0"] > 0 || reader.lost[1]-1+uint64(len(reader.entries)) != 61 {
		t.Errorf("it has lost %v, and has %d entries", reader.lost, len(reader.entries))
	}
	if reader.Stats().Lost != reader.lost[1]-1 {
		t.Errorf("it counts %d of %v", reader.Stats().Lost, reader.lost)
	}
}

// What others publish by hand is skipped and counted, and holds nothing up.
func TestForeignEntries(t *testing.T) {
	t.Parallel()
	s := natsserver.New(t, "")
	r := started(t, Options{Hub: "foreign", URLs: []string{s.URL()}, Log: logger(t)})
	for _, data := range []string{"", "hello", "\x01\xff"} {
		if _, err := r.conn().RequestMsg(&nats.Msg{Subject: r.names.publish("a"), Data: []byte(data)}, patience); err != nil {
			t.Fatal(err)
		}
	}
	r.say(t, message("a", "1"))
	await(t, "the message", func() bool { return r.has("1") })
	late := started(t, Options{Hub: "foreign", Node: "late", URLs: []string{s.URL()}, Log: logger(t)})
	for _, r := range []*replica{r, late} {
		if got := r.Stats(); got.Skipped != 3 || got.Applied != 1 || got.Lost != 0 {
			t.Errorf("it counts %+v", got)
		}
	}
}

// A node never narrows the stream, widens what is too narrow, and leaves other settings.
func TestWiden(t *testing.T) {
	t.Parallel()
	s := natsserver.New(t, "")
	o := Options{Hub: "wide", Node: "a", URLs: []string{s.URL()}, MaxBytes: 8 << 20, Keep: hub.HistoryRule{Count: 5000, TTL: time.Hour}, Log: logger(t)}
	a := started(t, o)
	info, err := a.info()
	if err != nil {
		t.Fatal(err)
	}
	if err := a.update(info, map[string]any{"metadata": map[string]string{"owner": "ops"}, "max_msgs_per_subject": 6000}); err != nil {
		t.Fatal(err)
	}
	o.Node, o.MaxBytes, o.Keep = "b", 4<<20, hub.HistoryRule{Count: 10, TTL: 48 * time.Hour}
	b := started(t, o)
	b.Keep(hub.HistoryRule{Count: 7000})
	b.Keep(hub.HistoryRule{Count: 1})
	await(t, "the stream to grow", func() bool {
		info, err := a.info()
		if err != nil {
			t.Fatal(err)
		}
		text := string(info.Config)
		for _, want := range []string{`"max_bytes":8388608`, `"max_msgs_per_subject":7000`, fmt.Sprint(`"max_age":`, int64(48*time.Hour)), `"owner":"ops"`} {
			if !strings.Contains(text, want) {
				return false
			}
		}
		return true
	})
}

// A copy of the stream that lacks the newest messages is another log.
func TestStreamWithoutItsEnd(t *testing.T) { eachVersion(t, testStreamWithoutItsEnd) }

func testStreamWithoutItsEnd(t *testing.T, v *natsserver.Version) {
	s := v.New(t, "")
	r, err := start(t, Options{Hub: "copy", URLs: []string{s.URL()}, Log: logger(t)}, func(b *Broker) { b.shortFor = 2 * time.Second })
	if err != nil {
		t.Fatal(err)
	}
	r.say(t, message("a", "1"))
	s.Stop()
	restore := s.Copy()
	s.Start()
	r.say(t, message("a", "2"))
	await(t, "the message", func() bool { return r.has("2") })
	s.Stop()
	restore()
	s.Start()
	await(t, "another log", func() bool { return !r.has("2") && r.has("1") })
	r.say(t, message("a", "3"))
	await(t, "the new message", func() bool { return r.has("3") && !r.isBehind() })
}
