// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// Package disk is the log of a hub in a file, for one machine. Entries go into a journal
// first, which is small and quick to sync. From there they go into a bbolt file, many at a
// time: that is a checkpoint. There the log can drop any entry when the hub does.
//
// One goroutine, the committer, writes both. It takes all publishes that wait, writes them
// with one write, syncs if that is wanted, applies them to the hub, and then answers them.
// So nobody sees a message that is not in the log. A process that is killed loses nothing
// that was answered, because the operating system has it. A power cut can take what was not
// synced: see Options.Sync.
//
// bbolt alone is not enough. Without a sync for each transaction, a power cut can destroy the
// whole file. With it, each batch of publishes costs two syncs.
package disk

import (
	"context"
	"errors"
	"fmt"
	"hash/crc64"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/push-it/pushit/hub"
)

const (
	// checkpointEvery is how often a journal that is synced goes into the store.
	checkpointEvery = time.Second
	// checkpointBytes is the size of the journal at which it goes there at once.
	checkpointBytes = 2 << 20
	// batchBytes bounds what is written at once.
	batchBytes = 1 << 20
	// commitPatience is how long a publish whose context has ended waits for the disk.
	commitPatience = 2 * time.Second
	// idsAtLeast is how many IDs are remembered, and idsFor is for how long.
	idsAtLeast = 100_000
	idsFor     = 2 * time.Minute
	// hole is how many numbers are left out after a power cut that may have taken entries
	// which subscribers have seen.
	hole = 1 << 20
)

// Options say where a log is, and when it is synced.
type Options struct {
	// Path is the path of the file. The journal is beside it: "<path>-journal".
	Path string
	// Sync is how long entries may be unsynced. A power cut, or a crash of the operating
	// system, loses the entries of this time. 0: each entry is synced before it is
	// acknowledged.
	Sync time.Duration
	// Log gets messages about damage and a full disk. It may be nil.
	Log *slog.Logger
	// Closed is called when the file was closed, if it is not nil.
	Closed func()
}

// A Broker is a log in a file. It implements hub.Keeper.
type Broker struct {
	options  Options
	window   atomic.Int64 // Options.Sync, which SetSync may change
	unsynced bool         // of the committer: the store says that entries may be unsynced
	unlogged hub.Unlogged
	sink     hub.Sink
	closing  atomic.Bool
	over     chan struct{} // closed when the committer has ended
	wake     chan struct{} // has room for one

	// Of Start, then of the committer.
	store   *store
	journal journal
	epoch   hub.Epoch
	last    uint64
	pending []keptRecord // in the journal, not in the store
	ids     [2]map[[16]byte]known
	idsFrom time.Time // when ids[0] was begun
	due     time.Time // of the next checkpoint; zero: nothing has changed

	mu      sync.Mutex // guards the following; a leaf
	queue   []*item
	bytes   int   // of queue
	failure error // publishes are refused with it
	started bool
	closed  bool
	err     error // of closing

	drops struct {
		sync.Mutex // guards the following; a leaf that is taken under the hub's locks
		change
		forgotten floor
	}
}

// An item is a message that waits for the committer.
type item struct {
	entry
	m      *hub.Message
	record []byte // with the length
	taken  bool   // by the committer; guarded by Broker.mu
	given  bool   // up by its publisher; guarded by Broker.mu
	done   chan outcome
}

type outcome struct {
	at  hub.Position
	err error
}

// Open opens the log, and creates it if it does not exist. While it is open, no other process
// can open it. If the file is damaged, Open moves it aside, begins an empty log, and logs an
// error. If the file is something else, Open returns an error and does not touch it.
func Open(o Options) (*Broker, error) { return open(o, openFile) }

func open(o Options, openJournal func(path string) (file, error)) (*Broker, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	b := &Broker{options: o, over: make(chan struct{}), wake: make(chan struct{}, 1)}
	b.window.Store(int64(o.Sync))
	b.ids = [2]map[[16]byte]known{{}, {}}
	b.idsFrom = time.Now()
	err := b.load(openJournal)
	if errors.Is(err, errDamaged) {
		var aside string
		if aside, err = b.moveAside(err); err == nil {
			err = b.load(openJournal)
		}
		if err != nil {
			err = fmt.Errorf("beginning again after %s was moved to %s: %w", o.Path, aside, err)
		}
	}
	if err != nil {
		return nil, explain(o.Path, err)
	}
	return b, nil
}

