// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/push-it/pushit/hub"
)

// With several machines, a request of a fallback session may come to any of them. The
// session stays at its home, the machine that got its first request to receive. Another
// machine relays requests to it, over the hub's Bus:
//
//   - It finds the home by asking all machines, and remembers it.
//   - A relay is a request under way. The home keeps it under its id until the other machine
//     has the result, so each message may be repeated. While there is no result, the answer
//     is that it is pending, and the other machine asks again.
//   - A request to send is answered with 204 only when the home took it.
//   - A request to receive gets one SockJS frame. The home keeps the session's response
//     attached until the other machine says that it has written the frame. If it could not,
//     or does not say, the session ends, as after any response that was given up.
//
// The relaying machine checks the origin and the form of a request, as for its own sessions.
// Everything else is up to the home: whose session it is, limits, gates.

const (
	// relayTopic is that of messages about relays, homeTopic that of the question who has a
	// session.
	relayTopic, homeTopic = "session", "session.home"
	// relayPatience is how long a home may take for an answer. Then it hangs.
	relayPatience = time.Second
	// relayFirst and relayNext are how long a home waits before it answers that a relay is
	// pending: first, to show that it is there, and later.
	relayFirst, relayNext = 500 * time.Millisecond, 10 * time.Second
	// relayPiece is the most bytes of a body or a frame in one message.
	relayPiece = hub.MaxBusPayload - 16<<10
	// maxRelayed is how many requests a machine relays at a time, and maxRelays how many it
	// takes from others. Further ones are refused.
	maxRelayed, maxRelays = 20_000, 50_000
	// maxAsking is how many sessions a machine looks for at a time.
	maxAsking = 512
	// maxHomes is how many homes a machine remembers.
	maxHomes = 1 << 16
)

var (
	errHome  = &httpError{http.StatusServiceUnavailable, "The server of this session does not answer: try again."}
	errRelay = &httpError{http.StatusServiceUnavailable, "Too many requests for sessions of other servers: try again."}
)

// A claim says which client makes a relayed request, without its secrets.
type claim struct {
	Owner   owner    `json:"owner"`             // with the session cookies
	Base    owner    `json:"base"`              // without them
	Cookies []string `json:"cookies,omitempty"` // their names
	Each    []owner  `json:"each,omitempty"`    // the client with one of them
}

func (c *claimant) claim(cookies []string) claim {
	out := claim{Owner: c.owner(cookies), Base: c.owner(nil), Cookies: cookies}
	for _, name := range cookies {
		out.Each = append(out.Each, c.owner([]string{name}))
	}
	return out
}

// What is asked of a home.
const (
	relayReceive = "receive" // a frame, if Offset is 0; or more of it
	relaySend    = "send"    // a piece of the body
	relayWritten = "written" // the frame was written, or the client is gone
	relayHurry   = "hurry"   // the response must end now
)

// A relayRequest is a message to a home. A piece of the body may follow.
type relayRequest struct {
	ID      string        `json:"id"`
	Do      string        `json:"do"`
	Mount   string        `json:"mount"`
	Session []byte        `json:"session"`
	Claim   claim         `json:"claim"`
	Number  int64         `json:"n,omitempty"`
	Within  time.Duration `json:"within,omitempty"` // receive: the longest time until the frame; 0: no limit
	Wait    time.Duration `json:"wait,omitempty"`   // until the answer is that it is pending
	Offset  int           `json:"offset,omitempty"` // of the piece that follows, or is asked for
	Total   int           `json:"total,omitempty"`  // bytes of the whole body
	OK      bool          `json:"ok,omitempty"`     // written: it was
	Why     string        `json:"why,omitempty"`    // written: why not, for the log
	Away    bool          `json:"away,omitempty"`   // written: the machine that relays was away
}

// A relayAnswer is the answer of a home. A piece of the frame may follow.
type relayAnswer struct {
	Pending bool     `json:"pending,omitempty"`
	Status  int      `json:"status,omitempty"` // an HTTP status; 0: it is done
	Reason  string   `json:"reason,omitempty"` // the sentence with it
	Others  bool     `json:"others,omitempty"` // 404, because the session belongs to somebody else
	Differ  []string `json:"differ,omitempty"` // session cookies that kept the client out
	Total   int      `json:"total,omitempty"`  // bytes of the whole frame
	Last    bool     `json:"last,omitempty"`   // the session has ended: nobody waits until it is written
}

