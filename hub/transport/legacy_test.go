// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/push-it/pushit/hub"
)

// TestLegacyClient connects a Push-It client of 2011 and one of today. They share channels, and
// each gets its own form.
func TestLegacyClient(t *testing.T) {
	s := httptest.NewServer(handler(newEndpoint(t, hub.Limits{})))
	defer s.Close()
	for _, path := range []string{"/push/123/abcdefgh/websocket", "/push//123/abcdefgh/websocket"} {
		old := open(t, s, path)
		old.want(opText, "o")
		old.send(text(" " + metaConnect))
		old.want(opText, `a[{"channel":"/meta/connect","uuid":"1","agentId":"a","successful":true,"error":""}]`)
		old.send(text(`{"channel":"/meta/subscribe","uuid":"2","agentId":"a","data":{"channel":"ro\"om"}}`))
		if _, got, err := old.read(); err != nil || !strings.HasPrefix(got, `a[{"channel":"/meta/subscribe"`) || !strings.Contains(got, `"successful":true`) {
			t.Errorf("%q, %v", got, err)
		}

		today := open(t, s, "/push/123/hgfedcba/websocket", text(`["`+quoted(`{"channel":"/meta/connect","uuid":"1","agentId":"b"}`)+`"]`))
		today.want(opText, "o")
		if _, got, err := today.read(); err != nil || !strings.HasPrefix(got, `a["{`) {
			t.Errorf("%q, %v", got, err)
		}
		today.send(text(`["` + quoted(publicationOn(`ro\"om`, path)) + `"]`))
		want := `a[{"channel":"ro\"om","data":{"channel":"ro\"om","uuid":"` + path + `","data":{"n":[1]}}}]`
		want = strings.ReplaceAll(want, path, uuidOf(path))
		old.want(opText, want)
		var nested []struct {
			Channel string
			Data    struct {
				Channel, UUID string
				Data          json.RawMessage
			}
		}
		if err := json.Unmarshal([]byte(strings.TrimPrefix(want, "a")), &nested); err != nil || nested[0].Channel != `ro"om` {
			t.Errorf("%+v, %v", nested, err)
		}

		old.send(text(`[1]`), text(`garbage`), text(`["`+quoted(metaSubscribe)+`"]`))
		for range 3 { // an object is what it sends, now and ever
			if _, got, err := old.read(); err != nil || !strings.HasPrefix(got, `a[{"channel":"/meta/error"`) {
				t.Errorf("%q, %v", got, err)
			}
		}
		old.send(closing(1000, ""))
		old.wantClose(1000, "")
		today.send(closing(1000, ""))
	}
}

func uuidOf(path string) string { return strings.ReplaceAll(strings.Trim(path, "/"), "/", "-") }

func publicationOn(channel, path string) string {
	return `{"channel":"` + channel + `","uuid":"` + uuidOf(path) + `","data":{"n":[1]}}`
}

// TestLegacyIsSettledByTheFirstMessage: a client of today may not send objects later, except on
// the bare endpoint, where clients always send objects.
func TestLegacyIsSettledByTheFirstMessage(t *testing.T) {
	s := httptest.NewServer(handler(newEndpoint(t, hub.Limits{})))
	defer s.Close()
	p := open(t, s, "/push/1/a/websocket", text(``), text(`["`+quoted(metaConnect)+`"]`), text(metaSubscribe))
	p.want(opText, "o")
	if _, got, err := p.read(); err != nil || !strings.HasPrefix(got, `a["{`) {
		t.Errorf("%q, %v", got, err)
	}
	if _, got, err := p.read(); err != nil || !strings.Contains(got, "4400") {
		t.Errorf("%q, %v", got, err)
	}

	p = open(t, s, "/push/1/b/websocket", text(`{}`))
	p.want(opText, "o")
	if _, got, err := p.read(); err != nil || !strings.HasPrefix(got, `a[{"channel":"/meta/error"`) {
		t.Errorf("%q, %v", got, err)
	}
	_ = p.nc.Close() // it has what it came for
}
