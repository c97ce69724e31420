// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// buildDir is where the server that the tests start is built.
var buildDir string

// builtServer is built once, by the first test that needs it.
var builtServer = sync.OnceValues(func() (string, error) {
	return buildServer(context.Background(), buildDir)
})

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == busyCommand {
		beBusy(context.Background())
		return
	}
	if len(os.Args) == 3 && os.Args[1] == floorCommand {
		if err := serveFloor(context.Background(), os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		return
	}
	if len(os.Args) == 3 && os.Args[1] == backendCommand {
		if err := serveBackend(context.Background(), os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		return
	}
	if len(os.Args) == 3 && os.Args[1] == comebackCommand {
		if err := serveComeback(context.Background(), os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		return
	}
	dir, err := os.MkdirTemp("", "pushit-bench-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	buildDir = dir
	status := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(status)
}

// bounded returns a context for a test that starts servers, and what to start.
func bounded(t *testing.T) (ctx context.Context, caddy string) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("what is looked at is in /proc, which only Linux has")
	}
	caddy, err := builtServer()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	t.Cleanup(cancel)
	return ctx, caddy
}

func TestIdleAgentsHaveNoGoroutinesAndLeaveNothing(t *testing.T) {
	for _, test := range []struct {
		at     endpoint
		secure bool
	}{{bare, false}, {sockjs, false}, {bare, true}} {
		t.Run(fmt.Sprintf("%s,secure=%v", test.at.name, test.secure), func(t *testing.T) {
			const n = 100
			ctx, caddy := bounded(t)
			res, err := measureIdle(ctx, caddy, idleLoad{agents: n, at: test.at, secure: test.secure})
			if err != nil {
				t.Fatal(err)
			}
			if res.goroutines > fewGoroutines {
				t.Errorf("%d agents have %d goroutines", n, res.goroutines)
			}
			if res.left.goroutines > fewGoroutines || res.left.files > fewFiles {
				t.Errorf("left behind: %d goroutines, %d files", res.left.goroutines, res.left.files)
			}
		})
	}
}

func TestIdleStreamsLeaveNothing(t *testing.T) {
	for _, transport := range []string{"xhr_streaming", "xhr"} {
		t.Run(transport, func(t *testing.T) {
			const n = 50
			ctx, caddy := bounded(t)
			res, err := measureStreams(ctx, caddy, transport, n, false, "")
			if err != nil {
				t.Fatal(err)
			}
			if res.goroutines > fallbackGoroutines*n+fewGoroutines {
				t.Errorf("%d sessions have %d goroutines", n, res.goroutines)
			}
			if res.lost > 0 || res.left.goroutines > fewGoroutines || res.left.files > fewFiles {
				t.Errorf("%d lost; left behind: %d goroutines, %d files", res.lost, res.left.goroutines, res.left.files)
			}
		})
	}
}

func TestPollersAreNeverToldOfAnotherConnection(t *testing.T) {
	ctx, caddy := bounded(t)
	// Beside a busy process, a server that others keep busy too may be late, and end a session.
	for busy := 1; ; busy-- {
		res, err := measurePolls(ctx, caddy, 600, busy)
		if err != nil {
			t.Fatal(err)
		}
		well := res.polls >= 600 && res.err == nil && res.another+res.ended+res.lost == 0
		if res.doubled+res.disorder > 0 || !well && busy == 0 {
			t.Errorf("%+v", res)
		}
		if well || busy == 0 {
			return
		}
	}
}

func TestStalledAgentIsClosedByItsLimits(t *testing.T) {
	ctx, caddy := bounded(t)
	res, err := measureSlow(ctx, caddy, slowShort)
	if err != nil {
		t.Fatal(err)
	}
	if res.stalled == 0 || res.closed != res.stalled {
		t.Errorf("of %d stalled agents %d were closed", res.stalled, res.closed)
	}
	if res.lost != 0 {
		t.Errorf("%d agents that read were closed", res.lost)
	}
}

func TestAllAgentsConnectAfterAStorm(t *testing.T) {
	for _, load := range storms(0, true) {
		t.Run(fmt.Sprintf("cached=%v,away=%v", load.cached, load.away > 0), func(t *testing.T) {
			ctx, caddy := bounded(t)
			res, err := measureStorm(ctx, caddy, load)
			if err != nil {
				t.Fatal(err)
			}
			if res.out != 0 {
				t.Errorf("%d of %d agents did not get in: %+v", res.out, load.agents, res.counts)
			}
			if res.counts.denied != 0 || res.counts.stopped != 0 {
				t.Errorf("%d attempts were told denied, and %d agents not to come back", res.counts.denied, res.counts.stopped)
			}
			if res.backend.Most > mostAsked {
				t.Errorf("the backend was asked %d questions at once", res.backend.Most)
			}
			if res.backend.Users != load.users {
				t.Errorf("the backend was asked about %d users of %d", res.backend.Users, load.users)
			}
			if load.cached && res.backend.Requests > load.mostRequests(res.all) {
				t.Errorf("the backend was asked %d times about %d users, and its answers are kept", res.backend.Requests, load.users)
			}
		})
	}
}

func TestAllRecoverWhatTheyMissed(t *testing.T) {
	ctx, caddy := bounded(t)
	res, err := measureRecover(ctx, caddy, recoverShort)
	if err != nil {
		t.Fatal(err)
	}
	if back := res.returned; back.Recovered != recoverShort.Agents || back.FaultCount > 0 {
		t.Errorf("%d of %d recovered everything, %d faults:\n%s", back.Recovered, recoverShort.Agents, back.FaultCount, strings.Join(back.Faults, "\n"))
	}
	if res.lost != 0 {
		t.Errorf("%d agents that stayed were closed", res.lost)
	}
}

func TestPollingOperatorsDelayNoMessages(t *testing.T) {
	ctx, caddy := bounded(t)
	res, err := measureOperators(ctx, caddy, operatorsShort)
	if err != nil {
		t.Fatal(err)
	}
	if res.answers == 0 {
		t.Error("nobody got an answer of the admin API")
	}
}

// The checks of a returning crowd find messages that are lost, doubled or out of order.
func TestReturnersFindFaults(t *testing.T) {
	for _, test := range []struct {
		name         string
		got          []int
		faults, done int
	}{
		{"all well", []int{1, 2, 3}, 0, 1},
		{"lost at first", []int{2, 3}, 1, 1},
		{"lost in the middle", []int{1, 3}, 1, 1},
		{"lost at the end", []int{1, 2}, 0, 0},
		{"doubled", []int{1, 2, 2, 3}, 1, 1},
		{"out of order", []int{2, 1, 3}, 3, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			re := &returning{load: recoverLoad{Behind: 2}, last: []int{3}}
			r := &returner{crowd: re, next: 1}
			for _, n := range test.got {
				if err := r.take(fmt.Appendf(nil, `{"channel":"rooms/0","uuid":"u","data":{"n":%d},"position":"p"}`, n)); err != nil {
					t.Fatal(err)
				}
			}
			if re.res.FaultCount != test.faults || re.done != test.done {
				t.Errorf("%d faults and %d with everything, want %d and %d: %q", re.res.FaultCount, re.done, test.faults, test.done, re.res.Faults)
			}
		})
	}
}