// explain says what to do about an error.
func explain(path string, err error) error {
	switch {
	case errors.Is(err, ErrInUse):
		return fmt.Errorf("the history file %s: %w: stop that process, or write another file", path, ErrInUse)
	case errors.Is(err, errForeign):
		return fmt.Errorf("%s is not a history file of pushit, and was left alone: write another file", path)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("the history file %s: its directory is not there: create it, and let the server write to it", path)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("the history file %s: the server may not write there: give its user the right to write the directory and the file", path)
	}
	return fmt.Errorf("the history file %s: %w", path, err)
}

// load opens the files and checks all that is in them.
func (b *Broker) load(openJournal func(path string) (file, error)) (err error) {
	if info, err := os.Stat(b.options.Path); err == nil && !info.Mode().IsRegular() {
		return errors.New("it is not a regular file")
	}
	if b.store, err = openStore(b.options.Path); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = b.closeFiles() // the first error counts
		}
	}()
	path := b.options.Path + "-journal"
	if b.journal.file, err = openJournal(path); err != nil {
		return err
	}
	size := int64(0)
	if info, err := os.Stat(path); err == nil {
		size = info.Size()
	}
	j, err := b.journal.read(size)
	if err != nil {
		return err
	}
	if j.empty && !b.store.state.Open {
		if err := errors.Join(b.journal.begin(b.store.state.Last), b.journal.file.Sync()); err != nil {
			return err
		}
	}
	before := b.store.state
	powerCut := before.Open && before.Boot != bootID()
	entries := b.newer(j.records)
	switch {
	case j.empty && before.Open:
		return fmt.Errorf("%w: %s-journal is missing, which has the newest entries", errDamaged, b.options.Path)
	case j.base > before.Last:
		return fmt.Errorf("%w: it ends with entry %d, but the journal begins after %d", errDamaged, before.Last, j.base)
	case j.damaged && !powerCut:
		return fmt.Errorf("%w: the journal has a record with a wrong checksum", errDamaged)
	}
	if j.cut > 0 {
		b.options.Log.Warn("the end of the history was not written whole, and was cut off", "file", b.options.Path, "bytes", j.cut, "power_cut", powerCut, "were_acknowledged", before.Window && powerCut)
	}
	if err := safely(func() error { return b.check(entries) }); err != nil {
		return err
	}
	err = b.store.write(&change{entries: entries, state: func(s *state) {
		if powerCut && s.Window {
			s.LostFrom, s.LostTo = s.Last+1, s.Last+hole
			s.Last = s.LostTo
		}
		s.Open, s.Boot, s.Window = true, bootID(), b.options.Sync > 0
	}})
	if err == nil {
		err = b.journal.begin(b.store.state.Last)
	}
	if err == nil {
		err = b.journal.file.Sync()
	}
	syncDirectory(b.options.Path)
	b.epoch, b.last, b.unsynced = b.store.state.Epoch, b.store.state.Last, b.store.state.Window
	return err
}

// newer returns the records that the store does not have.
func (b *Broker) newer(records []entry) (list []keptRecord) {
	for i := range records {
		if e := &records[i]; e.seq > b.store.state.Last {
			list = append(list, keptRecord{e.seq, appendRecord(nil, e)[lengthSize:]})
		}
	}
	return list
}

// check reads everything once, so that damage is found before anything is served.
func (b *Broker) check(newer []keptRecord) error {
	each := func(e entry) error {
		if _, err := hub.ParseRecord(e.body); err != nil {
			return fmt.Errorf("%w: entry %d: %w", errDamaged, e.seq, err)
		}
		return nil
	}
	for _, k := range newer {
		e, _ := parseRecord(k.record)
		if err := each(e); err != nil {
			return err
		}
	}
	return b.store.read(func(string, floor) {}, each)
}

