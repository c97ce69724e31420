// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/push-it/pushit/internal/jsontext"
)

// The protocol's own channels.
const (
	metaConnect     = "/meta/connect"
	metaSubscribe   = "/meta/subscribe"
	metaUnsubscribe = "/meta/unsubscribe"
	metaHistory     = "/meta/history"
	metaPing        = "/meta/ping"
)

// maxIDLength is the most bytes of a uuid and an agentId.
const maxIDLength = 64

// inbound is a decoded frame of an agent.
type inbound struct {
	// channel is not empty, valid UTF-8 and at most MaxNameLength bytes. It is not yet
	// checked: it may be a channel's name, a /meta/ channel or neither. uuid and agentID
	// are valid ids. The three strings share one allocation, so clone one to keep it for
	// longer than the others.
	channel string
	uuid    string
	agentID string // empty without hasAgentID
	// hasAgentID reports whether the frame has an agentId.
	hasAgentID bool
	// data is valid JSON without white space around or between its tokens, so
	// without line breaks; nil when the frame has none. It aliases the frame if
	// the frame's data had no such white space.
	data []byte
	// noEcho and noHistory report whether the frame, a publish, says false for echo and
	// history.
	noEcho, noHistory bool
}

// decodeFrame decodes a frame of an agent (PROTOCOL.md, R12 to R17, R80). With a Refusal, only
// the uuid of the result is set, and only if a valid uuid stood before the fault.
func decodeFrame(frame []byte) (inbound, *Refusal) {
	if len(frame) == 0 {
		return inbound{}, refuse(CodeInvalid, "a frame cannot be empty: it is one JSON object")
	}
	s := jsontext.Scan(frame)
	defer s.Release()

	var channel, uuid, agentID, data, echo, history []byte // as JSON, nil where absent
	var space bool                                         // in data
	var fault *Refusal                                     // of the first unknown key
	if wrong := scanObject(s, frame, "a frame must be one JSON object", func(key []byte, from, to int) {
		value := frame[from:to:to]
		switch string(key) {
		case "channel":
			channel = value
		case "uuid":
			uuid = value
		case "agentId":
			agentID = value
		case "data":
			data, space = value, s.SkippedSpace()
		case "echo":
			echo = value
		case "history":
			history = value
		default:
			if fault == nil {
				fault = refuse(CodeInvalid, "a frame has no "+jsontext.Excerpt(key)+": its keys are channel, uuid, agentId and data, and in a publish also echo and history")
			}
		}
	}); wrong != nil {
		fault = wrong
	}

	// Collect the strings one after the other, to copy them in one allocation.
	text := s.Spare()
	text, r := frameID(text, "uuid", uuid)
	uuidEnd := len(text)
	if r == nil && fault == nil {
		text, r = frameChannel(text, channel)
	}
	channelEnd := len(text)
	if r == nil && fault == nil && agentID != nil {
		text, r = frameID(text, "agentId", agentID)
	}
	s.Keep(text)
	if fault == nil {
		fault = r
	}
	noEcho, noHistory := false, false
	if fault == nil && (echo != nil || history != nil) {
		noEcho, noHistory, fault = frameOptions(text[uuidEnd:channelEnd], echo, history)
	}
	if fault != nil {
		return inbound{uuid: string(text[:uuidEnd])}, fault
	}
	if space {
		data = jsontext.Compact(make([]byte, 0, len(data)), data)
	}
	all := string(text)
	return inbound{
		channel:    all[uuidEnd:channelEnd],
		uuid:       all[:uuidEnd],
		agentID:    all[channelEnd:],
		hasAgentID: agentID != nil,
		data:       data,
		noEcho:     noEcho,
		noHistory:  noHistory,
	}, nil
}

// frameOptions reads the options of a publish: echo and history as JSON, nil where absent.
func frameOptions(channel, echo, history []byte) (noEcho, noHistory bool, r *Refusal) {
	if strings.HasPrefix(string(channel), "/meta/") {
		return false, false, refuse(CodeInvalid, "echo and history belong to a publish, not to a /meta/ frame")
	}
	if noEcho, r = frameIsOff("echo", echo); r == nil {
		noHistory, r = frameIsOff("history", history)
	}
	return noEcho, noHistory, r
}

// frameIsOff reports whether value, a JSON value or nil, is false. name is its key.
func frameIsOff(name string, value []byte) (bool, *Refusal) {
	switch string(value) {
	case "", "true":
		return false, nil
	case "false":
		return true, nil
	}
	return false, refuse(CodeInvalid, name+" must be true or false")
}

