// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
)

// Operations that are refused without a gate of their own. See RefusalInfo.
const (
	opSession GateName = "session" // a session was not opened, or was closed because of a limit
	opFrame   GateName = "frame"   // a frame breaks the protocol
)

// A RefusalInfo is something that was refused, for operators. It has no credentials and no
// addresses.
type RefusalInfo struct {
	Node string    `json:"node,omitempty"` // the name of its machine; empty if there is only one
	Time time.Time `json:"time"`           // the last of Count
	// Operation is what was refused: the name of a gate, "session" for a session that was
	// not opened or that exceeded a limit, or "frame" for a frame that breaks the protocol.
	Operation GateName `json:"operation"`
	Code      Code     `json:"code"`
	// Guard is the guard that refused. It is empty if no guard did.
	Guard string `json:"guard,omitempty"`
	// Reason is what the agent was told.
	Reason    string `json:"reason"`
	Channel   string `json:"channel,omitempty"`
	User      string `json:"user,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	// Count is how many equal ones were listed, and Others how many of the same operation
	// and code were left out since, because there were too many. These may be of some other
	// namespaces too.
	Count  uint64 `json:"count"`
	Others uint64 `json:"others,omitempty"`
}

const (
	// keptRefusals is how many different refusals a hub remembers.
	keptRefusals = 100
	// refusalsPerSecond is how many refusals of one operation and code are looked at in a
	// second. Further ones are only counted, so that a flood costs next to nothing.
	refusalsPerSecond = 5
	// refusalSlots is how many groups of namespaces are counted apart, so that a flood in one
	// namespace hides nothing of most others.
	refusalSlots = 16
)

// refusedOps and refusedCodes are what refusals are counted by.
var (
	refusedOps = [...]GateName{
		opSession, opFrame, GateConnect, GateSubscribe, GateUnsubscribe, GatePublish, GateAPI, GatePresence, GateHistory, GateDebug,
	}
	refusedCodes = [...]Code{CodeDenied, CodeUnavailable, CodeInvalid, CodeLimit, CodeExpired, CodeMissing}
)

// refusals are the recent refusals of a hub. Nothing that is allowed comes here.
type refusals struct {
	kinds [len(refusedOps)][len(refusedCodes)]refusalKind

	mu   sync.Mutex // guards list; a leaf
	list []RefusalInfo
}

// A refusalKind counts the refusals of one operation and code.
type refusalKind struct {
	total atomic.Uint64
	slots [refusalSlots]refusalSlot
}

// A refusalSlot counts those of some namespaces.
type refusalSlot struct {
	window atomic.Uint64 // a second of the hub's clock, and in its last byte how many were listed in it
	left   atomic.Uint64 // left out since the last one that was listed
}

// slotOf returns the slot of a namespace. It always is the same one.
func slotOf(namespace string) int {
	h := uint32(2166136261) // FNV-1a
	for i := range len(namespace) {
		h = (h ^ uint32(namespace[i])) * 16777619
	}
	return int(h % refusalSlots)
}

// take counts a refusal, and reports whether to list it, and how many were left out before.
func (k *refusalKind) take(namespace string, now time.Duration) (others uint64, ok bool) {
	k.total.Add(1)
	return k.slots[slotOf(namespace)].take(now)
}

func (k *refusalSlot) take(now time.Duration) (others uint64, ok bool) {
	second := uint64(now/time.Second) + 1
	for {
		w := k.window.Load()
		n := w & 0xFF
		if w>>8 != second {
			n = 0
		}
		if n >= refusalsPerSecond {
			k.left.Add(1)
			return 0, false
		}
		if k.window.CompareAndSwap(w, second<<8|n+1) {
			return k.left.Swap(0), true
		}
	}
}

// noteRefusal counts a refusal and lists it, unless there are too many like it. It takes no
// lock but a leaf.
func (h *Hub) noteRefusal(op GateName, r *Refusal, guard, channel, user, namespace string) {
	i, j := slices.Index(refusedOps[:], op), slices.Index(refusedCodes[:], r.Code)
	if i < 0 || j < 0 {
		return
	}
	k := &h.refusals.kinds[i][j]
	others, ok := k.take(namespace, h.timers.now())
	if !ok {
		return
	}
	h.refusals.add(RefusalInfo{
		Time:      time.Now().Truncate(time.Millisecond).UTC(),
		Operation: op,
		Code:      r.Code,
		Guard:     shortened(guard, 64),
		Reason:    shortened(r.Reason, 256),
		Channel:   shortened(channel, MaxNameLength),
		User:      shortened(user, 128),
		Namespace: shortened(namespace, MaxNameLength),
		Count:     1,
		Others:    others,
	})
}

// refused notes what the agent is refused.
func (a *Agent) refused(op GateName, channel string, r *Refusal) {
	a.hub.noteRefusal(op, r, "", channel, a.User(), a.opening.Namespace())
}

// refuse answers a frame about op with r, which no gate gave.
func (a *Agent) refuse(op GateName, channel string, in *inbound, r *Refusal) {
	a.refused(op, channel, r)
	a.answer(in, r)
}

// noteRefusal notes the refusal of a gate.
func (q *Question) noteRefusal(v *Verdict) {
	if v.Refusal == nil || q.Gate == GateDisconnect { // whose answer changes nothing
		return
	}
	a := q.Agent
	a.hub.noteRefusal(q.Gate, v.Refusal, v.Guard, q.Channel, a.User(), a.opening.Namespace())
}

// noteClose notes that the agent is closed because of something that it did.
func (a *Agent) noteClose(code CloseCode, reason string) {
	var why Code
	switch code {
	case CloseLimit, CloseSlow, CloseTooLarge:
		why = CodeLimit
	case CloseInvalid:
		why = CodeInvalid
	default:
		return // a gate refused, which is noted, or the agent is not to blame
	}
	a.refused(opSession, "", &Refusal{Code: why, Reason: reason})
}

// shortened returns a copy of text that has at most n bytes. It shares no memory with text,
// which may be a part of a frame. Agents may choose the text, so it replaces what is not
// visible, or changes how the text around it is shown.
func shortened(text string, n int) string {
	whole := len(text) <= n
	text = strings.Map(func(r rune) rune {
		if unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp) {
			return '?'
		}
		return r
	}, text[:min(len(text), n+1)])
	if whole && len(text) <= n {
		return strings.Clone(text)
	}
	return strings.ToValidUTF8(text[:min(len(text), n-len("…"))], "") + "…"
}

// alike reports whether two refusals differ only in when they were.
func (i *RefusalInfo) alike(o *RefusalInfo) bool {
	return i.Operation == o.Operation && i.Code == o.Code && i.Guard == o.Guard && i.Reason == o.Reason &&
		i.Channel == o.Channel && i.User == o.User && i.Namespace == o.Namespace
}

// add lists a refusal. One that is listed already moves to the end. If the list is full, an
// old one leaves: see crowdedLocked.
func (rs *refusals) add(i RefusalInfo) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	at := slices.IndexFunc(rs.list, func(o RefusalInfo) bool { return o.alike(&i) })
	switch {
	case at >= 0:
		i.Count += rs.list[at].Count
		i.Others += rs.list[at].Others
	case len(rs.list) == keptRefusals:
		at = rs.crowdedLocked()
	}
	if at >= 0 {
		rs.list = slices.Delete(rs.list, at, at+1)
	}
	rs.list = append(rs.list, i)
}

// crowdedLocked returns the index of the refusal that leaves a full list: of the namespace
// that has most, and there of the operation and code that has most, the oldest one. So a
// flood hides neither other namespaces nor other kinds.
func (rs *refusals) crowdedLocked() (at int) {
	type kind struct {
		op   GateName
		code Code
	}
	namespace := mostCommon(rs.list, func(i *RefusalInfo) (string, bool) { return i.Namespace, true })
	most := mostCommon(rs.list, func(i *RefusalInfo) (kind, bool) { return kind{i.Operation, i.Code}, i.Namespace == namespace })
	return slices.IndexFunc(rs.list, func(i RefusalInfo) bool {
		return i.Namespace == namespace && i.Operation == most.op && i.Code == most.code
	})
}

// mostCommon returns the key that most refusals have. keyOf says which ones count.
func mostCommon[K comparable](list []RefusalInfo, keyOf func(*RefusalInfo) (key K, counts bool)) (most K) {
	counts := make(map[K]int)
	for i := range list {
		k, ok := keyOf(&list[i])
		if !ok {
			continue
		}
		if counts[k]++; counts[k] > counts[most] {
			most = k
		}
	}
	return most
}

// recent returns the listed refusals, the newest first. namespace, if not empty, selects
// those in it.
func (rs *refusals) recent(namespace, node string) []RefusalInfo {
	rs.mu.Lock()
	list := slices.Clone(rs.list)
	rs.mu.Unlock()
	list = slices.DeleteFunc(list, func(i RefusalInfo) bool { return namespace != "" && i.Namespace != namespace })
	slices.Reverse(list)
	for i := range list {
		list[i].Node = node
	}
	return list
}

// count returns how much was refused since the hub was made.
func (rs *refusals) count() (n uint64) {
	for i := range rs.kinds {
		for j := range rs.kinds[i] {
			n += rs.kinds[i][j].total.Load()
		}
	}
	return n
}