// moveAside moves damaged files away, and returns where the first one is now.
func (b *Broker) moveAside(damage error) (aside string, err error) {
	aside = b.options.Path + ".damaged-" + time.Now().UTC().Format("20060102-150405")
	if err := os.Rename(b.options.Path, aside); err != nil {
		return "", fmt.Errorf("%w, and it cannot be moved aside: %w", damage, err)
	}
	if err := os.Rename(b.options.Path+"-journal", aside+"-journal"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%w, and its journal cannot be moved aside: %w", damage, err)
	}
	b.options.Log.Error("the history file is damaged: the history begins empty, and clients are told that messages may be missing. Check the disk. To use a copy instead, stop the server, put the copy in place of the file, and remove the journal",
		"file", b.options.Path, "damage", damage, "moved_to", aside)
	return aside, nil
}

// bootID tells boots of the operating system apart, where that is known. Elsewhere each
// process counts as a boot.
func bootID() string {
	if b, err := os.ReadFile("/proc/sys/kernel/random/boot_id"); err == nil {
		return strings.TrimSpace(string(b))
	}
	return fmt.Sprint(runtime.GOOS, os.Getpid(), processStart.UnixNano())
}

var processStart = time.Now()

// SetSync changes Options.Sync.
func (b *Broker) SetSync(window time.Duration) {
	b.window.Store(int64(window))
	b.notify()
}

func (b *Broker) syncWindow() time.Duration { return time.Duration(b.window.Load()) }

// Bus implements hub.Broker.
func (b *Broker) Bus() hub.Bus { return nil }

// Seed implements hub.Seeder.
func (b *Broker) Seed(s hub.Snapshot) (bool, error) {
	if b.store.state.Last > 0 {
		return false, nil
	}
	c := change{floors: make(map[string]floor)}
	var forgotten floor
	for _, f := range s.Floors {
		if f.Key == "" {
			forgotten = floor{f.Seq, f.Why}
			continue
		}
		c.floors[f.Key] = floor{f.Seq, f.Why}
	}
	for _, e := range s.Entries {
		record := appendRecord(nil, &entry{e.Seq, e.At, e.Message.ID(), crc64.Checksum(e.Message.Data, crc64Table), e.Message.AppendRecord(nil)})
		c.entries = append(c.entries, keptRecord{e.Seq, record[lengthSize:]})
	}
	c.state = func(st *state) {
		st.Epoch, st.Last, st.Forgotten, st.Why = s.Epoch, s.Last, forgotten.seq, forgotten.why
	}
	err := b.store.write(&c)
	if err == nil {
		err = b.journal.begin(s.Last)
	}
	if err != nil {
		return false, explain(b.options.Path, err)
	}
	b.epoch, b.last = s.Epoch, s.Last
	return true, nil
}

// Start implements hub.Broker.
func (b *Broker) Start(_ context.Context, s hub.Sink) error {
	b.sink = s
	b.unlogged.Start(s)
	st := &b.store.state
	s.Reset(b.epoch, 1, b.last)
	if st.Forgotten > 0 {
		s.Floor("", st.Forgotten, st.Why)
	}
	lost := st.LostTo == 0
	lose := func() {
		s.Lost(st.LostFrom, st.LostTo)
		lost = true
	}
	err := safely(func() error {
		return b.store.read(
			func(key string, f floor) { s.Floor(key, f.seq, f.why) },
			func(e entry) error {
				if !lost && e.seq > st.LostTo {
					lose()
				}
				m, err := hub.ParseRecord(e.body)
				if err != nil {
					return err
				}
				b.remember(&e)
				s.Entry(e.seq, e.at, m)
				return nil
			})
	})
	if err != nil {
		return explain(b.options.Path, err)
	}
	if !lost {
		lose()
	}
	b.mu.Lock()
	b.started = true
	b.mu.Unlock()
	go b.run()
	return nil
}

// Dropped implements hub.Keeper.
func (b *Broker) Dropped(key string, seq uint64, why string) {
	b.drops.Lock()
	defer b.drops.Unlock()
	b.drops.dropped = append(b.drops.dropped, seq)
	b.floorLocked(key, floor{seq, why})
}

