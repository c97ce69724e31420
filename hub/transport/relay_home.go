// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/push-it/pushit/hub"
)

// askAgain is how long the other machine may take until it asks again for the result of a
// relay that is pending. Then it has forgotten it, or is gone.
const askAgain = 5 * time.Second

// longestWait limits how long an answer waits, whatever the other machine wants.
const longestWait = 30 * time.Second

// relays are the requests that other machines relay to sessions of this one.
type relays struct {
	mu   sync.Mutex // guards the following, and parts of each homeRelay; a leaf
	byID map[relayID]*homeRelay
	// passing are the requests to receive that this machine relays to others.
	passing map[*relay]int // the version of HTTP
	ended   bool           // this machine stops
}

type relayID struct {
	from hub.NodeID
	id   string
}

// A homeRelay is a relayed request at the session's home.
type homeRelay struct {
	// Immutable.
	id  relayID
	ctx context.Context //nolint:containedctx // of the request, which ends it
	end context.CancelFunc

	// Written before done is closed.
	answer relayAnswer
	frame  []byte
	done   chan struct{} // closed when there is a result
	over   chan struct{} // closed when nothing more happens
	told   chan bool     // buffered(1): whether the frame was written
	why    string        // why not; written before told is sent to

	// Guarded by relays.mu.
	body   []byte      // what has come of the body
	begun  bool        // it is complete
	asking int         // answers under way
	timer  *time.Timer // ends the relay if nobody asks
	hurry  func()      // ends the response; nil if there is none
}

// Join connects the fallback sessions with those of the hub's other machines. Call it once,
// before the endpoints serve.
func (ss *Sessions) Join(h *hub.Hub) {
	var pulse sync.Once
	h.OnBus(func(b hub.Bus) {
		if b == nil {
			return
		}
		pulse.Do(func() { ss.feelPulse(h) })
		b.Handle(homeTopic, func(_ context.Context, _ hub.NodeID, b []byte) []byte {
			var q relayRequest
			if _, ok := parseRelay(b, &q); !ok || ss.find(sessionKey{q.Mount, string(q.Session)}) == nil {
				return nil
			}
			return []byte{1}
		})
		b.Handle(relayTopic, ss.answerRelay)
		b.Handle(abandonTopic, func(_ context.Context, _ hub.NodeID, b []byte) []byte {
			ss.endAbandoned(b)
			return []byte{1}
		})
		b.Watch(func(node hub.NodeID, up bool) {
			ss.abandonments.watch(node, up)
			if !up {
				ss.relays.endAll(node)
			}
		})
	})
	h.OnEnd(ss.hurryAll)
}

// endAll ends the relays of a machine that is gone.
func (rs *relays) endAll(node hub.NodeID) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for id, hr := range rs.byID {
		if id.from == node {
			hr.end()
		}
	}
}

// relaying notes a request to receive that this machine relays. The caller calls leave. ends
// says that this machine stops.
func (ss *Sessions) relaying(rl *relay, protocol int) (leave func(), ends bool) {
	ss.relays.mu.Lock()
	defer ss.relays.mu.Unlock()
	ss.relays.passing[rl] = protocol
	return func() {
		ss.relays.mu.Lock()
		defer ss.relays.mu.Unlock()
		delete(ss.relays.passing, rl)
	}, ss.relays.ended
}

// isPassing reports whether this machine still relays a request.
func (rs *relays) isPassing(rl *relay) bool {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	_, ok := rs.passing[rl]
	return ok
}

// hurryAll ends the responses that this machine relays, because it stops.
func (ss *Sessions) hurryAll() {
	ss.relays.mu.Lock()
	ss.relays.ended = true
	ss.relays.mu.Unlock()
	ss.hurry(func(*relay, int) bool { return true })
}

// hurry ends the responses that this machine relays and that are meant.
func (ss *Sessions) hurry(meant func(rl *relay, protocol int) bool) {
	ss.relays.mu.Lock()
	var list []*relay
	for rl, protocol := range ss.relays.passing {
		if meant(rl, protocol) {
			list = append(list, rl)
		}
	}
	ss.relays.mu.Unlock()
	for _, rl := range list {
		go rl.hurry()
	}
}

