// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
)

// A recoverLoad is a crowd that comes back all at once and asks for the messages that it
// missed, while other agents keep receiving.
type recoverLoad struct {
	Agents int // that come back
	Rooms  int // channels; each of them is on one
	Behind int // messages that each has missed

	live   int           // agents that stay
	every  time.Duration // between the messages that these get
	before time.Duration // how long they are measured before the others come back
}

var (
	recoverFull  = recoverLoad{Agents: 5000, Rooms: 50, Behind: 100, live: 1000, every: 100 * time.Millisecond, before: 10 * time.Second}
	recoverShort = recoverLoad{Agents: 60, Rooms: 6, Behind: 20, live: 30, every: 10 * time.Millisecond, before: time.Second / 2}
)

const (
	// mostRecoverDelay is how much later the agents that stay may get their messages.
	mostRecoverDelay = 50 * time.Millisecond
	// recoverPatience is how long it may take until all have what they missed.
	recoverPatience = 2 * time.Minute
	recoverData     = 200 // bytes of the data of a message
)

// A recoverResult is the result.
type recoverResult struct {
	returned  comebackResult
	lost      int           // of those who stayed, closed
	before    time.Duration // p99 of what those who stayed got, before
	during    time.Duration // and while the others came back
	late      time.Duration // during, with the waits of the program that publishes and reads
	samples   int           // deliveries that during is of
	resident  int64         // bytes, before
	peak      int64         // bytes, at the most
	after     int64         // bytes, when all is settled
	published int           // messages that were published while they came back
	others    float64       // what other processes had of the machine
}

// runRecover measures how much many returning agents delay the agents that stayed.
func runRecover(ctx context.Context, r *report, o options) error {
	load := recoverFull
	if o.short {
		load = recoverShort
	}
	load.Agents = orDefault(o.agents, load.Agents)
	r.note("%d agents come back at once to %d channels, each %d messages of %d bytes behind; %d others get a message every %v;",
		load.Agents, load.Rooms, load.Behind, recoverData, load.live, load.every)
	r.note("those who come back are a process of their own, with a lower priority than the server's")
	r.note(steadyNote)
	res, err := measureRecover(ctx, o.caddy, load)
	if err != nil {
		return err
	}
	back := res.returned
	for _, fault := range back.Faults {
		r.note("%s", fault)
	}
	r.exactly(float64(load.Agents), "agents", float64(back.Recovered), "recovered all they had missed, and went on live")
	r.exactly(0, "messages", float64(back.FaultCount), "lost, doubled or out of order")
	r.exactly(0, "agents", float64(res.lost), "of those who stayed, closed")
	r.info("attempts", float64(back.Attempts), "to come back")
	r.info("s", back.Half.Seconds(), "until half of them had what they missed")
	r.info("s", back.All.Seconds(), "until all had what they missed")
	r.info("messages", float64(res.published), "published meanwhile")
	r.info("ms", milliseconds(res.before), "p99 latency of those who stayed, before")
	r.info("ms", milliseconds(res.during), "p99 latency of those who stayed, until all had recovered, of %d deliveries", res.samples)
	r.info("ms", milliseconds(res.late), "the same, from when a message was due until this program had read it")
	r.atMost(milliseconds(mostRecoverDelay), "ms", milliseconds(res.during-res.before), "p99 latency of those who stayed, over that before")
	r.info("MiB", mebibytes(res.resident), "resident memory of the server, before")
	r.info("MiB", mebibytes(res.peak), "resident memory of the server, at its most")
	r.info("MiB", mebibytes(res.after), "resident memory of the server, with all of them there")
	r.info("KiB", float64(res.peak-res.resident)/1024/float64(load.Agents), "at the most, for each that came back")
	r.note("other processes had %.0f %% of the machine", 100*res.others)
	return nil
}

func mebibytes(bytes int64) float64 { return float64(bytes) / (1 << 20) }

// A recovering is what a measurement of recovery shares.
type recovering struct {
	*steady // those who stay
	load    recoverLoad
	rooms   []int // by room: how many messages were published
}

