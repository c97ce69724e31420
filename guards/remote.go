// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.opentelemetry.io/otel/trace"

	"github.com/push-it/pushit/guards/internal/placeholder"
	"github.com/push-it/pushit/hub"
)

const (
	// defaultInFlight is how many questions a guard asks at once: less than what a
	// pool of php-fpm workers or of database connections is often sized for.
	defaultInFlight = 64
	// fullRetry is the advice to who waited in vain for a place.
	fullRetry = 5 * time.Second
	// denialTTL is the longest that a denial is kept: who has just been given
	// rights must not be told for long that there are none.
	denialTTL = time.Second
	// maxKept and maxKeptBytes bound the answers that a guard keeps.
	maxKept      = 10_000
	maxKeptBytes = 32 << 20
)

// Sparing says how a guard spares what it asks. It is part of the guards route,
// forward_auth and ask.
//
// Equal questions that are asked at the same time are always asked once, but for
// those of publish, unsubscribe and disconnect.
type Sparing struct {
	// Cache is how long an answer is kept, for questions that are equal in all that
	// the answer can depend on: gate, namespace, channel, host, client address,
	// the query and the header fields the session was opened with, user,
	// credentials, and what the guard names and sends. Default: 0, not at all.
	//
	// Denials are kept for a second at most; never kept are failures, answers with
	// Cache-Control: no-store, and answers to publish, unsubscribe and disconnect.
	Cache caddy.Duration `json:"cache,omitempty"`
	// Key is what makes questions equal for the cache, in place of all that: words
	// with placeholders. Gate and namespace always count. What is left out here
	// gives one agent the answer that another got.
	Key []string `json:"key,omitempty"`
	// InFlight is how many questions are asked at once; further ones wait for at
	// most 30 s, and their agents take turns. Default: 64.
	InFlight int `json:"in_flight,omitempty"`
}

func (s *Sparing) validate() error {
	switch {
	case s.Cache < 0:
		return errors.New("cache: the time to keep answers cannot be negative")
	case s.InFlight < 0:
		return errors.New("in_flight: it must be 1 or more")
	case len(s.Key) > 0 && s.Cache == 0:
		return errors.New("key says what makes questions equal for the cache: write cache <ttl> too")
	case len(s.Key) > 0 && len(placeholder.In(strings.Join(s.Key, " "))) == 0:
		return errors.New("key: without a placeholder everybody would get the first one's answer; write for example: key {pushit.agent.user} {pushit.channel}")
	}
	for _, name := range placeholder.In(strings.Join(s.Key, " ")) {
		// One that is misspelt is empty for everybody, who would all get the first
		// one's answer.
		if err := placeholder.CheckInMatcher(name, new(placeholder.Reads)); err != nil {
			return fmt.Errorf("key: %w", err)
		}
	}
	return nil
}

// A remote asks something outside this process on behalf of a guard: the same
// only once at a time, only so much at once, and not what it knows already.
type remote struct {
	Sparing

	named   []string // the question's placeholders that the guard names
	looked  []string // other placeholders that it names and that are looked up when a session opens
	sure    []string // those of them without which nothing is asked: handlers of its own do not set them
	foreign []string // others that it names and that are not in the snapshot

	print   hub.Fingerprint // of the gate that it is asked in; "" if that is not known
	poolKey string          // under what the state is in remoteStates; "" if it is not
	*remoteState
}

// A remoteState is what is asked and was answered. It belongs to the guard as it is
// written, not to one configuration: questions of the one before still run after a
// reload, and count.
type remoteState struct {
	mu      sync.Mutex // guards the following; no lock is taken under it
	running int
	waiting turns
	calls   map[key]*call // that others can join
	kept    kept
}

func newRemoteState() *remoteState { return &remoteState{calls: make(map[key]*call)} }

// remoteStates holds them for as long as a configuration has the guard: the new one
// takes its reference before the old one gives back its own.
var remoteStates = caddy.NewUsagePool()