// appendRelay appends a message: JSON, a line feed, and the piece.
func appendRelay(header any, piece []byte) []byte {
	b, _ := json.Marshal(header) // it has only what JSON has
	return append(append(b, '\n'), piece...)
}

// parseRelay undoes appendRelay.
func parseRelay(b []byte, header any) (piece []byte, ok bool) {
	head, piece, found := bytes.Cut(b, []byte{'\n'})
	return piece, found && json.Unmarshal(head, header) == nil
}

// homes are the machines that other sessions are at.
type homes struct {
	relayed chan struct{} // buffered(maxRelayed): requests that are being relayed
	asking  chan struct{} // buffered(maxAsking): questions under way

	mu    sync.Mutex // guards the following; a leaf
	known map[sessionKey]hub.NodeID
}

func newHomes() *homes {
	return &homes{
		relayed: make(chan struct{}, maxRelayed), asking: make(chan struct{}, maxAsking),
		known: make(map[sessionKey]hub.NodeID),
	}
}

// note remembers the home of a session.
func (hs *homes) note(key sessionKey, at hub.NodeID) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	for other := range hs.known {
		if len(hs.known) < maxHomes {
			break
		}
		delete(hs.known, other) // whichever comes first: it can be found again
	}
	hs.known[key] = at
}

func (hs *homes) forget(key sessionKey) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	delete(hs.known, key)
}

func (hs *homes) find(key sessionKey) (at hub.NodeID, ok bool) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	at, ok = hs.known[key]
	return at, ok
}

// locate asks all machines for a session. If some of them do not answer, and the others do
// not have it, sure is false.
func (hs *homes) locate(ctx context.Context, bus hub.Bus, key sessionKey, within time.Duration) (at hub.NodeID, found, sure bool) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	select {
	case hs.asking <- struct{}{}:
		defer func() { <-hs.asking }()
	case <-ctx.Done():
		return at, false, false
	}
	question := appendRelay(relayRequest{Mount: key.mount, Session: []byte(key.id)}, nil)
	err := bus.Ask(ctx, homeTopic, question, func(from hub.NodeID, _ []byte) (more bool) {
		at, found = from, true
		return false
	})
	if found {
		hs.note(key, at)
	}
	return at, found, err == nil || found
}

// A relay is a request that this machine relays.
type relay struct {
	e       *Endpoint
	bus     hub.Bus
	home    hub.NodeID
	request relayRequest
}

// relayTo returns the relay for a request about a session that is not here. Without one, and
// without an error, no machine has the session. anew says that the request may begin a session.
func (e *Endpoint) relayTo(r *http.Request, key sessionKey, by *claimant, do string, number int64, anew bool) (*relay, *httpError) {
	bus := e.Hub.Bus()
	if bus == nil {
		return nil, nil
	}
	at, found := e.Sessions.homes.find(key)
	if !found {
		var sure bool
		at, found, sure = e.Sessions.homes.locate(r.Context(), bus, key, e.patience().relay)
		switch {
		case !found && !sure && !anew:
			return nil, errHome // a machine that hangs may have it
		case !found:
			return nil, nil
		}
	}
	return &relay{e, bus, at, e.relayed(key, by, do, number)}, nil
}

// relayed returns what the first message of a relay says.
func (e *Endpoint) relayed(key sessionKey, by *claimant, do string, number int64) relayRequest {
	return relayRequest{
		ID: rand.Text(), Do: do, Mount: key.mount, Session: []byte(key.id), Claim: by.claim(e.SessionCookies), Number: number,
	}
}

