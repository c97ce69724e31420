// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"net/http"
	"strings"
	"testing"
)

// A page of another origin is refused. The log has its origin, the site's own, and the
// probable mistake.
func TestForeignOriginsAreLoggedAndCounted(t *testing.T) {
	s := serve(t, metricsSite("pushit")).site("localhost")
	for origin, cause := range map[string]string{
		"https://localhost":    "trusted_proxies",
		"https://evil.example": "list it in origins",
	} {
		for _, path := range []string{"/push/info", "/push/websocket"} {
			if status, _ := s.get(path, http.Header{"Origin": {origin}}); status != http.StatusForbidden {
				t.Errorf("%s from %s: status %d", path, origin, status)
			}
		}
		if log := s.log(); !strings.Contains(log, `"origin":"`+origin+`"`) || !strings.Contains(log, `"site":"http://localhost"`) || !strings.Contains(log, cause) {
			t.Errorf("the log does not tell of %s, or of %q: %s", origin, cause, log)
		}
	}
	if got := s.scrape()[of("sessions_refused_total", "code=denied")]; got != 4 {
		t.Errorf("%v refusals were counted, want 4", got)
	}
}