func measureRecover(ctx context.Context, caddy string, load recoverLoad) (res recoverResult, err error) {
	if err := raiseFiles(max(load.Agents, load.live) + 200); err != nil {
		return res, err
	}
	rec := &recovering{load: load, rooms: make([]int, load.Rooms)}
	if rec.steady, err = startSteady(ctx, caddy, load.live, load.every); err != nil {
		return res, err
	}
	defer rec.stop()
	back, err := startComeback(ctx, rec.at, load)
	if err != nil {
		return res, err
	}
	defer back.stop()
	if err := back.await("away"); err != nil {
		return res, err
	}
	for range load.Behind {
		for room := range rec.rooms {
			if err := rec.publish(room); err != nil {
				return res, err
			}
		}
		if err := rec.acknowledged(ctx); err != nil {
			return res, err
		}
	}
	if err := rec.storm(ctx, back, &res); err != nil {
		return res, errors.Join(err, rec.server.alive())
	}
	if res.after, err = residentMemory(rec.server.pid()); err != nil {
		return res, err
	}
	res.returned, err = back.result(rec.rooms)
	res.lost, _ = rec.live.lost()
	return res, err
}

// publish publishes the next message of a room.
func (rec *recovering) publish(room int) error {
	rec.rooms[room]++
	data := fmt.Sprintf(`{"n":%d,"text":"`, rec.rooms[room])
	data += strings.Repeat("x", max(0, recoverData-len(data)-2)) + `"}`
	return rec.publisher.publish(roomName(room), []byte(data))
}

func roomName(room int) string { return fmt.Sprintf("rooms/%d", room) }

// acknowledged waits until the publisher has all answers.
func (rec *recovering) acknowledged(ctx context.Context) error {
	within, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	err := until(within, often, "waiting for answers to publishes", func() (bool, error) {
		return rec.publisher.acknowledged.Load() == int64(rec.publisher.lastUUID)-1, rec.server.alive() // the first was to connect
	})
	if n := rec.publisher.refused.Load(); n > 0 {
		err = errors.Join(err, fmt.Errorf("%d publishes were refused", n))
	}
	return err
}

// storm measures the agents that stay, before and while the others come back.
func (rec *recovering) storm(ctx context.Context, back *comeback, res *recoverResult) (err error) {
	if res.before, err = rec.p99(ctx, rec.load.before); err != nil {
		return err
	}
	if res.resident, err = residentMemory(rec.server.pid()); err != nil {
		return err
	}
	if err := resetPeak(rec.server.pid()); err != nil {
		return err
	}
	watch, err := startWatch(rec.server.pid(), back.pid(), os.Getpid())
	if err != nil {
		return err
	}
	// The load of before goes on, and the rooms get messages too.
	if err := back.say("back"); err != nil {
		return err
	}
	count := 0
	res.samples, err = rec.window(ctx, func() (bool, error) {
		if err := rec.publish(count % rec.load.Rooms); err != nil {
			return false, err
		}
		count++
		return back.recovered()
	})
	if err != nil {
		return err
	}
	if res.others, err = watch.others(); err != nil {
		return err
	}
	res.published = count
	res.during, res.late = rec.clock.percentile(0.99), rec.reading.percentile(0.99)
	for room := range rec.rooms { // the last message of each room arrives live
		if err := rec.publish(room); err != nil {
			return err
		}
	}
	if err := rec.acknowledged(ctx); err != nil {
		return err
	}
	res.peak, err = peakMemory(rec.server.pid())
	return err
}

// A comebackResult is what the returning agents have got.
type comebackResult struct {
	Recovered  int // agents that have everything
	Attempts   int
	Half, All  time.Duration // until so many had what they missed
	Faults     []string      // the first messages that were lost, doubled, out of order
	FaultCount int
}

// A returning crowd is what its agents share.
type returning struct {
	load recoverLoad
	at   target

	mu    sync.Mutex // guards the following
	times []time.Duration
	last  []int // by room: the number of the last message; nil until it is known
	res   comebackResult
	begun time.Time
	done  int // agents that have the last message
}

