// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"errors"
	"maps"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/push-it/pushit/hub"
)

const (
	// disconnectDelay is how long a session may be without a request to receive, and how
	// long a session that has ended still answers requests. SockJS servers use 5 s.
	disconnectDelay = 5 * time.Second
	// responseLimit is about how many bytes a streaming response may have. Browsers keep
	// the whole response in memory, so it ends then, and the client makes another request.
	// SockJS servers use 128 KiB.
	responseLimit = 128 << 10
	// maxSenders is how many requests may send to one session at a time. A SockJS client
	// makes one after the other.
	maxSenders = 8
)

// SockJS's own close codes.
const (
	closeAnother     hub.CloseCode = 2010 // another request receives already
	closeInterrupted hub.CloseCode = 1002 // the last frames may be lost
)

// interrupted is the reason of closeInterrupted.
const interrupted = "Connection interrupted"

// Sessions are the fallback sessions of a hub. They outlive reloads: the endpoints of the
// next generation find them again. All methods may be called concurrently.
type Sessions struct {
	mu   sync.Mutex // guards the following; no other lock is taken under it
	byID map[sessionKey]*session
	// streams are those of Server-Sent Events over HTTP/3, by mount.
	streams map[*stream]string

	homes  *homes // of sessions at other machines
	relays relays // of requests that other machines got

	abandonments abandonments // of sessions at other machines

	pulse pulse
}

// A sessionKey identifies a session. Clients choose the id.
type sessionKey struct{ mount, id string }

// NewSessions returns an empty Sessions.
func NewSessions() *Sessions {
	return &Sessions{
		byID: make(map[sessionKey]*session), streams: make(map[*stream]string),
		homes: newHomes(), relays: relays{byID: make(map[relayID]*homeRelay), passing: make(map[*relay]int)},
		pulse: pulse{began: time.Now()},
	}
}

// find returns the session with that key, or nil.
func (ss *Sessions) find(key sessionKey) *session {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	return ss.byID[key]
}

// add adds s. If there is a session with the same key, add returns that one instead.
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

// all returns all sessions.
func (ss *Sessions) all() []*session {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	return slices.Collect(maps.Values(ss.byID))
}

// A session joins the requests of one client of a fallback transport. One response at a
// time carries the frames for the client; other requests bring the client's frames. It is
// the agent's Conn.
type session struct {
	// Immutable.
	sessions *Sessions
	key      sessionKey
	agent    *hub.Agent
	times    *times

	heard    atomic.Bool   // a request to send has come
	senders  atomic.Int32  // requests to send under way
	turn     chan struct{} // buffered(1), never closed: a request that has put a value in may call Receive
	idle     allowance     // guarded by turn
	numbered int64         // the highest number of a request to send; guarded by turn

	mu       sync.Mutex // guards the following; response.mu may be taken under it
	owner    owner
	cookies  []string                              // the session_cookies that owner depends on
	response *response                             // nil between two requests to receive
	expiry   *time.Timer                           // ends a session without a response; removes a session that has ended
	expires  time.Time                             // when expiry is due: it may fire while it is being reset
	whole    time.Time                             // when it would be if nobody doubted that the client is there; else zero
	greeted  bool                                  // a response has carried the o frame
	received int64                                 // the highest number of a request to receive
	bye      string                                // if the session has ended: its close frame
	left     string                                // if the session has ended: why, for the log
	writeBy  time.Time                             // the write deadline; zero for none
	bodies   map[*http.ResponseController]struct{} // of requests to send whose bodies are being read
	changed  chan struct{}                         // closed when one of the above changes; nil if nothing waits
}

var (
	_ hub.Conn   = (*session)(nil)
	_ hub.Cutter = (*session)(nil)
	_ hub.Waiter = (*session)(nil)
)

func (ss *Sessions) newSession(key sessionKey, by owner, cookies []string, a *hub.Agent, t *times) *session {
	return &session{sessions: ss, key: key, owner: by, cookies: cookies, agent: a, times: t, turn: make(chan struct{}, 1), bodies: make(map[*http.ResponseController]struct{})}
}

