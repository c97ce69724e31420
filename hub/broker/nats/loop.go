// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package nats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/push-it/pushit/hub"
)

const (
	// lookEvery is how often a node asks for the end of the stream.
	lookEvery = time.Second
	// fillBatch is how many messages it reads at once.
	fillBatch = 500
	// staleRetry is how soon it asks again when a server does not have a message yet, and
	// stalePatience is when it asks the leader.
	staleRetry    = 20 * time.Millisecond
	stalePatience = 2 * time.Second
	// fillPatience is how long reading may take until the hub is behind.
	fillPatience = 500 * time.Millisecond
	// shortFor is how long the stream may be shorter than what is here: a server that was the
	// leader may answer for a while.
	shortFor = 10 * time.Second
)

// A logLoop applies the stream to the hub. One goroutine has it; the atomic fields are for
// all.
type logLoop struct {
	b *Broker

	epoch atomic.Pointer[hub.Epoch]
	away  atomic.Int64 // since when the stream could not be asked, in nanoseconds; 0: it can be
	asked atomic.Int64 // when it was asked last with success
	// reached is a copy of last for other goroutines: entries up to this number were applied
	// here, or were dropped.
	reached atomic.Uint64

	last      uint64    // the number of the newest entry that is here
	at        time.Time // its time
	replayed  uint64    // up to this number, what is missing was dropped before this node began
	suspect   bool      // what the stream sends on is of another one: nothing is applied until it is looked at
	short     time.Time // since when the stream is shorter than what is here
	connected time.Time // since when NATS is connected
	warned    bool      // the log says that NATS is away
	told      bool      // the hub was told that it is behind
	failure   error     // why the stream could not be made or widened, as it was logged
}

// A stored is an entry of the stream as it comes.
type stored struct {
	seq  uint64
	at   time.Time
	id   string
	data []byte
}

func (l *logLoop) epochNow() hub.Epoch {
	if e := l.epoch.Load(); e != nil {
		return *e
	}
	return ""
}

// begin applies what the stream holds. It gives up after a while, but not while it gets on.
func (l *logLoop) begin(b *Broker) error {
	l.b = b
	patience := time.Now().Add(startPatience)
	for {
		before := l.last
		err := l.look()
		if err == nil {
			return nil
		}
		if setup := (*setupError)(nil); errors.As(err, &setup) {
			return fmt.Errorf("the broker nats of hub %q: %w", b.options.Hub, err)
		}
		if l.last > before {
			patience = time.Now().Add(startPatience)
		}
		if time.Now().After(patience) || b.life.Err() != nil {
			l.complain(err)
			l.behind(true)
			return nil
		}
		l.pause(50 * time.Millisecond)
	}
}

// run applies what comes, until the Broker is closed.
func (l *logLoop) run() {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		select {
		case <-l.b.life.Done():
			return
		case m := <-l.b.live:
			l.take(m)
			continue
		case <-l.b.kick:
		case <-ticker.C:
		}
		if err := l.look(); err != nil {
			l.complain(err)
		}
	}
}

func (l *logLoop) pause(d time.Duration) {
	select {
	case <-l.b.life.Done():
	case <-time.After(d):
	}
}

// complain says that NATS is away, once, and tells the hub that it is behind.
func (l *logLoop) complain(err error) {
	if l.b.life.Err() != nil {
		return
	}
	l.behind(true)
	if setup := (*setupError)(nil); errors.As(err, &setup) {
		if l.failure == nil || l.failure.Error() != err.Error() {
			l.failure = err
			l.b.options.Log.Error("the hub is not connected with the other machines, and cannot publish", "error", err)
		}
		return
	}
	if l.warned || time.Since(time.Unix(0, l.away.Load())) < lookEvery {
		return
	}
	l.warned = true
	l.b.options.Log.Error("NATS cannot be reached: nothing is published until it is back. Pages stay connected, and get what was kept before", "servers", l.b.servers(), "error", err)
}

