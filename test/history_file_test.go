// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// inFile is an endpoint whose history is in a file, or in memory if file is empty.
func inFile(file, more string) string {
	block := ""
	if file != "" {
		block = "{\n file " + file + "\n" + more + "\n}"
	}
	return `
	http://site.test {
		pushit /push {
			default allow
			history 100 1h ` + block + `
			api bearer "` + apiSecret + `"
		}
	}`
}

// A reader publishes, and looks from a position on.
type historyReader struct {
	t        *testing.T
	server   *server
	position any // of message 1
	said     int
}

func (r *historyReader) say() {
	r.t.Helper()
	r.said++
	status, _, body := r.server.site("site.test").post("/push/publish", "application/json", fmt.Sprintf(`{"channel":"news","data":%d}`, r.said), asBackend())
	if status != 200 {
		r.t.Fatalf("status %d, %s", status, body)
	}
}

// wantAll checks that all messages since the first one are there.
func (r *historyReader) wantAll(when string) {
	r.t.Helper()
	s := r.server.site("site.test")
	a, _ := s.open("/push/websocket", nil, nil)
	if answer := a.subscribeFrom("news", object{"position": r.position}); answer["recovered"] != true {
		r.t.Fatalf("%s: %v", when, answer)
	}
	for n := 2; n <= r.said; n++ {
		a.wantMessage("news", float64(n))
	}
}

// A history in a file outlives the server. Positions stay valid, and nothing is missing, when
// a reload leaves the file alone, moves the history to another file, or to memory.
func TestHistoryInAFile(t *testing.T) {
	dir := t.TempDir()
	one, two := filepath.Join(dir, "one.db"), filepath.Join(dir, "two.db")
	server := serve(t, inFile(one, ""))
	r := &historyReader{t: t, server: server}
	reader, _ := server.site("site.test").open("/push/websocket", nil, nil)
	reader.subscribe("news")
	r.say()
	r.position = reader.receive()["position"]
	r.say()
	for _, c := range []struct{ what, config string }{
		{"the same file", inFile(one, "") + "\n#"},
		{"another sync", inFile(one, "sync 20ms")},
		{"another file", inFile(two, "sync always")},
		{"memory", inFile("", "")},
		{"a file again", inFile(filepath.Join(dir, "three.db"), "")},
	} {
		if err := server.load(c.config); err != nil {
			t.Fatal(err)
		}
		r.wantAll(c.what)
		r.say()
		r.wantAll(c.what + ", and one more")
	}
	// A configuration that fails to load moves nothing, and leaves its file.
	failed := filepath.Join(dir, "failed.db")
	if err := server.load(strings.Replace(inFile(failed, ""), "pushit /push", "fails\n pushit /push", 1)); err == nil {
		t.Fatal("a configuration that cannot load was loaded")
	}
	r.say()
	r.wantAll("after a configuration that failed")

	if err := server.load(inFile(one, "")); err != nil { // it has entries: they are the history now
		t.Fatal(err)
	}
	late, _ := server.site("site.test").open("/push/websocket", nil, nil)
	if answer := late.subscribeFrom("news", object{"since": 100}); answer["recovered"] != true {
		t.Errorf("a file from before: %v", answer)
	}
	late.wantMessage("news", 1.0)
	server.stop()
	if _, err := os.Stat(one + "-journal"); !os.IsNotExist(err) {
		t.Errorf("the journal of a server that has stopped: %v", err)
	}
	if err := server.load(inFile(one, "")); err != nil {
		t.Fatal(err)
	}
	again, _ := server.site("site.test").open("/push/websocket", nil, nil)
	if answer := again.subscribeFrom("news", object{"position": r.position}); answer["recovered"] != true {
		t.Errorf("after a restart: %v", answer)
	}
	again.wantMessage("news", 2.0)
}

// Each hub has one file, and shares it with no other hub.
func TestHistoryFilesOfHubs(t *testing.T) {
	dir := t.TempDir()
	endpoint := func(path, name, file string) string {
		return "pushit " + path + " {\n name " + name + "\n default allow\n history 10 1h {\n file " + file + "\n}\n}\n"
	}
	one, two := filepath.Join(dir, "one.db"), filepath.Join(dir, "two.db")
	server := serve(t, "http://site.test {\n"+endpoint("/a", "a", one)+endpoint("/b", "a", one)+"pushit /c {\n name a\n default allow\n}\n}")
	for _, c := range []struct{ what, config, want string }{
		{"two hubs on one file", endpoint("/a", "a", one) + endpoint("/b", "b", one), `already belongs to the hub "a"`},
		{"two files for one hub", endpoint("/a", "a", one) + endpoint("/b", "a", two), `have different history files`},
		{"a directory that is not there", endpoint("/a", "a", filepath.Join(dir, "none", "h.db")), "its directory is not there"},
		{"a directory", endpoint("/a", "a", dir), "not a regular file"},
	} {
		if err := server.load("http://site.test {\n" + c.config + "}"); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.what, err, c.want)
		}
	}
	// The configurations that failed have left no file open.
	if err := server.load("http://site.test {\n" + endpoint("/a", "a", one) + endpoint("/b", "b", two) + "}"); err != nil {
		t.Error(err)
	}
}
