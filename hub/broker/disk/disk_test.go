// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/hub/brokertest"
)

func TestBroker(t *testing.T) {
	for name, window := range map[string]time.Duration{"always": 0, "window": 20 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			brokertest.Run(t, func(t *testing.T) brokertest.Log {
				path := filepath.Join(t.TempDir(), "history.db")
				return brokertest.Log{Lasts: true, Open: func(tb testing.TB) hub.Broker { return opened(tb, Options{Path: path, Sync: window}) }}
			})
		})
	}
}

func opened(tb testing.TB, o Options) *Broker {
	tb.Helper()
	b, err := Open(o)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// A replica is a hub.Sink that keeps what it gets.
type replica struct {
	mu      sync.Mutex
	epoch   hub.Epoch
	head    uint64
	entries []string // "number uuid data"
	uuids   map[string]int
	lost    []uint64
	entry   func(m *hub.Message) // is called too, if not nil
}

func (r *replica) Reset(epoch hub.Epoch, _, head uint64) {
	r.epoch, r.head, r.uuids = epoch, head, make(map[string]int)
}

func (r *replica) Entry(seq uint64, _ time.Time, m *hub.Message) {
	r.mu.Lock()
	r.entries = append(r.entries, fmt.Sprintf("%d %s %s", seq, m.UUID, m.Data))
	r.uuids[m.UUID]++
	r.mu.Unlock()
	if r.entry != nil {
		r.entry(m)
	}
}
func (r *replica) Floor(string, uint64, string) {}
func (r *replica) Lost(from, to uint64)         { r.lost = append(r.lost, from, to) }
func (r *replica) Behind(bool)                  {}

func started(tb testing.TB, b *Broker) *replica {
	tb.Helper()
	r := new(replica)
	if err := b.Start(tb.Context(), r); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = b.Close() })
	return r
}

func message(uuid string) *hub.Message {
	return hub.NewMessage("news", uuid, []byte(`"`+uuid+`"`)).By("test").Keep(hub.HistoryRule{Count: 1 << 20, TTL: time.Hour})
}

func say(tb testing.TB, b *Broker, from, to int) {
	tb.Helper()
	for n := from; n < to; n++ {
		if _, err := b.Publish(tb.Context(), message(fmt.Sprint(n))); err != nil {
			tb.Fatal(err)
		}
	}
}

// A memoryFile is a file that keeps what a disk would have after a power cut: what was
// written before the last sync. It tells in which order things happen.
type memoryFile struct {
	mu     sync.Mutex
	now    []byte // as the system shows it
	synced []byte // as the disk has it
	steps  []string
	write  func(p []byte) (int, error) // fails in place of a write, if it returns an error
	sync   func() error
	trim   func() error
}

func (f *memoryFile) step(s string) { f.steps = append(f.steps, s) }

func (f *memoryFile) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(f.now).ReadAt(p, off)
}

func (f *memoryFile) WriteAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var failure error
	if f.write != nil {
		var n int
		n, failure = f.write(p)
		if failure != nil {
			p = p[:n]
		}
	}
	f.now = append(f.now, make([]byte, max(0, int(off)+len(p)-len(f.now)))...)
	copy(f.now[off:], p)
	f.step("write")
	return len(p), failure
}

func (f *memoryFile) Sync() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sync != nil {
		if err := f.sync(); err != nil {
			return err
		}
	}
	f.synced = bytes.Clone(f.now)
	f.step("sync")
	return nil
}

func (f *memoryFile) Truncate(size int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.trim != nil {
		if err := f.trim(); err != nil {
			return err
		}
	}
	f.now = f.now[:min(int(size), len(f.now))]
	return nil
}
func (f *memoryFile) Close() error { return nil }

func withJournal(f *memoryFile) func(string) (file, error) {
	return func(string) (file, error) { return f, nil }
}

// With `sync always` a publish is written, synced, applied and only then acknowledged. With
// a window nothing waits for a sync.
func TestOrderOfSyncAndAcknowledgement(t *testing.T) {
	for window, want := range map[time.Duration]string{0: "write sync entry acknowledged", time.Hour: "write entry acknowledged"} {
		for quick := false; !quick; {
			f := new(memoryFile)
			b, err := open(Options{Path: filepath.Join(t.TempDir(), "h"), Sync: window}, withJournal(f))
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			r := started(t, b)
			r.entry = func(*hub.Message) {
				f.mu.Lock()
				f.step("entry")
				f.mu.Unlock()
			}
			var all []string
			for n := range 5 {
				f.mu.Lock()
				f.steps = nil
				f.mu.Unlock()
				say(t, b, n, n+1)
				f.mu.Lock()
				f.step("acknowledged")
				all = append(all, strings.Join(f.steps, " "))
				f.mu.Unlock()
			}
			// A second after the first publish, a checkpoint adds steps of its own.
			if quick = time.Since(began) < time.Second; quick && slices.ContainsFunc(all, func(got string) bool { return got != want }) {
				t.Errorf("sync %v: %q, want %s", window, all, want)
			}
		}
	}
}