func TestAgentsThatStayLoseNothing(t *testing.T) {
	ctx, caddy := bounded(t)
	res, err := measureSoak(ctx, caddy, soakShort(3*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if res.published == 0 || res.reloads == 0 {
		t.Errorf("%d messages, %d reloads: nothing was tried", res.published, res.reloads)
	}
	if res.faultCount > 0 {
		t.Errorf("%d messages lost, doubled or out of order:\n%s", res.faultCount, strings.Join(res.faults, "\n"))
	}
	if res.lost != 0 {
		t.Errorf("%d agents that stayed were closed", res.lost)
	}
	if res.left.goroutines > fewGoroutines || res.left.files > fewFiles {
		t.Errorf("left behind: %d goroutines, %d files", res.left.goroutines, res.left.files)
	}
}

func TestServerThatStopsTellsEachAgentWhenToComeBack(t *testing.T) {
	for _, load := range []stopLoad{{agents: 200, stalled: 2}, {agents: 40, byAdmin: true}} {
		t.Run(fmt.Sprintf("byAdmin=%v", load.byAdmin), func(t *testing.T) {
			ctx, caddy := bounded(t)
			res, err := measureStop(ctx, caddy, load)
			if err != nil {
				t.Fatal(err)
			}
			// make bench checks the figures; a time far beyond them means that the server
			// hangs
			if res.gone > 2*stopDrain || res.took > 2*(stopDrain+mostLinger) || res.status != 0 {
				t.Errorf("it took %v until all had gone, %v to stop, with status %d", res.gone, res.took, res.status)
			}
			t.Logf("gone after %v, stopped after %v", res.gone, res.took)
			if load.stalled > 0 && (!strings.Contains(res.refused, " 503 ") || !strings.Contains(res.refused, "Retry-After: 5,")) {
				t.Errorf("who came meanwhile was answered %q", res.refused)
			}
			for _, k := range res.kinds {
				if k.noticed != k.agents || k.closed != k.agents && !k.asks || k.agents == 0 {
					t.Errorf("%s: of %d agents %d were told, and %d closed with 4503", k.name, k.agents, k.noticed, k.closed)
				}
			}
			if res.messages != 0 || res.outside != 0 {
				t.Errorf("%d messages were lost, %d agents are to come back outside of the window", res.messages, res.outside)
			}
			if want := float64(load.agents + load.stalled + 1); res.counted[0] != want {
				t.Errorf("%v agents are counted, of %v", res.counted[0], want)
			}
			for _, n := range res.slots {
				if s := share(n, res.slots[:]); s < 100*leastShare || s > 100*mostShare {
					t.Errorf("a tenth of the window has %v %% of all: %v", s, res.slots)
				}
			}
		})
	}
}

func TestReloadsDropNobody(t *testing.T) {
	ctx, caddy := bounded(t)
	res, err := measureReload(ctx, caddy, reloadShort)
	if err != nil {
		t.Fatal(err)
	}
	if res.published == 0 || res.reloads != reloadShort.reloads || res.asked == 0 {
		t.Errorf("%d messages, %d reloads, %d questions: nothing was tried", res.published, res.reloads, res.asked)
	}
	if res.faultCount > 0 {
		t.Errorf("%d messages lost, doubled or out of order:\n%s", res.faultCount, strings.Join(res.faults, "\n"))
	}
	if len(res.lost) != 0 {
		t.Errorf("agents were dropped: %v", res.lost)
	}
	if res.requests == 0 {
		t.Error("no requests were counted")
	}
	if res.left.goroutines > fewGoroutines || res.left.files > fewReloadFiles {
		t.Errorf("left behind: %d goroutines, %d files", res.left.goroutines, res.left.files)
	}
}

// A request that no server has read is repeated, and each attempt is counted.
func TestUnreadRequestsAreCounted(t *testing.T) {
	const answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
	for _, test := range []struct {
		name        string
		connections []int // how many requests each connection answers before it is closed with one unread
		kept, fresh int64
		fails       bool
	}{
		{"all are read", []int{2}, 0, 0, false},
		{"a kept connection is closed", []int{1, 1}, 1, 0, false},
		{"a new connection is closed", []int{0, 2}, 0, 1, false},
		{"a kept one, and a new one", []int{1, 0, 1}, 1, 1, false},
		{"all connections are closed", []int{0, 0, 0, 0, 0}, 0, 5, true},
	} {
		ask := func(t *testing.T) (res reloadResult, failed error) {
			t.Helper()
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			var server sync.WaitGroup
			server.Go(func() {
				for _, answers := range test.connections {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					requests := bufio.NewReader(conn)
					for n := 0; ; n++ {
						if _, err := http.ReadRequest(requests); err != nil || n == answers {
							break
						}
						_, _ = conn.Write([]byte(answer)) // a client that does not get it reports that
					}
					_ = conn.Close()
				}
			})
			var clients httpClients
			defer server.Wait()
			defer clients.close()
			defer l.Close() //nolint:errcheck // the test is over
			f := clients.newFallback("http://"+l.Addr().String(), route{"xhr", 1})
			for range 2 {
				resp, err := f.Do(t.Context(), http.MethodPost, "/xhr", "")
				if err != nil {
					failed = err
					break
				}
				_ = resp.Body.Close() // it is empty
			}
			res.countUnread(&clients.unread)
			return res, failed
		}
		t.Run(test.name, func(t *testing.T) {
			var res reloadResult
			// On a busy machine, net/http may close a connection that it should keep: it waits for its
			// own goroutine for only 50 ms.
			for try := 1; ; try++ {
				var err error
				if res, err = ask(t); res.kept[1] == test.kept && res.fresh[1] == test.fresh && (err != nil) == test.fails {
					break
				}
				if try == 5 {
					t.Fatalf("%d requests over kept connections and %d over new ones were not read, want %d and %d; failed: %v", res.kept[1], res.fresh[1], test.kept, test.fresh, err)
				}
			}
			var out strings.Builder
			res.reportUnread(newReport(&out))
			for _, want := range []string{
				fmt.Sprintf("not read: over a kept connection of HTTP/1.1, which was closed in that moment: %d requests", test.kept),
				fmt.Sprintf("not read: over a new connection of HTTP/1.1, which was reset with the old listener: %d requests", test.fresh),
			} {
				if !strings.Contains(out.String(), want) {
					t.Errorf("the report lacks %q:\n%s", want, out.String())
				}
			}
		})
	}
}

// A book finds messages that are lost, doubled or out of order.
func TestBookFindsFaults(t *testing.T) {
	for _, test := range []struct {
		name   string
		got    []int
		faults int
	}{
		{"all well", []int{1, 2, 3}, 0},
		{"lost at first", []int{2, 3}, 1},
		{"lost in the middle", []int{1, 3}, 1},
		{"lost at the end", []int{1, 2}, 1},
		{"doubled", []int{1, 2, 2, 3}, 1},
		{"out of order", []int{1, 3, 2, 3}, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBook(1)
			b.last.Store(3)
			for _, n := range test.got {
				b.received(0, fmt.Appendf(nil, `{"channel":"c","uuid":"u","data":{"n":%d}}`, n))
			}
			var res reloadResult
			b.report(&res)
			if res.faultCount != test.faults {
				t.Errorf("%d faults, want %d: %q", res.faultCount, test.faults, res.faults)
			}
		})
	}
}

// A ledger finds messages that are lost, doubled or out of order.
func TestLedgerFindsFaults(t *testing.T) {
	for _, test := range []struct {
		name     string
		got      [][]int // by agent: the numbers of one stream, as they came
		promised int
		faults   int
	}{
		{"all well", [][]int{{1, 2, 3}, {1, 2, 3}}, 3, 0},
		{"lost at the end", [][]int{{1, 2, 3}, {1, 2}}, 3, 2},
		{"lost in the middle", [][]int{{1, 2, 3}, {1, 3}}, 3, 1},
		{"lost by all", [][]int{{1, 2}, {1, 2}}, 3, 2},
		{"doubled", [][]int{{1, 2, 3}, {1, 2, 2, 3}}, 3, 1},
		{"out of order", [][]int{{1, 2, 3}, {1, 3, 2, 3}}, 3, 2},
		{"not acknowledged, but seen by some", [][]int{{1, 2}, {1}}, 0, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := newLedger(len(test.got))
			for stayer, numbers := range test.got {
				for _, n := range numbers {
					l.received(stayer, bare, fmt.Appendf(nil, `{"channel":"c","uuid":"u","data":{"stream":7,"n":%d}}`, n))
				}
			}
			if test.promised > 0 {
				l.promised(7, test.promised)
			}
			var res soakResult
			l.report(&res)
			if res.faultCount != test.faults {
				t.Errorf("%d faults, want %d: %q", res.faultCount, test.faults, res.faults)
			}
		})
	}
}

