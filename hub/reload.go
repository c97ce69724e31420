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

// reloadPace spreads the questions after a reload: 500 agents a second. If that took
// longer than half of the grace period, they are asked about faster.
const reloadPace = 2 * time.Millisecond

// A Reload follows the agents of a generation that Drop has ended, until everything about
// them is decided.
type Reload struct {
	// Immutable after Drop.
	to     *Policy       // nil if the endpoint is gone
	agents int           // how many agents the generation had
	spread time.Duration // the time over which questions are spread

	open atomic.Int64  // agents about which something is undecided, plus one while run runs
	done chan struct{} // closed when open is 0; never sent on

	asked, ended, cut, late tally

	mu     sync.Mutex // guards the following; no other lock is taken under it
	urgent []*Agent   // agents that have something to write, and wait for their migration
}

// hurry makes run migrate the agent before those that have nothing to write.
func (r *Reload) hurry(a *Agent) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.urgent = append(r.urgent, a)
}

// migrateUrgent migrates the urgent agents.
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

// Effects count what a reload has done.
type Effects struct {
	// Agents is how many sessions moved to the new generation, or were closed because
	// there is none.
	Agents int
	// Asked is how many questions gates were asked about existing leases.
	Asked int
	// Ended is how many subscriptions were revoked.
	Ended int
	// Cut is how many sessions were closed.
	Cut int
	// Late is how many of Ended and Cut happened because a gate did not answer within
	// Policy.Grace.
	Late int
}

// Done returns a channel that is closed when all leases of the agents are decided, at the
// latest after Policy.Grace.
func (r *Reload) Done() <-chan struct{} { return r.done }

// Effects returns what the reload has done up to now.
func (r *Reload) Effects() Effects {
	return Effects{
		Agents: r.agents,
		Asked:  int(r.asked.Load()),
		Ended:  int(r.ended.Load()),
		Cut:    int(r.cut.Load()),
		Late:   int(r.late.Load()),
	}
}

// countAsked counts a question. r may be nil.
func (r *Reload) countAsked() {
	if r != nil {
		r.asked.Add(1)
	}
}

// leave notes that everything about one agent is decided.
func (r *Reload) leave() {
	if r.open.Add(-1) == 0 {
		close(r.done)
	}
}

// Drop ends the generation p. Its agents move to the newest generation of the same Mount.
// If there is none, Drop closes them with CloseEndpoint.
//
// Each agent is migrated before it gets its next message, and before its next frame is
// handled. The migration compares the gates that granted the agent's leases with the gates
// of the new policy:
//
//   - If a gate is the same, the lease goes on and nothing is asked.
//   - If a gate has changed and answers at once, it is asked there and then.
//   - If a gate has changed and asks a backend, it is asked soon. The lease goes on
//     meanwhile, for Policy.Grace at most, and ends if there is no answer by then. The
//     questions are spread over some time, to protect the backend.
//
// A subscription that the connect gate made stays as long as that gate makes it. If the
// answer of a new connect gate changes who the agent is, all its subscriptions are asked
// about. A subscription that still catches up with kept messages ends if another gate
// decides about these now. The client subscribes again.
//
// If the new gate refuses a subscription, it is revoked: the agent is told, and messages
// of it that still wait are dropped. If the new gate refuses the connect, the session is
// closed with CloseCut.
//
// Drop does not wait for any of this; see Reload.Done.
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
	h.limitHistoryLocked()
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

// run migrates the agents. A goroutine that is about to write to an agent, or handles a
// frame of it, does not wait for run: it migrates the agent itself.
func (r *Reload) run(agents []*Agent) {
	defer r.leave()
	var wg sync.WaitGroup
	var next atomic.Int64
	for range min(max(runtime.GOMAXPROCS(0), 2), len(agents)) { // at least two, so that a slow gate does not delay all
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