// Forgotten implements hub.Keeper.
func (b *Broker) Forgotten(key string, seq uint64, why string) {
	b.drops.Lock()
	defer b.drops.Unlock()
	b.floorLocked(key, floor{})
	if seq > b.drops.forgotten.seq {
		b.drops.forgotten = floor{seq, why}
	}
}

func (b *Broker) floorLocked(key string, f floor) {
	if b.drops.floors == nil {
		b.drops.floors = make(map[string]floor)
	}
	b.drops.floors[key] = f
}

// PublishJoined implements hub.Joiner.
func (b *Broker) PublishJoined(messages []*hub.Message) error {
	if b.closing.Load() {
		return hub.ErrClosed
	}
	b.unlogged.Publish(messages...)
	return nil
}

// Publish implements hub.Broker.
func (b *Broker) Publish(ctx context.Context, m *hub.Message) (hub.Position, error) {
	if !m.Kept() {
		if b.closing.Load() {
			return hub.Position{}, hub.ErrClosed
		}
		b.unlogged.Publish(m)
		return hub.Position{}, nil
	}
	it := &item{m: m, done: make(chan outcome, 1)}
	it.id, it.sum = m.ID(), crc64.Checksum(m.Data, crc64Table)
	it.body = m.AppendRecord(make([]byte, 0, len(m.Data)+len(m.Channel)+len(m.UUID)+96))
	if err := b.enqueue(it); err != nil {
		return hub.Position{}, err
	}
	select {
	case o := <-it.done:
		return o.at, o.err
	case <-ctx.Done():
	}
	if b.giveUp(it) {
		return hub.Position{}, ctx.Err()
	}
	patience := time.NewTimer(commitPatience)
	defer patience.Stop()
	select {
	case o := <-it.done:
		return o.at, o.err
	case <-patience.C:
		return hub.Position{}, hub.ErrUnknown
	}
}

var crc64Table = crc64.MakeTable(crc64.ECMA)

func (b *Broker) enqueue(it *item) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed:
		return hub.ErrClosed
	case b.failure != nil:
		return b.failure
	}
	b.queue = append(b.queue, it)
	b.notify()
	return nil
}

// giveUp takes an item back, unless the committer has it.
func (b *Broker) giveUp(it *item) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	it.given = !it.taken
	return it.given
}

func (b *Broker) notify() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// take takes items from the queue: at least one, if there is any.
func (b *Broker) take() (batch []*item, closed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n, size := 0, 0
	for n < len(b.queue) && size < batchBytes {
		it := b.queue[n]
		if !it.given {
			it.taken = true
			size += len(it.body)
			batch = append(batch, it)
		}
		n++
	}
	b.queue = slices.Delete(b.queue, 0, n)
	return batch, b.closed
}

// Close implements hub.Broker: it writes what waits, and closes the files.
func (b *Broker) Close() error {
	b.mu.Lock()
	first := !b.closed
	b.closed = true
	b.closing.Store(true)
	started := b.started
	b.mu.Unlock()
	if !started {
		if first {
			b.finish()
			close(b.over)
		}
		<-b.over
		return b.err
	}
	b.notify()
	<-b.over
	return b.err
}

// run is the committer.
func (b *Broker) run() {
	defer close(b.over)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		next := checkpointEvery // to write what was dropped
		if !b.due.IsZero() {
			next = time.Until(b.due)
		}
		timer.Reset(next)
		select {
		case <-b.wake:
		case <-timer.C:
		}
		for {
			batch, closed := b.take()
			if len(batch) > 0 {
				b.commit(batch)
			}
			if b.isDue() || b.unsynced != (b.syncWindow() > 0) && b.refused() == nil {
				b.checkpoint()
			}
			if len(batch) == 0 {
				if closed {
					b.finish()
					return
				}
				break
			}
		}
	}
}

func (b *Broker) interval() time.Duration {
	if w := b.syncWindow(); w > 0 {
		return w
	}
	return checkpointEvery
}

