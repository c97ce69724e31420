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
// again, and it is not published twice (PROTOCOL.md, "Repeated publishes").
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
	// position is that of its message in the history, or empty.
	position string
	// its elements in the two lists that hold it
	inAll, inOwn *list.Element
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
// Of one that is not new, note returns the position, if published has noted it.
func (r *repeats) note(now time.Time, who, channel, uuid string, data []byte) (key publishKey, kind repeatKind, position string) {
	key = publishKey{r.sum(0, who, channel, uuid), r.sum(1, who, channel, uuid)}
	owner := maphash.String(r.seeds[0], who)
	content := maphash.Bytes(r.seeds[1], data)

	r.mu.Lock()
	defer r.mu.Unlock()
	r.expireLocked(now)
	if seen := r.byKey[key]; seen != nil {
		if seen.data == content {
			return key, repeatSame, seen.position
		}
		return key, repeatConflict, ""
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
	e := &remembered{key: key, who: owner, data: content, at: now.Sub(r.begin)}
	e.inAll, e.inOwn = r.all.PushBack(e), own.PushBack(e)
	r.byKey[key] = e
	return key, repeatNew, ""
}

// published notes the position that a message got in the history.
func (r *repeats) published(key publishKey, position string) {
	if position == "" {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.byKey[key]; e != nil {
		e.position = position
	}
}

// forget undoes note.
func (r *repeats) forget(keys ...publishKey) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, key := range keys {
		if e := r.byKey[key]; e != nil {
			r.removeLocked(e)
		}
	}
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
