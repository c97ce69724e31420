// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/push-it/pushit/internal/wireclient"
)

// The servers that are here: the programs of the others are not.
func TestPeersAreMeasured(t *testing.T) {
	ctx, caddy := bounded(t)
	load := peersLoad{many: 30, few: 20, rounds: 1, window: 300 * time.Millisecond, rush: 200 * time.Millisecond}
	all, left := peersOf(options{caddy: caddy})
	if !reflect.DeepEqual(left, peerNames) {
		t.Errorf("left out: %q", left)
	}
	figures, err := peersRound(ctx, all, 1, load)
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range figures {
		if f.floodsSecond <= 0 || f.joined <= 0 || f.flood <= 0 {
			t.Errorf("%s: %+v", all[i].name, f)
		}
	}
	var out bytes.Buffer
	if err := printPeers(&out, all, [][]peerFigures{figures}, load); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	want := 1 // the names
	for _, row := range peersRows(load) {
		if want++; row.compared {
			want++
		}
	}
	if len(lines) != want || !strings.Contains(lines[0], "pushit") {
		t.Errorf("%d lines, want %d:\n%s", len(lines), want, &out)
	}
}

// The limits are those of pushit, the second peer, and the first one is what it is compared with.
func TestPeersLimits(t *testing.T) {
	const us = time.Microsecond
	good := []peerFigures{
		{few: us, many: us, joined: 10 * us, flood: 10 * us, floodsSecond: 100_000, connect: 200 * us},
		{few: us, many: us, joined: us / 10, flood: us / 10, floodsSecond: 7e6, memory: 1000, connect: us},
	}
	check := func(change func(f *peerFigures)) int {
		changed := slices.Clone(good)
		change(&changed[1])
		r := newReport(io.Discard)
		checkPeers(r, [][]peerFigures{changed, good, changed}, peersLoad{})
		return r.failures
	}
	if n := check(func(*peerFigures) {}); n != 0 {
		t.Errorf("%d figures fail that are good", n)
	}
	for i, change := range []func(f *peerFigures){
		func(f *peerFigures) { f.few = 1060 }, func(f *peerFigures) { f.many = 1160 }, func(f *peerFigures) { f.joined = 510 },
		func(f *peerFigures) { f.flood = 210 }, func(f *peerFigures) { f.floodsSecond = 5.9e6 }, func(f *peerFigures) { f.memory = 3300 },
		func(f *peerFigures) { f.connect = 201 * us },
	} {
		if n := check(change); n != 1 {
			t.Errorf("change %d: %d figures fail, want 1", i, n)
		}
	}
	good[0] = peerFigures{few: us, many: us, joined: us, flood: us, floodsSecond: 400_000, connect: us / 3}
	if n := check(func(*peerFigures) {}); n != 4 {
		t.Errorf("beside a faster bare server, %d figures fail, want 4", n)
	}
}

