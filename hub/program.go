// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/push-it/pushit/internal/jsontext"
)

// MaxPublicationChannels is the maximum number of channels of one Publication.
const MaxPublicationChannels = 16

// A Publication is what a program publishes with one message of a request.
type Publication struct {
	// Channels are where it goes: 1 to MaxPublicationChannels names, each once.
	Channels []string
	// UUID identifies it. Within two minutes, the server publishes a message with the same
	// UUID of the same program once. If UUID is empty, the server makes one.
	UUID string
	// Data is one JSON value.
	Data []byte

	// Except, if not empty, is an agentId. Agents that connected with it do not get the
	// message live.
	Except string
	// NoHistory keeps it out of the history.
	NoHistory bool

	several bool // the program wrote channels, so the answer names them
}

// programPrefix begins the names under which repeats remembers programs.
const programPrefix = "api\x00"

// A Receipt is the result of a Publication.
type Receipt struct {
	UUID string
	// Subscriptions is how many subscriptions of this machine it was queued for.
	Subscriptions int
	// Position is that of the message, if its channel has a history. If the program wrote
	// channels, Positions has those of all channels with a history instead.
	Position  string
	Positions map[string]string
	// Repeated says that it was published before on each of its channels, and not again.
	Repeated bool
}

// placed notes the position that p got on a channel.
func (r *Receipt) placed(p *Publication, channel, position string) {
	switch {
	case position == "":
	case !p.several:
		r.Position = position
	default:
		if r.Positions == nil {
			r.Positions = make(map[string]string, len(p.Channels))
		}
		r.Positions[channel] = position
	}
}

// DecodePublication decodes a JSON object with channel or channels, data, and maybe uuid,
// except and history. Any other key is an error. With a Refusal, the Publication has the
// uuid if that could be read.
func DecodePublication(object []byte) (p Publication, r *Refusal) {
	s := jsontext.Scan(object)
	defer s.Release()
	var channel, channels, id, data, except, history []byte
	var space bool // in data
	if wrong := scanObject(s, object, `a message must be an object, like {"channel":"news","data":1}`, func(key []byte, from, to int) {
		value := object[from:to:to]
		switch string(key) {
		case "channel":
			channel = value
		case "channels":
			channels = value
		case "uuid":
			id = value
		case "data":
			data, space = value, s.SkippedSpace()
		case "except":
			except = value
		case "history":
			history = value
		case "echo":
			if r == nil {
				r = refuse(CodeInvalid, `a program gets no messages, so its messages have no echo: to keep a message from the page that caused it, write "except" and the page's agentId`)
			}
		default:
			if r == nil {
				r = refuse(CodeInvalid, "a message has no "+jsontext.Excerpt(key)+": its keys are channel or channels, data, uuid, except and history")
			}
		}
	}); wrong != nil {
		return p, wrong
	}
	if id != nil {
		text, wrong := frameID(nil, "uuid", id)
		if wrong != nil {
			return p, wrong
		}
		p.UUID = string(text)
	}
	if r == nil && except != nil {
		var text []byte
		text, r = frameID(nil, "except", except)
		p.Except = string(text)
	}
	if r == nil {
		p.NoHistory, r = frameIsOff("history", history)
	}
	if r == nil {
		p.several = channels != nil
		p.Channels, r = publicationChannels(channel, channels)
	}
	if r == nil && data == nil {
		r = refuse(CodeInvalid, "data is missing: write null for a message without data")
	}
	if space {
		data = jsontext.Compact(make([]byte, 0, len(data)), data)
	}
	p.Data = data
	return p, r
}

