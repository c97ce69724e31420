// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"errors"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/push-it/pushit/hub"
)

const (
	// disconnectDelay is how long a session may be without a request that
	// receives for it, and how long one that has ended goes on saying so: SockJS
	// servers have 5 s.
	disconnectDelay = 5 * time.Second
	// responseLimit is how many bytes a streaming response has, about, until it is
	// ended and the client makes a new request: browsers keep all of it in memory
	// meanwhile. SockJS servers have 128 KiB.
	responseLimit = 128 << 10
	// maxSenders is how many requests may wait to hand frames to one session. A
	// SockJS client sends one at a time.
	maxSenders = 8
)

// What SockJS closes a session with, beside what the hub does.
const (
	closeAnother     hub.CloseCode = 2010 // a second request receives
	closeInterrupted hub.CloseCode = 1002 // what was written last may be lost
)

// interrupted is the reason of closeInterrupted.
const interrupted = "Connection interrupted"

// Sessions are the fallback sessions of a hub. They outlive reloads: the
// endpoints of each generation find them again. All methods may be called
// concurrently.
type Sessions struct {
	mu   sync.Mutex // guards the following; no other lock is taken under it
	byID map[sessionKey]*fallback
}

// A sessionKey is where a session is found. Clients choose the id.
type sessionKey struct{ mount, id string }

// NewSessions returns Sessions with none in them.
func NewSessions() *Sessions {
	return &Sessions{byID: make(map[sessionKey]*fallback)}
}

// find returns the session of that key, nil if there is none.
func (s *Sessions) find(key sessionKey) *fallback {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byID[key]
}

// add puts f in, unless there is one with its key, which it returns.
func (s *Sessions) add(f *fallback) *fallback {
	s.mu.Lock()
	defer s.mu.Unlock()
	if there := s.byID[f.key]; there != nil {
		return there
	}
	s.byID[f.key] = f
	return nil
}

func (s *Sessions) remove(f *fallback) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byID[f.key] == f {
		delete(s.byID, f.key)
	}
}

// all returns the sessions that are there.
func (s *Sessions) all() []*fallback {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*fallback, 0, len(s.byID))
	for _, f := range s.byID {
		all = append(all, f)
	}
	return all
}

// A fallback is a session over SockJS's fallback transports: one response at a
// time carries what is written, other requests bring what the agent sends. It is
// the agent's Conn.
type fallback struct {
	// Immutable after it was added.
	sessions *Sessions
	key      sessionKey
	agent    *hub.Agent
	times    *times

	heard    atomic.Bool   // a request has brought something
	senders  atomic.Int32  // requests that send, waiting or not
	turn     chan struct{} // buffered(1): who puts something in may call Receive; never closed
	idle     allowance     // of who has the turn
	numbered int64         // the highest number of a request that was taken; likewise

	mu       sync.Mutex // guards the following; response.mu may be taken under it
	owner    owner
	cookies  []string                              // the session_cookies that owner goes by
	response *response                             // nil between two requests
	expiry   *time.Timer                           // of the session without a receiver, or of what is left of one that has ended
	expires  time.Time                             // when it is due: it may fire while it is set anew
	greeted  bool                                  // a response has begun the session
	received int64                                 // the highest number of a request to receive
	bye      string                                // not empty: the session has ended, and this SockJS frame says how
	writeBy  time.Time                             // the write deadline; zero is none
	bodies   map[*http.ResponseController]struct{} // of requests whose bodies are being read
	changed  chan struct{}
}

var (
	_ hub.Conn   = (*fallback)(nil)
	_ hub.Cutter = (*fallback)(nil)
	_ hub.Waiter = (*fallback)(nil)
)

var errOver = errors.New("the session has ended")

func (s *Sessions) newFallback(key sessionKey, by owner, cookies []string, a *hub.Agent, t *times) *fallback {
	return &fallback{sessions: s, key: key, owner: by, cookies: cookies, agent: a, times: t, turn: make(chan struct{}, 1), bodies: make(map[*http.ResponseController]struct{})}
}

// isOf reports whether the session is of who makes a request to e. If e goes by
// other cookies than the session's owner, as after a reload, those that the session
// was opened with say who that is.
func (f *fallback) isOf(e *Endpoint, by *claimant) bool {
	asks := by.owner(e.SessionCookies)
	f.mu.Lock()
	defer f.mu.Unlock()
	if !slices.Equal(f.cookies, e.SessionCookies) {
		first := opener(f.agent.Opening())
		f.owner, f.cookies = first.owner(e.SessionCookies), e.SessionCookies
	}
	return f.owner == asks
}

// Form implements hub.Conn.
func (f *fallback) Form() *hub.Form { return fallbackForm }

