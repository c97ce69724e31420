// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"
	"time"

	"github.com/push-it/pushit/hub"
)

const (
	// maxPublications is the most messages in one array.
	maxPublications = 1000
	// maxPublishBody is the longest body that is not a stream, in bytes.
	maxPublishBody = 8 << 20
	// maxPublishers is the most publish requests under way at an endpoint.
	maxPublishers = 1000
	// publishOverhead is the most bytes of a message beside its data: 16 channels and a uuid.
	publishOverhead = 8 << 10
)

// The answers that refuse a publish request as a whole.
var (
	errNoAPI       = &httpError{http.StatusNotFound, "Programs cannot publish here: the configuration has no api gate."}
	errPublishers  = &httpError{http.StatusServiceUnavailable, "Too many publish requests at once."}
	errPublishType = &httpError{http.StatusUnsupportedMediaType, "Send application/json, or application/x-ndjson with a message in each line."}
	errPublishMany = &httpError{http.StatusRequestEntityTooLarge, "An array holds at most " + strconv.Itoa(maxPublications) + " messages: send several arrays, or a stream of application/x-ndjson."}
	errPublishSize = &httpError{http.StatusRequestEntityTooLarge, "A body has at most " + strconv.Itoa(maxPublishBody) + " bytes: send several requests, or a stream of application/x-ndjson."}
	errPublishNone = &httpError{http.StatusBadRequest, "The body is empty: send a message, such as {\"channel\":\"news\",\"data\":1}, or an array of messages."}
	errPublishJSON = &httpError{http.StatusBadRequest, "The body is not JSON: send a message, such as {\"channel\":\"news\",\"data\":1}, or an array of messages."}
)

// A published is the answer for one message.
type published struct {
	UUID          string            `json:"uuid,omitempty"`
	Subscriptions *int              `json:"subscriptions,omitempty"`
	Position      string            `json:"position,omitempty"`
	Positions     map[string]string `json:"positions,omitempty"` // by channel
	Repeated      bool              `json:"repeated,omitempty"`
	Error         string            `json:"error,omitempty"`
	Code          hub.Code          `json:"code,omitempty"`
	Retry         *int64            `json:"retry,omitempty"` // ms

	status int
}

// servePublish answers a request of a program that publishes (PROTOCOL.md, R57).
func (e *Endpoint) servePublish(w http.ResponseWriter, r *http.Request) {
	refuse := func(err *httpError) {
		LeaveBody(w, r)
		fail(w, err)
	}
	switch {
	case !e.Policy.ServesPrograms():
		refuse(errNoAPI)
		return
	case r.Method != http.MethodPost:
		w.Header().Set("Allow", http.MethodPost)
		refuse(errMethod)
		return
	case isEarly(r):
		refuse(errSendEarly)
		return
	}
	defer e.publishers.Add(-1)
	if e.publishers.Add(1) > maxPublishers {
		w.Header().Set("Retry-After", "1")
		refuse(errPublishers)
		return
	}
	opening, refusal := e.Opening(r)
	opening.Transport = "api"
	var program *hub.Program
	if refusal == nil {
		program, refusal = e.Hub.Authorize(r.Context(), e.Policy, opening)
	}
	if refusal != nil {
		LeaveBody(w, r)
		refuseProgram(w, r, refusal)
		return
	}
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch {
	case isEncoded(r):
		refuse(errEncoded)
	case kind == "application/json":
		e.publishBody(w, r, program)
	case kind == "application/x-ndjson", kind == "application/jsonl":
		e.publishStream(w, r, program)
	default:
		refuse(errPublishType)
	}
}

// refuseProgram answers with the reason why the gate does not let a program publish.
func refuseProgram(w http.ResponseWriter, r *http.Request, refusal *hub.Refusal) {
	if refusal.Code == hub.CodeDenied && r.Header.Get("Authorization") == "" {
		w.Header().Set("WWW-Authenticate", "Bearer")
		fail(w, &httpError{http.StatusUnauthorized, sentence(refusal.Reason)})
		return
	}
	refuseOpening(w, refusal)
}

// readBy sets a deadline for reading the body. The reading also ends when the server stops.
// The caller calls done.
func (e *Endpoint) readBy(w http.ResponseWriter, r *http.Request, in time.Duration) (done func()) {
	rc := http.NewResponseController(innermost(w))
	_ = rc.SetReadDeadline(time.Now().Add(in)) // without support for deadlines, the server's own limits apply
	stop := e.Hub.OnEnd(func() { _ = rc.SetReadDeadline(time.Unix(1, 0)) })
	return func() {
		if stop() {
			_ = rc.SetReadDeadline(time.Time{})
		} else {
			closeAfter(w, r)
		}
	}
}

// publishBody publishes one message, or an array of messages. It checks an array as a whole
// first, and publishes nothing if there is a mistake in it.
func (e *Endpoint) publishBody(w http.ResponseWriter, r *http.Request, program *hub.Program) {
	if r.ContentLength > maxPublishBody {
		LeaveBody(w, r)
		fail(w, errPublishSize)
		return
	}
	done := e.readBy(w, r, e.patience().message)
	body, wrong := readWhole(w, r, maxPublishBody, errPublishSize)
	done()
	if wrong != nil {
		fail(w, wrong)
		return
	}
	objects, array, wrong := splitBody(body)
	if wrong != nil {
		fail(w, wrong)
		return
	}
	list := make([]hub.Publication, len(objects))
	for i, object := range objects {
		p, refusal := hub.DecodePublication(object)
		if refusal == nil {
			refusal = program.Check(p)
		}
		if refusal != nil {
			answer := refused(p.UUID, refusal)
			if array {
				answer.Error = "message " + strconv.Itoa(i) + ": " + answer.Error
			}
			answerPublish(w, answer.status, answer)
			return
		}
		list[i] = p
	}
	answers := make([]published, len(list))
	status := http.StatusOK
	for i, p := range list {
		if answers[i] = publish(r.Context(), program, p, false); answers[i].Error != "" && status == http.StatusOK {
			status = answers[i].status
		}
	}
	if !array {
		answerPublish(w, status, answers[0])
		return
	}
	if status != http.StatusOK && len(answers) > 0 && answers[0].Error == "" {
		status = http.StatusMultiStatus // each answer says whether its message was published
	}
	answerPublish(w, status, answers)
}

