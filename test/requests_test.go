// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"reflect"
	"strings"
	"testing"
)

// requestFixtures are testdata/requests.json of the hub. PROTOCOL.md describes them under
// "Fixtures". The tests of the JavaScript client read them too.
type requestFixtures struct {
	PushIt   []string
	Sessions []struct {
		Rule, Name string
		Steps      []requestStep
	}
}

// A requestStep is one step of a session of requests.
type requestStep struct {
	Post   json.RawMessage
	Listen *string
	Type   string
	Header map[string]string
	Status int
	Answer any
	Lines  []any
	Event  *struct {
		Name  string
		Text  *string
		Data  any
		ID    string
		Retry bool
	}
	End, Stop bool
}

func readRequestFixtures(t *testing.T) (all requestFixtures) {
	t.Helper()
	text, err := os.ReadFile("hub/testdata/requests.json")
	if err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&all); err != nil {
		t.Fatal(err)
	}
	return all
}

// TestRequestsOfTheFixtures plays each session of requests with a server.
func TestRequestsOfTheFixtures(t *testing.T) {
	protocol, err := os.ReadFile("PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	all := readRequestFixtures(t)
	s := serve(t, "http://site.test {\n\tpushit /push {\n\t\t"+strings.Join(all.PushIt, "\n\t\t")+"\n\t}\n}\n").site("site.test")
	rules := make(map[string]bool)
	for _, f := range all.Sessions {
		rules[f.Rule] = true
		if !strings.Contains(string(protocol), fmt.Sprintf(`<a id="%s"></a>`, strings.ToLower(f.Rule))) {
			t.Errorf("PROTOCOL.md has no %s", f.Rule)
		}
		t.Run(f.Rule+" "+f.Name, func(t *testing.T) {
			at := s
			at.t = t
			r := &requester{site: at, by: at.client("h1"), values: make(map[string]any)}
			for i, step := range f.Steps {
				if err := r.step(&step); err != nil {
					t.Fatalf("step %d: %v", i+1, err)
				}
			}
		})
	}
	for _, rule := range []string{"R57", "R60", "R61", "R62"} {
		if !rules[rule] {
			t.Errorf("no session is about %s", rule)
		}
	}
}

// A requester plays a session of requests.
type requester struct {
	site
	by     *http.Client
	stream *eventStream
	values map[string]any // by the names that the fixture gives them
}

func (r *requester) step(step *requestStep) error {
	switch {
	case step.Post != nil:
		return r.post(step)
	case step.Listen != nil:
		return r.listen(step)
	case step.Event != nil:
		return r.event(step)
	case step.End:
		if e, err := r.stream.tryNext(); !errors.Is(err, io.EOF) {
			return fmt.Errorf("event %+v, %w; want the end", e, err)
		}
		return nil
	case step.Stop:
		stopped := r.stopping()
		r.t.Cleanup(func() { <-stopped })
		return nil
	}
	return errors.New("it is nothing that there is")
}

func (r *requester) post(step *requestStep) error {
	kind, body := step.Type, string(step.Post)
	if kind == "" {
		kind = "application/json"
	} else if err := json.Unmarshal(step.Post, &body); err != nil {
		return err
	}
	h := http.Header{"Authorization": {"Bearer the-secret-of-a-backend"}}
	for name, value := range step.Header {
		if h.Set(name, value); value == "" {
			h.Del(name)
		}
	}
	status, _, text := r.site.post("/push/publish", kind, body, h)
	if status != step.Status {
		return fmt.Errorf("status %d, %s", status, text)
	}
	if step.Answer != nil {
		return r.wantJSON(text, step.Answer)
	}
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if step.Lines != nil && len(lines) != len(step.Lines) {
		return fmt.Errorf("the answer has %d lines: %s", len(lines), text)
	}
	for i, want := range step.Lines {
		if err := r.wantJSON(lines[i], want); err != nil {
			return err
		}
	}
	return nil
}

func (r *requester) listen(step *requestStep) error {
	if r.stream != nil {
		r.stream.leave()
	}
	query, h := *step.Listen, make(http.Header)
	for name, value := range r.values {
		if text, ok := value.(string); ok {
			query = strings.ReplaceAll(query, name, url.QueryEscape(text))
		}
	}
	for name, value := range step.Header {
		if known, ok := r.values[value].(string); ok {
			value = known
		}
		h.Set(name, value)
	}
	last := h.Get("Last-Event-ID")
	h.Del("Last-Event-ID")
	r.stream = events(r.t, r.by, r.origin()+"/push/sse?"+query, last, h)
	if got := r.stream.resp; got.StatusCode != step.Status {
		return fmt.Errorf("status %s", r.stream.refusal())
	}
	return nil
}

func (r *requester) event(step *requestStep) error {
	e, err := r.stream.tryNext()
	want := step.Event
	switch {
	case err != nil:
		return err
	case e.Name != want.Name, want.Text != nil && e.Data != *want.Text:
		return fmt.Errorf("event %+v", e)
	case want.Data != nil:
		if err := r.wantJSON(e.Data, want.Data); err != nil {
			return err
		}
		data, ok := want.Data.(object)
		if got := (object{}); ok && want.Retry && (json.Unmarshal([]byte(e.Data), &got) != nil || got["retry"] != float64(r.stream.Retry.Milliseconds())) {
			return fmt.Errorf("the stream has retry %v, and %v", r.stream.Retry, data)
		}
	}
	if want.ID != "" && !r.isLike(e.ID, want.ID) {
		return fmt.Errorf("the id is %q", e.ID)
	}
	return nil
}

func (r *requester) wantJSON(text string, want any) error {
	var got any
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		return fmt.Errorf("%q: %w", text, err)
	}
	if !r.isLike(got, want) {
		return fmt.Errorf("%s, want %v", text, want)
	}
	return nil
}

// isLike compares values. In want, "*" stands for any string or number, and "$name" for a
// value that is the same wherever that name stands.
func (r *requester) isLike(got, want any) bool {
	switch want := want.(type) {
	case string:
		_, isString := got.(string)
		_, isNumber := got.(float64)
		if !isString && !isNumber {
			return false
		}
		if strings.HasPrefix(want, "$") {
			if _, known := r.values[want]; !known {
				r.values[want] = got
			}
			return got == r.values[want]
		}
		return want == "*" && got != "" || got == want
	case object:
		all, ok := got.(object)
		if !ok || len(all) != len(want) {
			return false
		}
		for name := range maps.Keys(want) {
			if value, ok := all[name]; !ok || !r.isLike(value, want[name]) {
				return false
			}
		}
		return true
	case []any:
		all, ok := got.([]any)
		if !ok || len(all) != len(want) {
			return false
		}
		for i := range want {
			if !r.isLike(all[i], want[i]) {
				return false
			}
		}
		return true
	}
	return reflect.DeepEqual(got, want)
}
