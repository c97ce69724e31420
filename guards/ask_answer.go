// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/push-it/pushit/guards/internal/placeholder"
	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/internal/jsontext"
)

const (
	// maxUser is the largest number of bytes of a user's name.
	maxUser = 1024
	// maxChannels is the largest number of channels that a message can be sent to.
	maxChannels = 16
)

// readAnswer reads the JSON of an answer to ask. It refuses members that it does not
// know, so that {"allowed":false} never counts as a yes.
func readAnswer(gate hub.GateName, body []byte, messageSize int, now time.Time) (l Learned, err error) {
	if err := jsontext.Check(body); err != nil {
		return l, fmt.Errorf("the answer is not strict JSON: %w", err)
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(body, &members); err != nil || members == nil {
		return l, errors.New("the answer is JSON but not an object; to approve without saying more, answer {}")
	}
	for name, value := range members {
		if string(value) == "null" && name != "data" {
			value = nil // as if the member were missing
		}
		if err := l.read(gate, name, value, messageSize, now); err != nil {
			return Learned{}, fmt.Errorf("the answer's %q: %w", name, err)
		}
	}
	if l.Channels != nil && len(l.Channels) == 0 {
		l.Drop = true
	}
	return l, nil
}

// read reads one member of an answer. value is nil for null.
func (l *Learned) read(gate hub.GateName, name string, value json.RawMessage, messageSize int, now time.Time) (err error) {
	switch name {
	case "grant", "subscribe":
		if gate != hub.GateConnect && value != nil {
			return errors.New("only an answer to connect can have it")
		}
	case "channels", "data":
		if gate != hub.GatePublish && value != nil {
			return errors.New("only an answer to publish can have it")
		}
	case "user", "claims", "attributes", "expires":
	default:
		return errors.New("unknown member; known are user, claims, attributes, grant, subscribe, expires, channels, data")
	}
	if value == nil {
		return nil
	}
	switch name {
	case "user":
		return l.readUser(value)
	case "claims":
		l.Claims, err = objectIn(value)
	case "attributes":
		l.Attributes, err = objectIn(value)
	case "grant":
		l.Grants, err = channelsIn(value, maxGrants, hub.CheckPattern)
	case "subscribe":
		l.Subscribe, err = channelsIn(value, maxSubscribe, hub.CheckPattern)
	case "channels":
		l.Channels, err = channelsIn(value, maxChannels, hub.CheckName)
	case "expires":
		l.Expires, err = expiryIn(value, now)
	case "data":
		l.Data, err = dataIn(value, messageSize)
	}
	return err
}

func (l *Learned) readUser(value json.RawMessage) error {
	if json.Unmarshal(value, &l.User) != nil || l.User == "" || len(l.User) > maxUser {
		return fmt.Errorf("a user is a string of 1 to %d bytes, or null", maxUser)
	}
	if placeholder.HasControl(l.User) {
		return errors.New("it has a line break or a NUL in it")
	}
	return nil
}

func objectIn(value json.RawMessage) (map[string]any, error) {
	d := json.NewDecoder(bytes.NewReader(value))
	d.UseNumber()
	var m map[string]any
	if d.Decode(&m) != nil || m == nil {
		return nil, errors.New("it must be an object")
	}
	return withNumbers(m).(map[string]any), nil
}

// withNumbers replaces each json.Number in v. Whole numbers become int64 if they fit, so
// that expressions can compare and count with them.
func withNumbers(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, err := strconv.ParseInt(v.String(), 10, 64); err == nil {
			return n
		}
		f, _ := v.Float64() // too large a number is infinite, too small a number is 0
		return f
	case []any:
		for i, e := range v {
			v[i] = withNumbers(e)
		}
	case map[string]any:
		for k, e := range v {
			v[k] = withNumbers(e)
		}
	}
	return v
}

func channelsIn(value json.RawMessage, most int, check func(string, int) *hub.Refusal) ([]string, error) {
	names := []string{}
	if json.Unmarshal(value, &names) != nil {
		return nil, errors.New("it must be an array of strings")
	}
	if len(names) > most {
		return nil, fmt.Errorf("it has %d names; at most %d are allowed", len(names), most)
	}
	for _, name := range names {
		if r := check(name, hub.MaxNameLength); r != nil {
			return nil, fmt.Errorf("%q: %s", name, r.Reason)
		}
	}
	return distinct(names), nil
}

// distinct returns names without repetitions, in their order.
func distinct(names []string) []string {
	kept := names[:0]
	for _, name := range names {
		if !slices.Contains(kept, name) {
			kept = append(kept, name)
		}
	}
	return kept
}

// expiryIn reads a number of seconds from now, or a time.
func expiryIn(value json.RawMessage, now time.Time) (at time.Time, err error) {
	var seconds float64
	if json.Unmarshal(value, &seconds) == nil {
		at = now.Add(time.Duration(min(max(seconds, 0), 2*maxLife.Seconds()) * float64(time.Second)))
		return at, checkExpires(at, now)
	}
	if json.Unmarshal(value, &at) != nil {
		return time.Time{}, errors.New(`it must be a number of seconds from now, or a time such as "2030-01-31T12:00:00Z"`)
	}
	return at, checkExpires(at, now)
}

func dataIn(value json.RawMessage, messageSize int) ([]byte, error) {
	var b bytes.Buffer
	if err := json.Compact(&b, value); err != nil {
		return nil, err
	}
	if b.Len() > messageSize {
		return nil, fmt.Errorf("it has %d bytes; a message has at most %d", b.Len(), messageSize)
	}
	return b.Bytes(), nil
}

// oneLine returns text if it is one line of at most so many visible characters. Otherwise
// it returns "".
func oneLine(text string, most int) string {
	text = strings.TrimSpace(text)
	if !utf8.ValidString(text) || utf8.RuneCountInString(text) > most {
		return ""
	}
	if strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsGraphic(r) }) {
		return ""
	}
	return text
}
