// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"container/list"
	"time"
)

// maxAnswers and maxAnswerBytes bound an answerCache.
const (
	maxAnswers     = 10_000
	maxAnswerBytes = 32 << 20
)

// An answerCache holds answers. When it is full, it drops the answer that was not used
// for the longest time. The zero value is an empty cache.
type answerCache[A any] struct {
	entries map[Key]*list.Element
	recent  list.List // of *cachedAnswer, the most recently used first
	bytes   int
}

type cachedAnswer[A any] struct {
	key    Key
	answer A
	until  time.Time
	size   int
}

// get returns the answer stored under a key.
func (c *answerCache[A]) get(key Key, now time.Time) (answer A, ok bool) {
	e := c.entries[key]
	if e == nil {
		return answer, false
	}
	cached := e.Value.(*cachedAnswer[A])
	if !now.Before(cached.until) {
		c.drop(e)
		return answer, false
	}
	c.recent.MoveToFront(e)
	return cached.answer, true
}

// put stores an answer for the time that its Keep says.
func (c *answerCache[A]) put(key Key, o *Outcome[A], now time.Time) {
	const overhead = 256 // bytes of an entry itself
	if o.Keep <= 0 {
		return
	}
	if e := c.entries[key]; e != nil {
		c.drop(e)
	}
	if c.entries == nil {
		c.entries = make(map[Key]*list.Element)
	}
	cached := &cachedAnswer[A]{key: key, answer: o.Answer, until: now.Add(o.Keep), size: o.Size + overhead}
	c.entries[key] = c.recent.PushFront(cached)
	c.bytes += cached.size
	for len(c.entries) > maxAnswers || c.bytes > maxAnswerBytes {
		c.drop(c.recent.Back())
	}
}

func (c *answerCache[A]) drop(e *list.Element) {
	cached := c.recent.Remove(e).(*cachedAnswer[A])
	delete(c.entries, cached.key)
	c.bytes -= cached.size
}
