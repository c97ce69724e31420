// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"encoding/json"
	"maps"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/igm/sockjs-go/v3/sockjs"

	"github.com/push-it/pushit/internal/wireclient"
)

// TestSpeaksSockJS does the same with an endpoint and with sockjs-go's server. The parts
// that SockJS clients rely on must be equal.
func TestSpeaksSockJS(t *testing.T) {
	reference := httptest.NewServer(sockjs.NewHandler("/push", sockjs.DefaultOptions, func(session sockjs.Session) {
		for {
			text, err := session.Recv()
			if err != nil {
				return
			}
			if text == "leave" {
				_ = session.Close(4400, "you said so")
				return
			}
			if session.Send(text) != nil {
				return
			}
		}
	}))
	t.Cleanup(reference.Close)
	s := serve(t, "http://localhost {\n\tpushit\n\trespond nothing 404\n}\n")
	ours, theirs := s.site("localhost"), s.site("localhost")
	theirs.elsewhere = strings.TrimPrefix(reference.URL, "http://")

	for _, path := range []string{"/push", "/push/"} {
		gotStatus, got := ours.get(path, nil)
		wantStatus, want := theirs.get(path, nil)
		if gotStatus != wantStatus || got != want {
			t.Errorf("%s: %d %q, want %d %q", path, gotStatus, got, wantStatus, want)
		}
	}
	for _, path := range []string{
		"/push/000/a.b/websocket", "/push/0.0/abc/websocket", "/push//abc/websocket", "/push/000//websocket",
		"/push/000/abc/none", "/push/000/abc", "/push/none",
	} {
		got, _ := ours.get(path, nil)
		if want, _ := theirs.get(path, nil); got != want {
			t.Errorf("%s: status %d, want %d", path, got, want)
		}
	}
	want := append(infoKeys(theirs), "transports") // pushit adds this key
	slices.Sort(want)
	if got := infoKeys(ours); !slices.Equal(got, want) {
		t.Errorf("/info has %q, want %q", got, want)
	}

	var opened, answered, closed []string // frames of both servers
	for _, site := range []site{ours, theirs} {
		last := `not SockJS`
		if site == theirs {
			last = `["leave"]`
		}
		a, resp := site.upgrade("/push/000/abcdefgh/websocket", nil)
		if a == nil {
			t.Fatalf("upgrading: status %d", resp.StatusCode)
		}
		opened = append(opened, string(a.receiveText()))
		a.write(wireclient.OpText, []byte(`["{\"channel\":\"/meta/connect\",\"uuid\":\"u\",\"agentId\":\"a\"}"]`))
		answered = append(answered, shape(t, string(a.receiveText())))
		a.write(wireclient.OpText, []byte(last))
		text := string(a.receiveText())
		for strings.HasPrefix(text, "a") { // pushit sends these first
			text = string(a.receiveText())
		}
		closed = append(closed, shape(t, text))
	}
	for what, both := range map[string][]string{"opened": opened, "answered": answered, "closed": closed} {
		if both[0] != both[1] {
			t.Errorf("when %s: %q, want %q", what, both[0], both[1])
		}
	}
}

func infoKeys(s site) []string {
	s.t.Helper()
	_, text := s.get("/push/info", nil)
	var info object
	if err := json.Unmarshal([]byte(text), &info); err != nil {
		s.t.Fatalf("%s: %v", text, err)
	}
	return slices.Sorted(maps.Keys(info))
}

// shape is a SockJS frame without the values of its strings and numbers.
func shape(t *testing.T, frame string) string {
	t.Helper()
	var values []any
	if err := json.Unmarshal([]byte(frame[1:]), &values); err != nil {
		t.Fatalf("%s: %v", frame, err)
	}
	b := strings.Builder{}
	b.WriteByte(frame[0])
	for _, v := range values {
		switch v.(type) {
		case string:
			b.WriteString(" string")
		case float64:
			b.WriteString(" number")
		default:
			b.WriteString(" something else")
		}
	}
	return b.String()
}
