// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package disk

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"io"
	"os"
	"runtime/debug"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/push-it/pushit/hub"
)

// The store is a bbolt file with the entries up to the last checkpoint.
var (
	logBucket    = []byte("log")    // number -> record
	floorsBucket = []byte("floors") // key of a channel -> floor
	metaBucket   = []byte("meta")
	stateKey     = []byte("state")
)

// storeVersion changes when an older pushit could not read the file.
const storeVersion = 1

var (
	errDamaged = errors.New("the file is damaged")
	errForeign = errors.New("the file is not a history of pushit")
)

// ErrInUse is in the error of Open if another process has the file open.
var ErrInUse = errors.New("it is in use by another process")

// A state is what the store says about itself. bbolt has no checksums of its pages, so the
// state has the number and a sum of all entries: none can vanish unnoticed.
type state struct {
	Version  int       `json:"version"`
	Epoch    hub.Epoch `json:"epoch"`
	Last     uint64    `json:"last"` // the highest number that was ever used
	Entries  int       `json:"entries"`
	Sum      uint64    `json:"sum"` // of the numbers of all entries
	Floors   int       `json:"floors"`
	FloorSum uint64    `json:"floor_sum"`

	// The floor of channels that have neither a floor nor an entry.
	Forgotten uint64 `json:"forgotten,omitempty"`
	Why       string `json:"why,omitempty"`
	// Entries that a power cut may have taken, and more numbers: none was used twice.
	LostFrom uint64 `json:"lost_from,omitempty"`
	LostTo   uint64 `json:"lost_to,omitempty"`

	Open   bool   `json:"open"`   // it was not closed in order
	Boot   string `json:"boot"`   // of the operating system, when it was opened
	Window bool   `json:"window"` // a power cut may take acknowledged entries
}

// A floor is the number of the last entry of a channel that was dropped, and why.
type floor struct {
	seq uint64
	why string
}

func appendChecked(dst, content []byte) []byte {
	return append(binary.BigEndian.AppendUint32(dst, crc32.Checksum(content, castagnoli)), content...)
}

func checked(b []byte) (content []byte, ok bool) {
	if len(b) < 4 || binary.BigEndian.Uint32(b) != crc32.Checksum(b[4:], castagnoli) {
		return nil, false
	}
	return b[4:], true
}

// sumOf returns the share of an entry in state.Sum, or of a floor in state.FloorSum.
func sumOf(key string, seq uint64) uint64 {
	h := fnv.New64a()
	_, _ = h.Write(binary.BigEndian.AppendUint64([]byte(key), seq)) // it never fails
	return h.Sum64()
}

func seqKey(seq uint64) []byte { return binary.BigEndian.AppendUint64(nil, seq) }

func (f floor) encode(key string) []byte {
	return appendChecked(nil, append(append(binary.BigEndian.AppendUint64(nil, f.seq), f.why...), "\x00"+key...))
}

func parseFloor(key string, b []byte) (f floor, ok bool) {
	content, ok := checked(b)
	if !ok || len(content) < 8 {
		return f, false
	}
	why, of, ok := bytes.Cut(content[8:], []byte{0})
	return floor{binary.BigEndian.Uint64(content), string(why)}, ok && string(of) == key
}

// A store is the open bbolt file.
type store struct {
	db    *bolt.DB
	state state
}

// safely calls f. A damaged file can make bbolt panic, or read behind the end of the file:
// then safely returns errDamaged.
func safely(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", errDamaged, p)
		}
	}()
	return f()
}

// openStore opens the file, or makes it. A file that is empty is taken for a new one.
func openStore(path string) (s *store, err error) {
	s = new(store)
	err = safely(func() error {
		s.db, err = bolt.Open(path, 0o600, &bolt.Options{Timeout: 100 * time.Millisecond, FreelistType: bolt.FreelistMapType, NoStatistics: true})
		switch {
		case errors.Is(err, bolterrors.ErrTimeout):
			return ErrInUse
		case errors.Is(err, bolterrors.ErrInvalid):
			return isForeign(path)
		case errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, bolterrors.ErrVersionMismatch), err != nil && strings.HasPrefix(err.Error(), "file size too small"):
			return fmt.Errorf("%w: %w", errDamaged, err)
		case err != nil:
			return err
		}
		return s.readState()
	})
	if err != nil && s.db != nil {
		_ = safely(s.db.Close)
	}
	return s, err
}

// isForeign says whether a file that bbolt does not know may once have been one of bbolt's.
func isForeign(path string) error {
	f, err := os.Open(path) //nolint:gosec // the operator names the file
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()                 // it was only read
	b, err := io.ReadAll(io.LimitReader(f, 128<<10)) // two pages, whatever their size
	if err != nil {
		return err
	}
	if bytes.Contains(b, []byte{0xED, 0xDA, 0x0C, 0xED}) || bytes.Contains(b, []byte{0xED, 0x0C, 0xDA, 0xED}) || len(bytes.Trim(b, "\x00")) == 0 {
		return fmt.Errorf("%w: its beginning is", errDamaged)
	}
	return errForeign
}

