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
	byID map[sessionKey]*session
}

// A sessionKey is where a session is found. Clients choose the id.
type sessionKey struct{ mount, id string }

// NewSessions returns Sessions with none in them.
func NewSessions() *Sessions {
	return &Sessions{byID: make(map[sessionKey]*session)}
}

// find returns the session of that key, nil if there is none.
func (ss *Sessions) find(key sessionKey) *session {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	return ss.byID[key]
}

// add puts s in, unless there is one with its key, which it returns.
func (ss *Sessions) add(s *session) *session {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if there := ss.byID[s.key]; there != nil {
		return there
	}
	ss.byID[s.key] = s
	return nil
}

func (ss *Sessions) remove(s *session) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if ss.byID[s.key] == s {
		delete(ss.byID, s.key)
	}
}

// all returns the sessions that are there.
func (ss *Sessions) all() []*session {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	all := make([]*session, 0, len(ss.byID))
	for _, s := range ss.byID {
		all = append(all, s)
	}
	return all
}

// A session is one over SockJS's fallback transports: one response at a
// time carries what is written, other requests bring what the agent sends. It is
// the agent's Conn.
type session struct {
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
	_ hub.Conn   = (*session)(nil)
	_ hub.Cutter = (*session)(nil)
	_ hub.Waiter = (*session)(nil)
)

var errOver = errors.New("the session has ended")

func (ss *Sessions) newSession(key sessionKey, by owner, cookies []string, a *hub.Agent, t *times) *session {
	return &session{sessions: ss, key: key, owner: by, cookies: cookies, agent: a, times: t, turn: make(chan struct{}, 1), bodies: make(map[*http.ResponseController]struct{})}
}

// isOf reports whether the session is of who makes a request to e. If e goes by
// other cookies than the session's owner, as after a reload, those that the session
// was opened with say who that is.
func (s *session) isOf(e *Endpoint, by *claimant) bool {
	asks := by.owner(e.SessionCookies)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Equal(s.cookies, e.SessionCookies) {
		first := opener(s.agent.Opening())
		s.owner, s.cookies = first.owner(e.SessionCookies), e.SessionCookies
	}
	return s.owner == asks
}

// Form implements hub.Conn.
func (s *session) Form() *hub.Form { return fallbackForm }

// TryWrite implements hub.Conn: it cannot.
func (s *session) TryWrite([]byte) (int, error) { return 0, hub.ErrWouldBlock }

