// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/push-it/pushit/hub/internal/presence"
	"github.com/push-it/pushit/internal/jsontext"
)

// metaPresence is the channel of frames about the members of a channel (PROTOCOL.md, R70 to R76).
const metaPresence = "/meta/presence"

// Why an agent cannot see the members of a channel.
var (
	noPresence        = refuse(CodeDenied, "this channel tells nobody who is in it")
	noPatternPresence = refuse(CodeInvalid, "a pattern has no members: ask for those of a channel")
	notSubscribed     = refuse(CodeInvalid, "subscribe to the channel before you ask who is in it")
	notWatching       = refuse(CodeInvalid, "ask for the first page of members before you ask for the next one")
)

// A presenceRequest is what a frame asks about the members of a channel.
type presenceRequest struct {
	asked bool   // to be told who is there
	stop  bool   // not to be told any more
	after uint64 // for the page that follows this number

	refused *Refusal // of a subscribe: why it begins without members; no gate is asked
}

// metaWatches reports whether the data of a subscribe ask for the members of the channel.
func metaWatches(data []byte) (bool, *Refusal) {
	value, r := frameMember(data, "presence")
	switch {
	case r != nil:
		return false, r
	case value == nil || string(value) == "false":
		return false, nil
	case string(value) == "true":
		return true, nil
	default:
		return false, refuse(CodeInvalid, "data.presence must be true or false")
	}
}

// metaPresenceRequest returns what the data of a frame on /meta/presence ask for.
func metaPresenceRequest(data []byte) (req presenceRequest, r *Refusal) {
	var next, stop []byte
	r = frameMembers(data, func(key, value []byte) {
		switch string(key) {
		case "next":
			next = value
		case "stop":
			stop = value
		}
	})
	req.asked = true
	switch {
	case r != nil:
		return req, r
	case next != nil && stop != nil:
		return req, refuse(CodeInvalid, "data has next or stop, not both")
	case stop != nil && string(stop) != "true":
		return req, refuse(CodeInvalid, "data.stop must be true, or absent")
	case next != nil:
		text, _ := frameText(nil, next)
		n, err := strconv.ParseUint(string(text), 10, 64)
		if err != nil || n == 0 {
			return req, refuse(CodeInvalid, "data.next must be the next of the previous page")
		}
		req.after = n
	}
	req.stop = stop != nil
	return req, nil
}

// appendID appends the beginning of a member: its user or uuid.
func appendID(dst []byte, id presence.ID) []byte {
	if !id.Anonymous {
		return jsontext.AppendString(append(dst, `{"user":`...), id.Name)
	}
	var u uuid.UUID
	copy(u[:], id.Name)
	dst = append(dst, `{"uuid":"`...)
	return append(append(dst, u.String()...), '"')
}

func appendMembers(dst []byte, members []presence.View) []byte {
	dst = append(dst, '[')
	for i := range members {
		if i > 0 {
			dst = append(dst, ',')
		}
		v := &members[i]
		dst = append(appendID(dst, v.ID), `,"tabs":`...)
		dst = strconv.AppendInt(dst, int64(v.Tabs), 10)
		if v.Info != "" {
			dst = append(append(dst, `,"info":`...), v.Info...)
		}
		dst = append(dst, '}')
	}
	return append(dst, ']')
}

// appendCount appends the members that each frame about members has.
func appendCount(dst []byte, number uint64, count int, listed bool) []byte {
	dst = strconv.AppendUint(append(dst, `"number":`...), number, 10)
	dst = strconv.AppendInt(append(dst, `,"count":`...), int64(count), 10)
	if !listed {
		dst = append(dst, `,"listed":false`...)
	}
	return dst
}

// appendPresence appends the frame with a batch of changes.
func appendPresence(dst []byte, channel string, b *presence.Batch) []byte {
	dst = append(dst, `{"channel":"/meta/presence","data":`...)
	dst = append(append(dst, channelData(channel)...), ',')
	dst = appendCount(dst, b.Number, b.Count, b.Listed)
	if b.Reset {
		dst = append(dst, `,"reset":true`...)
	}
	for _, part := range []struct {
		key     string
		members []presence.View
	}{{"joined", b.Joined}, {"changed", b.Changed}} {
		if len(part.members) > 0 {
			dst = append(append(append(dst, `,"`...), part.key...), `":`...)
			dst = appendMembers(dst, part.members)
		}
	}
	for i := range b.Left {
		if i == 0 {
			dst = append(dst, `,"left":[`...)
		} else {
			dst = append(dst, ',')
		}
		dst = append(appendID(dst, b.Left[i].ID), '}')
		if i == len(b.Left)-1 {
			dst = append(dst, ']')
		}
	}
	return append(dst, '}')
}

// appendSnapshot adds a page of members to an answer. settles is the time until all members
// from before the server's start have had time to come back. Without lists, the answer has
// only the count.
func appendSnapshot(answer []byte, c *presence.Channel, after uint64, settles time.Duration, lists bool) []byte {
	dst := append(answer[:len(answer)-1], `,"presence":{`...)
	lists = lists && c.Listed()
	dst = appendCount(dst, c.Number(), c.Count(), lists)
	if lists {
		members, next := c.Page(after)
		dst = appendMembers(append(dst, `,"members":`...), members)
		if next != 0 {
			dst = append(append(dst, `,"next":"`...), strconv.FormatUint(next, 10)...)
			dst = append(dst, '"')
		}
		if settles > 0 && after == 0 {
			dst = strconv.AppendInt(append(dst, `,"settles":`...), settles.Milliseconds()+1, 10)
		}
	}
	return append(dst, "}}"...)
}

// appendNoPresence adds to an answer the reason why it has no members.
func appendNoPresence(answer []byte, r *Refusal) []byte {
	dst := append(answer[:len(answer)-1], `,"presence":{`...)
	with := frameAppendRefusal(nil, r)
	return append(append(dst, with[1:]...), "}}"...)
}

// appendUnwatched appends the notice that the agent no longer sees the members of a channel.
func appendUnwatched(dst []byte, channel string, r *Refusal) []byte {
	dst = append(dst, `{"channel":"/meta/presence","data":`...)
	dst = append(append(dst, channelData(channel)...), `,"successful":false`...)
	return append(frameAppendRefusal(dst, r), '}')
}
