// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"time"
)

// The journal has what was appended since the last checkpoint: a header, and records one
// after the other. A record is
//
//	length   4 bytes: of all that follows the checksum
//	checksum 4 bytes: CRC-32C of all that follows
//	number   8 bytes
//	time     8 bytes: nanoseconds since 1970
//	ID       16 bytes: of the message
//	sum      8 bytes: of its data
//	body     the record of the message, as package hub makes it
//
// Numbers are big-endian. The store has the same record, without the length, under the
// number.
const (
	journalMagic  = "pushit-j"
	journalHeader = len(journalMagic) + 8 + 4
	lengthSize    = 4
	recordHead    = 4 + 8 + 8 + 16 + 8 // without the length
	maxRecord     = 64 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// file is what the journal needs of an os.File. Tests have files that fail, or forget what
// was not synced.
type file interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
	Truncate(size int64) error
	Close() error
}

// openFile opens the file of a journal, and makes it if it is not there.
func openFile(path string) (file, error) {
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) //nolint:gosec // the operator names the file
}

// An entry is a record in parts.
type entry struct {
	seq  uint64
	at   time.Time
	id   [16]byte
	sum  uint64
	body []byte
}

// appendRecord appends the record of e, with its length.
func appendRecord(dst []byte, e *entry) []byte {
	begin := len(dst)
	dst = binary.BigEndian.AppendUint32(dst, uint32(recordHead-4+len(e.body)))
	dst = append(dst, 0, 0, 0, 0)
	dst = binary.BigEndian.AppendUint64(dst, e.seq)
	dst = binary.BigEndian.AppendUint64(dst, uint64(e.at.UnixNano()))
	dst = append(dst, e.id[:]...)
	dst = binary.BigEndian.AppendUint64(dst, e.sum)
	dst = append(dst, e.body...)
	binary.BigEndian.PutUint32(dst[begin+4:], crc32.Checksum(dst[begin+8:], castagnoli))
	return dst
}

// parseRecord reads a record without its length. The result aliases b.
func parseRecord(b []byte) (e entry, ok bool) {
	if len(b) < recordHead || binary.BigEndian.Uint32(b) != crc32.Checksum(b[4:], castagnoli) {
		return e, false
	}
	b = b[4:]
	e.seq = binary.BigEndian.Uint64(b)
	e.at = time.Unix(0, int64(binary.BigEndian.Uint64(b[8:])))
	copy(e.id[:], b[16:])
	e.sum = binary.BigEndian.Uint64(b[32:])
	e.body = b[40:]
	return e, true
}

// A journal appends records to a file.
type journal struct {
	file file
	size int64 // of what is valid; the next record is written there
}

// begin empties the journal: the store has all entries up to base.
func (j *journal) begin(base uint64) error {
	h := binary.BigEndian.AppendUint64([]byte(journalMagic), base)
	h = binary.BigEndian.AppendUint32(h, crc32.Checksum(h, castagnoli))
	if _, err := j.file.WriteAt(h, 0); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	if err := j.file.Truncate(int64(len(h))); err != nil {
		return fmt.Errorf("truncating: %w", err)
	}
	j.size = int64(len(h))
	return nil
}

// errTorn says that a write failed, and that what was written of it could not be removed.
var errTorn = errors.New("what was written in part could not be removed")

// append writes records. After an error none of them is in the journal, unless it is
// errTorn.
func (j *journal) append(records []byte) error {
	_, err := j.file.WriteAt(records, j.size)
	if err == nil {
		j.size += int64(len(records))
		return nil
	}
	if undo := j.file.Truncate(j.size); undo != nil {
		return fmt.Errorf("%w: %w: %w", errTorn, err, undo)
	}
	return fmt.Errorf("writing: %w", err)
}

// A journalState is what read found in a journal.
type journalState struct {
	empty   bool   // there is not even a header
	base    uint64 // the store had all entries up to it
	records []entry
	cut     int64 // bytes behind the last valid record
	damaged bool  // they are more than the beginning of one record
}

// read reads the whole journal.
func (j *journal) read(size int64) (s journalState, err error) {
	if size == 0 {
		return journalState{empty: true}, nil
	}
	all := make([]byte, size)
	if _, err := j.file.ReadAt(all, 0); err != nil && !errors.Is(err, io.EOF) {
		return s, fmt.Errorf("reading: %w", err)
	}
	h := all[:min(len(all), journalHeader)]
	if len(h) < journalHeader || string(h[:len(journalMagic)]) != journalMagic || binary.BigEndian.Uint32(h[journalHeader-4:]) != crc32.Checksum(h[:journalHeader-4], castagnoli) {
		return s, fmt.Errorf("%w: the journal does not begin as one", errDamaged)
	}
	s.base = binary.BigEndian.Uint64(h[len(journalMagic):])
	rest := all[journalHeader:]
	for len(rest) > 0 {
		e, n := nextRecord(rest)
		if n == 0 {
			break
		}
		s.records = append(s.records, e)
		rest = rest[n:]
	}
	s.cut = int64(len(rest))
	s.damaged = !isBeginning(rest)
	j.size = size - s.cut
	return s, nil
}

// isBeginning reports whether b, which begins with no valid record, is what a write leaves
// that was interrupted: less than a record, with nothing behind it.
func isBeginning(b []byte) bool {
	if len(b) < lengthSize+recordHead {
		return true
	}
	if int64(binary.BigEndian.Uint32(b))+4 <= int64(len(b)-lengthSize) {
		return false // all of it is there, but not as it was written
	}
	if _, ok := parseRecord(b[lengthSize:]); ok {
		return false // only the length is wrong
	}
	for i := 1; i < len(b); i++ {
		if _, n := nextRecord(b[i:]); n > 0 {
			return false
		}
	}
	return true
}

// nextRecord reads the record that b begins with. n is its length, 0 if b begins with none.
func nextRecord(b []byte) (e entry, n int) {
	if len(b) < lengthSize+recordHead {
		return e, 0
	}
	length := int64(binary.BigEndian.Uint32(b)) + 4
	if length < recordHead || length > maxRecord || length > int64(len(b)-lengthSize) {
		return e, 0
	}
	e, ok := parseRecord(b[lengthSize : lengthSize+length])
	if !ok {
		return e, 0
	}
	return e, lengthSize + int(length)
}

// syncDirectory makes a new file's name durable. Systems on which directories cannot be
// synced do that by themselves.
func syncDirectory(path string) {
	if d, err := os.Open(filepath.Dir(path)); err == nil {
		_ = d.Sync()
		_ = d.Close()
	}
}
