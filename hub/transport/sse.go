// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/internal/jsontext"
)

const (
	// maxPosition is the longest Last-Event-ID, in bytes. Positions are much shorter.
	maxPosition = 128
	// Clients wait for streamRetry, and a random time beyond it, before they come back.
	// Otherwise all clients of a server that is gone would come back at once.
	streamRetry, streamRetrySpread = time.Second, 2 * time.Second
	// turnRetry is how long they wait if the server has ended a stream that can go on at once.
	turnRetry = 100 * time.Millisecond
)

// noticeSubscribe is the channel of the hub's notice that messages are missing.
const noticeSubscribe = "/meta/subscribe"

// The names of the events that are not messages. Names of channels never begin with a slash.
const (
	eventGap      = "/meta/gap"
	eventClose    = "/meta/close"
	eventPresence = "/meta/presence"
)

var (
	errStreamQuery   = &httpError{http.StatusBadRequest, "The query cannot be read: write it like channel=news&channel=stories/5, with % and & in values as %25 and %26."}
	errStreamNone    = &httpError{http.StatusBadRequest, "Name at least one channel or pattern in the query, like channel=news&channel=stories/*."}
	errStreamID      = &httpError{http.StatusBadRequest, fmt.Sprintf("Last-Event-ID must be an id of this server: it has at most %d bytes, and comes once.", maxPosition)}
	errStreamSince   = &httpError{http.StatusBadRequest, "The value of since must be a number of messages from 1 on, or a time like 2026-01-31T12:00:00Z."}
	errStreamBegin   = &httpError{http.StatusBadRequest, "The query has last_event_id or since, each once, and not both."}
	errStreamFormat  = &httpError{http.StatusBadRequest, "The value of format must be text, json or frame."}
	errStreamEvent   = &httpError{http.StatusBadRequest, "The value of event must be channel; without it, events have no name."}
	errStreamChannel = &httpError{http.StatusBadRequest, "A parameter is missing its value: channel must be the name of a channel, or a pattern."}
	errStreamMembers = &httpError{http.StatusBadRequest, "The value of presence must be the name of a channel, such as presence=rooms/1. A pattern has no members."}
)

// sseFraming is the framing of event streams. The hub gives them complete events.
var sseFraming = &framing{transport: eventStream, method: http.MethodGet, contentType: "text/event-stream"}

// A streamFormat says what the data field of an event has.
type streamFormat uint8

const (
	formatText  streamFormat = iota // the text of a string, JSON of any other value
	formatJSON                      // JSON
	formatFrame                     // the whole message, as over a WebSocket
	streamFormats
)

var formatNames = map[string]streamFormat{"": formatText, "text": formatText, "json": formatJSON, "frame": formatFrame}

// streamForms has the Form of each format, without and with the channel as the event's name.
var streamForms = func() (forms [streamFormats][2]*hub.Form) {
	for format := range streamFormats {
		for named := range 2 {
			forms[format][named] = hub.NewMessageForm(func(dst []byte, m *hub.Message) []byte {
				return appendEvent(dst, m, format, named == 1)
			}, appendNotice, []byte(":\n\n"))
		}
	}
	return forms
}()

// appendEvent appends a message as an event. Its id says that the client got all messages
// of its channels up to this one (see hub.Listener). A message that no history keeps has no
// id, so the client keeps the last one.
func appendEvent(dst []byte, m *hub.Message, format streamFormat, named bool) []byte {
	if position := m.Position(); position != nil {
		dst = append(append(append(dst, "id: "...), position...), '\n')
	}
	if named {
		dst = append(append(append(dst, "event: "...), m.Channel...), '\n')
	}
	switch {
	case format == formatFrame:
		dst = appendData(dst, m.Object())
	case format == formatText && m.Data[0] == '"':
		text, _ := jsontext.Unescape(nil, m.Data[1:len(m.Data)-1])
		dst = appendData(dst, text)
	default:
		dst = appendData(dst, m.Data)
	}
	return append(dst, '\n')
}

// appendData appends the lines of text as fields. The client joins them with line feeds.
func appendData(dst, text []byte) []byte {
	for {
		i := bytes.IndexAny(text, "\r\n")
		if i < 0 {
			return append(append(append(dst, "data: "...), text...), '\n')
		}
		dst = append(append(append(dst, "data: "...), text[:i]...), '\n')
		if bytes.HasPrefix(text[i:], []byte("\r\n")) {
			i++
		}
		text = text[i+1:]
	}
}

// A streamEnd is the data of the last event of a stream.
type streamEnd struct {
	Code    hub.CloseCode   `json:"code"`
	Error   string          `json:"error"`
	Retry   json.RawMessage `json:"retry"`             // ms, or false
	Channel string          `json:"channel,omitempty"` // that it is about
}

// aboutMembers is how frames about the members of a channel begin. The object that has the
// channel's name follows. It has no further member, and names have no braces (R10).
const aboutMembers = `{"channel":"` + eventPresence + `","data":`

