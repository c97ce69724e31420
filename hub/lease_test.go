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
			if l.again != c.again || l.ends != c.ends || l.by != "gate" {
				t.Errorf("%s: asked again at %v, ends at %v; want %v and %v", name, l.again, l.ends, c.again, c.ends)
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
		if l.again != 0 || l.ends != 100*time.Second || !l.asked {
			t.Errorf("asked again at %v, ends at %v, being asked %t", l.again, l.ends, l.asked)
		}
		longer := Verdict{Expires: time.Now().Add(200 * time.Second)}
		l.renew(&longer, "gate", 90*time.Second)
		if l.again == 0 || l.ends != 290*time.Second {
			t.Errorf("prolonged: asked again at %v, ends at %v", l.again, l.ends)
		}
	})
}

func TestLeaseInItsGracePeriod(t *testing.T) {
	const now, grace = time.Hour, time.Minute
	l := lease{by: "old", wants: byTime}
	l.startGrace(now, grace, time.Second)
	if !l.grace || l.wants != byFrame || l.ends < now+grace*9/10 || l.ends > now+grace || l.again < now || l.again > now+time.Second {
		t.Fatalf("%+v", l)
	}
	ends := l.ends
	l.startGrace(now+grace/2, grace, 0)
	if l.ends != ends {
		t.Errorf("a second reload has moved the end from %v to %v", ends, l.ends)
	}
	if why := l.look(now + grace/2); why != byReload {
		t.Errorf("asked for reason %d, want that of a reload", why)
	}
	l.postpone(now+grace/2, time.Second, grace)
	if l.ends != ends || l.again < now+grace/2+time.Second || l.again > now+grace/2+2*time.Second {
		t.Errorf("postponed: asked again at %v, ends at %v", l.again, l.ends)
	}
	if l.hasEnded(ends-1) || !l.hasEnded(ends) {
		t.Errorf("it does not end at %v", ends)
	}
	shorter := lease{ends: now + time.Second}
	shorter.startGrace(now, grace, 0)
	if shorter.ends != now+time.Second {
		t.Errorf("the grace period has prolonged a lease to %v", shorter.ends)
	}
}

// If the gate of a lease without an end cannot decide, the lease gets an end.
func TestLeaseThatIsPostponedEnds(t *testing.T) {
	var l lease
	l.postpone(time.Hour, time.Second, time.Minute)
	if l.ends != time.Hour+time.Minute || l.again != time.Hour+time.Second {
		t.Errorf("%+v", l)
	}
}

func TestLeasesAreTakenOneAfterTheOther(t *testing.T) {
	a, b, c := &subscription{channel: "a"}, &subscription{channel: "b"}, &subscription{channel: "c"}
	ls := leases{subs: []*subscription{a, b, c}}
	ls.connect.again, a.lease.again, b.lease.again, c.lease.again = 3, 2, 1, 9
	b.lease.grace = true
	c.lease.ends = 4
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
	a.lease.again = 6
	if ls.look(7); a.lease.wants != byFrame || a.lease.again != 0 {
		t.Error("what is being asked is to be asked once more")
	}
}