// ask sends a message to the home, and waits for the answer. The home may take q.Wait longer
// than usual.
func (rl *relay) ask(ctx context.Context, q relayRequest, piece []byte) (a relayAnswer, answered []byte, err error) {
	patience := rl.e.patience().relay
	if q.Wait > relayFirst {
		patience += q.Wait
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	b, err := rl.bus.Request(ctx, rl.home, relayTopic, appendRelay(q, piece))
	if err != nil {
		return a, nil, err
	}
	answered, ok := parseRelay(b, &a)
	if !ok {
		return a, nil, hub.ErrNoAnswer
	}
	return a, answered, nil
}

// await asks until there is a result. piece is what the body of a request to send ends with.
func (rl *relay) await(ctx context.Context, piece []byte) (a relayAnswer, answered []byte, err error) {
	q := rl.request
	q.Wait = relayFirst
	for lost := false; ; {
		a, answered, err = rl.ask(ctx, q, piece)
		switch {
		case err == nil && a.Pending:
			q.Wait = relayNext
		case q.Wait == relayNext && !lost && ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded):
			lost, q.Wait = true, relayFirst // the home was there: a message was lost, or it hangs by now
		default:
			return a, answered, err
		}
	}
}

// key returns the session's key.
func (rl *relay) key() sessionKey { return rl.request.key() }

// abandon notes that the client has given the session up, unless it sends: then it can repeat
// that.
func (rl *relay) abandon() {
	if rl.request.Do == relayReceive {
		rl.e.abandon(rl.request, rl.home)
	}
}

// failed returns the answer to a request whose relay has failed. gone says that the home, or
// the session at it, is not there any more: another machine may have it now.
func (rl *relay) failed(a relayAnswer, err error) (wrong *httpError, gone bool) {
	switch {
	case errors.Is(err, hub.ErrNoNode), err == nil && a.Status == http.StatusNotFound && !a.Others:
		rl.e.Sessions.homes.forget(rl.key())
		if err != nil {
			rl.abandon()
		}
		return errUnknown, true
	case err != nil:
		rl.abandon()
		return errHome, false
	case a.Status == 0:
		return nil, false
	}
	if len(a.Differ) > 0 {
		rl.e.logDiffering(a.Differ)
	}
	return &httpError{a.Status, a.Reason}, false
}

// failRelay answers with what is wrong.
func failRelay(w http.ResponseWriter, wrong *httpError) {
	if wrong.status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	fail(w, wrong)
}

// enter limits the requests that are relayed. The caller calls done if ok.
func (hs *homes) enter() (done func(), ok bool) {
	select {
	case hs.relayed <- struct{}{}:
		return func() { <-hs.relayed }, true
	default:
		return nil, false
	}
}

// receiveElsewhere answers a request to receive for a session of another machine, if there
// is one. Else handled is false.
func (e *Endpoint) receiveElsewhere(w http.ResponseWriter, r *http.Request, kind *framing, callback string, key sessionKey, by *claimant, number int64) (handled bool) {
	for try := 0; ; try++ {
		rl, wrong := e.relayTo(r, key, by, relayReceive, number, number <= 1)
		switch {
		case wrong != nil:
			e.abandonUnfound(e.relayed(key, by, relayReceive, number))
			failRelay(w, wrong)
			return true
		case rl == nil:
			if number > 1 { // a machine that is cut off, or about to join, may have it
				e.abandonUnfound(e.relayed(key, by, relayReceive, number))
			}
			return false
		}
		done, ok := e.Sessions.homes.enter()
		if !ok {
			failRelay(w, errRelay)
			return true
		}
		wrong, gone := rl.receive(w, r, kind, callback)
		done()
		switch {
		case wrong == nil:
			return true
		case gone && try == 0: // by now another machine may have it, or none
			continue
		case gone && number <= 1:
			return false
		}
		failRelay(w, wrong)
		return true
	}
}

