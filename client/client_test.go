// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"

	"github.com/push-it/pushit/client"
)

func serve(t *testing.T, method, url string, header ...string) *http.Response {
	t.Helper()
	r := httptest.NewRequest(method, url, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	if !client.Serve(w, r, r.URL.Path) {
		t.Fatalf("%s %s: not served", method, url)
	}
	return w.Result()
}

func body(t *testing.T, r *http.Response) string {
	t.Helper()
	defer func() { _ = r.Body.Close() }()
	content, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func TestFilesAreServedAsTheyWereBuilt(t *testing.T) {
	for name, contentType := range map[string]string{
		"pushit.mjs":     "text/javascript; charset=utf-8",
		"pushit.js":      "text/javascript; charset=utf-8",
		"pushit.d.ts":    "application/typescript; charset=utf-8",
		"pushit.mjs.map": "application/json; charset=utf-8",
		"pushit.js.map":  "application/json; charset=utf-8",
	} {
		t.Run(name, func(t *testing.T) {
			want, err := os.ReadFile("dist/" + name)
			if err != nil {
				t.Fatal(err)
			}
			r := serve(t, http.MethodGet, "/"+name)
			if got := body(t, r); r.StatusCode != http.StatusOK || got != string(want) {
				t.Errorf("status %d, %d bytes; want the %d of dist/", r.StatusCode, len(got), len(want))
			}
			for key, want := range map[string]string{
				"Content-Type":                 contentType,
				"Etag":                         `"` + client.Version(name) + `"`,
				"Cache-Control":                "no-cache",
				"X-Content-Type-Options":       "nosniff",
				"Access-Control-Allow-Origin":  "*",
				"Cross-Origin-Resource-Policy": "cross-origin",
			} {
				if got := r.Header.Get(key); got != want {
					t.Errorf("%s: %q, want %q", key, got, want)
				}
			}
		})
	}
}

func TestAVersionIsKept(t *testing.T) {
	v := client.Version("pushit.mjs")
	if len(v) != 16 {
		t.Fatalf("version %q", v)
	}
	const keep, ask = "public, max-age=31536000, immutable", "no-cache"
	for query, want := range map[string]string{
		"":                                  ask,
		"?v=" + v:                           keep,
		"?x=1&v=" + v:                       keep,
		"?v=":                               ask,
		"?v=0123456789abcdef":               ask,
		"?v=" + client.Version("pushit.js"): ask, // another file's
	} {
		if got := serve(t, http.MethodGet, "/pushit.mjs"+query).Header.Get("Cache-Control"); got != want {
			t.Errorf("%q: %q, want %q", query, got, want)
		}
	}
}

func TestWhoHasItIsToldSo(t *testing.T) {
	etag := `"` + client.Version("pushit.js") + `"`
	for match, want := range map[string]int{
		etag:                http.StatusNotModified,
		`"x", ` + etag:      http.StatusNotModified,
		"W/" + etag:         http.StatusNotModified,
		"*":                 http.StatusNotModified,
		`"0123456789abcde"`: http.StatusOK,
	} {
		r := serve(t, http.MethodGet, "/pushit.js", "If-None-Match", match)
		if got := body(t, r); r.StatusCode != want || (got == "") != (want == http.StatusNotModified) {
			t.Errorf("If-None-Match %s: status %d, %d bytes, want %d", match, r.StatusCode, len(got), want)
		}
		if r.Header.Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("If-None-Match %s: no CORS", match)
		}
	}
}

func TestMethods(t *testing.T) {
	if r := serve(t, http.MethodHead, "/pushit.mjs"); r.StatusCode != http.StatusOK || body(t, r) != "" || r.ContentLength <= 0 {
		t.Errorf("HEAD: status %d, length %d", r.StatusCode, r.ContentLength)
	}
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodOptions} {
		if r := serve(t, method, "/pushit.mjs"); r.StatusCode != http.StatusMethodNotAllowed || r.Header.Get("Allow") != "GET, HEAD" {
			t.Errorf("%s: status %d, Allow %q", method, r.StatusCode, r.Header.Get("Allow"))
		}
	}
}

func TestNothingElseIsServed(t *testing.T) {
	for _, rest := range []string{"", "/", "/pushit", "pushit.mjs", "//pushit.mjs", "/pushit.mjs/", "/PUSHIT.mjs", "/package.json", "/dist/pushit.mjs", "/../client.go"} {
		if client.Serve(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil), rest) {
			t.Errorf("%q was served", rest)
		}
	}
	if v := client.Version("client.go"); v != "" {
		t.Errorf("client.go has version %q", v)
	}
}