// isOf reports whether the session belongs to the client that makes a request to e. After
// a reload, e may use other cookies than before. Then isOf finds the owner anew, from the
// request that opened the session.
func (s *session) isOf(e *Endpoint, by *claimant) bool {
	return s.isOwnedBy(by.owner(e.SessionCookies), e.SessionCookies)
}

// isOwnedBy is isOf for a client that was identified with the help of these cookies.
func (s *session) isOwnedBy(asks owner, cookies []string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Equal(s.cookies, cookies) {
		first := opener(s.agent.Opening())
		s.owner, s.cookies = first.owner(cookies), cookies
	}
	return s.owner == asks
}

// Form implements hub.Conn.
func (s *session) Form() *hub.Form { return fallbackForm }

// TryWrite implements hub.Conn. It never writes: writing to a response may block.
func (s *session) TryWrite([]byte) (int, error) { return 0, hub.ErrWouldBlock }

// Write implements hub.Conn. It does not wait for a request to receive: Await does, so that
// messages stay in the hub's queue until then. Write drops heartbeats between two requests,
// when there is no response to keep alive.
func (s *session) Write(p []byte) (int, error) {
	buffer := messages.Get().(*[]byte)
	frame, heartbeat := messagesFrame(*buffer, p)
	if frame != nil {
		*buffer = frame
	}
	defer putMessage(buffer)
	s.mu.Lock()
	r, by, over, left := s.response, s.writeBy, s.bye != "", s.left
	ready := r != nil && r.isReady()
	s.mu.Unlock()
	switch {
	case over:
		return 0, &hub.EndedError{Reason: left}
	case ready:
		err := s.send(r, by, frame, heartbeat)
		switch {
		case errors.Is(err, errSpent): // another frame has completed it meanwhile
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

// Await implements hub.Waiter. It waits for a response that takes frames.
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

// waitUntil waits until changed is closed, or until the time by if it is not zero.
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
	if code == hub.CloseNormal { // the hub gives up because a write has failed
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
	case !r.cut(): // ready will find that the session has ended
		go s.end(closeFrame(closeInterrupted, interrupted), "cut off")
	}
}

// end ends the session. The response gets bye, and so do later requests until the session
// is removed. left is the reason for the log.
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
	s.bye, s.left = bye, left
	s.leaveBodiesLocked()
	r := s.response
	told := r != nil && r.isReady()
	s.expireInLocked(s.times.disconnect)
	s.changeLocked()
	s.mu.Unlock()
	if told {
		r.limit(time.Now().Add(s.times.goodbye))
		_ = r.putLast(bye) // a client that does not get it asks again, or is gone
	}
	go s.leave(left)
}

// leave ends the agent once it has handled the frame in hand. Closing it first makes
// Receive return if the frame waits for a gate.
func (s *session) leave(reason string) {
	s.agent.Close(hub.CloseNormal, reason, 0)
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	s.agent.Left(reason)
}

// isRepeated reports whether a request to receive with that number came before; requests
// with 0 have no number. A client repeats a request after a network error.
func (s *session) isRepeated(number int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if number == 0 || number > s.received {
		s.received = max(s.received, number)
		return false
	}
	return true
}

// attach makes r the session's response. If that is not possible, it returns the close
// frame for r. If another response is attached, attach waits for a while: the client may
// have cancelled that one, and the server may not know it yet. If that one has its last
// frame, or gets it meanwhile, attach waits anew for its end.
func (s *session) attach(r *response) (bye string) {
	by := time.Now().Add(s.times.abandoned)
	complete := false // the other response has its last frame
	for {
		s.mu.Lock()
		switch before := s.response; {
		case s.bye != "":
			bye = s.bye
		case before == nil:
			s.response = r
			r.carrier, r.fresh, s.greeted = s, !s.greeted, true
			if s.expiry != nil {
				s.expiry.Stop()
			}
		default:
			if !complete && before.isComplete() { // the client did not wait for its end
				complete = true
				by = time.Now().Add(s.times.goodbye)
				if before.relayed { // another machine writes it
					by = time.Now().Add(s.times.write)
				}
			}
			if time.Now().Before(by) {
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

// ready is called when r can take frames.
func (s *session) ready(r *response) {
	s.mu.Lock()
	bye := s.bye
	r.makeReady()
	s.changeLocked()
	s.mu.Unlock()
	switch {
	case bye != "":
		_ = r.putLast(bye)
	case r.endNext.Load(): // endResponse came too early for its heartbeat
		s.agent.Send(fallbackForm.Heartbeat)
	}
}

// detach notes that the session's response is over. If it did not end in order, its last
// frames may be lost. Then the session ends, as SockJS's protocol says
// (HandlingClose.test_abort_xhr_streaming), and why is the reason for the log.
func (s *session) detach(inOrder bool, why string) {
	s.mu.Lock()
	s.response = nil
	if !inOrder { // end it before another response can be attached
		s.changeLocked()
		s.endLocked(closeFrame(closeInterrupted, interrupted), why)
		return
	}
	if s.bye == "" {
		s.expireInLocked(s.times.disconnect)
		if s.sessions.pulse.wasAway() && s.times.doubt < s.times.disconnect {
			s.doubtLocked()
		}
	}
	s.changeLocked()
	s.mu.Unlock()
}

// expireInLocked sets when the session expires, unless a response is attached before. The
// caller holds s.mu.
func (s *session) expireInLocked(in time.Duration) {
	s.expires, s.whole = time.Now().Add(in), time.Time{}
	if s.expiry == nil {
		s.expiry = time.AfterFunc(in, s.expire)
	} else {
		s.expiry.Reset(in)
	}
}

// expire ends the session, or removes it if it has ended already.
func (s *session) expire() {
	s.mu.Lock()
	due := !time.Now().Before(s.expires) && !s.trustLocked()
	ended := s.bye != ""
	s.mu.Unlock()
	switch {
	case !due: // it was reset meanwhile
	case ended:
		s.sessions.remove(s)
	default:
		s.forget()
	}
}

// forget ends and removes a session whose client makes no request to receive. The next
// request with its name opens a new session.
func (s *session) forget() {
	s.mu.Lock()
	if s.bye != "" || s.response != nil { // a request came meanwhile
		s.mu.Unlock()
		return
	}
	s.bye, s.left = closeFrame(closeInterrupted, interrupted), "the client made no request to receive in time"
	s.leaveBodiesLocked()
	s.changeLocked()
	s.mu.Unlock()
	s.sessions.remove(s)
	s.leave(s.left)
}

// leaveBodiesLocked stops the reading of bodies, because the agent takes no more frames. The
// caller holds s.mu.
func (s *session) leaveBodiesLocked() {
	for rc := range s.bodies {
		_ = rc.SetReadDeadline(time.Unix(1, 0)) // without support for deadlines, the server's own limits apply
	}
}

// endResponse completes the response r at once, with a heartbeat.
func (s *session) endResponse(r *response) {
	s.mu.Lock()
	current := s.response == r
	s.mu.Unlock()
	if current {
		r.endNext.Store(true)
		s.agent.Send(fallbackForm.Heartbeat) // the hub writes it, behind all that is queued
	}
}

// endGreeting completes r, the first stream of a session, if the client sends nothing within
// half the handshake time. A proxy may hold the response back until it is complete: then the
// client does not know yet that the session is open, and connects when it gets the response.
// The caller stops the timer.
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

// changedLocked returns a channel that the next changeLocked closes. The caller holds s.mu.
func (s *session) changedLocked() <-chan struct{} {
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return s.changed
}

// changeLocked wakes the goroutines that wait for a change. The caller holds s.mu.
func (s *session) changeLocked() {
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}