// commit writes a batch, applies it and answers it.
func (b *Broker) commit(batch []*item) {
	now := time.Now()
	b.rotateIDs(now)
	size := 0
	for _, it := range batch {
		size += lengthSize + recordHead + len(it.body)
	}
	buf := make([]byte, 0, size) // the records stay in it until they are in the store
	fresh := make([]*item, 0, len(batch))
	seq := b.last
	for _, it := range batch {
		if _, ok := b.recall(it.id); ok {
			continue
		}
		seq++
		it.seq, it.at = seq, now
		begin := len(buf)
		buf = appendRecord(buf, &it.entry)
		it.record = buf[begin:len(buf):len(buf)]
		b.remember(&entry{seq: seq, at: now, id: it.id, sum: it.sum})
		fresh = append(fresh, it)
	}
	if len(fresh) > 0 {
		if err := b.write(buf); err != nil {
			for _, it := range fresh {
				delete(b.ids[0], it.id)
				delete(b.ids[1], it.id)
			}
			for _, it := range batch {
				it.done <- outcome{err: err}
			}
			return
		}
	}
	b.last = seq
	if b.due.IsZero() && len(fresh) > 0 {
		b.due = now.Add(b.interval())
	}
	for _, it := range fresh {
		b.pending = append(b.pending, keptRecord{it.seq, it.record[lengthSize:]})
		b.sink.Entry(it.seq, it.at, it.m)
	}
	for _, it := range batch {
		first, _ := b.recall(it.id)
		if first.sum != it.sum {
			it.done <- outcome{err: hub.ErrConflict}
			continue
		}
		it.done <- outcome{at: hub.Position{Epoch: b.epoch, Seq: first.seq, Check: hub.CheckOf(time.Unix(0, first.at))}}
	}
}

// write writes records into the journal. After an error none of them is in the log, or it
// is ErrUnknown.
func (b *Broker) write(records []byte) error {
	if err := b.refused(); err != nil {
		return err
	}
	err := b.journal.append(records)
	switch {
	case errors.Is(err, errTorn):
		return b.breakDown(err)
	case err != nil:
		b.refuse(fmt.Errorf("the history file cannot be written: %w", err))
		return err
	}
	if !b.unsynced || b.syncWindow() == 0 {
		if err := b.journal.file.Sync(); err != nil {
			return b.breakDown(fmt.Errorf("syncing: %w", err))
		}
	}
	return nil
}

// breakDown refuses all further publishes, because it is not known what the disk has. If a sync
// has failed, a later success says nothing about what the first one should have written.
func (b *Broker) breakDown(err error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failure = fmt.Errorf("%w: %w", errBroken, err)
	b.options.Log.Error("the disk has failed: nothing is published on channels with a history until Caddy is restarted", "file", b.options.Path, "error", err)
	return fmt.Errorf("%w: %w", hub.ErrUnknown, err)
}

var errBroken = errors.New("the history file is not written any more, because the disk has failed")

// refuse refuses publishes until a checkpoint succeeds.
func (b *Broker) refuse(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failure == nil {
		b.options.Log.Error("publishing on channels with a history is refused until the disk takes them again", "file", b.options.Path, "error", err)
		b.failure = err
	}
	b.due = time.Now().Add(time.Second) // then it tries again
}

func (b *Broker) refused() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.failure
}

// isDue reports whether it is time for a checkpoint.
func (b *Broker) isDue() bool {
	if b.journal.size >= checkpointBytes {
		return b.refused() == nil || !time.Now().Before(b.due)
	}
	if b.due.IsZero() {
		b.drops.Lock()
		defer b.drops.Unlock()
		return len(b.drops.dropped) > 1000 || len(b.drops.dropped)+len(b.drops.floors) > 0 && len(b.pending) == 0
	}
	return !time.Now().Before(b.due)
}

// checkpoint moves what is in the journal into the store, and drops what the hub has
// dropped.
func (b *Broker) checkpoint() { _ = b.checkpointWith(nil) }

