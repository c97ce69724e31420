// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"errors"
	"fmt"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/push-it/pushit/hub"
)

const sayInterrupted = `c[1002,"Connection interrupted"]`

// waitsFor waits until a second request to receive waits for the end of the first.
func (e *Endpoint) waitsFor(t *testing.T, other *sockJSClient) {
	t.Helper()
	for end := time.Now().Add(patience); ; <-time.After(time.Millisecond) {
		for _, f := range e.Sessions.all() {
			f.mu.Lock()
			waits := f.bye == "" && f.response != nil && f.changed != nil
			f.mu.Unlock()
			if waits {
				return
			}
		}
		select {
		case <-other.Stream().Came():
			return // it is refused, as its frame says
		default:
		}
		if time.Now().After(end) {
			return
		}
	}
}

// TestPollRightAfterAnAbort makes the next request before the server knows that the first one
// was cancelled. The client gets 1002, not 2010.
func TestPollRightAfterAnAbort(t *testing.T) {
	t.Parallel()
	s, e := newFallbackServer(t, &hub.Policy{}, nil)
	for _, name := range fallbackNames {
		for _, second := range fallbackNames {
			t.Run(name+" then "+second, func(t *testing.T) {
				c := newSockJSClient(t, s)
				c.connect(name)
				if framings[name].poll {
					c.receiveOver(name)
					e.wantReceiver(t)
				}
				other := *c
				other.receiveOver(second)
				e.waitsFor(t, &other)
				c.abort()
				if got := other.frame(); got != sayInterrupted {
					t.Errorf("got %q, want %q", got, sayInterrupted)
				}
				other.wantEnd()
				e.wantAgents(t, 0)
				// The same, as fast as possible.
				c = newSockJSClient(t, s)
				c.connect(name)
				if framings[name].poll {
					c.receiveOver(name)
					e.wantReceiver(t)
				}
				c.abort()
				c.receiveOver(second)
				if got := c.frame(); got != sayInterrupted {
					t.Errorf("at once: got %q, want %q", got, sayInterrupted)
				}
				e.wantAgents(t, 0)
			})
		}
	}
}

// TestRequestThatComesEarlyIsNext: a second request to receive waits until the first one has
// ended in order.
func TestRequestThatComesEarlyIsNext(t *testing.T) {
	t.Parallel()
	s, e := newFallbackServer(t, &hub.Policy{}, nil)
	for _, name := range []string{"xhr", "jsonp"} {
		for _, second := range fallbackNames {
			t.Run(name+" then "+second, func(t *testing.T) {
				c := newSockJSClient(t, s)
				c.connect(name)
				c.receiveOver(name)
				e.wantReceiver(t)
				other := *c
				other.receiveOver(second)
				e.waitsFor(t, &other)
				other.publish(0)
				var got []string
				for _, object := range c.receive(name) { // a message, an answer, or both
					if d, ok := dataOf(t, object); ok {
						got = append(got, d)
					}
				}
				other.publish(1)
				other.publish(2)
				for len(got) < 3 {
					got = append(got, other.messages(second, 1)...)
				}
				if want := []string{"0", "1", "2"}; !slices.Equal(got, want) {
					t.Errorf("got %q, want %q", got, want)
				}
				e.only(t).Close(hub.CloseCut, "done", hub.NoRetry)
				e.wantAgents(t, 0)
			})
		}
	}
}

// TestRequestThatWaitsSeesTheLastFrame: while a request to receive waits for another response,
// that one gets its last frame. Its end may still take as long as if the request had just come.
func TestRequestThatWaitsSeesTheLastFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEndpoint(t, hub.Limits{})
		a, err := e.Hub.Open(e.Policy, hub.Opening{Transport: "xhr"})
		if err != nil {
			t.Fatal(err)
		}
		times := *defaultTimes
		times.abandoned = time.Minute
		f := e.Sessions.newSession(sessionKey{"test", "s"}, owner{}, nil, a, &times)
		a.Start(f)
		first := newResponse(httptest.NewRecorder(), framings["xhr"], "", 1, &times)
		if bye := f.attach(first); bye != "" {
			t.Fatalf("the first got %q", bye)
		}
		said := make(chan string)
		second := newResponse(httptest.NewRecorder(), framings["xhr"], "", 1, &times)
		go func() { said <- f.attach(second) }()
		time.Sleep(2 * times.goodbye)
		first.open() // it carries the o frame alone
		f.ready(first)
		time.Sleep(times.goodbye / 2)
		f.detach(true, "")
		if bye := <-said; bye != "" {
			t.Errorf("the second got %q, though the first has ended", bye)
		}

		// It is not waited for longer than that.
		second.open()
		_ = second.putLast(`a[]`)
		began := time.Now()
		third := newResponse(httptest.NewRecorder(), framings["xhr"], "", 1, &times)
		if bye := f.attach(third); !strings.Contains(bye, "2010") || time.Since(began) != times.goodbye {
			t.Errorf("the third got %q after %v", bye, time.Since(began))
		}
		f.detach(true, "")
		f.end(sayInterrupted, "the test is over")
	})
}