// appendNotice appends a frame that is not a message. A stream has no answers, because its
// client sends no frames. So there are frames about members, whose event has the channel's
// name in place of data, the notice that messages are missing, and the last notice.
func appendNotice(dst, object []byte) []byte {
	if rest, ok := bytes.CutPrefix(object, []byte(aboutMembers)); ok {
		i := bytes.IndexByte(rest, '}')
		dst = append(append(append(dst, "event: "+eventPresence+"\ndata: "...), rest[:i]...), rest[i+1:]...)
		return append(dst, "\n\n"...)
	}
	if bytes.HasPrefix(object, []byte(`{"channel":"`+noticeSubscribe+`"`)) {
		return appendGapNotice(dst, object)
	}
	if !bytes.HasPrefix(object, []byte(`{"channel":"`+eventClose+`"`)) {
		return dst
	}
	var frame struct {
		streamEnd
		Channel string `json:"channel"`
		Data    struct{ Channel string }
	}
	if json.Unmarshal(object, &frame) != nil {
		return dst // never: the hub made it
	}
	if frame.Code == hub.CloseNormal { // the client goes on with another request
		return appendRetry(dst, turnRetry)
	}
	last := streamEnd{frame.Code, frame.Error, frame.Retry, frame.Data.Channel}
	if ms, err := strconv.ParseInt(string(last.Retry), 10, 64); err == nil && ms > 0 {
		dst = appendRetry(dst, time.Duration(ms)*time.Millisecond)
	}
	return appendNamed(dst, eventClose, last)
}

// appendGapNotice appends what the hub says if messages of a subscription were dropped before
// they could be sent.
func appendGapNotice(dst, object []byte) []byte {
	var frame struct {
		Data   struct{ Channel string }
		Reason string
	}
	if json.Unmarshal(object, &frame) != nil || frame.Reason == "" {
		return dst
	}
	return appendGap(dst, hub.Gap{Channel: frame.Data.Channel, Reason: frame.Reason})
}

func appendGap(dst []byte, gap hub.Gap) []byte {
	return appendNamed(dst, eventGap, struct {
		Channel string `json:"channel"`
		Reason  string `json:"reason"`
	}{gap.Channel, gap.Reason})
}

func appendRetry(dst []byte, in time.Duration) []byte {
	return fmt.Appendf(dst, "retry: %d\n\n", in.Milliseconds())
}

// appendNamed appends an event that is not a message.
func appendNamed(dst []byte, name string, data any) []byte {
	text, _ := json.Marshal(data) // it never fails for these types
	return append(appendData(append(append(append(dst, "event: "...), name...), '\n'), text), '\n')
}

// appendBeginning appends what a stream begins with: how long to wait before coming back, a
// position to come back with, and what is missing.
func appendBeginning(dst []byte, b *hub.Beginning) []byte {
	retry := streamRetry + rand.N(streamRetrySpread) //nolint:gosec // G404: nothing secret
	dst = fmt.Appendf(dst, "retry: %d\n", retry.Milliseconds())
	if b.Position != "" {
		dst = append(append(append(dst, "id: "...), b.Position...), '\n')
	}
	dst = append(dst, '\n')
	for _, gap := range b.Gaps {
		dst = appendGap(dst, gap)
	}
	return dst
}

// A streamRequest is what a client asks for.
type streamRequest struct {
	hub.Listening
	form *hub.Form
}

// parseStream reads the query and Last-Event-ID. Parameters that it does not know may be
// there for gates.
func parseStream(r *http.Request) (q streamRequest, wrong *httpError) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return q, errStreamQuery
	}
	seen := make(map[string]bool) // a query may have many: nothing has limited their number yet
	for _, name := range slices.Concat(values["channel"], values["presence"]) {
		if name == "" {
			return q, errStreamChannel
		}
		if !seen[name] {
			seen[name] = true
			q.Channels = append(q.Channels, name)
		}
	}
	if slices.ContainsFunc(values["presence"], hub.IsPattern) {
		return q, errStreamMembers
	}
	q.Members = slices.Compact(slices.Sorted(slices.Values(values["presence"])))
	format, ok := formatNames[values.Get("format")]
	if !ok || len(values["format"]) > 1 {
		return q, errStreamFormat
	}
	named := 0
	switch names := values["event"]; {
	case len(names) == 1 && names[0] == "channel":
		named = 1
	case len(names) > 0:
		return q, errStreamEvent
	}
	q.form = streamForms[format][named]
	return q, q.begin(r.Header.Values("Last-Event-ID"), slices.Concat(values["last_event_id"], values["lastEventID"]), values["since"])
}