// scanObject calls member for each member of the JSON object that text must be. Otherwise
// it returns a Refusal: notObject if text is another JSON value.
func scanObject(s *jsontext.Scanner, text []byte, notObject string, member func(key []byte, from, to int)) *Refusal {
	i := s.Begin()
	if i >= 0 && i < len(text) && text[i] != '{' {
		return refuse(CodeInvalid, notObject)
	}
	if i >= 0 {
		i = s.Members(i, member)
	}
	if i >= 0 {
		i = s.End(i)
	}
	if i < 0 {
		return refuse(CodeInvalid, s.Fault())
	}
	return nil
}

// frameID appends the id in value, a JSON value, to dst. If value is no id, it returns
// dst unchanged and a Refusal that says why. name is the key of value.
func frameID(dst []byte, name string, value []byte) ([]byte, *Refusal) {
	if value == nil {
		return dst, refuse(CodeInvalid, name+" is missing")
	}
	out, whole := frameText(dst, value)
	id := out[len(dst):]
	ok := whole && 0 < len(id) && len(id) <= maxIDLength
	for i := 0; ok && i < len(id); i++ {
		c := id[i]
		ok = 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_'
	}
	if !ok {
		return dst, refuse(CodeInvalid, name+" must be a string of 1 to "+strconv.Itoa(maxIDLength)+" of A-Z, a-z, 0-9, - and _")
	}
	return out, nil
}

// frameChannel is frameID for a channel's name, a pattern or a /meta/ channel.
func frameChannel(dst, value []byte) ([]byte, *Refusal) {
	if value == nil {
		return dst, refuse(CodeInvalid, "channel is missing")
	}
	if value[0] != '"' {
		return dst, refuse(CodeInvalid, "channel must be a string")
	}
	out, whole := frameText(dst, value)
	switch n := len(out) - len(dst); {
	case n == 0:
		return dst, refuse(CodeInvalid, "channel cannot be empty")
	case n > MaxNameLength:
		return dst, refuse(CodeInvalid, "channel can have at most "+strconv.Itoa(MaxNameLength)+" bytes; this one has "+strconv.Itoa(n))
	case !whole:
		return dst, refuse(CodeInvalid, "channel cannot contain half a surrogate pair")
	}
	return out, nil
}

// frameText appends the text of value, a JSON value, to dst. whole reports whether value
// is a string without half a surrogate pair.
func frameText(dst, value []byte) (out []byte, whole bool) {
	if value[0] != '"' {
		return dst, false
	}
	return jsontext.Unescape(dst, value[1:len(value)-1])
}

// metaChannel returns the channel or pattern that a subscribe or unsubscribe names. It
// does not check the name. data is the data of a decoded frame.
func metaChannel(data []byte) (string, *Refusal) {
	value, r := frameMember(data, "channel")
	if r != nil {
		return "", r
	}
	if value == nil {
		return "", refuse(CodeInvalid, `data.channel is missing: data must be like {"channel":"stories/5"}`)
	}
	text, r := frameChannel(nil, value)
	if r != nil {
		r.Reason = "data." + r.Reason
	}
	return string(text), r
}

// maxSince is the most messages that a subscription may ask for by their number.
const maxSince = 100_000

// metaRecovery returns from where on a subscribe wants messages. Data is that of a decoded
// frame.
func metaRecovery(data []byte) (req recoveryRequest, r *Refusal) {
	var position, since []byte
	r = frameMembers(data, func(key, value []byte) {
		switch string(key) {
		case "position":
			position = value
		case "since":
			since = value
		}
	})
	switch {
	case r != nil:
		return req, r
	case position == nil && since == nil:
		return req, nil
	case position != nil && since != nil:
		return req, refuse(CodeInvalid, "data has position or since, not both")
	}
	if position != nil {
		text, whole := frameText(nil, position)
		if !whole || len(text) == 0 {
			return req, refuse(CodeInvalid, "data.position must be a string that the server has given")
		}
		req.position = string(text)
		return req, nil
	}
	if text, whole := frameText(nil, since); whole {
		if req.since, _ = time.Parse(time.RFC3339, string(text)); !req.since.IsZero() {
			return req, nil
		}
	}
	if n, err := strconv.Atoi(string(since)); err == nil && n > 0 {
		req.last = min(n, maxSince)
		return req, nil
	}
	return req, refuse(CodeInvalid, `data.since must be a number of messages from 1 on, or a time like "2026-01-31T12:00:00Z"`)
}

