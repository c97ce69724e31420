// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"container/list"
	"slices"

	"github.com/push-it/pushit/hub"
)

// A fairQueue holds the calls that wait for a place. Agents take turns, so an agent
// with many questions does not delay an agent with few. The zero value is an empty
// queue.
type fairQueue[A any] struct {
	lines list.List // of *line; the agent at the front is next
	of    map[*hub.Agent]*list.Element
}

// A line holds the calls of one agent, oldest first. It is never empty.
type line[A any] struct {
	agent *hub.Agent
	calls []*call[A]
}

// push adds a call behind the other calls of its agent.
func (q *fairQueue[A]) push(c *call[A]) {
	if e := q.of[c.agent]; e != nil {
		l := e.Value.(*line[A])
		l.calls = append(l.calls, c)
		return
	}
	if q.of == nil {
		q.of = make(map[*hub.Agent]*list.Element)
	}
	q.of[c.agent] = q.lines.PushBack(&line[A]{agent: c.agent, calls: []*call[A]{c}})
}

// pop removes and returns the next call, or nil if the queue is empty.
func (q *fairQueue[A]) pop() *call[A] {
	e := q.lines.Front()
	if e == nil {
		return nil
	}
	l := e.Value.(*line[A])
	c := l.calls[0]
	q.drop(e, 0)
	if len(l.calls) > 0 {
		q.lines.MoveToBack(e)
	}
	return c
}

// remove removes a call, if it is in the queue.
func (q *fairQueue[A]) remove(c *call[A]) {
	if e := q.of[c.agent]; e != nil {
		if i := slices.Index(e.Value.(*line[A]).calls, c); i >= 0 {
			q.drop(e, i)
		}
	}
}

func (q *fairQueue[A]) drop(e *list.Element, i int) {
	l := e.Value.(*line[A])
	l.calls = slices.Delete(l.calls, i, i+1)
	if len(l.calls) == 0 {
		q.lines.Remove(e)
		delete(q.of, l.agent)
	}
}