// Destruct implements caddy.Destructor: what is kept is of no more use. Calls under
// way end by themselves, as those who wait for them do.
func (s *remoteState) Destruct() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept = kept{}
	return nil
}

// share gives r the state of the guard that is written alike in another
// configuration of the same endpoint, where there is one. print is that of the
// gate; answers of a gate with another one are not used. It is called once, before
// anything is asked.
func (r *remote) share(poolKey string, print hub.Fingerprint) error {
	r.print = print
	state, _, err := remoteStates.LoadOrNew(poolKey, func() (caddy.Destructor, error) { return newRemoteState(), nil })
	if err != nil {
		return err
	}
	r.poolKey, r.remoteState = poolKey, state.(*remoteState)
	return nil
}

// A key is a hash of what makes questions equal: as clients choose much of that,
// it must be one for which nobody finds two that meet.
type key [sha256.Size]byte

// A call is a question being asked, and who waits for the answer. It is asked by
// a goroutine of its own, so that whoever leaves leaves the others theirs.
type call struct {
	agent  *hub.Agent // who asked first
	key    key        // zero if it is asked for one alone
	store  key        // what the answer is kept by; zero if it is not
	ask    func(ctx context.Context) outcome
	ctx    context.Context //nolint:containedctx // ends when nobody waits any more
	cancel context.CancelFunc

	started chan struct{} // closed when it has a place
	done    chan struct{} // closed when out is set
	out     outcome

	waiters int // guarded by remote.mu
}

// An outcome is an answer and what is to be known to keep it.
type outcome struct {
	Answer
	noStore bool
	size    int // bytes, about
}

// newRemote prepares s for a guard with the configuration raw.
func newRemote(s Sparing, reach *reach) (*remote, error) {
	if err := s.validate(); err != nil {
		return nil, err
	}
	if s.InFlight == 0 {
		s.InFlight = defaultInFlight
	}
	r := &remote{Sparing: s, remoteState: newRemoteState()}
	var err error
	if r.looked, err = placeholder.ToLookUp(reach.texts, reach.others); err != nil {
		return nil, err
	}
	vars := make([]string, len(reach.vars))
	for i, variable := range reach.vars {
		vars[i] = placeholder.VarsPrefix + variable
	}
	r.looked, err = placeholder.Filter(slices.Concat(r.looked, vars, placeholder.In(strings.Join(s.Key, " "))), func(string) bool { return true })
	if err != nil {
		return nil, err
	}
	for _, name := range r.looked {
		if variable, isVar := strings.CutPrefix(name, placeholder.VarsPrefix); !isVar || !placeholder.SetsVar(reach.texts, variable) {
			r.sure = append(r.sure, name)
		}
	}
	var names []string
	for _, text := range reach.texts {
		named, err := placeholder.InJSON(text)
		if err != nil {
			return nil, err
		}
		names = append(names, named...)
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		switch {
		case slices.Contains(r.looked, name):
		case strings.HasPrefix(name, placeholder.Prefix):
			r.named = append(r.named, name)
		case !placeholder.IsInSnapshot(name) && placeholder.IsVariable(name):
			r.foreign = append(r.foreign, name)
		}
	}
	return r, nil
}

// isShared reports whether the questions of a gate can be asked once for many.
// A publish is an act, and the others tell a backend of something that happened.
func isShared(gate hub.GateName) bool {
	return gate != hub.GatePublish && gate != hub.GateUnsubscribe && gate != hub.GateDisconnect
}