func (b *Broker) checkpointWith(more func(*state)) error {
	failed := b.refused()
	if errors.Is(failed, errBroken) {
		return failed
	}
	b.drops.Lock()
	c, forgotten := b.drops.change, b.drops.forgotten
	b.drops.change, b.drops.forgotten = change{}, floor{}
	b.drops.Unlock()

	c.entries = b.pending
	dropped := c.dropped
	c.dropped = slices.DeleteFunc(slices.Clone(dropped), func(seq uint64) bool { return seq > b.store.state.Last })
	if len(dropped) > 0 && len(b.pending) > 0 { // what was dropped meanwhile need not be written
		gone := make(map[uint64]bool, len(dropped))
		for _, seq := range dropped {
			gone[seq] = true
		}
		c.entries = slices.DeleteFunc(slices.Clone(b.pending), func(k keptRecord) bool { return gone[k.seq] })
	}
	window := b.syncWindow() > 0
	c.state = func(s *state) {
		s.Last = b.last
		s.Window = window
		if forgotten.seq > s.Forgotten {
			s.Forgotten, s.Why = forgotten.seq, forgotten.why
		}
		if more != nil {
			more(s)
		}
	}
	err := b.store.write(&c)
	if err != nil {
		b.drops.Lock()
		b.drops.dropped = append(dropped, b.drops.dropped...)
		floors := c.floors
		if floors == nil {
			floors = make(map[string]floor)
		}
		maps.Copy(floors, b.drops.floors)
		b.drops.floors = floors
		if forgotten.seq > b.drops.forgotten.seq {
			b.drops.forgotten = forgotten
		}
		b.drops.Unlock()
		if errors.Is(err, errDamaged) {
			return b.breakDown(err)
		}
		b.refuse(fmt.Errorf("the history file cannot be written: %w", err))
		return err
	}
	b.pending, b.due, b.unsynced = nil, time.Time{}, window
	if err := b.journal.begin(b.last); err != nil {
		return b.breakDown(err)
	}
	if failed != nil {
		b.mu.Lock()
		b.failure = nil
		b.mu.Unlock()
		b.options.Log.Info("publishes are written to the history file again", "file", b.options.Path)
	}
	return nil
}

// finish closes the files in order. If the last checkpoint fails, the journal stays.
func (b *Broker) finish() {
	err := b.checkpointWith(func(s *state) { s.Open = false })
	b.err = errors.Join(err, b.closeFiles())
	if err == nil {
		_ = os.Remove(b.options.Path + "-journal") // an empty one is as good
	}
	if b.options.Closed != nil {
		b.options.Closed()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, it := range b.queue {
		it.done <- outcome{err: hub.ErrClosed}
	}
	b.queue = nil
}

func (b *Broker) closeFiles() error {
	var errs []error
	if b.journal.file != nil {
		errs = append(errs, b.journal.file.Close())
	}
	return errors.Join(append(errs, safely(b.store.db.Close))...)
}

// A known identifies an entry, to recognize a repeated publish.
type known struct {
	seq uint64
	at  int64 // nanoseconds since 1970
	sum uint64
}

// remember notes the ID of an entry, and recall finds it.
func (b *Broker) remember(e *entry) {
	b.ids[0][e.id] = known{e.seq, e.at.UnixNano(), e.sum}
	if len(b.ids[0]) >= idsAtLeast {
		b.ids[0], b.ids[1], b.idsFrom = make(map[[16]byte]known), b.ids[0], e.at
	}
}

func (b *Broker) recall(id [16]byte) (k known, ok bool) {
	if k, ok = b.ids[0][id]; !ok {
		k, ok = b.ids[1][id]
	}
	return k, ok
}

// rotateIDs forgets IDs that are old enough. It is called before a batch, because the IDs of a
// batch must not be forgotten before it is answered.
func (b *Broker) rotateIDs(now time.Time) {
	if now.Sub(b.idsFrom) >= idsFor {
		b.ids[0], b.ids[1], b.idsFrom = make(map[[16]byte]known), b.ids[0], now
	}
}

// Interface guards
var (
	_ hub.Keeper = (*Broker)(nil)
	_ hub.Seeder = (*Broker)(nil)
)