// metaCredentials returns the credentials of a connect as JSON, or nil if there are none
// or they are null. data is the data of a decoded frame; the result aliases it.
func metaCredentials(data []byte) ([]byte, *Refusal) {
	value, r := frameMember(data, "credentials")
	if string(value) == "null" {
		value = nil
	}
	return value, r
}

// frameMember returns the JSON value of a key of data, which must be an object, or nil if
// it has no such key. Missing data and null count as an object without keys.
func frameMember(data []byte, name string) (found []byte, r *Refusal) {
	r = frameMembers(data, func(key, value []byte) {
		if string(key) == name {
			found = value
		}
	})
	return found, r
}

// frameMembers calls member for each member of the object in a frame's data.
func frameMembers(data []byte, member func(key, value []byte)) *Refusal {
	if data == nil || string(data) == "null" {
		return nil
	}
	if data[0] != '{' {
		return refuse(CodeInvalid, "data must be an object")
	}
	s := jsontext.Scan(data)
	defer s.Release()
	if s.Members(0, func(key []byte, from, to int) { member(key, data[from:to:to]) }) < 0 {
		return refuse(CodeInvalid, s.Fault())
	}
	return nil
}

// The following functions append the frames that agents get, each one JSON object
// (PROTOCOL.md, R19, R25, R28, R29, R34). Their uuid, channel and data arguments come
// from decoded frames, so they are valid.

// appendMessage appends a message; data nil is null.
func appendMessage(dst []byte, channel, uuid string, data []byte) []byte {
	dst = append(dst, `{"channel":`...)
	dst = jsontext.AppendString(dst, channel)
	dst = append(dst, `,"uuid":`...)
	dst = jsontext.AppendString(dst, uuid)
	dst = append(dst, `,"data":`...)
	if data == nil {
		dst = append(dst, "null"...)
	}
	dst = append(dst, data...)
	return append(dst, '}')
}

// appendConnected appends the answer to a /meta/connect; a nil r is success. The answer
// does not repeat the credentials. agentID is empty if the frame had none. expires, if
// not zero, is when the lease of the connect ends.
func appendConnected(dst []byte, uuid, agentID string, expires time.Time, r *Refusal) []byte { //nolint:unparam // all that append frames are of one form
	dst = frameAppendHead(dst, &inbound{channel: metaConnect, uuid: uuid, agentID: agentID, hasAgentID: agentID != ""})
	if r == nil && !expires.IsZero() {
		dst = append(dst, `,"expires":`...)
		dst = strconv.AppendInt(dst, max(int64(time.Until(expires)/time.Millisecond), 0), 10)
	}
	return append(frameAppendOutcome(dst, r), '}')
}

// appendSubscribed appends the answer to in, a /meta/subscribe or /meta/unsubscribe, or a
// /meta/history that is refused: the same object and the outcome. A nil r is success.
func appendSubscribed(dst []byte, in *inbound, r *Refusal) []byte {
	return append(frameAppendOutcome(frameAppendHead(dst, in), r), '}')
}

// appendPosition adds a position to an answer.
func appendPosition(answer []byte, position string) []byte {
	answer = append(answer[:len(answer)-1], `,"position":`...)
	return append(jsontext.AppendString(answer, position), '}')
}

// appendRecovered adds to an answer whether the agent gets all messages that it asked for,
// and why not.
func appendRecovered(answer []byte, whole bool, why string) []byte {
	answer = append(answer[:len(answer)-1], `,"recovered":`...)
	answer = strconv.AppendBool(answer, whole)
	if !whole {
		answer = append(answer, `,"reason":`...)
		answer = jsontext.AppendString(answer, why)
	}
	return append(answer, '}')
}

// appendMissed appends what tells an agent that messages of a subscription were dropped
// before it could get them. It has the form of the answer to a subscribe. The messages that
// follow position still come.
func appendMissed(dst []byte, uuid, channel, position, why string) []byte {
	in := inbound{channel: metaSubscribe, uuid: uuid, data: channelData(channel)}
	return appendRecovered(appendPosition(appendSubscribed(dst, &in, nil), position), false, why)
}

// appendPage appends the answer to in, a /meta/history that was allowed.
func appendPage(dst []byte, in *inbound, p page) []byte {
	dst = append(frameAppendOutcome(frameAppendHead(dst, in), nil), `,"messages":[`...)
	for i, m := range p.messages {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, m.object...)
	}
	dst = append(dst, ']')
	for _, member := range [...]struct{ key, value string }{{"before", p.before}, {"reason", p.why}, {"position", p.position}} {
		if member.value != "" {
			dst = append(append(append(dst, `,"`...), member.key...), `":`...)
			dst = jsontext.AppendString(dst, member.value)
		}
	}
	return append(dst, '}')
}

