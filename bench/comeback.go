// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// comebackCommand is the subcommand that runs the crowd of recover. Its argument says how
// many agents there are, and where they connect. Lines on its standard input say what to do.
const comebackCommand = "come-back"

// A comebackOrder is the argument.
type comebackOrder struct {
	Address string
	Load    recoverLoad
}

// serveComeback lets agents connect and leave, then come back, and reports the messages
// that they got.
func serveComeback(ctx context.Context, argument string) error {
	var order comebackOrder
	if err := json.Unmarshal([]byte(argument), &order); err != nil {
		return err
	}
	lowerPriority()
	if err := raiseFiles(order.Load.Agents + 200); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	re := &returning{load: order.Load, at: target{addr: order.Address}}
	lines := bufio.NewReaderSize(os.Stdin, 64<<10)
	hear := func() (string, error) {
		line, err := lines.ReadString('\n')
		return strings.TrimSpace(line), err
	}
	all, err := re.away(ctx)
	if err != nil {
		return err
	}
	fmt.Println("away")
	switch word, err := hear(); {
	case errors.Is(err, io.EOF): // the measurement has failed, and says why
		return nil
	case err != nil || word != "back":
		return errors.Join(err, fmt.Errorf("told %q", word))
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	attempts := re.back(ctx, &wg, all)
	err = until(ctx, often, "coming back", func() (bool, error) {
		re.mu.Lock()
		defer re.mu.Unlock()
		return len(re.times) == len(all), nil
	})
	if err != nil {
		return err
	}
	fmt.Println("recovered")
	text, err := hear()
	if err != nil {
		return err
	}
	res, err := re.finish(ctx, all, []byte(text))
	if err != nil {
		return err
	}
	res.Attempts = int(attempts.Load())
	return json.NewEncoder(os.Stdout).Encode(res)
}

// away lets each agent connect once, to learn the position from which it will want
// messages, and leave.
func (re *returning) away(ctx context.Context) ([]*returner, error) {
	all := make([]*returner, re.load.Agents)
	err := each(len(all), func(i int) error {
		r := &returner{crowd: re, i: i, room: i % re.load.Rooms, next: 1}
		all[i] = r
		a, err := r.come(ctx)
		if err != nil {
			return err
		}
		defer a.Cut()
		return r.subscribed(a)
	})
	return all, err
}

// back lets all agents come back at once. It counts the attempts.
func (re *returning) back(ctx context.Context, wg *sync.WaitGroup, all []*returner) *atomic.Int64 {
	var attempts atomic.Int64
	re.begun = time.Now()
	for _, r := range all {
		wg.Go(func() {
			for wait := firstWait; ; wait = min(2*wait, longestWait) {
				attempts.Add(1)
				_ = r.visit(ctx)                         // a refused agent tries again; losses are seen then
				if pause(ctx, mathrand.N(wait)) != nil { //nolint:gosec // G404: a random wait is no secret
					return
				}
			}
		})
	}
	return &attempts
}

// finish waits until all have the last message of their room.
func (re *returning) finish(ctx context.Context, all []*returner, last []byte) (res comebackResult, err error) {
	re.mu.Lock()
	if err := json.Unmarshal(last, &re.last); err != nil {
		re.mu.Unlock()
		return res, err
	}
	for _, r := range all {
		re.checkLocked(r)
	}
	re.mu.Unlock()
	err = untilWithin(ctx, startTimeout, often, "waiting for the last messages", func() (bool, error) {
		re.mu.Lock()
		defer re.mu.Unlock()
		return re.done == len(all), nil
	})
	re.mu.Lock()
	defer re.mu.Unlock()
	res = re.res
	res.Recovered = re.done
	slices.Sort(re.times)
	res.Half, res.All = re.times[len(re.times)/2], re.times[len(re.times)-1]
	return res, err
}

// A comeback is a process that is the crowd.
type comeback struct {
	child
	lines chan string // what it says; closed at its end
}

func startComeback(ctx context.Context, at target, load recoverLoad) (*comeback, error) {
	argument, err := json.Marshal(comebackOrder{at.addr, load})
	if err != nil {
		return nil, err
	}
	started, err := startChild(ctx, comebackCommand, string(argument))
	if err != nil {
		return nil, err
	}
	c := &comeback{child: started, lines: make(chan string, 4)}
	go func() {
		defer close(c.lines)
		for said := bufio.NewScanner(c.out); said.Scan(); {
			c.lines <- said.Text()
		}
	}()
	return c, nil
}

func (c *comeback) pid() int { return c.cmd.Process.Pid }

// say sends it a line.
func (c *comeback) say(line string) error {
	_, err := io.WriteString(c.in, line+"\n")
	return err
}

var errComebackEnded = errors.New("the process of those who come back has ended")

// next waits for a line.
func (c *comeback) next() (string, error) {
	select {
	case line, ok := <-c.lines:
		if !ok {
			return "", errComebackEnded
		}
		return line, nil
	case <-time.After(recoverPatience):
		return "", errors.New("the process of those who come back says nothing")
	}
}

func (c *comeback) await(word string) error {
	line, err := c.next()
	if err == nil && line != word {
		err = fmt.Errorf("the process of those who come back said %q", line)
	}
	return err
}

// recovered reports whether all agents have the messages that they missed.
func (c *comeback) recovered() (bool, error) {
	select {
	case line, ok := <-c.lines:
		if !ok || line != "recovered" {
			return false, errors.Join(errComebackEnded, fmt.Errorf("it said %q", line))
		}
		return true, nil
	default:
		return false, nil
	}
}

// result sends the last message of each room, and returns what all agents have seen.
func (c *comeback) result(last []int) (res comebackResult, err error) {
	text, err := json.Marshal(last)
	if err != nil {
		return res, err
	}
	if err := c.say(string(text)); err != nil {
		return res, err
	}
	line, err := c.next()
	if err != nil {
		return res, err
	}
	err = json.Unmarshal([]byte(line), &res)
	return res, err
}

func (c *comeback) stop() {
	_ = c.in.Close()
	timer := time.AfterFunc(startTimeout, func() { _ = c.cmd.Process.Kill() })
	defer timer.Stop()
	for range c.lines { // until it has ended
	}
	_ = c.cmd.Wait() // the status says nothing more
}