func TestReportCountsFailures(t *testing.T) {
	var out strings.Builder
	r := newReport(&out)
	r.atMost(8, "KiB", 7.5, "an agent")
	r.atMost(8, "KiB", 8.25, "an agent")
	r.exactly(0, "messages", 1, "lost")
	r.info("us", 1.5, "a delivery")
	const want = "PASS an agent: 7.5 KiB (limit at most 8)\n" +
		"FAIL an agent: 8.25 KiB (limit at most 8)\n" +
		"FAIL lost: 1 messages (limit 0)\n" +
		"INFO a delivery: 1.5 us\n"
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
	if r.failures != 2 {
		t.Errorf("failures = %d, want 2", r.failures)
	}
}

// What programs publish arrives, over a stream and with many requests at once.
func TestProgramsPublish(t *testing.T) {
	ctx, caddy := bounded(t)
	res, err := measurePrograms(ctx, caddy, 2_000, 100, 1)
	if err != nil {
		t.Fatal(err)
	}
	if res[0].cpu <= 0 || res[1].cpu <= 0 {
		t.Errorf("no figures: %+v", res)
	}
}

// Kept messages take little memory. make bench has the limit.
func TestHistoryTakesLittle(t *testing.T) {
	ctx, caddy := bounded(t)
	const n = 5_000
	took, err := measureHistory(ctx, caddy, n, 5)
	if err != nil {
		t.Fatal(err)
	}
	// A value far beyond the limit is a mistake, whatever else is on the heap.
	if took < n*200 || took > n*3*mostHistoryMessage {
		t.Errorf("%d messages of 200 bytes take %d bytes", n, took)
	}
}

// A message that a program repeats after a cut arrives once.
func TestProgramsRepeatAfterACut(t *testing.T) {
	ctx, caddy := bounded(t)
	res, err := measureCut(ctx, caddy, cutShort)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		n    int
		got  cutOutcome
	}{{"stream", cutShort.messages, res.stream}, {"requests", cutShort.requests, res.requests}} {
		if c.got.published != c.n || c.got.faultCount > 0 {
			t.Errorf("%s: %d of %d came, %d faults:\n%s", c.name, c.got.published, c.n, c.got.faultCount, strings.Join(c.got.faults, "\n"))
		}
		if c.got.early == 0 || c.got.early == c.n || c.got.early != c.got.repeated {
			t.Errorf("%s: of %d messages %d came before they were published again, and %d were answered as repeated", c.name, c.n, c.got.early, c.got.repeated)
		}
	}
}

func TestWatchersHearOfEachMember(t *testing.T) {
	ctx, caddy := bounded(t)
	res, err := measurePresence(ctx, caddy, 100, 2*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if res.bytes == 0 || res.frames < 1 {
		t.Errorf("%+v", res)
	}
}