// servers returns the addresses of NATS.
func (b *Broker) servers() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.options.URLs
}

// behind notes whether NATS is away, and tells the hub whether it is behind.
func (l *logLoop) behind(behind bool) {
	if behind && l.away.Load() == 0 {
		l.away.Store(time.Now().UnixNano())
	}
	if !behind {
		l.away.Store(0)
	}
	l.tell(behind)
}

// tell tells the hub whether it is behind, if that has changed.
func (l *logLoop) tell(behind bool) {
	if behind == l.told {
		return
	}
	l.told = behind
	l.b.counts.behind.Store(behind)
	l.b.sink.Behind(behind)
}

// look asks for the end of the stream, and reads what is missing here. It makes the stream
// if there is none. An error means that this node may be behind.
func (l *logLoop) look() error {
	b := l.b
	link := b.link.Load()
	nc := link.nc
	connected := nc.IsConnected()
	if b.counts.connected.Swap(connected) != connected {
		l.connected = time.Now()
	}
	if !connected {
		if err := link.refusal(); err != nil {
			return err
		}
		return ErrAway
	}
	if err := b.checkPayload(nc); err != nil {
		return err
	}
	info, err := l.findStream()
	if err != nil {
		return err
	}
	if info.isCutOff() {
		return errCutOff
	}
	l.asked.Store(time.Now().UnixNano())
	l.suspect = false
	if err := l.follow(info); err != nil {
		return err
	}
	if l.warned || l.failure != nil {
		l.warned, l.failure = false, nil
		b.options.Log.Info("NATS is back: the hub has all messages, and publishes", "server", nc.ConnectedUrlRedacted())
	}
	link.works()
	l.behind(false)
	return nil
}

// findStream returns the stream as it is now, with all that this node needs.
func (l *logLoop) findStream() (*streamInfo, error) {
	b := l.b
	info, err := b.info()
	if isCode(err, codeNoStream) {
		if err := b.create(); err != nil {
			return nil, err
		}
		info, err = b.info()
	}
	if err != nil {
		if refusal := b.link.Load().refusal(); refusal != nil {
			return nil, refusal
		}
		return nil, err
	}
	if err := b.widen(info); err != nil {
		setup := (*setupError)(nil)
		if l.epochNow() == "" || errors.As(err, &setup) {
			return nil, err
		}
		if l.failure == nil || l.failure.Error() != err.Error() { // the stream itself works
			l.failure = err
			b.options.Log.Error("the stream of the hub keeps less than the configuration says", "error", err)
		}
	}
	return info, nil
}

// follow brings this node to the end of the stream.
func (l *logLoop) follow(info *streamInfo) error {
	last := info.State.Last
	switch epoch := info.epoch(); {
	case epoch != l.epochNow():
		l.reset(info)
	case last >= l.last:
		l.short = time.Time{}
	case l.short.IsZero():
		l.short = time.Now()
		return errShort
	case time.Since(l.short) < l.b.shortFor:
		return errShort
	default:
		l.b.options.Log.Error("the stream has lost its newest messages: was there a power cut, or was a copy restored?", "stream", l.b.names.stream, "last_here", l.last, "last", last)
		l.reset(info)
	}
	for l.last < last { // what waits here need not be read
		select {
		case m := <-l.b.live:
			l.take(m)
			continue
		default:
		}
		break
	}
	return l.fill(last)
}

var errCutOff = errors.New("the NATS server is cut off from most of those that have the stream, and may not have the newest messages")

var errShort = errors.New("the stream is shorter than what was read from it before")

// reset begins to apply another stream, or what is left of this one.
func (l *logLoop) reset(info *streamInfo) {
	epoch := info.epoch()
	if old := l.epochNow(); old != "" {
		l.b.options.Log.Warn("the messages of the hub begin anew: clients are told that they may have missed some", "stream", l.b.names.stream)
	}
	first, last := max(info.State.First, 1), info.State.Last
	first = min(first, last+1)
	l.epoch.Store(&epoch)
	l.replayed, l.at, l.short = last, time.Time{}, time.Time{}
	l.reach(first - 1)
	l.b.sink.Reset(epoch, first, last)
}