// answerRelay answers a message about a relay.
func (ss *Sessions) answerRelay(ctx context.Context, from hub.NodeID, b []byte) []byte {
	var q relayRequest
	piece, ok := parseRelay(b, &q)
	if !ok || q.ID == "" {
		return nil
	}
	id := relayID{from, q.ID}
	switch q.Do {
	case relayReceive, relaySend:
	case relayWritten:
		if q.Away {
			defer ss.doubt(&q)
		}
		if !ss.relays.written(ctx, id, &q) && !q.OK {
			// The request to receive has not come, or comes later. The client has given it up.
			ss.endUnreceived(&q)
		}
		return appendRelay(relayAnswer{}, nil)
	case relayHurry:
		ss.relays.hurry(id)
		return appendRelay(relayAnswer{}, nil)
	default:
		return nil // of a newer version
	}
	s, answer := ss.claimed(&q)
	if s == nil && ss.relays.find(id) == nil {
		return appendRelay(answer, nil)
	}
	hr, whole := ss.relays.obtain(ss, id, &q, s, piece)
	if hr == nil {
		return appendRelay(relayAnswer{Status: errRelay.status, Reason: errRelay.reason}, nil)
	}
	result := false
	defer func() { ss.relays.answered(hr, result) }()
	if !whole {
		return appendRelay(relayAnswer{Pending: true}, nil)
	}
	if result = hr.await(ctx, min(q.Wait, longestWait)); !result {
		return appendRelay(relayAnswer{Pending: true}, nil)
	}
	a := hr.answer
	a.Total = len(hr.frame)
	at := min(max(q.Offset, 0), len(hr.frame))
	if q.Do == relaySend {
		at = len(hr.frame)
	}
	return appendRelay(a, hr.frame[at:min(at+relayPiece, len(hr.frame))])
}

// obtain returns the relay with that id, and begins it when all of the request has come. If
// there are too many, it returns nil.
func (rs *relays) obtain(ss *Sessions, id relayID, q *relayRequest, s *session, piece []byte) (hr *homeRelay, whole bool) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if hr = rs.byID[id]; hr == nil {
		if len(rs.byID) >= maxRelays {
			return nil, false
		}
		hr = &homeRelay{id: id, done: make(chan struct{}), over: make(chan struct{}), told: make(chan bool, 1)}
		hr.ctx, hr.end = context.WithCancel(context.Background())
		rs.byID[id] = hr
	}
	hr.asking++
	if hr.timer != nil {
		hr.timer.Stop()
	}
	if hr.begun {
		return hr, true
	}
	switch {
	case s == nil: // it has ended since the first piece
		hr.refuse(errUnknown)
	case q.Do == relayReceive:
		go ss.receiveFor(hr, s, *q)
	default:
		most := bodyLimit(s.agent.Policy().Limits)
		if q.Total > most || q.Offset+len(piece) > q.Total {
			hr.refuse(bodyTooLarge(most))
			break
		}
		if q.Offset == len(hr.body) { // else it has come before
			hr.body = append(hr.body, piece...)
		}
		if len(hr.body) < q.Total {
			return hr, false
		}
		go ss.sendFor(hr, s, *q)
	}
	hr.begun = true
	return hr, true
}

// claimed returns the session of a relay, or the answer that there is none.
func (ss *Sessions) claimed(q *relayRequest) (*session, relayAnswer) {
	unknown := relayAnswer{Status: errUnknown.status, Reason: errUnknown.reason}
	s := ss.find(sessionKey{q.Mount, string(q.Session)})
	if s == nil {
		return nil, unknown
	}
	if !s.isOwnedBy(q.Claim.Owner, q.Claim.Cookies) {
		unknown.Others, unknown.Differ = true, s.differing(&q.Claim)
		return nil, unknown
	}
	return s, unknown
}

// answered notes that this machine has answered a message about a relay; result says whether
// with its result. The relay ends if nothing more has to come, or if nothing comes.
func (rs *relays) answered(hr *homeRelay, result bool) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if hr.asking--; hr.asking > 0 || rs.byID[hr.id] != hr {
		return
	}
	if result && hr.isOver() {
		rs.endLocked(hr)
		return
	}
	hr.timer = time.AfterFunc(askAgain, func() {
		rs.mu.Lock()
		defer rs.mu.Unlock()
		if hr.asking == 0 {
			rs.endLocked(hr)
		}
	})
}

// endLocked ends a relay and forgets it.
func (rs *relays) endLocked(hr *homeRelay) {
	hr.end()
	delete(rs.byID, hr.id)
}

// find returns the relay with that id, nil if there is none.
func (rs *relays) find(id relayID) *homeRelay {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	return rs.byID[id]
}

// written notes whether the frame of a relay was written, and waits until the session knows.
func (rs *relays) written(ctx context.Context, id relayID, q *relayRequest) (found bool) {
	hr := rs.find(id)
	if hr == nil {
		return false
	}
	rs.mu.Lock()
	if hr.why == "" {
		hr.why = q.Why
	}
	rs.mu.Unlock()
	select {
	case hr.told <- q.OK:
	default: // it was told before
	}
	if !q.OK {
		hr.end()
	}
	select {
	case <-hr.over:
	case <-ctx.Done():
	}
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if hr.timer != nil {
		hr.timer.Stop()
	}
	rs.endLocked(hr)
	return true
}

