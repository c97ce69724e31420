// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/push-it/pushit/guards/internal/placeholder"
	"github.com/push-it/pushit/guards/internal/upstream"
	"github.com/push-it/pushit/hub"
)

const (
	// defaultInFlight is how many questions a guard asks at once: fewer than pools of
	// php-fpm workers or of database connections often have.
	defaultInFlight = 64
	// fullRetry is when an agent should try again that found no place in the queue.
	fullRetry = 5 * time.Second
	// denialTTL is the longest that a denial is cached, so that users who have just got
	// a right are not refused for long.
	denialTTL = time.Second
)

// BackendOptions limit how often a guard asks its backend. They are part of the guards
// route, forward_auth and ask.
//
// Equal questions at the same time are always asked only once, except those of publish,
// unsubscribe and disconnect.
type BackendOptions struct {
	// Cache is how long an answer is cached. It is used again for questions that are
	// equal in everything that the answer can depend on: gate, namespace, channel, host,
	// client address, the query and the header fields the session was opened with, user,
	// credentials, and what the guard names and sends. Default: 0, which caches nothing.
	//
	// Denials are cached for at most a second. Failures, answers with
	// Cache-Control: no-store, and answers to publish, unsubscribe and disconnect are
	// never cached.
	Cache caddy.Duration `json:"cache,omitempty"`
	// Key replaces all that as what makes questions equal for the cache: words with
	// placeholders. Gate and namespace always count. If you leave something out here,
	// one agent can get the answer that was given to another.
	Key []string `json:"key,omitempty"`
	// InFlight is how many questions are asked at once. Further questions wait for at
	// most 30 s, and their agents take turns. Default: 64.
	InFlight int `json:"in_flight,omitempty"`
}

func (o *BackendOptions) validate() error {
	switch {
	case o.Cache < 0:
		return errors.New("cache: the time to keep answers cannot be negative")
	case o.InFlight < 0:
		return errors.New("in_flight: it must be 1 or more")
	case len(o.Key) > 0 && o.Cache == 0:
		return errors.New("key has no effect without cache: write cache <ttl> too")
	case len(o.Key) > 0 && len(placeholder.In(strings.Join(o.Key, " "))) == 0:
		return errors.New("key: without a placeholder, everybody would get the answer to the first agent; write for example: key {pushit.agent.user} {pushit.channel}")
	}
	for _, name := range placeholder.In(strings.Join(o.Key, " ")) {
		// A misspelt placeholder is empty for everybody, so everybody would get the first
		// agent's answer.
		if err := placeholder.CheckInMatcher(name, new(placeholder.Reads)); err != nil {
			return fmt.Errorf("key: %w", err)
		}
	}
	return nil
}

// unmarshalOption reads one of the options from a Caddyfile.
func (o *BackendOptions) unmarshalOption(d *caddyfile.Dispenser) (own bool, err error) {
	switch d.Val() {
	case "cache":
		var text string
		if !d.AllArgs(&text) {
			return true, d.Errf("cache takes a duration: cache 10s")
		}
		ttl, err := caddy.ParseDuration(text)
		if err != nil || ttl <= 0 {
			return true, d.Errf("cache takes a duration, for example 10s, not %q", text)
		}
		o.Cache = caddy.Duration(ttl)
	case "key":
		if o.Key = d.RemainingArgs(); len(o.Key) == 0 {
			return true, d.Errf("key takes the placeholders that the answer depends on: key {pushit.agent.user} {pushit.channel}")
		}
	case "in_flight":
		var text string
		if !d.AllArgs(&text) {
			return true, d.Errf("in_flight takes the number of questions to ask at once: in_flight 64")
		}
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return true, d.Errf("in_flight takes a number of 1 or more, not %q", text)
		}
		o.InFlight = n
	default:
		return false, nil
	}
	return true, nil
}

// A backend asks something outside this process on behalf of a guard.
type backend struct {
	BackendOptions

	asker *upstream.Asker[Answer]
	names upstream.Names
	reach *upstream.Reach
	gate  hub.Fingerprint // the fingerprint of the guard's gate; "" if unknown
}

// newBackend returns the backend of a guard whose configuration reaches what reach says.
func newBackend(o BackendOptions, reach *upstream.Reach) (*backend, error) {
	if err := cmp.Or(o.validate(), reach.Err); err != nil {
		return nil, err
	}
	if o.InFlight == 0 {
		o.InFlight = defaultInFlight
	}
	names, err := reach.Names(o.Key)
	if err != nil {
		return nil, err
	}
	return &backend{BackendOptions: o, asker: upstream.NewAsker[Answer](o.InFlight), names: names, reach: reach}, nil
}

// An outcome is an answer, and what its caching depends on.
type outcome struct {
	Answer
	noStore bool
	size    int // bytes, roughly
}