// receive gets a frame from the home, and writes it.
func (rl *relay) receive(w http.ResponseWriter, r *http.Request, kind *framing, callback string) (wrong *httpError, gone bool) {
	e := rl.e
	rl.request.Within = e.ResponseTime
	leave, ends := e.Sessions.relaying(rl, r.ProtoMajor)
	if ends || e.retired.Load() && r.ProtoMajor == 3 {
		rl.request.Within = time.Millisecond
	}
	a, frame, err := rl.await(r.Context(), nil)
	for err == nil && a.Status == 0 && len(frame) < a.Total {
		q := rl.request
		q.Offset = len(frame)
		var more []byte
		if a, more, err = rl.ask(r.Context(), q, nil); len(more) == 0 {
			break
		}
		frame = append(slices.Clip(frame), more...)
	}
	leave()
	if r.Context().Err() != nil {
		rl.written(false, "the client cancelled the request")
		return nil, false
	}
	if wrong, gone = rl.failed(a, err); wrong != nil {
		if err != nil && !gone {
			go rl.written(false, "the servers lost each other") //nolint:gosec // G118: the request may end before the other server can be told
		}
		return wrong, gone
	}
	if len(frame) != a.Total {
		rl.written(false, "the frame was lost between two servers")
		rl.abandon()
		return errHome, false
	}
	response := newResponse(w, kind, callback, r.ProtoMajor, e.patience())
	response.socket = socketFor(r)
	response.bye = string(frame)
	inOrder := response.serve(r.Context())
	if !a.Last {
		rl.written(inOrder, response.reason())
		if inOrder && response.hasLeft(r.Context()) {
			rl.abandon() // it did not wait: the home may hang
		}
	}
	return nil, false
}

// written tells the home whether the frame was written. It waits for the answer: the client
// must not make its next request before the home knows.
func (rl *relay) written(ok bool, why string) {
	q := rl.request
	q.Do, q.OK, q.Away = relayWritten, ok, rl.e.Sessions.pulse.wasAway() && !rl.e.Sessions.pulse.wasBusy()
	if !ok {
		q.Why = why
	}
	for range 2 { // a message may be lost
		_, _, err := rl.ask(context.Background(), q, nil)
		if err == nil {
			return
		}
		if !errors.Is(err, context.DeadlineExceeded) {
			break
		}
	}
	// The home hangs. It ends the session when it hears this, unless it has heard of the
	// client's next request. Without numbers, it could not tell.
	if !ok || q.Number > 0 {
		rl.abandon()
	}
}

// hurry has the home end the response, maybe before the home knows of it. Else the response
// ends by itself a little later.
func (rl *relay) hurry() {
	q := rl.request
	q.Do = relayHurry
	for range 10 {
		if !rl.e.Sessions.relays.isPassing(rl) {
			return
		}
		_, _, _ = rl.ask(context.Background(), q, nil)
		time.Sleep(100 * time.Millisecond)
	}
}

// sendElsewhere answers a request to send for a session of another machine, if there is one.
// Else handled is false.
func (e *Endpoint) sendElsewhere(w http.ResponseWriter, r *http.Request, key sessionKey, by *claimant, jsonp bool) (handled bool) {
	rl, wrong := e.relayTo(r, key, by, relaySend, 0, false)
	if rl == nil && wrong == nil {
		return false
	}
	done, ok := e.Sessions.homes.enter()
	if !ok {
		wrong = errRelay
	} else {
		defer done()
	}
	if wrong != nil {
		LeaveBody(w, r)
		failRelay(w, wrong)
		return true
	}
	most := bodyLimit(e.Policy.Limits)
	read := e.readBy(w, r, e.patience().message)
	body, wrong := readBody(w, r, jsonp, most)
	read()
	if wrong == nil {
		rl.request.Number, wrong = requestNumber(r)
	}
	if wrong != nil {
		LeaveBody(w, r)
		fail(w, wrong)
		return true
	}
	for try := 0; ; try++ {
		a, err := rl.send(r.Context(), body)
		var gone bool
		if wrong, gone = rl.failed(a, err); !gone || try > 0 {
			break
		}
		next, failed := e.relayTo(r, key, by, relaySend, rl.request.Number, false)
		if failed != nil {
			wrong = failed
		}
		if next == nil {
			break // and no machine has the session
		}
		rl = next
	}
	if wrong != nil {
		failRelay(w, wrong)
		return true
	}
	tookBody(w, jsonp)
	return true
}

// send gives a body to the home, in pieces, and returns what it says.
func (rl *relay) send(ctx context.Context, body []byte) (a relayAnswer, err error) {
	rl.request.Total = len(body)
	for ; len(body)-rl.request.Offset > relayPiece; rl.request.Offset += relayPiece {
		q, at := rl.request, rl.request.Offset
		if a, _, err = rl.ask(ctx, q, body[at:at+relayPiece]); err != nil || !a.Pending {
			return a, err
		}
	}
	a, _, err = rl.await(ctx, body[rl.request.Offset:])
	return a, err
}