// hurry ends the response of a relay.
func (rs *relays) hurry(id relayID) {
	rs.mu.Lock()
	hr := rs.byID[id]
	var f func()
	if hr != nil {
		f = hr.hurry
	}
	rs.mu.Unlock()
	if f != nil {
		f()
	}
}

// finish gives the relay its result.
func (hr *homeRelay) finish(frame []byte) {
	hr.frame = frame
	close(hr.done)
}

// finishLast is finish for a result that nothing follows.
func (hr *homeRelay) finishLast(frame []byte) {
	close(hr.over)
	hr.answer.Last = true
	hr.finish(frame)
}

func (hr *homeRelay) refuse(wrong *httpError) {
	hr.answer.Status, hr.answer.Reason = wrong.status, wrong.reason
	hr.finishLast(nil)
}

// await waits for the result, for a while, and reports whether it is there.
func (hr *homeRelay) await(ctx context.Context, within time.Duration) bool {
	wait := time.NewTimer(within)
	defer wait.Stop()
	select {
	case <-hr.done:
	case <-wait.C:
	case <-ctx.Done():
	}
	select { // more than one may have happened
	case <-hr.done:
		return true
	default:
		return false
	}
}

// isOver reports whether nothing more happens.
func (hr *homeRelay) isOver() bool {
	select {
	case <-hr.over:
		return true
	default:
		return false
	}
}

// sendFor gives the body of a relay to the session.
func (ss *Sessions) sendFor(hr *homeRelay, s *session, q relayRequest) {
	if wrong := s.takeBody(hr.ctx, q.Number, hr.body); wrong != nil {
		hr.refuse(wrong)
		return
	}
	hr.finishLast(nil)
}

// receiveFor attaches a response to the session for a relay, which carries one frame.
func (ss *Sessions) receiveFor(hr *homeRelay, s *session, q relayRequest) {
	s.agent.Touch()
	if s.isRepeated(q.Number) {
		s.end(closeFrame(closeInterrupted, interrupted), "the client repeated a request to receive")
	}
	w := &frameWriter{header: make(http.Header)}
	response := newResponse(w, oneFrame, "", 0, s.times)
	response.relayed = true
	if bye := s.attach(response); bye != "" {
		hr.finishLast([]byte(bye))
		return
	}
	within := s.agent.Policy().Heartbeat / 2
	if q.Within > 0 {
		within = min(within, q.Within)
	}
	timer := time.AfterFunc(within, func() { s.endResponse(response) })
	defer timer.Stop()
	ss.relays.mu.Lock()
	hr.hurry = func() { s.endResponse(response) }
	ss.relays.mu.Unlock()
	inOrder := response.serve(hr.ctx)
	if !inOrder {
		s.detach(false, ss.relays.whyOf(hr, response.reason()))
		s.mu.Lock()
		bye := s.bye
		s.mu.Unlock()
		hr.finishLast([]byte(bye))
		return
	}
	hr.finish(w.frame)
	inOrder = hr.wasWritten(s.times.write + 2*s.times.relay)
	s.detach(inOrder, ss.relays.whyOf(hr, "the server that relayed the response is gone"))
	close(hr.over)
}

// whyOf returns why the response of a relay was given up, for the log.
func (rs *relays) whyOf(hr *homeRelay, otherwise string) string {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if hr.why != "" {
		return hr.why
	}
	return otherwise
}

// wasWritten waits until the other machine has said whether it has written the frame.
func (hr *homeRelay) wasWritten(within time.Duration) bool {
	late := time.NewTimer(within)
	defer late.Stop()
	select {
	case ok := <-hr.told:
		return ok
	case <-late.C:
	case <-hr.ctx.Done():
		select { // it may have said so before
		case ok := <-hr.told:
			return ok
		default:
		}
	}
	return false
}

// oneFrame is the framing between machines.
var oneFrame = &framing{poll: true, wrap: func(dst, frame []byte, _ string) []byte { return append(dst, frame...) }}

// A frameWriter is the http.ResponseWriter of a relay: it keeps the frame.
type frameWriter struct {
	header http.Header
	frame  []byte
}

func (w *frameWriter) Header() http.Header { return w.header }
func (w *frameWriter) WriteHeader(int)     {}
func (w *frameWriter) Write(p []byte) (int, error) {
	w.frame = append(w.frame, p...)
	return len(p), nil
}
func (w *frameWriter) FlushError() error                { return nil }
func (w *frameWriter) SetWriteDeadline(time.Time) error { return nil }

// differing returns the session cookies that keep a client out, if nothing else does.
func (s *session) differing(c *claim) (names []string) {
	first := opener(s.agent.Opening())
	if first.owner(nil) != c.Base {
		return nil
	}
	for i, name := range c.Cookies {
		if name != stickyCookie && i < len(c.Each) && first.owner([]string{name}) != c.Each[i] {
			names = append(names, name)
		}
	}
	return names
}