func TestArgumentsNamePeers(t *testing.T) {
	program := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(program, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var o options
	for _, wrong := range []string{"", "bun", "nginx=" + program, "bun=" + program + ".not", "bun=" + filepath.Dir(program)} {
		if err := o.givePeer(wrong); err == nil {
			t.Errorf("%q is taken", wrong)
		}
	}
	if err := o.givePeer("bun=" + program); err != nil {
		t.Fatal(err)
	}
	all, left := peersOf(o)
	if len(all) != 3 || all[2].name != "Bun" || !reflect.DeepEqual(left, []string{"centrifugo", "mercure"}) {
		t.Errorf("%d peers; left out: %q", len(all), left)
	}
}

func TestCentrifugoFramesAreCounted(t *testing.T) {
	const publication = `{"push":{"channel":"news","pub":{"data":"x"}}}`
	for _, test := range []struct {
		frame  string
		want   int
		pinged bool
		wrong  bool
	}{
		{publication, 1, false, false},
		{publication + "\n" + publication + "\n", 2, false, false},
		{publication + "\n{}\n" + publication, 2, true, false},
		{"{}", 0, true, false},
		{`{"push":{"channel":"news","unsubscribe":{"code":2500}}}`, 0, false, true},
		{`{"push":{"channel":"other","pub":{"data":"x"}}}`, 0, false, true},
		{`{"id":3,"error":{"code":103}}`, 0, false, true},
	} {
		n, pinged, err := centrifugoHear([]byte(test.frame))
		if n != test.want || pinged != test.pinged || err != nil != test.wrong {
			t.Errorf("%q: %d publications, ping %v, %v", test.frame, n, pinged, err)
		}
	}
}

func TestCentrifugoAnswersAreFound(t *testing.T) {
	for _, test := range []struct {
		frame           string
		answered, wrong bool
	}{
		{`{"id":2,"subscribe":{}}`, true, false},
		{"{}\n" + `{"id":2,"subscribe":{}}` + "\n", true, false},
		{`{"id":1,"connect":{}}`, false, false},
		{`{"id":2,"error":{"code":103,"message":"permission denied"}}`, true, true},
		{`{"id":2`, false, true},
	} {
		answered, err := centrifugoAnswer([]byte(test.frame), 2)
		if answered != test.answered || err != nil != test.wrong {
			t.Errorf("%q: %v, %v", test.frame, answered, err)
		}
	}
}

func TestCentrifugoRefusalsAreFound(t *testing.T) {
	for _, test := range []struct {
		answer string
		n      int
		ok     bool
	}{
		{`{"result":{}}`, 1, true},
		{`{"error":{"code":107,"message":"bad request"}}`, 1, false},
		{`{"replies":[{"publish":{}},{"publish":{}}]}`, 2, true},
		{`{"replies":[{"publish":{}}]}`, 2, false},
		{`{"replies":[{"publish":{}},{"error":{"code":102,"message":"unknown channel"}}]}`, 2, false},
		{`no`, 1, false},
	} {
		if err := centrifugoAccepted([]byte(test.answer), test.n); err == nil != test.ok {
			t.Errorf("%s: %v", test.answer, err)
		}
	}
}

func TestEventsAreCounted(t *testing.T) {
	for _, test := range []struct {
		stream string
		want   int
	}{
		{":\n", 0},
		{":\nid: 1\ndata: x\n\n", 1},
		{"id: 1\ndata: x\ndata: y\n\nid: 2\ndata:\n\n", 2},
		{"id: 1\n\n", 0},
		{"id: data:\n\n:data:\n\ndatum: x\n\n", 0},
		{"data: x\n", 0},
		{"data: x\n\n\n\n", 1},
	} {
		for size := 1; size <= len(test.stream); size++ {
			var e eventCount
			got := 0
			for rest := []byte(test.stream); len(rest) > 0; rest = rest[min(size, len(rest)):] {
				got += e.take(rest[:min(size, len(rest))])
			}
			if got != test.want {
				t.Errorf("%q in parts of %d bytes: %d events, want %d", test.stream, size, got, test.want)
			}
		}
	}
}

func TestMercureTokenSaysWhatMayBePublished(t *testing.T) {
	token, err := mercureToken("http://127.0.0.1:1/.well-known/mercure", time.Unix(1000, 0))
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("%q", token)
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims struct {
		Audience string `json:"aud"`
		Expires  int64  `json:"exp"`
		Mercure  struct {
			Publish []string `json:"publish"`
		} `json:"mercure"`
	}
	if err := json.Unmarshal(text, &claims); err != nil {
		t.Fatal(err)
	}
	if claims.Audience != "http://127.0.0.1:1/.well-known/mercure" || claims.Expires <= 1000 || len(claims.Mercure.Publish) != 1 {
		t.Errorf("%s", text)
	}
}

// A shell that starts other processes is measured with them.
func TestProcessTreesAreMeasured(t *testing.T) {
	bounded(t)
	cmd := exec.CommandContext(t.Context(), "sh", "-c", "(while :; do :; done) & echo; wait")
	ownGroup(cmd)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = signalGroup(cmd.Process.Pid, 9)
		_ = cmd.Wait()
	})
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err = until(ctx, often, "waiting for the other process", func() (bool, error) {
		all, err := treeTime(cmd.Process.Pid)
		if err != nil {
			return false, err
		}
		user, system, err := cpuTime(cmd.Process.Pid)
		return all > user+system, err
	})
	if err != nil {
		t.Fatal(err)
	}
	of, err := residentMemory(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if all, err := treeMemory(cmd.Process.Pid); err != nil || all <= of {
		t.Errorf("%d bytes for all, %d for the first: %v", all, of, err)
	}
}

// A ping that came behind the last deliveries does not keep them from being counted.
func TestDeliveriesBeforeAPingCount(t *testing.T) {
	server, client := net.Pipe()
	defer func() { _ = server.Close() }()
	s := socketSubscriber(wireclient.NewWebSocket(client, 4096), func([]byte) (int, error) { return 1, nil })
	tally := &deliveryTally{changed: make(chan struct{}, 1)}
	go s.read(tally)
	go func() { _, _ = io.Copy(io.Discard, server) }() // the pong
	if _, err := server.Write([]byte("\x81\x02[]\x81\x02[]\x89\x00")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := tally.await(ctx, 2); err != nil {
		t.Error(err)
	}
	_ = client.Close()
	<-s.done
}

func TestTallyTellsOfLosses(t *testing.T) {
	c := &deliveryTally{changed: make(chan struct{}, 1)}
	go func() {
		c.add(2)
		c.fail(io.ErrUnexpectedEOF)
	}()
	if err := c.await(t.Context(), 2); err != nil {
		t.Error(err)
	}
	if err := c.await(t.Context(), 3); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the error is %v", err)
	}
}

func TestSpreads(t *testing.T) {
	for _, test := range []struct {
		values []float64
		want   string
	}{
		{[]float64{0.03, 0.0123}, "0.021 (0.012 to 0.030)"},
		{[]float64{3, 1, 2}, "2.00 (1.00 to 3.00)"},
		{[]float64{10, 40, 20, 30}, "25.0 (10.0 to 40.0)"},
		{[]float64{1234}, "1234 (1234 to 1234)"},
	} {
		if got := spreadOf(test.values).String(); got != test.want {
			t.Errorf("%v: %s, want %s", test.values, got, test.want)
		}
	}
}
