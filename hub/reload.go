// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// reloadPace is the time that is set aside for each agent when what they have is
// asked for again after a reload: 500 of them a second. More of them than half the
// grace has room for are asked about faster.
const reloadPace = 2 * time.Millisecond

// A Reload is what becomes of the agents of a generation that Drop has ended.
type Reload struct {
	// Immutable after Drop.
	to     *Policy       // nil when the endpoint is gone
	agents int           // that there were
	spread time.Duration // over which questions are spread

	open atomic.Int64  // agents that are not done with, and one while bring runs
	done chan struct{} // closed when open is 0; never sent on

	asked, ended, cut, late tally

	mu     sync.Mutex // guards the following; no other lock is taken under it
	urgent []*Agent   // that have something to write, and wait for bring
}

// hurry has bring see to the agent before those that have nothing to write.
func (r *Reload) hurry(a *Agent) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.urgent = append(r.urgent, a)
}

// migrateUrgent sees to the agents that wait to be written to.
func (r *Reload) migrateUrgent() {
	for {
		r.mu.Lock()
		last := len(r.urgent) - 1
		if last < 0 {
			r.mu.Unlock()
			return
		}
		a := r.urgent[last]
		r.urgent = r.urgent[:last]
		r.mu.Unlock()
		a.migrate(false)
	}
}

// A tally counts an effect of one reload, and of all reloads of the hub.
type tally struct {
	one atomic.Int64
	all *atomic.Uint64 // immutable after newReload
}

func (t *tally) Add(n int) {
	t.one.Add(int64(n))
	t.all.Add(uint64(n))
}

func (t *tally) Load() int64 { return t.one.Load() }

func (h *Hub) newReload() *Reload {
	all := &h.counts.reload
	return &Reload{
		done:  make(chan struct{}),
		asked: tally{all: &all[ReloadAsked]},
		ended: tally{all: &all[ReloadEnded]},
		cut:   tally{all: &all[ReloadCut]},
		late:  tally{all: &all[ReloadLate]},
	}
}

// Effects are what a reload has done.
type Effects struct {
	// Agents is how many sessions have come under the new generation, or were
	// closed because there is none.
	Agents int
	// Asked is how many questions gates were asked about what agents had.
	Asked int
	// Ended is how many subscriptions were ended.
	Ended int
	// Cut is how many sessions were closed.
	Cut int
	// Late is how many of both were so because their gate did not answer within
	// Policy.Grace.
	Late int
}

// Done is closed when all that the agents had is decided: at the latest after the
// grace of their new policy.
func (r *Reload) Done() <-chan struct{} { return r.done }

// Effects returns what was done up to now.
func (r *Reload) Effects() Effects {
	return Effects{
		Agents: r.agents,
		Asked:  int(r.asked.Load()),
		Ended:  int(r.ended.Load()),
		Cut:    int(r.cut.Load()),
		Late:   int(r.late.Load()),
	}
}

// To returns the policy that the agents have come under, nil if there is none.
func (r *Reload) To() *Policy { return r.to }

// countAsked counts a question. r may be nil.
func (r *Reload) countAsked() {
	if r != nil {
		r.asked.Add(1)
	}
}

// leave says that one agent is done with.
func (r *Reload) leave() {
	if r.open.Add(-1) == 0 {
		close(r.done)
	}
}

// Drop ends the generation p. Its agents go on under the newest one of the same
// Mount, which takes hold of them at once: before the next message reaches an
// agent, and before the next frame of its is handled, what it has is looked at.
// Gates that have changed since they allowed it are asked again, those that answer
// from within this process there and then, others spread over some time, for
// which the old answer holds. Where there is no other generation, the agents are
// closed with CloseEndpoint.
//
// Drop does not wait for any of that: the Reload tells.
func (h *Hub) Drop(p *Policy) *Reload {
	r := h.newReload()
	r.open.Store(1)
	h.mu.Lock()
	left := slices.DeleteFunc(h.policies[p.Mount], func(q *Policy) bool { return q == p })
	if len(left) == 0 {
		delete(h.policies, p.Mount)
	} else {
		h.policies[p.Mount] = left
		r.to = left[len(left)-1]
		r.spread = min(time.Duration(len(h.agents))*reloadPace, r.to.Grace/2)
	}
	var agents []*Agent
	for a := range h.agents {
		if a.policy.Load() != p {
			continue
		}
		agents = append(agents, a)
		if r.to != nil {
			r.open.Add(1)
			if before := a.reload.Swap(r); before != nil {
				before.leave()
			}
			a.policy.Store(r.to)
		}
	}
	h.mu.Unlock()
	r.agents = len(agents)
	if r.to == nil {
		for _, a := range agents {
			a.Close(CloseEndpoint, "this endpoint is no longer served", NoRetry)
		}
		r.cut.Add(len(agents))
		r.leave()
		return r
	}
	h.counts.reload[ReloadMoved].Add(uint64(len(agents)))
	go r.run(agents)
	return r
}

// bring has the agents come under their new policy. It is not the only one that
// does: whoever is about to write to an agent, or handles its frames, sees to it.
func (r *Reload) run(agents []*Agent) {
	defer r.leave()
	var wg sync.WaitGroup
	var next atomic.Int64
	for range min(max(runtime.GOMAXPROCS(0), 2), len(agents)) { // one slow gate does not hold up all
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(agents)); i = next.Add(1) - 1 {
				r.migrateUrgent()
				agents[i].migrate(false)
				agents[i].migrated()
			}
		})
	}
	wg.Wait()
}
