// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"container/list"
	"slices"
	"time"

	"github.com/push-it/pushit/hub"
)

// turns are calls that wait for a place. Agents take turns, so that one that asks
// much does not hold up those that ask little. Its zero value is empty.
type turns struct {
	lines list.List // of *line: the agent whose turn it is comes first
	of    map[*hub.Agent]*list.Element
}

// A line is what one agent waits for, first come first served. It is never empty.
type line struct {
	agent *hub.Agent
	calls []*call
}

// push adds a call behind those of its agent.
func (t *turns) push(c *call) {
	if e := t.of[c.agent]; e != nil {
		l := e.Value.(*line)
		l.calls = append(l.calls, c)
		return
	}
	if t.of == nil {
		t.of = make(map[*hub.Agent]*list.Element)
	}
	t.of[c.agent] = t.lines.PushBack(&line{agent: c.agent, calls: []*call{c}})
}

// pop removes and returns the call whose turn it is, nil if there is none.
func (t *turns) pop() *call {
	e := t.lines.Front()
	if e == nil {
		return nil
	}
	l := e.Value.(*line)
	c := l.calls[0]
	t.drop(e, 0)
	if len(l.calls) > 0 {
		t.lines.MoveToBack(e)
	}
	return c
}

// remove takes a call out, if it is there.
func (t *turns) remove(c *call) {
	if e := t.of[c.agent]; e != nil {
		if i := slices.Index(e.Value.(*line).calls, c); i >= 0 {
			t.drop(e, i)
		}
	}
}

func (t *turns) drop(e *list.Element, i int) {
	l := e.Value.(*line)
	l.calls = slices.Delete(l.calls, i, i+1)
	if len(l.calls) == 0 {
		t.lines.Remove(e)
		delete(t.of, l.agent)
	}
}

// kept are answers, those used longest ago forgotten first. Its zero value is
// empty.
type kept struct {
	entries map[key]*list.Element
	recent  list.List // of *keptAnswer, the last used first
	bytes   int
}

type keptAnswer struct {
	key    key
	answer Answer
	until  time.Time
	size   int
}

// get returns the answer that is kept by k.
func (k *kept) get(by key, now time.Time) (Answer, bool) {
	e := k.entries[by]
	if e == nil {
		return Answer{}, false
	}
	a := e.Value.(*keptAnswer)
	if !now.Before(a.until) {
		k.drop(e)
		return Answer{}, false
	}
	k.recent.MoveToFront(e)
	return a.answer, true
}

// put keeps an answer, if it is one to be kept, for at most ttl.
func (k *kept) put(by key, o outcome, ttl time.Duration, now time.Time) {
	const overhead = 256 // of an entry itself
	switch {
	case o.noStore:
		return
	case o.Kind == Deny:
		ttl = min(ttl, denialTTL)
	case o.Kind != Pass:
		return
	}
	until := now.Add(ttl)
	if e := o.Learned.Expires; !e.IsZero() && e.Before(until) {
		until = e
	}
	if e := k.entries[by]; e != nil {
		k.drop(e)
	}
	if k.entries == nil {
		k.entries = make(map[key]*list.Element)
	}
	a := &keptAnswer{key: by, answer: o.Answer, until: until, size: o.size + overhead}
	k.entries[by] = k.recent.PushFront(a)
	k.bytes += a.size
	for len(k.entries) > maxKept || k.bytes > maxKeptBytes {
		k.drop(k.recent.Back())
	}
}

func (k *kept) drop(e *list.Element) {
	a := k.recent.Remove(e).(*keptAnswer)
	delete(k.entries, a.key)
	k.bytes -= a.size
}