// publicationChannels reads channel or channels. One of them must be there.
func publicationChannels(channel, channels []byte) ([]string, *Refusal) {
	var list []json.RawMessage
	switch {
	case channel != nil && channels != nil:
		return nil, refuse(CodeInvalid, "write channel or channels, not both")
	case channels == nil:
		list = []json.RawMessage{channel}
	case json.Unmarshal(channels, &list) != nil || len(list) == 0 || len(list) > MaxPublicationChannels:
		return nil, refuse(CodeInvalid, fmt.Sprintf("channels must be an array of 1 to %d names", MaxPublicationChannels))
	}
	names := make([]string, 0, len(list))
	for _, value := range list {
		text, r := frameChannel(nil, value)
		if r == nil {
			r = CheckName(string(text), MaxNameLength)
		}
		if r != nil {
			return nil, r
		}
		if name := string(text); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names, nil
}

// A Program is a backend that publishes with HTTP requests, without a session. One
// goroutine at a time may use it.
type Program struct {
	agent *Agent // gates are asked about it. It has no Conn, and the hub does not list it
	lease lease
	from  *Sender // of all its messages
	who   string  // under which repeats remembers it

	inside bool // it is within the server: no gate decides about it
}

// ServesPrograms reports whether p has the gate api.
func (p *Policy) ServesPrograms() bool { return p.gate(GateAPI, "") != nil }

// Authorize asks the gate api of p about the program that made a request. This gate
// replaces connect and publish: a program that it allows may publish on all channels.
func (h *Hub) Authorize(ctx context.Context, p *Policy, o Opening) (*Program, *Refusal) {
	if r := h.goingAway(); r != nil {
		return nil, r
	}
	a := h.newAgent(o)
	a.policy.Store(p)
	pr := &Program{agent: a}
	return pr, pr.authorize(ctx)
}

// ShowsStatus reports whether p has the gate debug, which decides who sees the status page.
func (p *Policy) ShowsStatus() bool { return p.gate(GateDebug, "") != nil }

// AuthorizeStatus asks the gate debug of p about somebody who wants to see the status page.
func (h *Hub) AuthorizeStatus(ctx context.Context, p *Policy, o Opening) *Refusal {
	if r := h.goingAway(); r != nil {
		return r
	}
	a := h.newAgent(o)
	a.policy.Store(p)
	v, _ := a.askAboutRequest(ctx, GateDebug)
	return v.Refusal
}

// authorize asks the gate of the newest policy of the program's endpoint.
func (pr *Program) authorize(ctx context.Context) *Refusal {
	a := pr.agent
	v, g := a.askAboutRequest(ctx, GateAPI)
	if v.Refusal != nil {
		return v.Refusal
	}
	a.identify(v.Identity)
	pr.from, pr.who = &Sender{User: a.User()}, programPrefix+a.User()
	pr.lease = newLease(&v, fingerprintOf(g), a.hub.timers.now())
	return nil
}

// askAboutRequest asks a gate of the newest policy of the endpoint about a request without a
// session. Without that gate, the request is refused.
func (a *Agent) askAboutRequest(ctx context.Context, name GateName) (Verdict, Gate) {
	p := a.hub.newest(a.policy.Load().Mount)
	if p == nil {
		return Verdict{Refusal: refuse(CodeUnavailable, "this endpoint is no longer served")}, nil
	}
	a.policy.Store(p)
	g := p.gate(name, "")
	if g == nil {
		return Verdict{Refusal: refuse(CodeDenied, "this is not allowed")}, nil
	}
	q := &Question{Gate: name, Agent: a, Identity: noIdentity}
	return q.askAndWait(ctx, g), g
}

// isCurrent reports whether the gate's last answer still holds. A request can last for
// hours, and its gate can change or its lease can end meanwhile.
func (pr *Program) isCurrent() bool {
	a := pr.agent
	if pr.inside {
		return true
	}
	p, now := a.hub.newest(a.policy.Load().Mount), a.hub.timers.now()
	if p == nil || p != a.policy.Load() && !fingerprintOf(p.gate(GateAPI, "")).is(pr.lease.by) {
		return false
	}
	a.policy.Store(p)
	next := pr.lease.next()
	return next == 0 || next > now
}

// Check returns what is wrong with p, if it can never be published.
func (pr *Program) Check(p Publication) *Refusal {
	limits := pr.agent.policy.Load().Limits
	if len(p.Data) > limits.MessageSize {
		return refuse(CodeTooLarge, fmt.Sprintf("the data has %d bytes; at most %d are allowed", len(p.Data), limits.MessageSize))
	}
	for _, ch := range p.Channels {
		if r := CheckName(ch, limits.NameLength); r != nil {
			return r
		}
	}
	return nil
}

// Publish publishes p on all of its channels. If there is a Refusal, nothing was
// published, unless it is CodeUnavailable: then it may have been published on some of the
// channels, and repeating it with the same UUID publishes it on the others.
func (pr *Program) Publish(ctx context.Context, p Publication) (Receipt, *Refusal) {
	if !pr.isCurrent() {
		if r := pr.authorize(ctx); r != nil {
			return Receipt{}, r
		}
	}
	receipt, r := pr.publish(ctx, p)
	if r != nil && !pr.inside {
		pr.agent.refused(GateAPI, strings.Join(p.Channels, " "), r)
	}
	return receipt, r
}

// publish publishes p for a program that may publish.
func (pr *Program) publish(ctx context.Context, p Publication) (Receipt, *Refusal) {
	a := pr.agent
	if r := pr.Check(p); r != nil {
		return Receipt{}, r
	}
	limits := a.policy.Load().Limits
	if wait, ok := a.hub.programs.take(a.hub.timers.now(), limits.APIPublishesPerSecond, len(p.Channels)); !ok && !pr.inside {
		r := refuse(CodeLimit, fmt.Sprintf("more than %d publishes a second by programs", limits.APIPublishesPerSecond))
		r.Retry = wait
		return Receipt{}, r
	}
	receipt := Receipt{Repeated: true}
	for channels := p.Channels; len(channels) > 0; {
		fresh, notes, open, r := pr.withoutRepeats(&p, channels, &receipt)
		if r == nil {
			r = pr.publishFresh(ctx, &p, fresh, notes, &receipt)
		}
		if r != nil {
			return Receipt{}, r
		}
		channels = channels[:0:0]
		for ch, note := range open { // only now: another request may wait for this one
			select {
			case <-note.ended:
				channels = append(channels, ch)
			case <-ctx.Done():
				return Receipt{}, errPublishAgain
			}
		}
	}
	receipt.UUID = p.UUID
	return receipt, nil
}

var errPublishAgain = &Refusal{CodeUnavailable, "the server could not publish the message; try again with the same uuid", time.Second}

// publishFresh publishes p on channels where it is new. notes are what repeats noted for them,
// or nil.
func (pr *Program) publishFresh(ctx context.Context, p *Publication, fresh []string, notes []*remembered, receipt *Receipt) *Refusal {
	a := pr.agent
	messages := make([]*Message, len(fresh))
	for i, ch := range fresh {
		messages[i] = pr.message(p, ch)
		if a.policy.Load().delivery(ch).Existing && !a.hub.exists(messages[i]) {
			a.hub.repeats.forget(notes...)
			return missing(ch)
		}
	}
	for i, ch := range fresh {
		m := messages[i]
		at, err := a.hub.Publish(ctx, m)
		if err != nil {
			if len(notes) > 0 {
				a.hub.repeats.forget(notes[i:]...)
			}
			if errors.Is(err, ErrConflict) {
				return uuidUsed(ch)
			}
			a.hub.logFailure(a.policy.Load().Log, m, err)
			return errPublishAgain
		}
		receipt.Repeated = false
		receipt.Subscriptions += int(m.queued.Load())
		position := at.ofKept(m)
		receipt.placed(p, ch, position)
		if len(notes) > 0 {
			a.hub.repeats.published(position, notes[i])
		}
	}
	return nil
}

// message returns the message of p on a channel.
func (pr *Program) message(p *Publication, channel string) *Message {
	a := pr.agent
	policy := a.policy.Load()
	m := NewMessage(channel, p.UUID, p.Data).in(a.opening.Namespace()).By(pr.who)
	m.From = pr.from
	m.conflate = policy.conflates(channel, policy.delivery(channel))
	if p.Except != "" {
		m.except = &exclusion{agentID: p.Except}
	}
	if !p.NoHistory {
		m.keepBy(policy)
	}
	return m
}

// withoutRepeats returns those of the channels that p was not published on before, and what
// repeats noted for them; and those where it is being published, with what to wait for. It adds
// the positions of the others to receipt. A message without a uuid repeats nothing: it gets a
// uuid and no note.
func (pr *Program) withoutRepeats(p *Publication, channels []string, receipt *Receipt) (fresh []string, notes []*remembered, open map[string]*remembered, r *Refusal) {
	if p.UUID == "" {
		p.UUID = uuid.NewString()
		return channels, nil, nil, nil
	}
	a := pr.agent
	for _, ch := range channels {
		note, kind, position := a.hub.repeats.note(time.Now(), pr.who, keyOf(a.opening.Namespace(), ch), p.UUID, p.Data)
		switch kind {
		case repeatConflict:
			a.hub.repeats.forget(notes...)
			return nil, nil, nil, uuidUsed(ch)
		case repeatSame:
			a.hub.counts.drop(DropRepeated, 1)
			receipt.placed(p, ch, position)
		case repeatOpen:
			if open == nil {
				open = make(map[string]*remembered)
			}
			open[ch] = note
		default:
			fresh, notes = append(fresh, ch), append(notes, note)
		}
	}
	return fresh, notes, open, nil
}

func uuidUsed(channel string) *Refusal {
	return refuse(CodeInvalid, "this uuid was already used for other data on "+channel)
}

// newest returns the newest policy of a mount, nil if there is none.
func (h *Hub) newest(mount string) *Policy {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := h.policies[mount]
	if len(all) == 0 {
		return nil
	}
	return all[len(all)-1]
}

// A sharedBucket is a bucket for many goroutines.
type sharedBucket struct {
	mu sync.Mutex // guards b; no other lock is taken under it
	b  bucket
}

func (s *sharedBucket) take(now time.Duration, rate, n int) (wait time.Duration, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.takeN(now, rate, n)
}
