// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"testing"
	"time"

	"github.com/push-it/pushit/hub"
)

// TestGreetingEndsForWhoDoesNotHearIt: if a client sends nothing, a proxy may be holding the o
// frame back, so the stream ends. The stream of a client that has sent something goes on.
func TestGreetingEndsForWhoDoesNotHearIt(t *testing.T) {
	t.Parallel()
	for _, transport := range []string{"xhr_streaming", "eventsource", "htmlfile"} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			// Of its own: what is published in another test must not come between the answers. When
			// the stream ends, mute has half the handshake time left.
			s, _ := newFallbackServer(t, &hub.Policy{Handshake: 10 * time.Second, Heartbeat: time.Hour}, nil)
			spoken, mute := newSockJSClient(t, s), newSockJSClient(t, s)
			spoken.connect(transport)
			mute.receiveOver(transport)
			for _, want := range []string{"o", "h", ""} {
				if got := mute.frame(); got != want {
					t.Fatalf("got %q, want %q", got, want)
				}
			}
			mute.connectNow(transport)
			spoken.publish("still here")
			for f := ""; ; {
				if f = spoken.frame(); f == "" {
					t.Fatal("the stream of who has spoken has ended")
				}
				if f[0] == 'a' {
					return
				}
			}
		})
	}
}

// connectNow connects a session that is open.
func (c *sockJSClient) connectNow(transport string) {
	c.t.Helper()
	c.receiveOver(transport)
	c.send(metaConnect)
	c.receiveN(transport, 1)
}