// splitBody returns the messages of a body.
func splitBody(body []byte) (objects []json.RawMessage, array bool, wrong *httpError) {
	body = bytes.TrimSpace(body)
	switch {
	case len(body) == 0:
		return nil, false, errPublishNone
	case !json.Valid(body):
		return nil, false, errPublishJSON
	case body[0] != '[':
		return []json.RawMessage{body}, false, nil
	}
	if json.Unmarshal(body, &objects) != nil {
		return nil, true, errPublishJSON
	}
	if len(objects) > maxPublications {
		return nil, true, errPublishMany
	}
	return objects, true, nil
}

// publish publishes one message and returns the answer. If wait is set, it waits while the
// rate limit is exceeded.
func publish(ctx context.Context, program *hub.Program, p hub.Publication, wait bool) published {
	for {
		receipt, refusal := program.Publish(ctx, p)
		switch {
		case refusal == nil:
			return published{
				UUID: receipt.UUID, Subscriptions: &receipt.Subscriptions,
				Position: receipt.Position, Positions: receipt.Positions, Repeated: receipt.Repeated,
			}
		case !wait || refusal.Code != hub.CodeLimit || refusal.Retry <= 0:
			return refused(p.UUID, refusal)
		}
		timer := time.NewTimer(refusal.Retry)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return refused(p.UUID, refusal)
		}
	}
}

// refused returns the answer for a message that was not published.
func refused(uuid string, r *hub.Refusal) published {
	p := published{UUID: uuid, Error: r.Reason, Code: r.Code, status: statusOf(r.Code)}
	if r.Code == hub.CodeTooLarge {
		p.Code = hub.CodeLimit
	}
	if r.Retry > 0 {
		ms := r.Retry.Milliseconds()
		p.Retry = &ms
	}
	return p
}

func answerPublish(w http.ResponseWriter, status int, answer any) {
	h := w.Header()
	h.Set("Content-Type", "application/json; charset=UTF-8")
	h.Set("Cache-Control", "no-store")
	if p, ok := answer.(published); ok && p.Retry != nil {
		h.Set("Retry-After", strconv.FormatInt((*p.Retry+999)/1000, 10))
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answer) // a program that does not read it learns nothing
}

// publishStream publishes the message in each line as it comes, and answers it with a line. A
// rate limit slows the stream down. A line that cannot be read is answered and ends the
// stream; a message that is refused for another reason does not.
func (e *Endpoint) publishStream(w http.ResponseWriter, r *http.Request, program *hub.Program) {
	rc := http.NewResponseController(w)
	_ = rc.EnableFullDuplex() // HTTP/2 and HTTP/3 always have it
	h := w.Header()
	h.Set("Content-Type", "application/x-ndjson; charset=UTF-8")
	h.Set("Cache-Control", "no-store, no-transform")
	h.Set("X-Accel-Buffering", "no") // for nginx
	w.WriteHeader(http.StatusOK)
	_ = rc.Flush() // if the program is gone, the reading of its body ends
	longest := e.Policy.Limits.MessageSize + publishOverhead
	lines := bufio.NewReaderSize(r.Body, 4<<10)
	answers := json.NewEncoder(w)
	var line []byte
	for {
		var err error
		done := e.readBy(w, r, streamPatience)
		line, err = readLine(lines, line[:0], longest)
		done()
		object := bytes.TrimSpace(line)
		end := errors.Is(err, io.EOF)
		switch {
		case errors.Is(err, errLineTooLong):
			_ = answers.Encode(refused("", &hub.Refusal{Code: hub.CodeTooLarge, Reason: "the line is too long; at most " + strconv.Itoa(longest) + " bytes are allowed"}))
			return
		case err != nil && !end:
			_ = answers.Encode(refused("", &hub.Refusal{Code: hub.CodeUnavailable, Reason: "the stream ended early; every message before this answer has its own"}))
			return
		case len(object) == 0 && end:
			return
		case len(object) == 0:
			continue // a blank line keeps the stream open
		}
		p, refusal := hub.DecodePublication(object)
		if refusal != nil {
			_ = answers.Encode(refused(p.UUID, refusal))
			if !json.Valid(object) {
				return
			}
		} else if answers.Encode(publish(r.Context(), program, p, true)) != nil {
			return
		}
		if lines.Buffered() == 0 || end {
			_ = rc.Flush()
		}
		if end {
			return
		}
	}
}

// streamPatience is how long a stream may be silent. Blank lines keep it open.
const streamPatience = 5 * time.Minute

var errLineTooLong = errors.New("line too long")

// readLine appends the next line to dst, without its end. At the end of the body it returns
// the incomplete line and io.EOF.
func readLine(r *bufio.Reader, dst []byte, longest int) ([]byte, error) {
	for {
		part, err := r.ReadSlice('\n')
		if len(dst)+len(part) > longest+2 {
			return dst, errLineTooLong
		}
		dst = append(dst, part...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return dst, err
		}
	}
}