func (re *returning) fault(format string, args ...any) {
	re.mu.Lock()
	defer re.mu.Unlock()
	const shown = 10
	if re.res.FaultCount++; re.res.FaultCount <= shown {
		re.res.Faults = append(re.res.Faults, fmt.Sprintf(format, args...))
	}
}

// A returner is an agent that comes back.
type returner struct {
	crowd    *returning
	i        int
	room     int
	position string // of the last message, or of the subscribe
	next     int    // the message that is due
	live     bool   // it has what it missed
	ended    bool   // it has the last message
}

// come opens a session and subscribes, from a position on if there is one.
func (r *returner) come(ctx context.Context) (*agent, error) {
	a, err := come(ctx, r.crowd.at, bare, agentOptions{socketOptions: socketOptions{readBuffer: 2 << 10}, stalls: true})
	if err != nil {
		return nil, err
	}
	data := map[string]string{"channel": roomName(r.room)}
	if r.position != "" {
		data["position"] = r.position
	}
	asked, err := json.Marshal(data)
	if err == nil {
		err = a.Conn.SetDeadline(time.Now().Add(recoverPatience))
	}
	if err == nil {
		var object []byte
		object, err = json.Marshal(frame{Channel: "/meta/subscribe", UUID: a.nextUUID(), AgentID: a.id, Data: asked})
		err = errors.Join(err, a.send(object))
	}
	if err != nil {
		a.Cut()
		return nil, err
	}
	return a, nil
}

// A positioned is a frame that may have a position.
type positioned struct {
	Channel    string
	Successful *bool
	Recovered  *bool
	Reason     string
	Position   string
	Data       json.RawMessage
}

// subscribed reads the answer to the subscribe.
func (r *returner) subscribed(a *agent) error {
	payload, err := a.Read()
	if err != nil {
		return err
	}
	var f positioned
	if err := json.Unmarshal(payload, &f); err != nil {
		return err
	}
	if f.Channel != "/meta/subscribe" || f.Successful == nil || !*f.Successful || f.Position == "" {
		return fmt.Errorf("the answer is %s", payload)
	}
	if r.position != "" && (f.Recovered == nil || !*f.Recovered) {
		r.crowd.fault("agent %d was told that messages are missing: %s", r.i, f.Reason)
	}
	r.position = f.Position
	return nil
}

// visit comes back and reads until the connection ends.
func (r *returner) visit(ctx context.Context) error {
	a, err := r.come(ctx)
	if err != nil {
		return err
	}
	defer a.Cut()
	defer context.AfterFunc(ctx, a.Cut)()
	if err := r.subscribed(a); err != nil {
		return err
	}
	for {
		payload, err := a.Read()
		if err != nil {
			return err
		}
		if err := r.take(payload); err != nil {
			return err
		}
	}
}

// take takes a message.
func (r *returner) take(payload []byte) error {
	var f positioned
	if err := json.Unmarshal(payload, &f); err != nil {
		return fmt.Errorf("%q: %w", payload, err)
	}
	if f.Position == "" {
		return fmt.Errorf("%s came", payload)
	}
	var data struct{ N int }
	if err := json.Unmarshal(f.Data, &data); err != nil {
		return err
	}
	if data.N != r.next {
		r.crowd.fault("agent %d got message %d of %s, and %d was next", r.i, data.N, f.Channel, r.next)
	}
	r.next, r.position = data.N+1, f.Position
	re := r.crowd
	re.mu.Lock()
	defer re.mu.Unlock()
	if !r.live && data.N >= re.load.Behind {
		r.live = true
		re.times = append(re.times, time.Since(re.begun))
	}
	re.checkLocked(r)
	return nil
}

// checkLocked notes whether r has the last message.
func (re *returning) checkLocked(r *returner) {
	if !r.ended && re.last != nil && r.next == re.last[r.room]+1 {
		r.ended = true
		re.done++
	}
}