// framesOf returns the SockJS frames in a response.
func framesOf(t *testing.T, name, text string) (frames []string) {
	t.Helper()
	for line := range strings.Lines(text) {
		if f := undress(t, name, line); f != "" {
			frames = append(frames, f)
		}
	}
	return frames
}

// TestEndBeforeAResponseIsReady ends a session after a response was attached, and before the
// response takes frames. A poll still has one frame.
func TestEndBeforeAResponseIsReady(t *testing.T) {
	_, e := newFallbackServer(t, &hub.Policy{}, nil)
	const bye = `c[4403,"cut"]`
	for _, name := range fallbackNames {
		for _, fresh := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, the first: %v", name, fresh), func(t *testing.T) {
				a, err := e.Hub.Open(e.Policy, hub.Opening{Transport: name})
				if err != nil {
					t.Fatal(err)
				}
				f := e.Sessions.newSession(sessionKey{"fallback", t.Name()}, owner{}, nil, a, e.patience())
				a.Start(f)
				f.greeted = !fresh
				respond := func(end bool) []string {
					w := httptest.NewRecorder()
					r := newResponse(w, framings[name], "call", 1, f.times)
					if r.bye = f.attach(r); r.bye == "" {
						defer func() { f.detach(true, "") }()
					}
					if end {
						f.end(bye, "")
					}
					r.serve(t.Context())
					return framesOf(t, name, w.Body.String())
				}
				want := []string{bye}
				switch {
				case fresh && framings[name].poll:
					want = []string{"o"}
				case fresh:
					want = []string{"o", bye}
				}
				if got := respond(true); !slices.Equal(got, want) {
					t.Errorf("got %q, want %q", got, want)
				}
				if got := respond(false); !slices.Equal(got, []string{bye}) {
					t.Errorf("the next got %q, want %q", got, bye)
				}
				e.wantAgents(t, 0)
			})
		}
	}
}

// TestPollHasOneFrame ends sessions while messages wait, and while they are written. Each
// poll gets one SockJS frame, and the client gets all messages before the close frame.
func TestPollHasOneFrame(t *testing.T) {
	t.Parallel()
	s, e := newFallbackServer(t, &hub.Policy{}, nil)
	for _, name := range []string{"xhr", "jsonp"} {
		t.Run(name, func(t *testing.T) {
			for i := range 30 {
				c := newSockJSClient(t, s)
				c.connect(name)
				c.finish()
				c.send(publication(t, 1), publication(t, 2))
				agent := e.only(t)
				var ending sync.WaitGroup
				if i%2 == 0 { // between two polls
					agent.Close(hub.CloseCut, "cut", hub.NoRetry)
				} else {
					ending.Go(func() { agent.Close(hub.CloseCut, "cut", hub.NoRetry) })
				}
				var objects int
				for bye := ""; bye == ""; {
					c.receiveOver(name)
					text := c.all()
					frames := framesOf(t, name, text)
					if len(frames) != 1 {
						t.Fatalf("a poll has %d frames: %q", len(frames), text)
					}
					if frames[0][0] == 'c' {
						bye = frames[0]
					} else {
						objects += strings.Count(frames[0], `\"channel\"`)
					}
				}
				if objects != 5 { // two messages, their answers, the notice
					t.Errorf("%d objects came before the end, want 5", objects)
				}
				ending.Wait()
				e.wantAgents(t, 0)
			}
		})
	}
}