// frameAppendHead appends the members that an answer repeats from its frame.
func frameAppendHead(dst []byte, in *inbound) []byte {
	const rest = 100 // for the names of the members, and the outcome
	dst = slices.Grow(dst, len(in.channel)+len(in.uuid)+len(in.agentID)+len(in.data)+rest)
	dst = append(dst, `{"channel":`...)
	dst = jsontext.AppendString(dst, in.channel)
	dst = append(dst, `,"uuid":`...)
	dst = jsontext.AppendString(dst, in.uuid)
	if in.hasAgentID {
		dst = append(dst, `,"agentId":`...)
		dst = jsontext.AppendString(dst, in.agentID)
	}
	if in.data != nil {
		dst = append(dst, `,"data":`...)
		dst = append(dst, in.data...)
	}
	return dst
}

// frameAppendOutcome appends the members that report success or the Refusal.
func frameAppendOutcome(dst []byte, r *Refusal) []byte {
	if r == nil {
		return append(dst, `,"successful":true,"error":""`...)
	}
	return frameAppendRefusal(append(dst, `,"successful":false`...), r)
}

// appendPublished appends the acknowledgement of a publish. position is that of the
// message, or empty.
func appendPublished(dst []byte, uuid, position string) []byte { //nolint:unparam // all that append frames are of one form
	dst = append(dst, `{"channel":"/meta/successful","uuid":`...)
	dst = append(jsontext.AppendString(dst, uuid), '}')
	if position != "" {
		dst = appendPosition(dst, position)
	}
	return dst
}

// appendError appends the answer to a refused frame that has no kind of answer of its
// own. uuid is empty if the frame's uuid could not be read.
func appendError(dst []byte, uuid string, r *Refusal) []byte { //nolint:unparam // all that append frames are of one form
	if uuid == "" {
		uuid = "???"
	}
	dst = append(dst, `{"channel":"/meta/error","uuid":`...)
	dst = jsontext.AppendString(dst, uuid)
	return append(frameAppendRefusal(dst, r), '}')
}

// appendClose appends the notice that the session is about to end. retry is how long the
// client must wait before it comes back, or NoRetry.
func appendClose(dst []byte, code CloseCode, reason string, retry time.Duration) []byte { //nolint:unparam // all that append frames are of one form
	dst = append(dst, `{"channel":"/meta/close","code":`...)
	dst = strconv.AppendInt(dst, int64(code), 10)
	dst = append(dst, `,"error":`...)
	dst = jsontext.AppendString(dst, reason)
	dst = frameAppendRetry(dst, retry)
	return append(dst, '}')
}

// appendAbout adds to a notice the channel that it is about.
func appendAbout(notice []byte, channel string) []byte {
	notice = append(notice[:len(notice)-1], `,"data":`...)
	return append(append(notice, channelData(channel)...), '}')
}

// frameAppendRefusal appends the members that say why something was not done. There is no
// retry member if the Refusal gives no advice.
func frameAppendRefusal(dst []byte, r *Refusal) []byte {
	dst = append(dst, `,"error":`...)
	dst = jsontext.AppendString(dst, r.Reason)
	dst = append(dst, `,"code":`...)
	dst = jsontext.AppendString(dst, string(r.Code))
	if r.Retry != 0 {
		dst = frameAppendRetry(dst, r.Retry)
	}
	return dst
}

// frameAppendRetry appends a retry member: false, or milliseconds, rounded up so that no
// client comes back too early.
func frameAppendRetry(dst []byte, retry time.Duration) []byte {
	dst = append(dst, `,"retry":`...)
	if retry < 0 {
		return append(dst, "false"...)
	}
	ms := retry / time.Millisecond
	if retry%time.Millisecond > 0 {
		ms++
	}
	return strconv.AppendInt(dst, int64(ms), 10)
}

// appendEnded appends the notice that the server has ended a subscription of the agent
// (PROTOCOL.md, R44).
func appendEnded(dst []byte, uuid, channel string, r *Refusal) []byte {
	in := inbound{channel: metaUnsubscribe, uuid: uuid, data: channelData(channel)}
	dst = append(frameAppendHead(dst, &in), `,"successful":true`...)
	return append(frameAppendRefusal(dst, r), '}')
}

// channelData returns the data of a frame about a subscription.
func channelData(channel string) []byte {
	return append(jsontext.AppendString([]byte(`{"channel":`), channel), '}')
}