// kill closes what the process has open, as its end would, without what Close does.
func (b *Broker) kill() {
	b.mu.Lock()
	b.closed, b.failure = true, errBroken // the committer ends, and writes nothing more
	b.mu.Unlock()
	b.notify()
	<-b.over
}

// A process that is killed loses nothing that was acknowledged, wherever the committer is.
func TestKilled(t *testing.T) {
	for name, window := range map[string]time.Duration{"always": 0, "window": 5 * time.Millisecond, "long window": time.Hour} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "h")
			n := 0
			var epoch hub.Epoch
			for round := range 8 {
				b := opened(t, Options{Path: path, Sync: window})
				r := started(t, b)
				if epoch == "" {
					epoch = r.epoch
				}
				if len(r.entries) != n || r.epoch != epoch {
					t.Fatalf("round %d: %d entries of %d in epoch %s of %s", round, len(r.entries), n, r.epoch, epoch)
				}
				for uuid, times := range r.uuids {
					if times != 1 {
						t.Fatalf("%s is there %d times", uuid, times)
					}
				}
				say(t, b, n, n+50+round)
				n += 50 + round
				b.kill()
			}
		})
	}
}

// otherBoot makes the store believe that the system was started again.
func otherBoot(t *testing.T, path string) {
	t.Helper()
	s, err := openStore(path)
	if err == nil {
		err = s.write(&change{state: func(s *state) { s.Boot = "before" }})
	}
	if err == nil {
		err = s.db.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A power cut takes nothing that was acknowledged with `sync always`. With a window it may
// take the newest: then no number is used twice, and all are told that messages may be
// missing.
func TestPowerCut(t *testing.T) {
	for _, window := range []time.Duration{0, time.Hour} {
		path := filepath.Join(t.TempDir(), "h")
		f := new(memoryFile)
		b, err := open(Options{Path: path, Sync: window}, withJournal(f))
		if err != nil {
			t.Fatal(err)
		}
		started(t, b)
		say(t, b, 0, 10)
		f.mu.Lock()
		disk := bytes.Clone(f.synced)
		f.mu.Unlock()
		b.kill()
		otherBoot(t, path)
		if err := os.WriteFile(path+"-journal", disk, 0o600); err != nil {
			t.Fatal(err)
		}
		after := opened(t, Options{Path: path, Sync: window})
		r := started(t, after)
		at, err := after.Publish(t.Context(), message("new"))
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case window == 0 && (len(r.entries) != 11 || len(r.lost) != 0 || at.Seq != 11):
			t.Errorf("sync always: %d entries, lost %v, the next is %d", len(r.entries), r.lost, at.Seq)
		case window > 0 && (len(r.lost) != 2 || at.Seq <= 10):
			t.Errorf("with a window: %d entries, lost %v, the next is %d", len(r.entries), r.lost, at.Seq)
		}
		_ = after.Close()
		if window == 0 {
			continue
		}
		again := started(t, opened(t, Options{Path: path, Sync: window}))
		if len(again.lost) != 2 || again.lost[1] != r.lost[1] || len(again.entries) != len(r.entries) {
			t.Errorf("after another start: %d entries, lost %v, want %v", len(again.entries), again.lost, r.lost)
		}
	}
}

// A journal that ends anywhere gives the whole records before that.
func TestJournalThatIsCut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "h")
	b := opened(t, Options{Path: path, Sync: time.Hour})
	started(t, b)
	say(t, b, 0, 5)
	b.kill()
	whole, err := os.ReadFile(path + "-journal")
	if err != nil {
		t.Fatal(err)
	}
	store, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for n := journalHeader; n <= len(whole); n += 7 {
		path := filepath.Join(dir, fmt.Sprint(n))
		if os.WriteFile(path, store, 0o600) != nil || os.WriteFile(path+"-journal", whole[:n], 0o600) != nil {
			t.Fatal("cannot write")
		}
		b := opened(t, Options{Path: path, Sync: time.Hour})
		r := started(t, b)
		want := 5 * (n - journalHeader) / (len(whole) - journalHeader)
		if len(r.entries) != want {
			t.Errorf("cut at %d of %d: %d entries, want %d", n, len(whole), len(r.entries), want)
		}
		_ = b.Close()
	}
}