// TryWrite implements hub.Conn: it cannot.
func (f *fallback) TryWrite([]byte) (int, error) { return 0, hub.ErrWouldBlock }

// Write implements hub.Conn. It does not wait for a request that receives: Await does,
// so that messages stay in the hub's queue until then. A heartbeat needs no request:
// where nothing waits there is nothing to keep alive.
func (f *fallback) Write(p []byte) (int, error) {
	frame, heartbeat := messagesFrame(p)
	f.mu.Lock()
	r, by, over := f.response, f.writeBy, f.bye != ""
	ready := r != nil && r.isReady()
	f.mu.Unlock()
	switch {
	case over:
		return 0, errOver
	case ready:
		err := f.send(r, by, frame, heartbeat)
		switch {
		case errors.Is(err, errSpent): // meanwhile the end was said in it
			return 0, hub.ErrWouldBlock
		case err != nil:
			return 0, err
		}
		return len(p), nil
	case frame == nil:
		return len(p), nil
	case !by.IsZero() && !time.Now().Before(by):
		return 0, os.ErrDeadlineExceeded
	default:
		return 0, hub.ErrWouldBlock
	}
}

// Await implements hub.Waiter: a response that frames can be written to is awaited.
func (f *fallback) Await() {
	for {
		f.mu.Lock()
		by := f.writeBy
		if f.bye != "" || f.response != nil && f.response.isReady() || !by.IsZero() && !time.Now().Before(by) {
			f.mu.Unlock()
			return
		}
		changed := f.changedLocked()
		f.mu.Unlock()
		waitUntil(changed, by)
	}
}

// waitUntil waits for changed, until a time if it is not zero.
func waitUntil(changed <-chan struct{}, by time.Time) {
	if by.IsZero() {
		<-changed
		return
	}
	patience := time.NewTimer(time.Until(by))
	defer patience.Stop()
	select {
	case <-changed:
	case <-patience.C:
	}
}

// send writes to the response r. A message is a sign of life itself, so a heartbeat beside
// it is left out.
func (f *fallback) send(r *response, by time.Time, frame []byte, heartbeat bool) error {
	r.limit(by)
	if heartbeat && r.age() >= f.agent.Policy().Heartbeat/2 {
		// Nothing shows whether the client still reads a stream. Its next request does: in
		// time for the hub, which closes after two intervals without a sign of life.
		r.endNext.Store(true)
	}
	if frame == nil {
		frame = []byte(heartbeatFrame)
	}
	return r.put(frame)
}

// SetWriteDeadline implements hub.Conn.
func (f *fallback) SetWriteDeadline(t time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.writeBy = t
	if f.response != nil {
		f.response.limit(t)
	}
	f.changeLocked()
	return nil
}

// Close implements hub.Conn.
func (f *fallback) Close(code hub.CloseCode, reason string) {
	if code == hub.CloseNormal { // the response that carried the last frame has failed
		code, reason = closeInterrupted, interrupted
	}
	f.end(closeFrame(code, reason), "")
}

// Cut implements hub.Cutter. It does not wait.
func (f *fallback) Cut() {
	f.mu.Lock()
	r := f.response
	f.mu.Unlock()
	switch {
	case r == nil:
		go f.forget()
	case !r.cut(): // it is about to be ready, and finds the end then
		go f.end(closeFrame(closeInterrupted, interrupted), "cut off")
	}
}

// end ends the session: who receives for it, now or in the time that is left, is
// told bye. left is why, for the log.
func (f *fallback) end(bye, left string) {
	f.mu.Lock()
	f.endLocked(bye, left)
}

// endLocked is end for a caller that holds f.mu, which it releases.
func (f *fallback) endLocked(bye, left string) {
	if f.bye != "" {
		f.mu.Unlock()
		return
	}
	f.bye = bye
	f.leaveBodiesLocked()
	r := f.response
	told := r != nil && r.isReady()
	f.expireInLocked(f.times.disconnect)
	f.changeLocked()
	f.mu.Unlock()
	if told {
		r.limit(time.Now().Add(f.times.goodbye))
		_ = r.farewell(bye) // who does not get it asks again, or is gone
	}
	go f.leave(left)
}

// leave ends the agent, when no frame is being handed to it any more. A frame that
// waits for a gate stops waiting, because the agent is being closed.
func (f *fallback) leave(reason string) {
	f.agent.Close(hub.CloseNormal, reason, 0)
	f.turn <- struct{}{}
	defer func() { <-f.turn }()
	f.agent.Left(reason)
}

// isRepeated reports whether a request to receive of that number has come before; 0 is
// none. The client makes a request again when the network has failed it.
func (f *fallback) isRepeated(number int64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if number == 0 || number > f.received {
		f.received = max(f.received, number)
		return false
	}
	return true
}

