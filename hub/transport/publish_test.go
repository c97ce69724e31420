// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"bufio"
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/push-it/pushit/hub"
)

// FuzzPublishStream: each line of a stream but blank ones has one answer, in order, until a
// line that is not JSON or too long; and a line is published if it alone would be.
func FuzzPublishStream(f *testing.F) {
	for _, body := range []string{
		"", "\n\n", "{}", "{\n", "[]\n{}\n", "null\n1\n\"x\"\n",
		`{"channel":"news","data":1}` + "\n" + `{"channel":"news","uuid":"u","data":{"a": [1, 2]}}`,
		`{"channels":["a","b"],"uuid":"u","data":1}` + "\r\n\r\n" + `{"channels":["a","b"],"uuid":"u","data":1}` + "\n" + `{"channel":"a","uuid":"u","data":2}`,
		`{"channel":"/meta/x","data":1}` + "\n" + `{"channel":"a","data":1,"data":2}` + "\n" + `{"channel":"a","x":1,"data":1}`,
		`{"channel":"a","data":"` + string(bytes.Repeat([]byte("x"), 300)) + `"}` + "\n" + `{"channel":"a","data":1}`,
		string(bytes.Repeat([]byte(" "), 10_000)) + "\n" + `{"channel":"a","data":1}`,
		"{\"channel\":\"\\u0061\",\"data\":\"\xff\"}\n{\"channel\":\"a\",\"data\":1}",
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		e := newEndpoint(t, hub.Limits{})
		e.Policy = e.Hub.Use(&hub.Policy{Mount: "programs", Gates: &streamGates{}, Limits: hub.Limits{MessageSize: 200, APIPublishesPerSecond: hub.Unlimited}})
		longest := e.Policy.Limits.MessageSize + publishOverhead
		var want []bool // by answer, whether it is of a message that was published
		sure := true    // repeats of a uuid are not looked at
		seen := make(map[string]bool)
		for line := range bytes.Lines(body) {
			line = bytes.TrimSuffix(line, []byte("\n"))
			object := bytes.TrimSpace(line)
			if len(line) > longest+1 {
				want = append(want, false)
				break
			}
			if len(object) == 0 {
				continue
			}
			p, refusal := hub.DecodePublication(object)
			ok := refusal == nil && len(p.Data) <= e.Policy.Limits.MessageSize
			want = append(want, ok)
			if ok && p.UUID != "" {
				sure = sure && !seen[p.UUID]
				seen[p.UUID] = true
			}
			if !json.Valid(object) {
				break
			}
		}
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodPost, "/push/publish", bytes.NewReader(body))
		r.Header.Set("Content-Type", "application/x-ndjson")
		e.servePublish(w, r)
		var got []bool
		for lines := bufio.NewScanner(w.Body); lines.Scan(); {
			var answer published
			if err := json.Unmarshal(lines.Bytes(), &answer); err != nil {
				t.Fatalf("%s: %v", lines.Bytes(), err)
			}
			if (answer.Error == "") != (answer.Subscriptions != nil) || answer.Error != "" && answer.Code == "" {
				t.Fatalf("%s", lines.Bytes())
			}
			got = append(got, answer.Error == "")
		}
		if len(got) != len(want) {
			t.Fatalf("%q: %v, want %v", body, got, want)
		}
		for i := range got {
			if got[i] != want[i] && sure {
				t.Fatalf("%q: answer %d: published %t, want %t", body, i, got[i], want[i])
			}
		}
	})
}