// take applies a message that the stream has sent on. If one before it is missing, it reads
// that first.
func (l *logLoop) take(m *nats.Msg) {
	e, err := parseStored(m)
	if err != nil || l.b.drop != nil && l.b.drop(e.seq) || l.suspect || l.epochNow() == "" || m.Header.Get(nats.JSStream) != l.b.names.stream {
		return
	}
	switch {
	case e.seq <= l.last:
		if e.at.After(l.at) {
			l.suspect = true
			l.b.look()
		}
	case e.seq == l.last+1:
		l.apply(&e)
	default:
		if err := l.fill(e.seq - 1); err != nil {
			l.complain(err) // the next look reads the rest
			return
		}
		if e.seq == l.last+1 {
			l.apply(&e)
		}
	}
}

// apply applies an entry that follows all those before it.
func (l *logLoop) apply(e *stored) {
	l.at = e.at
	l.reach(e.seq)
	m, err := hub.ParseRecord(e.data)
	if err != nil {
		if l.b.counts.skipped.Add(1) == 1 {
			l.b.options.Log.Warn("the stream has an entry that is no message of pushit, and such entries are skipped: does something else publish there?", "stream", l.b.names.stream, "entry", e.seq)
		}
		return
	}
	at := hub.Position{Epoch: l.epochNow(), Seq: e.seq, Check: hub.CheckOf(e.at)}
	l.b.sink.Entry(e.seq, e.at, m)
	l.b.counts.applied.Add(1)
	l.b.applied(e.id, at, m)
}

// reach notes the number of the newest entry that is here.
func (l *logLoop) reach(seq uint64) {
	l.last = seq
	l.reached.Store(seq)
}

// lose notes that entries up to a number are gone, and were not applied here.
func (l *logLoop) lose(to uint64) {
	from := l.last + 1
	l.reach(to)
	if to <= l.replayed {
		return // dropped before this node began
	}
	if l.b.counts.lost.Add(to-from+1) == to-from+1 {
		l.b.options.Log.Error("this node was away for so long that the stream has dropped messages that it had not read: their subscribers are told. Raise max_bytes, if that is no exception", "from", from, "to", to)
	}
	l.b.sink.Lost(from, to)
}

// fill reads entries up to a number. If that takes long, the hub is told that it is behind, until
// the stream was looked at: agents from other machines may have positions in what is missing.
func (l *logLoop) fill(to uint64) error {
	begun := time.Now()
	since := begun
	for l.last < to {
		if time.Since(begun) > fillPatience {
			l.tell(true)
		}
		before := l.last
		if err := l.readBatch(to); err != nil {
			return err
		}
		if l.last > before {
			since = time.Now()
			continue
		}
		// A server that has a copy of the stream may lag behind the leader.
		if time.Since(since) < stalePatience {
			l.pause(staleRetry)
			if l.b.life.Err() != nil {
				return hub.ErrClosed
			}
			continue
		}
		if err := l.readFromLeader(to); err != nil {
			return err
		}
	}
	return nil
}