// A notebook is a log that a test reads.
type notebook struct{ bytes.Buffer }

func (n *notebook) log() *slog.Logger { return slog.New(slog.NewTextHandler(n, nil)) }

// Whatever byte of the files is changed: either it makes no difference, or it is found, the
// file is moved aside, and the log begins again with another epoch.
func TestDamageIsNeverServed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "h")
	b := opened(t, Options{Path: path, Sync: 5 * time.Millisecond})
	r := started(t, b)
	say(t, b, 0, 100)
	b.Dropped("news", 1, "age")
	_ = b.Close()
	b = opened(t, Options{Path: path, Sync: time.Hour})
	started(t, b)
	say(t, b, 100, 110)
	b.kill()
	files := make(map[string][]byte)
	for _, suffix := range []string{"", "-journal"} {
		content, err := os.ReadFile(path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		files[suffix] = content
	}
	var want string
	dir := t.TempDir()
	found := 0
	random := rand.New(rand.NewPCG(1, 2))
	const rounds = 120
	for round := range rounds {
		path := filepath.Join(dir, fmt.Sprint(round))
		suffix := []string{"", "-journal"}[round%2]
		for name, content := range files {
			content = bytes.Clone(content)
			if name == suffix && round > 1 {
				if name == "" && round%10 == 0 {
					content = content[:random.IntN(len(content))]
				} else {
					content[random.IntN(len(content))] ^= byte(1 + random.IntN(255))
				}
			}
			if err := os.WriteFile(path+name, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		var notes notebook
		b, err := Open(Options{Path: path, Log: notes.log()})
		if err != nil {
			if suffix != "" || !errors.Is(err, errForeign) && !strings.Contains(err.Error(), "is not a history file") {
				t.Errorf("round %d: %v", round, err)
			}
			found++
			continue
		}
		got := started(t, b)
		_ = b.Close()
		switch {
		case round == 0:
			want = strings.Join(got.entries, "\n")
		case got.epoch == r.epoch && strings.Join(got.entries, "\n") != want:
			t.Errorf("round %d: %d entries are served as if they were all", round, len(got.entries))
		case got.epoch != r.epoch:
			found++
			if aside, _ := filepath.Glob(path + ".damaged-*"); len(aside) != 2 || len(got.entries) != 0 || !strings.Contains(notes.String(), "is damaged") {
				t.Errorf("round %d: %d entries, moved aside: %q, log: %s", round, len(got.entries), aside, notes.String())
			}
		}
	}
	if strings.Count(want, "\n") != 108 || found < rounds/10 {
		t.Errorf("%d entries; damage was found %d times", 1+strings.Count(want, "\n"), found)
	}
	t.Logf("damage made a difference in %d of %d cases", found, rounds)
}

// Files that are not ours, or in use, are left alone, and the error says what to do.
func TestFilesThatCannotBeUsed(t *testing.T) {
	dir := t.TempDir()
	wantError := func(path, want string) {
		t.Helper()
		if b, err := Open(Options{Path: path}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
			if err == nil {
				_ = b.Close()
			}
		}
	}
	text := filepath.Join(dir, "Caddyfile")
	if err := os.WriteFile(text, bytes.Repeat([]byte("example.com {\n}\n"), 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	wantError(text, "is not a history file of pushit")
	other := filepath.Join(dir, "other.db")
	db, err := bolt.Open(other, 0o600, nil)
	if err == nil {
		err = db.Update(func(tx *bolt.Tx) error { _, err := tx.CreateBucket([]byte("x")); return err })
	}
	if err != nil {
		t.Fatal(err)
	}
	_ = db.Close()
	wantError(other, "is not a history file of pushit")
	wantError(dir, "not a regular file")
	wantError(filepath.Join(dir, "none", "h"), "its directory is not there")

	used := opened(t, Options{Path: filepath.Join(dir, "h")})
	wantError(used.options.Path, "in use by another process")
	_ = used.Close()
	s, err := openStore(used.options.Path)
	if err == nil {
		err = s.write(&change{state: func(s *state) { s.Version++ }})
	}
	if err != nil {
		t.Fatal(err)
	}
	_ = s.db.Close()
	wantError(used.options.Path, "a newer pushit has written the file")
}

// A disk that is full refuses publishes, and nothing of them is in the log. When there is
// room again, publishing goes on by itself.
func TestFullDisk(t *testing.T) {
	f := new(memoryFile)
	path := filepath.Join(t.TempDir(), "h")
	b, err := open(Options{Path: path}, withJournal(f))
	if err != nil {
		t.Fatal(err)
	}
	r := started(t, b)
	say(t, b, 0, 3)
	var full bool
	f.mu.Lock()
	full = true
	f.write = func(p []byte) (int, error) {
		if full {
			return len(p) / 2, syscall.ENOSPC
		}
		return len(p), nil
	}
	f.mu.Unlock()
	for range 3 {
		if _, err := b.Publish(t.Context(), message("full")); !errors.Is(err, syscall.ENOSPC) || errors.Is(err, hub.ErrUnknown) {
			t.Fatalf("on a full disk: %v", err)
		}
	}
	f.mu.Lock()
	full = false
	f.mu.Unlock()
	awaitPublish(t, b, "room")
	b.kill()
	if err := os.WriteFile(path+"-journal", f.now, 0o600); err != nil {
		t.Fatal(err)
	}
	again := started(t, opened(t, Options{Path: path}))
	if len(again.entries) != 4 || again.uuids["full"] != 0 || again.uuids["room"] != 1 || len(r.entries) != 4 {
		t.Errorf("there are %v, were %v", again.entries, r.entries)
	}
}

// awaitPublish publishes until that succeeds.
func awaitPublish(t *testing.T, b *Broker, uuid string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		if _, err := b.Publish(ctx, message(uuid)); err == nil {
			return
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	t.Fatal("publishing does not go on")
}

// After a sync that failed nothing is acknowledged any more.
func TestFailedSync(t *testing.T) {
	f := new(memoryFile)
	b, err := open(Options{Path: filepath.Join(t.TempDir(), "h")}, withJournal(f))
	if err != nil {
		t.Fatal(err)
	}
	r := started(t, b)
	say(t, b, 0, 1)
	f.mu.Lock()
	failures := 0
	f.sync = func() error {
		if failures++; failures == 1 {
			return syscall.EIO
		}
		return nil
	}
	f.mu.Unlock()
	if _, err := b.Publish(t.Context(), message("unknown")); !errors.Is(err, hub.ErrUnknown) || !errors.Is(err, syscall.EIO) {
		t.Errorf("a sync that failed: %v", err)
	}
	if _, err := b.Publish(t.Context(), message("later")); err == nil || errors.Is(err, hub.ErrUnknown) {
		t.Errorf("after it: %v", err)
	}
	if len(r.entries) != 1 {
		t.Errorf("applied: %v", r.entries)
	}
}

// A Broker that cannot take back what it has written in part stops.
func TestTornWrite(t *testing.T) {
	f := new(memoryFile)
	b, err := open(Options{Path: filepath.Join(t.TempDir(), "h")}, withJournal(f))
	if err != nil {
		t.Fatal(err)
	}
	started(t, b)
	f.mu.Lock()
	f.write = func(p []byte) (int, error) { return len(p) / 2, syscall.ENOSPC }
	f.trim = func() error { return syscall.EIO }
	f.mu.Unlock()
	if _, err := b.Publish(t.Context(), message("torn")); !errors.Is(err, hub.ErrUnknown) {
		t.Errorf("%v", err)
	}
	if _, err := b.Publish(t.Context(), message("later")); !errors.Is(err, errBroken) {
		t.Errorf("%v", err)
	}
}

// The file does not grow with what was published, but with what is kept.
func TestFileStaysSmall(t *testing.T) {
	path := filepath.Join(t.TempDir(), "h")
	b := opened(t, Options{Path: path, Sync: 10 * time.Millisecond})
	h, err := hub.New("test", b)
	if err != nil {
		t.Fatal(err)
	}
	text := []byte(`"` + strings.Repeat("x", 1000) + `"`)
	for n := range 20_000 {
		if _, err := h.Publish(t.Context(), hub.NewMessage(fmt.Sprint("c", n%10), fmt.Sprint(n), text).Keep(hub.HistoryRule{Count: 10, TTL: time.Hour})); err != nil {
			t.Fatal(err)
		}
	}
	h.Close()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > 8<<20 {
		t.Errorf("20 MB were published and 100 KB are kept, but the file has %d bytes", info.Size())
	}
	r := started(t, opened(t, Options{Path: path}))
	if len(r.entries) != 100 {
		t.Errorf("%d entries are kept", len(r.entries))
	}
}

func FuzzParseRecord(f *testing.F) {
	e := entry{seq: 5, at: time.Unix(1, 2), sum: 7, body: []byte("body")}
	f.Add(appendRecord(nil, &e))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, n := nextRecord(b)
		if n > 0 && !bytes.Equal(appendRecord(nil, &e), b[:n]) {
			t.Errorf("%q became %+v", b, e)
		}
	})
}

// BenchmarkPublish publishes 200 bytes from 64 goroutines.
func BenchmarkPublish(b *testing.B) {
	for name, window := range map[string]time.Duration{"always": 0, "100ms": 100 * time.Millisecond} {
		b.Run(name, func(b *testing.B) {
			broker := opened(b, Options{Path: filepath.Join(b.TempDir(), "h"), Sync: window})
			h, err := hub.New("bench", broker)
			if err != nil {
				b.Fatal(err)
			}
			defer h.Close()
			data := []byte(`"` + strings.Repeat("x", 198) + `"`)
			b.SetParallelism(32)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				who := fmt.Sprint(rand.Uint64())
				for n := 0; pb.Next(); n++ {
					if _, err := h.Publish(context.Background(), hub.NewMessage("news/"+who, fmt.Sprint(n), data).By(who).Keep(hub.HistoryRule{Count: 100, TTL: time.Hour})); err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "publishes/s")
		})
	}
}

// The log of a hub moves from memory into a file, into another one and back, while many
// publish: the positions stay valid and nothing is lost. A file that has entries replaces
// the log.
func TestSwap(t *testing.T) {
	dir := t.TempDir()
	h, err := hub.New("test", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	var all sync.WaitGroup
	stop := make(chan struct{})
	const publishers = 4
	acknowledged := make([][]hub.Position, publishers)
	for p := range publishers {
		all.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				at, err := h.Publish(context.Background(), message(fmt.Sprintf("%d-%d", p, n)).Keep(hub.HistoryRule{Count: 50, TTL: time.Hour}))
				if err != nil {
					t.Error(err)
					return
				}
				acknowledged[p] = append(acknowledged[p], at)
			}
		})
	}
	for _, next := range []string{"one", "two", "", "three"} {
		for range 20 {
			if _, err := h.Publish(t.Context(), message("x"+next).By(fmt.Sprint(rand.Uint64())).Keep(hub.HistoryRule{Count: 50, TTL: time.Hour})); err != nil {
				t.Fatal(err)
			}
		}
		b := hub.NewMemoryBroker()
		if next != "" {
			b = opened(t, Options{Path: filepath.Join(dir, next)})
		}
		if err := h.Swap(b); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	all.Wait()
	seen := make(map[uint64]bool)
	last := uint64(0)
	for p := range publishers {
		for _, at := range acknowledged[p] {
			if at.Epoch != acknowledged[0][0].Epoch || seen[at.Seq] {
				t.Fatalf("%v was used twice, or is of another epoch than %v", at, acknowledged[0][0])
			}
			seen[at.Seq] = true
			last = max(last, at.Seq)
		}
	}
	h.Close()
	r := started(t, opened(t, Options{Path: filepath.Join(dir, "three")}))
	if len(r.entries) != 50 || r.head < last {
		t.Errorf("%d entries up to %d, want 50 up to %d", len(r.entries), r.head, last)
	}
	other, err := hub.New("other", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, err := other.Publish(t.Context(), message("gone")); err != nil {
		t.Fatal(err)
	}
	if err := other.Swap(opened(t, Options{Path: filepath.Join(dir, "one")})); err != nil {
		t.Fatal(err)
	}
	at, err := other.Publish(t.Context(), message("y"))
	if err != nil || at.Epoch != acknowledged[0][0].Epoch {
		t.Errorf("after taking over a file: %v, %v", at, err)
	}
}

// An entry that vanishes from the store is missed, even if all that is left is well.
func TestVanishedEntryIsFound(t *testing.T) {
	path := filepath.Join(t.TempDir(), "h")
	b := opened(t, Options{Path: path})
	r := started(t, b)
	say(t, b, 0, 10)
	_ = b.Close()
	db, err := bolt.Open(path, 0o600, nil)
	if err == nil {
		err = db.Update(func(tx *bolt.Tx) error { return tx.Bucket(logBucket).Delete(seqKey(5)) })
	}
	if err != nil {
		t.Fatal(err)
	}
	_ = db.Close()
	var notes notebook
	again := started(t, opened(t, Options{Path: path, Log: notes.log()}))
	if again.epoch == r.epoch || len(again.entries) != 0 || !strings.Contains(notes.String(), "it has 9 entries") {
		t.Errorf("%d entries of epoch %s are served, log: %s", len(again.entries), again.epoch, notes.String())
	}
}