// Write implements hub.Conn. It does not wait for a request that receives: Await does,
// so that messages stay in the hub's queue until then. A heartbeat needs no request:
// where nothing waits there is nothing to keep alive.
func (s *session) Write(p []byte) (int, error) {
	frame, heartbeat := messagesFrame(p)
	s.mu.Lock()
	r, by, over := s.response, s.writeBy, s.bye != ""
	ready := r != nil && r.isReady()
	s.mu.Unlock()
	switch {
	case over:
		return 0, errOver
	case ready:
		err := s.send(r, by, frame, heartbeat)
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
func (s *session) Await() {
	for {
		s.mu.Lock()
		by := s.writeBy
		if s.bye != "" || s.response != nil && s.response.isReady() || !by.IsZero() && !time.Now().Before(by) {
			s.mu.Unlock()
			return
		}
		changed := s.changedLocked()
		s.mu.Unlock()
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
func (s *session) send(r *response, by time.Time, frame []byte, heartbeat bool) error {
	r.limit(by)
	if heartbeat && r.age() >= s.agent.Policy().Heartbeat/2 {
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
func (s *session) SetWriteDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writeBy = t
	if s.response != nil {
		s.response.limit(t)
	}
	s.changeLocked()
	return nil
}

// Close implements hub.Conn.
func (s *session) Close(code hub.CloseCode, reason string) {
	if code == hub.CloseNormal { // the response that carried the last frame has failed
		code, reason = closeInterrupted, interrupted
	}
	s.end(closeFrame(code, reason), "")
}

// Cut implements hub.Cutter. It does not wait.
func (s *session) Cut() {
	s.mu.Lock()
	r := s.response
	s.mu.Unlock()
	switch {
	case r == nil:
		go s.forget()
	case !r.cut(): // it is about to be ready, and finds the end then
		go s.end(closeFrame(closeInterrupted, interrupted), "cut off")
	}
}

// end ends the session: who receives for it, now or in the time that is left, is
// told bye. left is why, for the log.
func (s *session) end(bye, left string) {
	s.mu.Lock()
	s.endLocked(bye, left)
}

// endLocked is end for a caller that holds s.mu, which it releases.
func (s *session) endLocked(bye, left string) {
	if s.bye != "" {
		s.mu.Unlock()
		return
	}
	s.bye = bye
	s.leaveBodiesLocked()
	r := s.response
	told := r != nil && r.isReady()
	s.expireInLocked(s.times.disconnect)
	s.changeLocked()
	s.mu.Unlock()
	if told {
		r.limit(time.Now().Add(s.times.goodbye))
		_ = r.farewell(bye) // who does not get it asks again, or is gone
	}
	go s.leave(left)
}

// leave ends the agent, when no frame is being handed to it any more. A frame that
// waits for a gate stops waiting, because the agent is being closed.
func (s *session) leave(reason string) {
	s.agent.Close(hub.CloseNormal, reason, 0)
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	s.agent.Left(reason)
}

// isRepeated reports whether a request to receive of that number has come before; 0 is
// none. The client makes a request again when the network has failed it.
func (s *session) isRepeated(number int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if number == 0 || number > s.received {
		s.received = max(s.received, number)
		return false
	}
	return true
}

// attach makes r the session's response. If it cannot be, it returns the SockJS
// frame that r is to say instead. Where another response is attached it waits a while:
// the client may have given that one up, of which the server hears by another connection.
func (s *session) attach(r *response) (bye string) {
	began := time.Now()
	for {
		s.mu.Lock()
		switch before := s.response; {
		case s.bye != "":
			bye = s.bye
		case before == nil:
			s.response = r
			r.session, r.fresh, s.greeted = s, !s.greeted, true
			if s.expiry != nil {
				s.expiry.Stop()
			}
		default:
			patience := s.times.abandoned
			if before.isComplete() { // the client has read its last frame, and not waited for its end
				patience = s.times.goodbye
			}
			if by := began.Add(patience); time.Now().Before(by) {
				changed := s.changedLocked()
				s.mu.Unlock()
				waitUntil(changed, by)
				continue
			}
			bye = closeFrame(closeAnother, "Another connection still open")
		}
		s.mu.Unlock()
		return bye
	}
}

// ready is called when r can be written to.
func (s *session) ready(r *response) {
	s.mu.Lock()
	bye := s.bye
	r.makeReady()
	s.changeLocked()
	s.mu.Unlock()
	switch {
	case bye != "":
		_ = r.farewell(bye)
	case r.endNext.Load(): // it was to end before it could be written to
		s.agent.Send(fallbackForm.Heartbeat)
	}
}

// detach is called when the response r is over. One that did not end in order
// may have lost what was written last, and with it ends the session, as SockJS
// has it.
func (s *session) detach(r *response, inOrder bool) {
	s.mu.Lock()
	s.response = nil
	if !inOrder { // before another response can be attached
		s.changeLocked()
		s.endLocked(closeFrame(closeInterrupted, interrupted), r.reason())
		return
	}
	if s.bye == "" {
		s.expireInLocked(s.times.disconnect)
	}
	s.changeLocked()
	s.mu.Unlock()
}

// expireInLocked has the session end so long from now, and be forgotten if it
// has ended, unless a response is attached before. The caller holds s.mu.
func (s *session) expireInLocked(in time.Duration) {
	s.expires = time.Now().Add(in)
	if s.expiry == nil {
		s.expiry = time.AfterFunc(in, s.expire)
	} else {
		s.expiry.Reset(in)
	}
}

func (s *session) expire() {
	s.mu.Lock()
	due := !time.Now().Before(s.expires)
	ended := s.bye != ""
	s.mu.Unlock()
	switch {
	case !due: // it was set anew meanwhile
	case ended:
		s.sessions.remove(s)
	default:
		s.forget()
	}
}

// forget ends a session that nobody receives for: the next request with its name
// begins a new one.
func (s *session) forget() {
	s.mu.Lock()
	if s.bye != "" || s.response != nil { // one came meanwhile
		s.mu.Unlock()
		return
	}
	s.bye = closeFrame(closeInterrupted, interrupted)
	s.leaveBodiesLocked()
	s.changeLocked()
	s.mu.Unlock()
	s.sessions.remove(s)
	s.leave("no request came to receive for it")
}

// leaveBodiesLocked ends the reading of bodies: nobody takes what is in them. The
// caller holds s.mu.
func (s *session) leaveBodiesLocked() {
	for rc := range s.bodies {
		_ = rc.SetReadDeadline(time.Unix(1, 0)) // a server that has none waits as long as it likes
	}
}

// endResponse has the response r end in order, at once.
func (s *session) endResponse(r *response) {
	s.mu.Lock()
	current := s.response == r
	s.mu.Unlock()
	if current {
		r.endNext.Store(true)
		s.agent.Send(fallbackForm.Heartbeat) // who writes is the hub
	}
}

// endGreeting has the stream r, the first of a session, end if nothing is sent
// until half of the handshake is over. What is between may hold a response back
// until it is complete: the client has not heard that the session has begun then,
// and connects when it has. The caller stops the timer.
func (s *session) endGreeting(r *response) *time.Timer {
	return time.AfterFunc(s.agent.Policy().Handshake/2, func() {
		if !s.heard.Load() {
			s.endResponse(r)
		}
	})
}

// isOver reports whether the session has ended.
func (s *session) isOver() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bye != ""
}

// changedLocked returns what is closed at the next change. The caller holds s.mu.
func (s *session) changedLocked() <-chan struct{} {
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return s.changed
}

// changeLocked wakes who waits for a change. The caller holds s.mu.
func (s *session) changeLocked() {
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}