// begin reads where the stream begins. When a browser comes back, it repeats the query and
// adds Last-Event-ID, which therefore counts alone.
func (q *streamRequest) begin(header, ids, since []string) *httpError {
	header = slices.DeleteFunc(slices.Clone(header), func(id string) bool { return id == "" })
	if len(header) > 0 {
		ids, since = header, nil
	}
	switch {
	case len(header) > 1:
		return errStreamID
	case len(ids) > 1, len(since) > 1, len(ids) > 0 && len(since) > 0:
		return errStreamBegin
	case len(ids) == 1 && len(ids[0]) > maxPosition:
		return errStreamID
	case len(ids) == 1:
		q.Position = ids[0]
		return nil
	case len(since) == 0:
		return nil
	}
	// A plus sign in a query is a space: a time zone east of Greenwich has one.
	if t, err := time.Parse(time.RFC3339, strings.ReplaceAll(since[0], " ", "+")); err == nil && !t.IsZero() {
		q.Since = t
		return nil
	}
	n, err := strconv.Atoi(since[0])
	if err != nil || n < 1 {
		return errStreamSince
	}
	q.Last = n
	return nil
}

// serveStream answers a request for a stream of Server-Sent Events (PROTOCOL.md, R60).
func (e *Endpoint) serveStream(w http.ResponseWriter, r *http.Request, cross string) {
	e.setCookie(w, r)
	allowOrigin(w.Header(), cross)
	switch r.Method {
	case http.MethodGet:
	case http.MethodOptions:
		servePreflight(w, cross, http.MethodGet, "Authorization, Cache-Control, Last-Event-ID")
		return
	default:
		w.Header().Set("Allow", "OPTIONS, GET")
		fail(w, errMethod)
		return
	}
	if isEarly(r) {
		fail(w, errEarly)
		return
	}
	q, wrong := parseStream(r)
	if wrong != nil {
		fail(w, wrong)
		return
	}
	a := e.openAgent(w, r, eventStream)
	if a == nil {
		return
	}
	s := &stream{agent: a, form: q.form, response: newResponse(w, sseFraming, "", r.ProtoMajor, e.patience())}
	s.response.carrier = s
	a.Start(s)
	listener, refused := hub.Listen(r.Context(), a, q.Listening)
	if refused != nil {
		a.Left(refused.Reason)
		refuseStream(w, r, refused)
		return
	}
	s.listener = listener
	if listener.Begun.Channels == 0 {
		a.Left("it named no channel")
		fail(w, errStreamNone)
		return
	}
	s.response.first = appendBeginning(nil, &listener.Begun)
	if s.response.protocol == 3 && !e.KeepsHTTP3 {
		e.Sessions.addStream(s, e.Policy.Mount)
		defer e.Sessions.removeStream(s)
		if e.retired.Load() {
			s.end() // Retire may have missed it
		}
	}
	if e.ResponseTime > 0 {
		defer time.AfterFunc(e.ResponseTime, s.end).Stop()
	}
	left := ""
	if !s.response.serve(r.Context()) {
		left = s.response.reason()
	}
	a.Left(left)
}

// refuseStream answers with the reason why there is no stream.
func refuseStream(w http.ResponseWriter, r *http.Request, refused *hub.ListenError) {
	if refused.Channel == "" {
		refuseProgram(w, r, refused.Refusal)
		return
	}
	about := *refused.Refusal
	about.Reason = fmt.Sprintf("the channel %q: %s", refused.Channel, about.Reason)
	refuseOpening(w, &about)
}

// A stream is a response with Server-Sent Events. It is the agent's Conn.
type stream struct {
	// Immutable.
	agent    *hub.Agent
	form     *hub.Form
	response *response

	listener *hub.Listener // set before the response begins
	begun    atomic.Bool   // the response takes events
}

var (
	_ hub.Conn   = (*stream)(nil)
	_ hub.Cutter = (*stream)(nil)
)

var errNotOpen = errors.New("the stream has not begun")

// Form implements hub.Conn.
func (s *stream) Form() *hub.Form { return s.form }

// TryWrite implements hub.Conn. It never writes: writing to a response may block.
func (s *stream) TryWrite([]byte) (int, error) { return 0, hub.ErrWouldBlock }

// Write implements hub.Conn.
func (s *stream) Write(p []byte) (int, error) {
	if !s.begun.Load() {
		return 0, errNotOpen
	}
	if err := s.response.put(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// SetWriteDeadline implements hub.Conn.
func (s *stream) SetWriteDeadline(t time.Time) error {
	s.response.limit(t)
	return nil
}

// Close implements hub.Conn. The hub has written the last event before.
func (s *stream) Close(hub.CloseCode, string) { s.response.finish() }

// Cut implements hub.Cutter.
func (s *stream) Cut() {
	if !s.response.cut() {
		s.response.limit(time.Now()) // the stream is about to begin
	}
}

// ready implements carrier.
func (s *stream) ready(r *response) {
	r.makeReady()
	s.begun.Store(true)
	s.listener.Release()
}

// end ends the stream in order. The client comes back at once.
func (s *stream) end() {
	s.agent.Close(hub.CloseNormal, "the server limits how long a response lasts", 0)
}

func (ss *Sessions) addStream(s *stream, mount string) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	ss.streams[s] = mount
}

func (ss *Sessions) removeStream(s *stream) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	delete(ss.streams, s)
}

// streamsOf returns the streams of a mount that the server may cut.
func (ss *Sessions) streamsOf(mount string) (streams []*stream) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	for s, at := range ss.streams {
		if at == mount {
			streams = append(streams, s)
		}
	}
	return streams
}