// keep returns for how long an answer may be cached.
func (o *outcome) keep(ttl time.Duration, now time.Time) time.Duration {
	switch {
	case o.noStore:
		return 0
	case o.Kind == Deny:
		ttl = min(ttl, denialTTL)
	case o.Kind != Pass:
		return 0
	}
	if e := o.Learned.Expires; !e.IsZero() {
		ttl = min(ttl, e.Sub(now))
	}
	return ttl
}

// isShared reports whether a question of a gate can be asked once for many agents. A
// publish is an act, and unsubscribe and disconnect tell the backend of an event.
func isShared(gate hub.GateName) bool {
	return gate != hub.GatePublish && gate != hub.GateUnsubscribe && gate != hub.GateDisconnect
}

// decide answers q from the cache, together with agents that ask the same, or by asking
// the backend. sent is what ask sends of q that is not part of the key otherwise. ask may
// outlive decide, and q.
func (b *backend) decide(ctx context.Context, q *Question, sent []byte, ask func(ctx context.Context, q *Question) outcome) Answer {
	values, err := b.values(ctx, q)
	if err != nil {
		return undecided(err)
	}
	var key, store upstream.Key
	if isShared(q.Gate) {
		key = q.key(b.gate, values, sent)
		if b.Cache > 0 {
			store = key
			if len(b.Key) > 0 {
				if store, err = b.operatorsKey(ctx, q); err != nil {
					return undecided(err)
				}
			}
			if answer, ok := b.asker.Cached(store); ok {
				return answer
			}
		}
	}
	own := *q // the chain may go on with q while the backend is still being asked
	uq := &upstream.Question[Answer]{Agent: q.Agent, Key: key, Store: store, Left: q.Left}
	uq.Ask = func(ctx context.Context) upstream.Outcome[Answer] {
		out := ask(ctx, &own)
		return upstream.Outcome[Answer]{Answer: out.Answer, Keep: out.keep(time.Duration(b.Cache), time.Now()), Size: out.size}
	}
	if early := q.early; early != nil {
		uq.Late = func(err error) { early(Answer{Kind: Unavailable, Err: err}) }
	}
	answer, err := b.asker.Ask(ctx, uq)
	switch {
	case errors.Is(err, upstream.ErrFull):
		return Answer{Kind: Unavailable, Retry: fullRetry, Err: err}
	case err != nil:
		return Answer{Kind: Unavailable, Err: err}
	}
	return answer
}

// values returns the values of the placeholders that the guard names. The error says
// that a value must not get into a request.
func (b *backend) values(ctx context.Context, q *Question) ([]string, error) {
	o := q.Agent.Opening()
	for _, name := range b.names.Required {
		if err := placeholder.Lacks(o, name); err != nil {
			return nil, err
		}
	}
	values := make([]string, 0, len(b.names.Question)+len(b.names.LookedUp)+len(b.names.Request))
	for _, name := range b.names.LookedUp {
		value, kind := placeholder.LookUp(o, name)
		values = append(values, string(kind)+value)
	}
	for _, name := range b.names.Question {
		value, err := q.placeholder(name)
		if err != nil {
			return nil, err
		}
		values = append(values, value)
	}
	if len(b.names.Request) == 0 && b.reach.Compared.NeedsNothing(q.Pattern) {
		return values, nil
	}
	req, err := q.Request(ctx)
	if err != nil {
		return nil, err
	}
	if err := q.fooled(req, &b.reach.Compared); err != nil {
		return nil, err
	}
	repl := req.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	for _, name := range b.names.Request {
		value, _ := repl.GetString(name)
		values = append(values, value)
	}
	return values, upstream.Unanswerable(req)
}

// appendRules appends what identifies the rules behind an answer: the fingerprint of the
// gate, or, if that is unknown, the generation of the policy.
func (q *Question) appendRules(b []byte, gate hub.Fingerprint) []byte {
	if gate == "" {
		return binary.LittleEndian.AppendUint64(append(b, 'g'), q.Env.Generation)
	}
	return upstream.AppendField(append(b, 'p'), string(gate))
}

// key is the hash of everything that an answer to q can depend on, in a gate with that
// fingerprint.
func (q *Question) key(gate hub.Fingerprint, values []string, sent []byte) upstream.Key {
	o := q.Agent.Opening()
	address, uri := o.RemoteAddr(), o.URI()
	peer, _, err := net.SplitHostPort(address)
	if err != nil {
		peer = address
	}
	header, ownHeader := o.HeaderKey()
	b := make([]byte, 0, 512+len(header)+len(ownHeader)+len(uri)+len(q.Credentials)+len(sent))
	b = q.appendRules(b, gate)
	for _, s := range []string{
		string(q.Gate), o.Namespace(), q.Channel, strconv.FormatBool(q.Pattern), o.Scheme(), o.Host(), uri, header, ownHeader,
		o.RemoteIP().String(), peer, q.User(), string(q.Credentials), string(sent),
	} {
		b = upstream.AppendField(b, s)
	}
	for _, f := range q.Learned.Header {
		b = upstream.AppendField(upstream.AppendField(b, f.Name), f.Value)
	}
	b = append(b, 0xff) // no field begins with this byte, so what follows is no header field
	for _, v := range values {
		b = upstream.AppendField(b, v)
	}
	return upstream.KeyOf(b)
}