// decide answers q from what is kept, with others that ask the same, or by asking.
// sent is what ask sends of q that is not otherwise part of the key. ask may
// outlive decide, and q.
func (r *remote) decide(ctx context.Context, q *Question, sent []byte, ask func(ctx context.Context, q *Question) outcome) Answer {
	values, err := r.values(ctx, q)
	if err != nil {
		return Answer{Kind: Unavailable, Err: err}
	}
	own := *q // the chain goes on with q when this one has left
	c := &call{agent: q.Agent, ask: func(ctx context.Context) outcome { return ask(ctx, &own) }}
	if isShared(q.Gate) {
		c.key = q.key(r.print, values, sent)
		if r.Cache > 0 {
			c.store = c.key
			if len(r.Key) > 0 {
				if c.store, err = r.operatorsKey(ctx, q); err != nil {
					return Answer{Kind: Unavailable, Err: err}
				}
			}
		}
	}
	// The span it is asked in is that of who asked first.
	c.ctx = trace.ContextWithSpanContext(context.Background(), trace.SpanContextFromContext(ctx))
	c, answer, ok := r.join(c)
	if ok {
		return answer
	}
	return r.wait(ctx, q, c)
}

// values returns those of the placeholders that the guard names. An error says
// that one must not get into a request.
func (r *remote) values(ctx context.Context, q *Question) ([]string, error) {
	o := q.Agent.Opening()
	for _, name := range r.sure {
		if err := placeholder.Lacks(o, name); err != nil {
			return nil, err
		}
	}
	values := make([]string, 0, len(r.named)+len(r.looked)+len(r.foreign))
	for _, name := range r.looked {
		value, kind := placeholder.LookUp(o, name)
		values = append(values, string(kind)+value)
	}
	for _, name := range r.named {
		value, err := q.placeholder(name)
		if err != nil {
			return nil, err
		}
		values = append(values, value)
	}
	if len(r.foreign) == 0 {
		return values, nil
	}
	req, err := q.Request(ctx)
	if err != nil {
		return nil, err
	}
	repl := req.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	for _, name := range r.foreign {
		value, _ := repl.GetString(name)
		values = append(values, value)
	}
	return values, unanswerable(req)
}

// appendRules appends what stands for the rules that an answer is given by: the
// fingerprint of the gate, or where that is not known what no other policy has.
func (q *Question) appendRules(b []byte, print hub.Fingerprint) []byte {
	if print == "" {
		return binary.LittleEndian.AppendUint64(append(b, 'g'), q.Env.Generation)
	}
	return appendField(append(b, 'p'), string(print))
}

// key is the hash of all that an answer to q can depend on, in a gate with that
// fingerprint.
func (q *Question) key(print hub.Fingerprint, values []string, sent []byte) key {
	o := q.Agent.Opening()
	peer, _, err := net.SplitHostPort(o.RemoteAddr)
	if err != nil {
		peer = o.RemoteAddr
	}
	b := make([]byte, 0, 512+len(o.Header)+len(o.URI)+len(q.Credentials)+len(sent))
	b = q.appendRules(b, print)
	for _, s := range []string{
		string(q.Gate), o.Namespace, q.Channel, strconv.FormatBool(q.Pattern), o.Scheme, o.Host, o.URI, o.Header,
		o.RemoteIP.String(), peer, q.User(), string(q.Credentials), string(sent),
	} {
		b = appendField(b, s)
	}
	for _, f := range q.Learned.Header {
		b = appendField(appendField(b, f.Name), f.Value)
	}
	b = append(b, 0xff) // no length begins so: what follows is no header field
	for _, v := range values {
		b = appendField(b, v)
	}
	return sha256.Sum256(b)
}

// appendField appends s so that two lists of strings are equal only if all their
// strings are.
func appendField(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint64(b, uint64(len(s))), s...)
}

// operatorsKey is the hash of what the operator says that an answer depends on.
func (r *remote) operatorsKey(ctx context.Context, q *Question) (key, error) {
	req, err := q.Request(ctx)
	if err != nil {
		return key{}, err
	}
	repl := req.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	b := q.appendRules(nil, r.print)
	b = appendField(appendField(b, string(q.Gate)), q.Agent.Opening().Namespace)
	for _, template := range r.Key {
		b = appendField(b, repl.ReplaceAll(template, ""))
	}
	return sha256.Sum256(b), unanswerable(req)
}