// readBatch reads some entries from any server that has a copy of the stream. There may be
// none.
func (l *logLoop) readBatch(to uint64) error {
	b := l.b
	nc := b.conn()
	inbox := nats.NewInbox()
	answers := make(chan *nats.Msg, fillBatch+1)
	sub, err := nc.ChanSubscribe(inbox, answers)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrAway, err)
	}
	defer func() { _ = sub.Unsubscribe() }() // it fails if the connection is closed, and is gone then
	want := int(min(to-l.last, fillBatch))
	request, err := json.Marshal(map[string]any{"seq": l.last + 1, "batch": want})
	if err != nil {
		return err
	}
	if err := nc.PublishRequest(b.names.api+"DIRECT.GET."+b.names.stream, inbox, request); err != nil {
		return fmt.Errorf("%w: %w", ErrAway, err)
	}
	patience := time.NewTimer(apiPatience)
	defer patience.Stop()
	for {
		select {
		case <-b.life.Done():
			return hub.ErrClosed
		case <-patience.C:
			return fmt.Errorf("reading from the stream: %w", context.DeadlineExceeded)
		case m := <-answers:
			if status := m.Header.Get("Status"); status != "" {
				switch status {
				case "204", "404": // the end, or nothing
					return nil
				case "503":
					return errNoJetStream
				}
				return fmt.Errorf("reading from the stream: %s %s", status, m.Header.Get("Description"))
			}
			e, err := parseStored(m)
			if err != nil {
				return err
			}
			l.applyRead(&e)
			patience.Reset(apiPatience)
		}
	}
}

// applyRead applies an entry that was read. Those before it that are missing are gone.
func (l *logLoop) applyRead(e *stored) {
	if e.seq <= l.last {
		return
	}
	if e.seq > l.last+1 {
		l.lose(e.seq - 1)
	}
	if e.seq > l.replayed {
		l.b.counts.filled.Add(1)
	}
	l.apply(e)
}

// readFromLeader reads the next entry from the leader, which knows whether there is one.
func (l *logLoop) readFromLeader(to uint64) error {
	e, err := l.b.get(map[string]any{"next_by_subj": ">", "seq": l.last + 1})
	switch {
	case isCode(err, codeNoMessage):
		l.lose(to)
	case err != nil:
		return err
	default:
		l.applyRead(e)
	}
	return nil
}

// get reads an entry from the leader.
func (b *Broker) get(request map[string]any) (*stored, error) {
	var out struct {
		Message struct {
			Seq    uint64    `json:"seq"`
			Time   time.Time `json:"time"`
			Header []byte    `json:"hdrs"`
			Data   []byte    `json:"data"`
		} `json:"message"`
	}
	if err := b.call(apiPatience, "STREAM.MSG.GET."+b.names.stream, request, &out); err != nil {
		return nil, err
	}
	m := &out.Message
	e := &stored{seq: m.Seq, at: m.Time, data: m.Data}
	if header, err := nats.DecodeHeadersMsg(m.Header); err == nil {
		e.id = header.Get(nats.MsgIdHdr)
	}
	return e, nil
}

// lookUp returns an entry of the stream as it is now.
func (l *logLoop) lookUp(seq uint64) (*stored, hub.Epoch, error) {
	e, err := l.b.get(map[string]any{"seq": seq})
	return e, l.epochNow(), err
}

// parseStored reads a message that has come from the stream.
func parseStored(m *nats.Msg) (stored, error) {
	seq, err := strconv.ParseUint(m.Header.Get(nats.JSSequence), 10, 63)
	if err != nil {
		return stored{}, fmt.Errorf("a message of the stream has no number: %w", err)
	}
	at, err := time.Parse(time.RFC3339Nano, m.Header.Get(nats.JSTimeStamp))
	if err != nil {
		return stored{}, fmt.Errorf("a message of the stream has no time: %w", err)
	}
	return stored{seq: seq, at: at, id: m.Header.Get(nats.MsgIdHdr), data: m.Data}, nil
}

// checkPayload returns an error if NATS does not take messages as long as agents may send.
// What nodes forward to each other can be twice as long as that.
func (b *Broker) checkPayload(nc *nats.Conn) error {
	need := int64(2*b.options.MessageSize + recordOverhead)
	if most := nc.MaxPayload(); b.options.MessageSize > 0 && most > 0 && most < need {
		return &setupError{fmt.Errorf("NATS takes messages of %d bytes, and needs to take %d, twice message_size and some more: write max_payload: %d in the configuration of each NATS server, or a lower message_size", most, need, need)}
	}
	return nil
}