// readState reads the state, or makes that of a new file.
func (s *store) readState() error {
	return s.db.Update(func(tx *bolt.Tx) error {
		if info, err := os.Stat(s.db.Path()); err != nil || info.Size() < tx.Size() {
			return fmt.Errorf("%w: it is cut off", errDamaged)
		}
		meta := tx.Bucket(metaBucket)
		if meta == nil {
			if k, _ := tx.Cursor().First(); k != nil {
				return errForeign
			}
			for _, name := range [][]byte{metaBucket, logBucket, floorsBucket} {
				if _, err := tx.CreateBucket(name); err != nil {
					return err
				}
			}
			s.state = state{Version: storeVersion, Epoch: hub.NewEpoch()}
			return s.putState(tx)
		}
		content, ok := checked(meta.Get(stateKey))
		if !ok || json.Unmarshal(content, &s.state) != nil || tx.Bucket(logBucket) == nil || tx.Bucket(floorsBucket) == nil {
			return fmt.Errorf("%w: its state cannot be read", errDamaged)
		}
		if s.state.Version > storeVersion {
			return fmt.Errorf("a newer pushit has written the file (version %d; this one reads up to %d)", s.state.Version, storeVersion)
		}
		return nil
	})
}

func (s *store) putState(tx *bolt.Tx) error {
	content, err := json.Marshal(&s.state)
	if err != nil {
		return err
	}
	return tx.Bucket(metaBucket).Put(stateKey, appendChecked(nil, content))
}

// read calls floor and entry for all that the store has, and checks that it is all.
func (s *store) read(eachFloor func(key string, f floor), eachEntry func(e entry) error) error {
	return s.db.View(func(tx *bolt.Tx) error {
		var floors, entries int
		var floorSum, sum uint64
		err := tx.Bucket(floorsBucket).ForEach(func(k, v []byte) error {
			f, ok := parseFloor(string(k), v)
			if !ok {
				return fmt.Errorf("%w: a floor has the wrong checksum", errDamaged)
			}
			floors, floorSum = floors+1, floorSum^sumOf(string(k), f.seq)
			eachFloor(string(k), f)
			return nil
		})
		if err != nil {
			return err
		}
		last := uint64(0)
		err = tx.Bucket(logBucket).ForEach(func(k, v []byte) error {
			e, ok := parseRecord(v)
			if !ok || !bytes.Equal(k, seqKey(e.seq)) || e.seq <= last && last > 0 || e.seq > s.state.Last {
				return fmt.Errorf("%w: entry %x has the wrong checksum or number", errDamaged, k)
			}
			last = e.seq
			entries, sum = entries+1, sum^sumOf("", e.seq)
			return eachEntry(e)
		})
		if err == nil && (floors != s.state.Floors || floorSum != s.state.FloorSum || entries != s.state.Entries || sum != s.state.Sum) {
			err = fmt.Errorf("%w: it has %d entries and %d floors, but says that there are %d and %d", errDamaged, entries, floors, s.state.Entries, s.state.Floors)
		}
		return err
	})
}

// A change is what a checkpoint writes.
type change struct {
	entries []keptRecord
	dropped []uint64         // entries that are in the store
	floors  map[string]floor // seq 0: there is none any more
	state   func(*state)     // nil for no further change
}

// A keptRecord is a record without its length.
type keptRecord struct {
	seq    uint64
	record []byte
}

// write writes a change. After an error nothing has changed.
func (s *store) write(c *change) error {
	before := s.state
	err := safely(func() error {
		return s.db.Update(func(tx *bolt.Tx) error {
			log := tx.Bucket(logBucket)
			log.FillPercent = 0.95 // entries come in their order
			for _, e := range c.entries {
				if err := log.Put(seqKey(e.seq), e.record); err != nil {
					return err
				}
				s.state.Entries++
				s.state.Sum ^= sumOf("", e.seq)
				s.state.Last = max(s.state.Last, e.seq)
			}
			for _, seq := range c.dropped {
				if log.Get(seqKey(seq)) == nil {
					continue
				}
				if err := log.Delete(seqKey(seq)); err != nil {
					return err
				}
				s.state.Entries--
				s.state.Sum ^= sumOf("", seq)
			}
			if err := s.putFloors(tx.Bucket(floorsBucket), c.floors); err != nil {
				return err
			}
			if c.state != nil {
				c.state(&s.state)
			}
			return s.putState(tx)
		})
	})
	if err != nil {
		s.state = before
	}
	return err
}

func (s *store) putFloors(b *bolt.Bucket, floors map[string]floor) error {
	for key, f := range floors {
		if old := b.Get([]byte(key)); old != nil {
			was, ok := parseFloor(key, old)
			if !ok {
				return fmt.Errorf("%w: a floor has the wrong checksum", errDamaged)
			}
			s.state.Floors--
			s.state.FloorSum ^= sumOf(key, was.seq)
		}
		if f.seq == 0 {
			if err := b.Delete([]byte(key)); err != nil {
				return err
			}
			continue
		}
		if err := b.Put([]byte(key), f.encode(key)); err != nil {
			return err
		}
		s.state.Floors++
		s.state.FloorSum ^= sumOf(key, f.seq)
	}
	return nil
}