// operatorsKey is the hash of what the operator's key says that an answer depends on.
func (b *backend) operatorsKey(ctx context.Context, q *Question) (upstream.Key, error) {
	req, err := q.Request(ctx)
	if err != nil {
		return upstream.Key{}, err
	}
	repl := req.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	fields := q.appendRules(nil, b.gate)
	fields = upstream.AppendField(upstream.AppendField(fields, string(q.Gate)), q.Agent.Opening().Namespace())
	for _, template := range b.Key {
		fields = upstream.AppendField(fields, repl.ReplaceAll(template, ""))
	}
	return upstream.KeyOf(fields), upstream.Unanswerable(req)
}

// A handlerGuard is what those guards have in common that ask through one of Caddy's
// HTTP handlers.
type handlerGuard struct {
	handler caddyhttp.MiddlewareHandler
	backend *backend
	copied  []string // header fields that the handler copies from responses
}

// provision prepares the handler in the HandlerRaw field of a guard.
func (g *handlerGuard) provision(ctx caddy.Context, guard any, field *json.RawMessage, o BackendOptions) (err error) {
	raw := *field
	if len(raw) == 0 {
		return errors.New("handler is missing: it is the HTTP handler to ask")
	}
	var named struct {
		Handler string `json:"handler"`
	}
	if err := json.Unmarshal(raw, &named); err != nil {
		return err
	}
	reach := upstream.ReachOf(ctx, "http.handlers."+named.Handler, raw)
	for _, text := range reach.Texts {
		if _, err := placeholder.CheckHandler(text); err != nil {
			return err
		}
		if err := placeholder.CheckSent(text); err != nil {
			return err
		}
		g.copied = append(g.copied, upstream.CopiedBy(text)...)
	}
	slices.Sort(g.copied)
	g.copied = slices.Compact(g.copied)
	if g.backend, err = newBackend(o, reach); err != nil {
		return err
	}
	if bytes.Contains(raw, []byte(`"fastcgi"`)) {
		*field, err = upstream.Changed(raw, func(handler map[string]any) { placeholder.EachObject(handler, upstream.BoundFastCGI) })
		if err != nil {
			return err
		}
	}
	module, err := ctx.LoadModule(guard, "HandlerRaw")
	if err != nil {
		return fmt.Errorf("loading the handler: %w", err)
	}
	handler, ok := module.(caddyhttp.MiddlewareHandler)
	if !ok {
		return fmt.Errorf("%T is not an HTTP handler", module)
	}
	g.handler = handler
	return nil
}

// answersEarly implements earlyAnswerer.
func (*handlerGuard) answersEarly() bool { return true }

// Remote implements Remote.
func (*handlerGuard) Remote() {}

// LearnsHeaders implements HeaderLearner.
func (g *handlerGuard) LearnsHeaders() []string { return g.copied }

// ReadsSnapshot implements SnapshotReader.
func (g *handlerGuard) ReadsSnapshot() []string { return g.backend.names.LookedUp }

// onPatterns implements patternAware.
func (g *handlerGuard) onPatterns() error {
	if g.backend == nil { // the guard was parsed, but not provisioned
		return nil
	}
	return g.backend.reach.OnPatterns()
}

// Cleanup implements caddy.CleanerUpper.
func (g *handlerGuard) Cleanup() error {
	if g.backend == nil {
		return nil
	}
	return g.backend.asker.Release()
}

// share implements sharer.
func (g *handlerGuard) share(poolKey string, gate hub.Fingerprint) error {
	if g.backend == nil { // the guard was parsed, but not provisioned
		return nil
	}
	g.backend.gate = gate
	return g.backend.asker.Share(poolKey)
}

// A sharer is a guard with a part that outlives a configuration.
type sharer interface {
	// share uses that part of the guard with the same pool key in another configuration.
	// gate is the fingerprint of the gate: answers of a gate with another fingerprint
	// are not used. It is called once, before the first question.
	share(poolKey string, gate hub.Fingerprint) error
}

// shareAll lets the guards of a gate share what equal guards in the same gate of the
// same endpoint have. seen counts equal guards.
func shareAll(c *Chain, seen map[string]int) (err error) {
	if c.env.Mount == "" {
		return nil
	}
	walk(c.guards, func(g NamedGuard) {
		s, ok := g.Guard.(sharer)
		if !ok || g.text == (upstream.Sum{}) || err != nil {
			return
		}
		poolKey := fmt.Sprintf("%s\x00%s\x00%x", c.env.Mount, c.gate, g.text)
		seen[poolKey]++
		err = s.share(fmt.Sprintf("%s\x00%d", poolKey, seen[poolKey]), c.print)
	})
	return err
}

// Interface guards
var (
	_ Remote             = (*handlerGuard)(nil)
	_ HeaderLearner      = (*handlerGuard)(nil)
	_ caddy.CleanerUpper = (*handlerGuard)(nil)
)
