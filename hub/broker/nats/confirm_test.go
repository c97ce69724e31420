// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package nats

import (
	"errors"
	"testing"
	"time"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/internal/natsserver"
)

// NATS may say that it has a message, and not have it. The answer counts when the message was
// seen.
func TestAnswersOfTheStream(t *testing.T) { eachVersion(t, testAnswersOfTheStream) }

func testAnswersOfTheStream(t *testing.T, v *natsserver.Version) {
	r := started(t, Options{Hub: "answers", URLs: []string{v.New(t, "").URL()}, Log: logger(t)})
	for _, id := range []string{"gone", "there", "other"} { // 1, 2 and 3
		r.say(t, message("a", id))
		await(t, "the message", func() bool { return r.has(id) })
	}
	if err := r.call(patience, "STREAM.MSG.DELETE."+r.names.stream, map[string]any{"seq": 1}, new(struct{})); err != nil {
		t.Fatal(err)
	}
	changed := hub.NewMessage("a", "there", []byte(`"y"`)).By("test")
	for name, c := range map[string]struct {
		answer publishAnswer
		m      *hub.Message
		seq    uint64 // of the outcome; 0: there is none
		seen   bool   // so its time is known
		err    error  // the outcome; ErrUnknown: it is tried again
	}{
		"it is there":                       {publishAnswer{Seq: 2}, message("a", "there"), 2, true, nil},
		"it was there before":               {publishAnswer{Seq: 2, Duplicate: true}, message("a", "there"), 2, true, nil},
		"it was there, with other data":     {publishAnswer{Seq: 2, Duplicate: true}, changed, 0, false, hub.ErrConflict},
		"it was dropped meanwhile":          {publishAnswer{Seq: 1}, message("a", "gone"), 1, false, nil},
		"the first one was dropped":         {publishAnswer{Seq: 1, Duplicate: true}, message("a", "gone"), 1, false, nil},
		"another one has its place":         {publishAnswer{Seq: 3}, message("a", "there"), 0, false, hub.ErrUnknown},
		"another one has that of the first": {publishAnswer{Seq: 3, Duplicate: true}, message("a", "there"), 0, false, hub.ErrUnknown},
		"the stream has lost it":            {publishAnswer{Seq: 4}, message("a", "lost"), 0, false, hub.ErrUnknown},
		"the stream has lost the first one": {publishAnswer{Seq: 4, Duplicate: true}, message("a", "lost"), 0, false, hub.ErrUnknown},
		"the first one has no place yet":    {publishAnswer{Duplicate: true}, message("a", "lost"), 0, false, hub.ErrUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			again := errors.Is(c.err, hub.ErrUnknown)
			var at hub.Position
			var err error
			await(t, "the outcome", func() bool { // a busy server may not answer in time
				p := publishing{b: r.Broker, waiter: waiter{message: c.m, events: make(chan event, 1)}, id: c.m.ID(), deadline: time.Now()}
				p.events <- event{answer: &c.answer}
				never := make(<-chan struct{})
				var over bool
				at, err, over = p.await(nil, &never)
				return over != again
			})
			if again {
				return
			}
			if !errors.Is(err, c.err) || at.Seq != c.seq || (at.Check != hub.Position{}.Check) != c.seen {
				t.Errorf("%+v, %v", at, err)
			}
		})
	}
}
