// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"container/list"
	"hash/maphash"
	"strings"
	"sync"
	"time"
)

// The hub remembers publishes. So a client that lost its connection can send a publish
// again, and it is not published twice (PROTOCOL.md, "Repeated publishes"). A log can take
// seconds, and fail then, while the client already repeats the publish in another session.
const (
	repeatFor     = 2 * time.Minute
	repeatsPerHub = 100_000
	repeatsPerOne = 1_000
	// repeatsPerProgram is repeatsPerOne for the requests of programs, which publish more:
	// no program has them all.
	repeatsPerProgram = repeatsPerHub / 2
)

// A repeatKind is the result of repeats.note.
type repeatKind uint8

const (
	repeatNew      repeatKind = iota // not seen before: publish it
	repeatSame                       // already published: only acknowledge it
	repeatConflict                   // the uuid was used for other data
	repeatOpen                       // the first one is being published: wait for its end
)

// A publishKey is a hash of publisher, channel and uuid: 128 bits, with secret seeds so
// that clients cannot make keys collide.
type publishKey [2]uint64

// A remembered is a publish that the hub remembers.
type remembered struct {
	key  publishKey
	who  uint64
	data uint64
	at   time.Duration // since repeats.begin
	// its elements in the two lists that hold it
	inAll, inOwn *list.Element

	over     bool          // it has been published, or was forgotten
	position string        // of its message in the history, or empty
	ended    chan struct{} // closed when it is over; nil unless a repeat waits for that
}

// repeats remembers publishes. Make one with newRepeats.
type repeats struct {
	begin time.Time
	seeds [2]maphash.Seed

	mu    sync.Mutex // guards the following; no other lock is taken under it
	byKey map[publishKey]*remembered
	byWho map[uint64]*list.List // of *remembered, oldest first
	all   *list.List            // of *remembered, oldest first
}

func newRepeats() *repeats {
	return &repeats{
		begin: time.Now(),
		seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()},
		byKey: make(map[publishKey]*remembered),
		byWho: make(map[uint64]*list.List),
		all:   list.New(),
	}
}

// note remembers a publish and reports whether it is new. The caller publishes a new one
// and calls published. If that fails, it calls forget, so that the client can try again.
// Of one that was published, note returns the position, if there is one.
//
// A publish can still fail, so nobody must acknowledge its repeats until it is over. The caller
// waits until e.ended is closed, and calls note again. It must have published all that is new
// before it waits, or two callers might wait for each other.
func (r *repeats) note(now time.Time, who, channel, uuid string, data []byte) (e *remembered, kind repeatKind, position string) {
	key := publishKey{r.sum(0, who, channel, uuid), r.sum(1, who, channel, uuid)}
	owner := maphash.String(r.seeds[0], who)
	content := maphash.Bytes(r.seeds[1], data)

	r.mu.Lock()
	defer r.mu.Unlock()
	r.expireLocked(now)
	if seen := r.byKey[key]; seen != nil {
		switch {
		case seen.data != content:
			return seen, repeatConflict, ""
		case seen.over:
			return seen, repeatSame, seen.position
		case seen.ended == nil:
			seen.ended = make(chan struct{})
		}
		return seen, repeatOpen, ""
	}
	own := r.byWho[owner]
	if own == nil {
		own = list.New()
		r.byWho[owner] = own
	}
	most := repeatsPerOne
	if strings.HasPrefix(who, programPrefix) {
		most = repeatsPerProgram
	}
	if own.Len() >= most {
		r.removeLocked(own.Front().Value.(*remembered))
	}
	if r.all.Len() >= repeatsPerHub {
		r.removeLocked(r.all.Front().Value.(*remembered))
		r.byWho[owner] = own // removeLocked has deleted it if that was its only entry
	}
	e = &remembered{key: key, who: owner, data: content, at: now.Sub(r.begin)}
	e.inAll, e.inOwn = r.all.PushBack(e), own.PushBack(e)
	r.byKey[key] = e
	return e, repeatNew, ""
}

// published notes that new ones were published. position is that of the message in the
// history, or empty.
func (r *repeats) published(position string, notes ...*remembered) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range notes {
		e.position = position
		e.endLocked()
	}
}

// forget undoes note.
func (r *repeats) forget(notes ...*remembered) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range notes {
		if r.byKey[e.key] == e { // else there were too many
			r.removeLocked(e)
		}
		e.endLocked()
	}
}

// endLocked has the repeats that wait for e go on.
func (e *remembered) endLocked() {
	if e.ended != nil && !e.over {
		close(e.ended)
	}
	e.over = true
}

// expire forgets publishes that are older than repeatFor.
func (r *repeats) expire(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.expireLocked(now)
}

func (r *repeats) expireLocked(now time.Time) {
	for front := r.all.Front(); front != nil; front = r.all.Front() {
		e := front.Value.(*remembered)
		if now.Sub(r.begin)-e.at < repeatFor {
			return
		}
		r.removeLocked(e)
	}
}

func (r *repeats) removeLocked(e *remembered) {
	delete(r.byKey, e.key)
	r.all.Remove(e.inAll)
	own := r.byWho[e.who]
	own.Remove(e.inOwn)
	if own.Len() == 0 {
		delete(r.byWho, e.who)
	}
}

func (r *repeats) sum(seed int, parts ...string) uint64 {
	var h maphash.Hash
	h.SetSeed(r.seeds[seed])
	for _, p := range parts {
		_, _ = h.WriteString(p) // never fails
		_ = h.WriteByte(0)      // ids and names hold no NUL
	}
	return h.Sum64()
}