// attach makes r the session's response. If it cannot be, it returns the SockJS
// frame that r is to say instead. Where another response is attached it waits a while:
// the client may have given that one up, of which the server hears by another connection.
func (f *fallback) attach(r *response) (bye string) {
	began := time.Now()
	for {
		f.mu.Lock()
		switch before := f.response; {
		case f.bye != "":
			bye = f.bye
		case before == nil:
			f.response = r
			r.session, r.fresh, f.greeted = f, !f.greeted, true
			if f.expiry != nil {
				f.expiry.Stop()
			}
		default:
			patience := f.times.abandoned
			if before.isComplete() { // the client has read its last frame, and not waited for its end
				patience = f.times.goodbye
			}
			if by := began.Add(patience); time.Now().Before(by) {
				changed := f.changedLocked()
				f.mu.Unlock()
				waitUntil(changed, by)
				continue
			}
			bye = closeFrame(closeAnother, "Another connection still open")
		}
		f.mu.Unlock()
		return bye
	}
}

// ready is called when r can be written to.
func (f *fallback) ready(r *response) {
	f.mu.Lock()
	bye := f.bye
	if bye == "" {
		r.makeReady()
	}
	f.changeLocked()
	f.mu.Unlock()
	switch {
	case bye != "":
		_ = r.farewell(bye)
	case r.endNext.Load(): // it was to end before it could be written to
		f.agent.Send(fallbackForm.Heartbeat)
	}
}

// detach is called when the response r is over. One that did not end in order
// may have lost what was written last, and with it ends the session, as SockJS
// has it.
func (f *fallback) detach(r *response, inOrder bool) {
	f.mu.Lock()
	f.response = nil
	if !inOrder { // before another response can be attached
		f.changeLocked()
		f.endLocked(closeFrame(closeInterrupted, interrupted), r.reason())
		return
	}
	if f.bye == "" {
		f.expireInLocked(f.times.disconnect)
	}
	f.changeLocked()
	f.mu.Unlock()
}

// expireInLocked has the session end so long from now, and be forgotten if it
// has ended, unless a response is attached before. The caller holds f.mu.
func (f *fallback) expireInLocked(in time.Duration) {
	f.expires = time.Now().Add(in)
	if f.expiry == nil {
		f.expiry = time.AfterFunc(in, f.expire)
	} else {
		f.expiry.Reset(in)
	}
}

func (f *fallback) expire() {
	f.mu.Lock()
	due := !time.Now().Before(f.expires)
	ended := f.bye != ""
	f.mu.Unlock()
	switch {
	case !due: // it was set anew meanwhile
	case ended:
		f.sessions.remove(f)
	default:
		f.forget()
	}
}

// forget ends a session that nobody receives for: the next request with its name
// begins a new one.
func (f *fallback) forget() {
	f.mu.Lock()
	if f.bye != "" || f.response != nil { // one came meanwhile
		f.mu.Unlock()
		return
	}
	f.bye = closeFrame(closeInterrupted, interrupted)
	f.leaveBodiesLocked()
	f.changeLocked()
	f.mu.Unlock()
	f.sessions.remove(f)
	f.leave("no request came to receive for it")
}

// leaveBodiesLocked ends the reading of bodies: nobody takes what is in them. The
// caller holds f.mu.
func (f *fallback) leaveBodiesLocked() {
	for rc := range f.bodies {
		_ = rc.SetReadDeadline(time.Unix(1, 0)) // a server that has none waits as long as it likes
	}
}

// endResponse has the response r end in order, at once.
func (f *fallback) endResponse(r *response) {
	f.mu.Lock()
	current := f.response == r
	f.mu.Unlock()
	if current {
		r.endNext.Store(true)
		f.agent.Send(fallbackForm.Heartbeat) // who writes is the hub
	}
}

// endGreeting has the stream r, the first of a session, end if nothing is sent
// until half of the handshake is over. What is between may hold a response back
// until it is complete: the client has not heard that the session has begun then,
// and connects when it has. The caller stops the timer.
func (f *fallback) endGreeting(r *response) *time.Timer {
	return time.AfterFunc(f.agent.Policy().Handshake/2, func() {
		if !f.heard.Load() {
			f.endResponse(r)
		}
	})
}

// isOver reports whether the session has ended.
func (f *fallback) isOver() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.bye != ""
}

// changedLocked returns what is closed at the next change. The caller holds f.mu.
func (f *fallback) changedLocked() <-chan struct{} {
	if f.changed == nil {
		f.changed = make(chan struct{})
	}
	return f.changed
}

// changeLocked wakes who waits for a change. The caller holds f.mu.
func (f *fallback) changeLocked() {
	if f.changed != nil {
		close(f.changed)
		f.changed = nil
	}
}
