// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package pushit

import (
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

func TestHistoryOff(t *testing.T) {
	for _, wrong := range []History{{Off: true, Count: 1}, {Off: true, TTL: caddy.Duration(time.Hour)}} {
		if err := wrong.check(nil); err == nil || !strings.Contains(err.Error(), "with off there is no count and no ttl") {
			t.Errorf("%+v: %v", wrong, err)
		}
	}
	h := &Handler{
		History:  &History{Count: 5, TTL: caddy.Duration(time.Hour)},
		Channels: []ChannelBlock{{Match: []string{"typing/*"}, History: &History{Off: true}}},
	}
	if err := h.checkHistories(); err != nil {
		t.Fatal(err)
	}
	all, err := h.histories()
	if err != nil {
		t.Fatal(err)
	}
	if got := all.History("typing/lobby").Count; got != 0 {
		t.Errorf("typing/lobby keeps %d", got)
	}
	if got := all.History("lobby").Count; got != 5 {
		t.Errorf("lobby keeps %d", got)
	}
}
