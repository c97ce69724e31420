// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// Package nats joins the machines of a hub through NATS JetStream. Each hub has a stream: it
// gives the messages their order, keeps them, and recognizes repeated ones. Each node, which
// is a process with the hub, gets all messages of the stream.
//
// They come by the stream's RePublish: a server sends a message on when it has stored it. This
// is fast, and costs the servers nothing for each channel or node, but messages can be
// missing: the connection breaks, a leader dies before it has sent, or a buffer is full. The
// numbers of a stream have no gaps, so the node sees that with the next message, or at the
// latest when it asks for the end of the stream, each second. Then it reads what is missing
// from the stream.
package nats

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/push-it/pushit/hub"
)

const (
	// tryPatience is how long one attempt to publish waits for an answer, and
	// publishPatience is that of all of them.
	tryPatience     = time.Second
	publishPatience = 4 * time.Second
	// awayPatience is publishPatience if NATS has been away for longer than that already. The
	// frames of an agent wait for one another: with many publishes, it would be listed long
	// after its client has left.
	awayPatience = 250 * time.Millisecond
	// tryAgain is how long a publish waits that nobody has taken.
	tryAgain = 50 * time.Millisecond
	// contextPatience is how long a publish waits whose context has ended, if the message may
	// be in the log.
	contextPatience = 500 * time.Millisecond
	// startPatience is how long Start waits for NATS.
	startPatience = 5 * time.Second
	// liveQueue is how many messages may wait to be applied. More are dropped, and read from
	// the stream later.
	liveQueue = 16384
	// ackQueue is how many answers to publishes may wait.
	ackQueue = 4096
	// recordOverhead is the most that a record has beside its data: names, and who published
	// it. The rest is for NATS' own header.
	recordOverhead = 8 << 10
)

// ErrAway is the error of publishes while NATS cannot be reached.
var ErrAway = errors.New("NATS cannot be reached")

// A Broker connects a hub to its stream. It implements hub.Broker.
type Broker struct {
	options Options // immutable, except that Reconnect changes Auth and URLs under mu
	names   names
	sink    hub.Sink // set by Start
	counts  counts
	bus     *bus

	life  context.Context //nolint:containedctx // of the Broker, whose part this is
	end   context.CancelFunc
	work  sync.WaitGroup
	link  atomic.Pointer[link]
	live  chan *nats.Msg // what the stream sends on
	acks  chan *nats.Msg // answers to publishes
	kick  chan struct{}  // has room for one: look at the stream now
	inbox string         // answers to publishes come to <inbox>.<number>
	next  atomic.Uint64  // the last of these numbers

	// Tests change these before Start.
	shortFor time.Duration         // see the constant
	drop     func(seq uint64) bool // says what the stream sends on in vain; nil: nothing

	log logLoop // of the goroutine that applies; of Start before

	scaled time.Time // when more replicas were wanted last; of the same goroutine

	mu       sync.Mutex // guards the following; a leaf
	keep     hub.HistoryRule
	started  bool
	closed   bool
	waiting  map[[16]byte][]*waiter // publishes, by ID
	byNumber map[uint64]*waiter     // the same, by the number of their answers
}

// New returns a Broker that was not started. It does not connect. It returns an error if the
// Options are wrong.
func New(o Options) (*Broker, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	incarnation := string(hub.NewEpoch())
	b := &Broker{
		options:  o,
		keep:     o.Keep,
		shortFor: shortFor,
		names:    newNames(o.Prefix, o.Hub, o.Domain, incarnation),
		live:     make(chan *nats.Msg, liveQueue),
		acks:     make(chan *nats.Msg, ackQueue),
		kick:     make(chan struct{}, 1),
		inbox:    nats.NewInbox(),
		waiting:  make(map[[16]byte][]*waiter),
		byNumber: make(map[uint64]*waiter),
	}
	b.counts.publishes = newPublishRecorder()
	b.life, b.end = context.WithCancel(context.Background())
	b.bus = newBus(b, hub.NodeID{Name: o.Node, Incarnation: incarnation})
	return b, nil
}

// Start implements hub.Broker. If NATS is away, it returns nil after some seconds: the hub is
// Behind until NATS is there, and publishes fail. It returns an error for what only other
// settings can mend.
func (b *Broker) Start(_ context.Context, s hub.Sink) error {
	b.sink = s
	l, err := b.dial()
	if err != nil {
		return err
	}
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		l.close()
		return hub.ErrClosed
	}
	b.started = true
	b.mu.Unlock()
	b.link.Store(l)
	b.work.Go(b.readAcks)
	b.bus.start()
	err = b.log.begin(b)
	if err != nil {
		return err // the caller closes b
	}
	b.work.Go(b.log.run)
	return nil
}

// Keep makes the stream keep at least what rule keeps of each channel.
func (b *Broker) Keep(rule hub.HistoryRule) {
	b.mu.Lock()
	wider := b.keep.With(rule)
	changed := wider != b.keep
	b.keep = wider
	b.mu.Unlock()
	if changed {
		b.look()
	}
}

// Bus implements hub.Broker.
func (b *Broker) Bus() hub.Bus { return b.bus }