// attachedFallback returns a new session with a response that takes frames. served gets the
// result of serve.
func attachedFallback(t *testing.T, e *Endpoint, name, id string) (f *session, r *response, w *httptest.ResponseRecorder, served chan bool) {
	t.Helper()
	a, err := e.Hub.Open(e.Policy, hub.Opening{Transport: name})
	if err != nil {
		t.Fatal(err)
	}
	f = e.Sessions.newSession(sessionKey{"fallback", id}, owner{}, nil, a, e.patience())
	a.Start(f)
	f.greeted = true
	w = httptest.NewRecorder()
	r = newResponse(w, framings[name], "call", 1, f.times)
	if bye := f.attach(r); bye != "" {
		t.Fatal(bye)
	}
	served = make(chan bool, 1)
	go func() { served <- r.serve(t.Context()) }()
	f.Await()
	return f, r, w, served
}

// TestIdleStreamTakesNoGoroutine beside the one that serves the request.
func TestIdleStreamTakesNoGoroutine(t *testing.T) {
	_, e := newFallbackServer(t, &hub.Policy{}, nil)
	for _, name := range fallbackNames {
		t.Run(name, func(t *testing.T) {
			const n = 50
			before := runtime.NumGoroutine()
			var ends []func()
			for i := range n {
				f, r, _, served := attachedFallback(t, e, name, fmt.Sprint(i))
				ends = append(ends, func() {
					r.cut()
					f.detach(<-served, "")
				})
			}
			for end := time.Now().Add(patience); runtime.NumGoroutine() > before+n; <-time.After(time.Millisecond) {
				if time.Now().After(end) {
					t.Errorf("%d goroutines for %d idle responses, want one each", runtime.NumGoroutine()-before, n)
					break
				}
			}
			for _, end := range ends {
				end()
			}
			e.wantAgents(t, 0)
		})
	}
}

// TestSpentResponseTakesNoMore puts frames from several goroutines at once, some of them last
// frames. A frame that comes too late is refused, and not lost in the response.
func TestSpentResponseTakesNoMore(t *testing.T) {
	t.Parallel()
	_, e := newFallbackServer(t, &hub.Policy{}, nil)
	for _, name := range fallbackNames {
		t.Run(name, func(t *testing.T) {
			for round := range 100 {
				f, r, w, served := attachedFallback(t, e, name, fmt.Sprint(round))
				const writers = 6
				var all sync.WaitGroup
				var written atomic.Int32
				begin := make(chan struct{})
				for i := range writers {
					all.Go(func() {
						<-begin
						const frame = `a["{\"a\":1}"]`
						var err error
						if i%2 == 0 {
							err = r.put([]byte(frame))
						} else {
							err = r.putLast(frame)
						}
						if err == nil {
							written.Add(1)
						}
					})
				}
				close(begin)
				all.Wait()
				if inOrder := <-served; !inOrder {
					t.Error("the response did not end in order")
				}
				f.detach(true, "")
				frames := framesOf(t, name, w.Body.String())
				if len(frames) != int(written.Load()) || framings[name].poll && len(frames) != 1 {
					t.Fatalf("%d frames were taken, %q was written", written.Load(), frames)
				}
				f.end(sayInterrupted, "")
			}
			e.wantAgents(t, 0)
		})
	}
}

// TestMessageThatComesTooLateForAPoll completes a response while a message is on its way into
// it. The message goes back to the hub.
func TestMessageThatComesTooLateForAPoll(t *testing.T) {
	_, e := newFallbackServer(t, &hub.Policy{}, nil)
	f, r, _, served := attachedFallback(t, e, "xhr", "late")
	by := time.Now().Add(time.Hour)
	f.mu.Lock()
	f.writeBy = by // so that it shows how far Write has come
	f.mu.Unlock()
	r.turn.Lock()
	wrote := make(chan error, 1)
	go func() {
		_, err := f.Write([]byte(`"{\"a\":1}"` + string(rune(recordEnd))))
		wrote <- err
	}()
	for arrived := false; !arrived; {
		r.mu.Lock()
		arrived = r.by.Equal(by)
		r.mu.Unlock()
		runtime.Gosched()
	}
	r.mu.Lock()
	r.isSpent = true
	r.mu.Unlock()
	r.turn.Unlock()
	if err := <-wrote; !errors.Is(err, hub.ErrWouldBlock) {
		t.Errorf("Write = %v, want ErrWouldBlock", err)
	}
	r.cut()
	<-served
	f.detach(true, "")
	f.end(sayInterrupted, "")
	e.wantAgents(t, 0)
}
