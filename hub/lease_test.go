// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestLeaseOfAVerdict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const now = time.Hour
		for name, c := range map[string]struct {
			verdict     Verdict
			again, ends time.Duration
		}{
			"for ever":                         {Verdict{}, 0, 0},
			"recheck":                          {Verdict{Recheck: time.Minute}, now + time.Minute, 0},
			"expires: asked a tenth before":    {Verdict{Expires: time.Now().Add(100 * time.Second)}, now + 90*time.Second, now + 100*time.Second},
			"expires: asked 30 s before":       {Verdict{Expires: time.Now().Add(time.Hour)}, now + time.Hour - expiryLead, now + time.Hour},
			"recheck before the end":           {Verdict{Expires: time.Now().Add(100 * time.Second), Recheck: time.Second}, now + time.Second, now + 100*time.Second},
			"recheck after the end counts not": {Verdict{Expires: time.Now().Add(100 * time.Second), Recheck: time.Hour}, now + 90*time.Second, now + 100*time.Second},
			"expired":                          {Verdict{Expires: time.Now().Add(-time.Hour)}, now, now},
		} {
			l := newLease(&c.verdict, "gate", now)
			if got := l.terms(); got.again != c.again || got.ends != c.ends || l.by != "gate" {
				t.Errorf("%s: asked again at %v, ends at %v; want %v and %v", name, got.again, got.ends, c.again, c.ends)
			}
			if limited := c.again != 0 || c.ends != 0; limited != (l.noted != nil) {
				t.Errorf("%s: it has terms: %t", name, !limited)
			}
			want := c.again
			if want == 0 || c.ends != 0 && c.ends < want {
				want = c.ends
			}
			if l.next() != want {
				t.Errorf("%s: next at %v, want %v", name, l.next(), want)
			}
		}
	})
}

// If a gate gives the same end again, it is not asked a third time before it.
func TestLeaseThatIsNotProlonged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := Verdict{Expires: time.Now().Add(100 * time.Second)}
		l := newLease(&v, "gate", 0)
		time.Sleep(90 * time.Second)
		if l.look(90*time.Second) != byTime || l.take(true) != byFrame || l.take(false) != byTime {
			t.Fatal("its gate is not asked a tenth of its life before the end")
		}
		l.renew(&v, "gate", 90*time.Second)
		if got := l.terms(); got.again != 0 || got.ends != 100*time.Second || !got.asked {
			t.Errorf("asked again at %v, ends at %v, being asked %t", got.again, got.ends, got.asked)
		}
		longer := Verdict{Expires: time.Now().Add(200 * time.Second)}
		l.renew(&longer, "gate", 90*time.Second)
		if got := l.terms(); got.again == 0 || got.ends != 290*time.Second {
			t.Errorf("prolonged: asked again at %v, ends at %v", got.again, got.ends)
		}
		l.answered()
		if l.renew(&Verdict{}, "gate", 90*time.Second); l.noted != nil {
			t.Errorf("it is for ever, and keeps the terms %+v", l.terms())
		}
	})
}

func TestLeaseInItsGracePeriod(t *testing.T) {
	const now, grace = time.Hour, time.Minute
	l := lease{by: "old", noted: &terms{wants: byTime}}
	l.startGrace(now, grace, time.Second)
	got := l.terms()
	if !got.grace || got.wants != byFrame || got.ends < now+grace*9/10 || got.ends > now+grace || got.again < now || got.again > now+time.Second {
		t.Fatalf("%+v", got)
	}
	ends := got.ends
	l.startGrace(now+grace/2, grace, 0)
	if got = l.terms(); got.ends != ends {
		t.Errorf("a second reload has moved the end from %v to %v", ends, got.ends)
	}
	if why := l.look(now + grace/2); why != byReload {
		t.Errorf("asked for reason %d, want that of a reload", why)
	}
	l.postpone(now+grace/2, time.Second, grace)
	if got = l.terms(); got.ends != ends || got.again < now+grace/2+time.Second || got.again > now+grace/2+2*time.Second {
		t.Errorf("postponed: asked again at %v, ends at %v", got.again, got.ends)
	}
	if l.hasEnded(ends-1) || !l.hasEnded(ends) {
		t.Errorf("it does not end at %v", ends)
	}
	shorter := lease{noted: &terms{ends: now + time.Second}}
	shorter.startGrace(now, grace, 0)
	if got = shorter.terms(); got.ends != now+time.Second {
		t.Errorf("the grace period has prolonged a lease to %v", got.ends)
	}
}

// If the gate of a lease without an end cannot decide, the lease gets an end.
func TestLeaseThatIsPostponedEnds(t *testing.T) {
	var l lease
	l.postpone(time.Hour, time.Second, time.Minute)
	if got := l.terms(); got.ends != time.Hour+time.Minute || got.again != time.Hour+time.Second {
		t.Errorf("%+v", got)
	}
}

func TestLeasesAreTakenOneAfterTheOther(t *testing.T) {
	a, b, c := new(subscription), new(subscription), new(subscription)
	ls := leases{subs: []*subscription{a, b, c}}
	ls.connect.noted, a.lease.noted = &terms{again: 3}, &terms{again: 2}
	b.lease.noted, c.lease.noted = &terms{again: 1, grace: true}, &terms{again: 9, ends: 4}
	if ls.next() != 1 {
		t.Errorf("next at %d, want 1", ls.next())
	}
	due := ls.look(5)
	if len(due.ended) != 1 || due.ended[0] != c || !due.reload || !due.other {
		t.Errorf("due is %+v", due)
	}
	if _, s, why := ls.take(true); s != b || why != byReload {
		t.Errorf("because of a reload: %v for %d, want b", s, why)
	}
	if !ls.isWaiting() || !ls.isUndecided() {
		t.Error("the connect and a wait, and b is undecided")
	}
	for i, want := range []*subscription{nil, a} {
		if _, s, why := ls.take(false); s != want || why != byTime {
			t.Errorf("%d: %v for %d, want %v", i, s, why, want)
		}
	}
	if _, _, why := ls.take(false); why != byFrame || ls.isWaiting() {
		t.Error("there is one more")
	}
	a.lease.askBy(6)
	if ls.look(7); a.lease.terms().wants != byFrame || a.lease.terms().again != 0 {
		t.Error("what is being asked is to be asked once more")
	}
}

// TestPlainLeasesAllocateNothing: each subscription has one, and a reload renews all.
func TestPlainLeasesAllocateNothing(t *testing.T) {
	for name, act := range map[string]func(l *lease){
		"newLease":   func(l *lease) { *l = newLease(&Verdict{}, "", 0) },
		"startGrace": func(l *lease) { l.startGrace(0, time.Second, 0) },
	} {
		l := new(lease)
		act(l) // it may allocate the terms once
		if n := testing.AllocsPerRun(100, func() { act(l) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