// Close implements hub.Broker.
func (b *Broker) Close() error {
	b.mu.Lock()
	first := !b.closed
	b.closed = true
	b.mu.Unlock()
	if first {
		b.bus.sayGoodbye()
		b.end()
	}
	b.work.Wait()
	if l := b.link.Load(); first && l != nil {
		l.close()
	}
	b.bus.work.Wait()
	return nil
}

// look has the loop look at the stream now.
func (b *Broker) look() {
	select {
	case b.kick <- struct{}{}:
	default:
	}
}

// A waiter is a publish that waits for its outcome.
type waiter struct {
	message *hub.Message
	events  chan event // has room for more than come at a time
}

// An event is something that happened to a publish.
type event struct {
	applied bool // here, at this position
	at      hub.Position
	message *hub.Message // that was applied
	answer  *publishAnswer
}

// A publishAnswer is what a stream answers. Without anything, nobody has the message.
type publishAnswer struct {
	Seq       uint64    `json:"seq"`
	Duplicate bool      `json:"duplicate"`
	Error     *apiError `json:"error"`
}

func (w *waiter) tell(e event) {
	select {
	case w.events <- e:
	default: // it knows enough
	}
}

// Publish implements hub.Broker. A message is published when it comes back from the stream. If
// the stream has answered, and it does not come in time, Publish looks whether the stream has it.
func (b *Broker) Publish(ctx context.Context, m *hub.Message) (hub.Position, error) {
	if err := ctx.Err(); err != nil {
		return hub.Position{}, err
	}
	begun := time.Now()
	p := publishing{b: b, waiter: waiter{message: m, events: make(chan event, 8)}, id: m.ID(), deadline: begun.Add(b.patience())}
	b.mu.Lock()
	if b.closed || !b.started {
		b.mu.Unlock()
		return hub.Position{}, hub.ErrClosed
	}
	b.waiting[p.id] = append(b.waiting[p.id], &p.waiter)
	b.mu.Unlock()
	defer p.forget()
	p.out = &nats.Msg{
		Subject: b.names.publish(m.Key()),
		Data:    m.AppendRecord(make([]byte, 0, len(m.Data)+len(m.Channel)+len(m.UUID)+96)),
		Header:  nats.Header{nats.MsgIdHdr: {nameOf(p.id)}},
	}
	at, err := p.run(ctx)
	if err == nil {
		b.counts.publishes.Observe(time.Since(begun))
	}
	return at, err
}

// patience returns how long a publish may take.
func (b *Broker) patience() time.Duration {
	if b.isAway() {
		return awayPatience
	}
	return publishPatience
}

// nameOf returns the ID of a message as the stream knows it.
func nameOf(id [16]byte) string { return hex.EncodeToString(id[:]) }

// A publishing is one call of Publish.
type publishing struct {
	waiter
	b        *Broker
	id       [16]byte
	out      *nats.Msg
	numbers  []uint64 // of the tries
	deadline time.Time
	open     int // tries that may put the message into the log
	refused  error
}

func (p *publishing) forget() {
	p.b.mu.Lock()
	defer p.b.mu.Unlock()
	for _, n := range p.numbers {
		delete(p.b.byNumber, n)
	}
	list := p.b.waiting[p.id]
	for i, w := range list {
		if w == &p.waiter {
			list[i] = list[len(list)-1]
			list = list[:len(list)-1]
			break
		}
	}
	if len(list) == 0 {
		delete(p.b.waiting, p.id)
	} else {
		p.b.waiting[p.id] = list
	}
}

// run tries until the message is published, or it is too late.
func (p *publishing) run(ctx context.Context) (hub.Position, error) {
	wait := time.NewTimer(0)
	defer wait.Stop()
	<-wait.C
	done := ctx.Done()
	for {
		pause := tryPatience
		if err := p.send(); err != nil {
			if _, ok := errors.AsType[*setupError](err); ok {
				return hub.Position{}, err
			}
			pause, p.refused = tryAgain, err
			if p.open == 0 && p.b.isAway() {
				return hub.Position{}, err
			}
		}
		wait.Reset(min(pause, time.Until(p.deadline)))
		at, err, over := p.await(wait.C, &done)
		if over {
			return at, err
		}
		switch {
		case !time.Now().Before(p.deadline), done == nil, p.b.life.Err() != nil:
			return hub.Position{}, p.failure(ctx)
		}
	}
}

// failure says what is known at the end.
func (p *publishing) failure(ctx context.Context) error {
	switch {
	case p.open > 0:
		return hub.ErrUnknown
	case p.b.life.Err() != nil:
		return hub.ErrClosed
	case ctx.Err() != nil:
		return ctx.Err()
	case p.refused != nil:
		return p.refused
	}
	return ErrAway
}

