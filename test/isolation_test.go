// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"strings"
	"testing"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/internal/wireclient"
)

// Sites share nothing unless they use the same name: no channel, even if their endpoints
// have the same settings.
func TestSitesShareNothing(t *testing.T) {
	const block = "\t\tdefault allow\n\t\tsubscribe user alice\n\t\tconnect route {\n\t\t\tbasic_auth {\n\t\t\t\talice " + aliceHash + "\n\t\t\t}\n\t\t}\n"
	s := serve(t, "http://a.localhost {\n\tpushit {\n\t\tname a\n"+block+"\t}\n}\nhttp://b.localhost {\n\tpushit {\n\t\tname b\n"+block+"\t}\n}\n")
	var agents []*agent
	for _, host := range []string{"a.localhost", "b.localhost"} {
		agents = append(agents, s.site(host).connect("/push/websocket", asUser("alice")).subscribe("news"))
	}
	for range 2 { // the second time after a reload
		for i, a := range agents {
			a.publish("news", float64(i))
		}
		for i, a := range agents {
			a.wantMessage("news", float64(i)) // and no message of the other site before it
		}
		s.reload("http://a.localhost {\n\tlog\n\tpushit {\n\t\tname a\n" + block + "\t}\n}\nhttp://b.localhost {\n\tpushit {\n\t\tname b\n" + block + "\t}\n}\n")
	}
}

// A reload of one site does not affect the other. A uuid that the other site used is not
// a repetition.
func TestReloadOfOneSiteLeavesTheOtherAlone(t *testing.T) {
	config := func(rule string) string {
		return "http://a.localhost {\n\tpushit {\n\t\tname a\n\t\tdefault allow\n\t\tsubscribe " + rule + "\n\t}\n}\n" +
			"http://b.localhost {\n\tpushit {\n\t\tname b\n\t\tdefault allow\n\t}\n}\n"
	}
	s := serve(t, config("allow"))
	a := s.site("a.localhost").connect("/push/websocket", nil).subscribe("news")
	b := s.site("b.localhost").connect("/push/websocket", nil).subscribe("news")
	s.reload(config("deny"))
	a.wantEnded("news", hub.CodeDenied)
	const frame = `{"channel":"news","uuid":"the-same","agentId":"tester","data":1}`
	for _, x := range []*agent{a, b} {
		x.write(wireclient.OpText, []byte(frame))
	}
	if f := a.receive(); f["channel"] != "/meta/successful" {
		t.Errorf("a: %v", f)
	}
	var got []string
	for range 2 {
		got = append(got, b.receive()["channel"].(string))
	}
	if both := strings.Join(got, " "); !strings.Contains(both, "news") || !strings.Contains(both, "/meta/successful") {
		t.Errorf("b got frames on %s, want its message and the acknowledgement", both)
	}
}

// Sites that share a hub must have the same gates and limits, wherever they are written.
func TestSitesThatShareMustAgree(t *testing.T) {
	const named = "&(live) {\n\tpushit {\n\t\tname live\n\t\theartbeat 20s\n\t}\n}\n\nhttp://a.localhost {\n\tinvoke live\n}\n\n"
	s := &server{t: t, logFile: t.TempDir() + "/log"}
	for name, tc := range map[string]struct {
		config string
		want   []string // in the error
	}{
		"a named route and a site": {
			named + "http://b.localhost {\n\tpushit {\n\t\tname live\n\t}\n}\n",
			[]string{"a named route of the server srv0", "the server srv0 for b.localhost", "differ in heartbeat"},
		},
		"one snippet with two arguments": {
			"(push) {\n\tpushit {\n\t\tname live\n\t\tdefault {args[0]}\n\t}\n}\n\nhttp://a.localhost {\n\timport push allow\n}\n\nhttp://b.localhost {\n\timport push deny\n}\n",
			[]string{"differs in default", "the one at Caddyfile:2 import chain ['Caddyfile:9 (import push)']", "at Caddyfile:2 import chain ['Caddyfile:13 (import push)']"},
		},
		"matchers of the sites, called the same": {
			"http://a.localhost {\n\t@it remote_ip 127.0.0.1\n\tpushit {\n\t\tname live\n\t\tdefault deny\n\t\tconnect allow @it\n\t}\n}\n\n" +
				"http://b.localhost {\n\t@it remote_ip 127.0.0.2\n\tpushit {\n\t\tname live\n\t\tdefault deny\n\t\tconnect allow @it\n\t}\n}\n",
			[]string{"the one at Caddyfile:3", "at Caddyfile:12", "differs in gates"},
		},
	} {
		err := s.load(tc.config)
		if err == nil {
			t.Errorf("%s: it loads", name)
			continue
		}
		for _, want := range tc.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: the error is %q, want %q in it", name, err, want)
			}
		}
	}
}

// Sites with different addresses may share a hub.
func TestSitesThatShareByPath(t *testing.T) {
	s := serve(t, "http://a.localhost {\n\tpushit {\n\t\tname live\n\t\tdefault allow\n\t}\n}\n\nhttp://b.localhost {\n\tpushit /read {\n\t\tname live\n\t\tdefault deny\n\t\tconnect allow\n\t\tsubscribe allow\n\t}\n}\n")
	a, b := s.site("a.localhost").connect("/push/websocket", nil), s.site("b.localhost").connect("/read/websocket", nil).subscribe("news")
	a.publish("news", "for both")
	b.wantMessage("news", "for both")
	b.wantRefused(b.ask("news", "not from here"), hub.CodeDenied)
}
