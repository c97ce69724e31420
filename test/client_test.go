// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"net/http"
	"os"
	"strings"
	"testing"
)

// TestServesTheClient gets the client's files at all kinds of endpoints, also as a page
// of another site: the files are public.
func TestServesTheClient(t *testing.T) {
	want, err := os.ReadFile("client/dist/pushit.mjs")
	if err != nil {
		t.Fatal(err)
	}
	foreign := http.Header{"Origin": {"https://evil.example"}, "Sec-Fetch-Site": {"cross-site"}}
	for name, tc := range map[string]struct{ directives, path string }{
		"at its path":        {"pushit /push\nrespond nothing 404", "/push"},
		"at the root":        {"pushit /\nrespond nothing 404", ""},
		"behind handle_path": {"handle_path /live/* {\npushit {\npath /\n}\n}", "/live"},
		"behind deny":        {"pushit /push {\ndefault deny\nconnect deny\n}", "/push"},
		"in a route":         {"route {\npushit /push\nrespond <html>\n}", "/push"},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, "http://localhost {\n"+tc.directives+"\n}").site("localhost")
			if status, body := s.get(tc.path+"/pushit.mjs", foreign); status != http.StatusOK || body != string(want) {
				t.Errorf("pushit.mjs: status %d, %d bytes", status, len(body))
			}
			if status, body := s.get(tc.path+"/pushit.d.ts", nil); status != http.StatusOK || !strings.Contains(body, "class PushIt") {
				t.Errorf("pushit.d.ts: status %d, %.80q", status, body)
			}
			if status, _ := s.get(tc.path+"/info", foreign); status != http.StatusForbidden {
				t.Errorf("info: status %d; the rule about origins holds no more", status)
			}
		})
	}
}
