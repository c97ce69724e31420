// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package wireclient

import (
	"bufio"
	"io"
	"strconv"
	"strings"
	"time"
)

// An Event is a Server-Sent Event.
type Event struct {
	// Name is "message" if the event has no name of its own.
	Name string
	Data string
	// ID is the last id that the stream had when the event came.
	ID string
}

// An EventReader reads a stream of Server-Sent Events as browsers do (WHATWG HTML, section
// 9.2.6), but for a byte order mark and lines that end with CR.
type EventReader struct {
	// LastID is the id to come back with, Retry the time to wait before; zero for none.
	LastID string
	Retry  time.Duration
	// Comments counts the comments so far.
	Comments int

	lines *bufio.Reader
}

// NewEventReader reads a stream from r. lastID is the id that the request had.
func NewEventReader(r io.Reader, lastID string) *EventReader {
	return &EventReader{LastID: lastID, lines: bufio.NewReader(r)}
}

// Next returns the next event. An incomplete event at the end of the stream does not count.
func (r *EventReader) Next() (Event, error) {
	var name string
	var data strings.Builder
	id := r.LastID
	for {
		line, err := r.lines.ReadString('\n')
		if err != nil {
			return Event{}, err
		}
		line = strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r")
		if line == "" {
			r.LastID = id
			if data.Len() > 0 {
				if name == "" {
					name = "message"
				}
				return Event{Name: name, Data: strings.TrimSuffix(data.String(), "\n"), ID: id}, nil
			}
			name = ""
			continue
		}
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "":
			r.Comments++
		case "event":
			name = value
		case "data":
			data.WriteString(value + "\n")
		case "id":
			if !strings.Contains(value, "\x00") {
				id = value
			}
		case "retry":
			if ms, err := strconv.ParseUint(value, 10, 31); err == nil {
				r.Retry = time.Duration(ms) * time.Millisecond
			}
		}
	}
}