// join returns the answer to c if it is kept, else the call to wait for: one that
// is under way, or c.
func (r *remote) join(c *call) (_ *call, _ Answer, answered bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.store != (key{}) {
		if a, ok := r.kept.get(c.store, time.Now()); ok {
			return nil, a, true
		}
	}
	if c.key != (key{}) {
		if under := r.calls[c.key]; under != nil {
			under.waiters++
			return under, Answer{}, false
		}
		r.calls[c.key] = c
	}
	c.waiters = 1
	c.started, c.done = make(chan struct{}), make(chan struct{})
	c.ctx, c.cancel = context.WithCancel(c.ctx)
	if r.running < r.InFlight {
		r.running++
		r.startLocked(c)
	} else {
		r.waiting.push(c)
	}
	return c, Answer{}, false
}

// startLocked asks c, which has a place.
func (r *remote) startLocked(c *call) {
	close(c.started)
	go r.run(c)
}

// run asks c, in a goroutine of its own that nobody waits for, since what it asks
// may not heed its context. It keeps its place until it has returned.
func (r *remote) run(c *call) {
	c.out = c.asked()
	now := time.Now()
	r.mu.Lock()
	r.forgetLocked(c)
	if c.store != (key{}) {
		r.kept.put(c.store, c.out, time.Duration(r.Cache), now)
	}
	if next := r.waiting.pop(); next != nil {
		r.startLocked(next)
	} else {
		r.running--
	}
	r.mu.Unlock()
	close(c.done)
	c.cancel()
}

func (c *call) asked() (out outcome) {
	defer func() {
		if p := recover(); p != nil {
			out = outcome{Answer: Answer{Kind: Unavailable, Err: fmt.Errorf("panic: %v", p)}}
		}
	}()
	return c.ask(c.ctx)
}

// forgetLocked sees to it that nobody else joins c.
func (r *remote) forgetLocked(c *call) {
	if r.calls[c.key] == c {
		delete(r.calls, c.key)
	}
}

// leave says that one of those who waited for c does not any more.
func (r *remote) leave(c *call) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.waiters--; c.waiters > 0 {
		return
	}
	r.forgetLocked(c)
	r.waiting.remove(c)
	c.cancel()
}

// errFull is why a question was not asked.
var errFull = errors.New("all places to ask were taken for " + QueueWait.String() + " (in_flight)")

// errLate is why an answer was not waited for any longer.
var errLate = errors.New("no answer in time")

// wait waits for the answer to c: first for its place, which has its own limit,
// then for as long as q leaves.
func (r *remote) wait(ctx context.Context, q *Question, c *call) Answer {
	place := time.NewTimer(QueueWait)
	defer place.Stop()
	select {
	case <-c.started:
	case <-place.C:
		r.leave(c)
		return Answer{Kind: Unavailable, Retry: fullRetry, Err: errFull}
	case <-ctx.Done():
		r.leave(c)
		return Answer{Kind: Unavailable, Err: ctx.Err()}
	}
	var late <-chan time.Time
	if q.Left != nil {
		begin := time.Now()
		defer func() { *q.Left -= time.Since(begin) }()
		left := time.NewTimer(*q.Left)
		defer left.Stop()
		late = left.C
	}
	select {
	case <-c.done:
		return c.out.Answer
	case <-late:
		r.leave(c)
		return Answer{Kind: Unavailable, Err: errLate}
	case <-ctx.Done():
		r.leave(c)
		return Answer{Kind: Unavailable, Err: ctx.Err()}
	}
}

// cleanup is for the guard's.
func (r *remote) cleanup() error {
	if r == nil || r.poolKey == "" {
		return nil
	}
	poolKey := r.poolKey
	r.poolKey = ""
	_, err := remoteStates.Delete(poolKey)
	return err
}