// send sends the message once. An error means that it was not sent.
func (p *publishing) send() error {
	b := p.b
	nc := b.conn()
	if most := nc.MaxPayload(); most > 0 && int64(len(p.out.Data)+128) > most { // 128: the header
		return &setupError{fmt.Errorf("the message has %d bytes, and NATS takes %d: raise max_payload of the NATS servers, or lower message_size", len(p.out.Data), most)}
	}
	n := b.next.Add(1)
	b.mu.Lock()
	b.byNumber[n] = &p.waiter
	b.mu.Unlock()
	p.numbers = append(p.numbers, n)
	p.out.Reply = b.inbox + "." + strconv.FormatUint(n, 36)
	if err := nc.PublishMsg(p.out); err != nil {
		return fmt.Errorf("%w: %w", ErrAway, err)
	}
	p.open++
	return nil
}

// await waits for the outcome. over says that there is one. done becomes nil when the context
// has ended, and the wait is short then.
func (p *publishing) await(wait <-chan time.Time, done *<-chan struct{}) (at hub.Position, err error, over bool) { //nolint:revive // err says what over has
	var stored *publishAnswer
	ending := (<-chan time.Time)(nil)
	retry := func() {
		if stored == nil {
			wait = time.After(tryAgain)
		}
	}
	for {
		select {
		case e := <-p.events:
			switch {
			case e.applied:
				if string(e.message.Data) != string(p.message.Data) {
					return hub.Position{}, hub.ErrConflict, true
				}
				p.message.Came(e.message)
				return e.at, nil, true
			case e.answer.Error != nil:
				if again := p.refusedBy(e.answer.Error); !again {
					return hub.Position{}, e.answer.Error, true
				}
				retry()
			case e.answer.Duplicate:
				if at, err := p.b.confirm(e.answer.Seq, p.message); !errors.Is(err, hub.ErrUnknown) {
					return at, err, true
				}
				retry()
			case e.answer.Seq == 0: // there is no stream now, or no leader
				p.open--
				p.refused = errNoStream
				p.b.look()
				retry()
			default:
				stored = e.answer // soon it comes here, too
				wait = time.After(time.Until(p.deadline))
			}
		case <-*done:
			*done = nil
			if p.open == 0 {
				return hub.Position{}, nil, false
			}
			ending = time.After(contextPatience)
		case <-wait:
			return p.late(stored)
		case <-ending:
			return p.late(stored)
		case <-p.b.life.Done():
			return hub.Position{}, nil, false
		}
	}
}

var errNoStream = fmt.Errorf("%w: no NATS server has the stream now", ErrAway)

// refusedBy notes an error of the stream, and reports whether another try may help.
func (p *publishing) refusedBy(e *apiError) (again bool) {
	p.refused = e
	p.open--
	return e.ErrCode == codeSameIDInProcess || e.Code == 503 || p.open > 0
}

// late returns the outcome if the message did not come here in time: there is none if the stream
// does not show it. stored is the answer of the stream, nil if there is none.
func (p *publishing) late(stored *publishAnswer) (at hub.Position, err error, over bool) { //nolint:revive // as await
	if stored == nil {
		return hub.Position{}, nil, false
	}
	at, err = p.b.confirm(stored.Seq, p.message)
	return at, err, !errors.Is(err, hub.ErrUnknown)
}

// confirm returns the position of the entry that is m, as the stream has answered. Nobody is told
// so before the entry was seen: NATS can lose what it has acknowledged, such as when servers that
// keep the stream die one after the other, and then nobody gets it. It returns ErrUnknown if the
// stream does not show the entry now.
func (b *Broker) confirm(seq uint64, m *hub.Message) (hub.Position, error) {
	e, epoch, err := b.log.lookUp(seq)
	switch {
	case isCode(err, codeNoMessage) && seq <= b.log.reached.Load(): // dropped since it was here
		return hub.Position{Epoch: epoch, Seq: seq}, nil
	case err != nil, e.id != nameOf(m.ID()):
		return hub.Position{}, hub.ErrUnknown
	}
	if first, err := hub.ParseRecord(e.data); err != nil || string(first.Data) != string(m.Data) || first.ID() != m.ID() {
		return hub.Position{}, hub.ErrConflict
	}
	return hub.Position{Epoch: epoch, Seq: seq, Check: hub.CheckOf(e.at)}, nil
}

// applied tells publishes that wait for an entry.
func (b *Broker) applied(id string, at hub.Position, m *hub.Message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.waiting) == 0 {
		return
	}
	var key [16]byte
	if n, err := hex.Decode(key[:], []byte(id[:min(len(id), 32)])); err != nil || n != len(key) {
		return
	}
	for _, w := range b.waiting[key] {
		w.tell(event{applied: true, at: at, message: m})
	}
}

// readAcks reads the answers to publishes.
func (b *Broker) readAcks() {
	for {
		select {
		case <-b.life.Done():
			return
		case m := <-b.acks:
			n, err := strconv.ParseUint(m.Subject[len(b.inbox)+1:], 36, 64)
			if err != nil {
				continue
			}
			b.mu.Lock()
			w := b.byNumber[n]
			b.mu.Unlock()
			if w == nil {
				continue
			}
			var a publishAnswer
			if len(m.Data) > 0 && json.Unmarshal(m.Data, &a) != nil {
				continue
			}
			w.tell(event{answer: &a})
		}
	}
}

// Interface guards
var (
	_ hub.Broker   = (*Broker)(nil)
	_ hub.Measured = (*Broker)(nil)
)
