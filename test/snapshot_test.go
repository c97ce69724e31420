// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"crypto/tls"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/push-it/pushit/hub"
)

// clientCertificates makes certificates for clients of those names, and a file with their
// authority.
func clientCertificates(t *testing.T, names ...string) (trusted string, certificates []*tls.Certificate) {
	t.Helper()
	trusted = filepath.Join(t.TempDir(), "devices.pem")
	var all []byte
	for _, name := range names {
		cert, key := certificate(t, name)
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(cert)
		if err != nil {
			t.Fatal(err)
		}
		all, certificates = append(all, text...), append(certificates, &pair)
	}
	if err := os.WriteFile(trusted, all, 0o600); err != nil {
		t.Fatal(err)
	}
	return trusted, certificates
}

// TestClientCertificates runs examples/mtls.
func TestClientCertificates(t *testing.T) {
	trusted, devices := clientCertificates(t, "sensor-1", "sensor-2")
	t.Setenv("DEVICES_CA", trusted)
	config, err := os.ReadFile("examples/mtls/Caddyfile")
	if err != nil {
		t.Fatal(err)
	}
	cert, key := certificate(t, "localhost")
	text := replaced(t, string(config), "tls internal", "tls "+cert+" "+key)
	text = strings.Replace(text, "subject} CN=operator", "serial} 2", 1) // the number of another certificate
	s := serve(t, text).site("localhost")
	s.tls = true

	_, answer := s.open("/push/websocket", nil, nil)
	if answer["successful"] == true || answer["code"] != string(hub.CodeDenied) {
		t.Errorf("without a certificate: %v", answer)
	}
	with := func(c *tls.Certificate) *agent {
		t.Helper()
		s.certificate = c
		return s.connect("/push/websocket", nil)
	}
	one, two := with(devices[0]), with(devices[1]).subscribe("devices/sensor-1")
	one.publish("devices/sensor-1", "hello")
	two.wantMessage("devices/sensor-1", "hello")
	two.wantRefused(two.ask("devices/sensor-1", "I am the other"), hub.CodeDenied)
	two.wantRefused(two.askToSubscribe("operators"), hub.CodeDenied)
	if err := s.load(strings.Replace(text, "serial} 2", "serial} 1", 1)); err != nil {
		t.Fatal(err)
	}
	two.subscribe("operators") // the session stores enough

	// A client with another certificate cannot use the name of a session over a fallback.
	s.certificate = devices[0]
	opened := s.fallback(s.client("h1"), "/push", "xhr").connect("devices/sensor-1")
	wantNoOther := func() {
		t.Helper()
		opened.begin()
		for who, c := range map[string]*tls.Certificate{"another device": devices[1], "nobody": nil} {
			s.certificate = c
			other := *opened
			other.HTTP = s.client("h1")
			other.wantRefusedEverywhere(who, http.StatusNotFound)
		}
		opened.echo("devices/sensor-1", 1)
		opened.begin()
	}
	wantNoOther()
	// The owner of a session is still known after a reload has changed session_cookies.
	if err := s.load(replaced(t, text, "pushit /push {", "pushit /push {\n\t\tsession_cookies sid")); err != nil {
		t.Fatal(err)
	}
	wantNoOther()
}

// Backends get the values that handlers before pushit set. A session that was opened
// before the policy needed them must be opened again.
func TestBackendsGetValuesThatEarlierHandlersSet(t *testing.T) {
	tenants := func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Tenant") == "acme" {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		w.WriteHeader(http.StatusForbidden)
	}
	c, address := newCounter(t)
	c.says(tenants)
	config := func(block string) string {
		return "http://localhost {\n\tmap {header.X-Key} {tenant} {\n\t\tk1 acme\n\t\tk2 evil\n\t}\n\troute {\n\t\tvars tenant {tenant}\n\t\tpushit {\n" + patientGates + block + "\n\t\t}\n\t}\n}\n"
	}
	gate := func(field string) string {
		return "default allow\nsubscribe ask " + address + " {\nuri /\nheader_up X-Tenant " + field + "\ncache 1m\n}"
	}
	s := serve(t, config(gate("{http.vars.tenant}"))).site("localhost")
	open := func(key string) *agent {
		t.Helper()
		return s.connect("/push/websocket", http.Header{"X-Key": {key}})
	}
	acme, evil := open("k1"), open("k2")
	acme.subscribe("news")
	evil.wantRefused(evil.askToSubscribe("news"), hub.CodeDenied)
	s.reload(config(gate("{tenant}")))
	acme.wantCut()
	evil.wantCut()
	acme, evil = open("k1"), open("k2")
	acme.subscribe("news")
	evil.wantRefused(evil.askToSubscribe("news"), hub.CodeDenied)
	s.reload(config("default allow\nnamespace {http.vars.tenant}"))
	acme.wantCut()
	acme, evil = open("k1").subscribe("news"), open("k2").subscribe("news")
	s.reload(config("default allow\nnamespace {http.vars.tenant}\nsubscribe {\ndeny {\nvars tenant evil\n}\nallow\n}"))
	evil.wantEnded("news", hub.CodeDenied)
	acme.publish("news", "goes on")
	acme.wantMessage("news", "goes on")
	for _, text := range []string{"header_up X {http.request.tls.client.subjct}", "header_up X {http.request.nonsense}"} {
		err := s.load(config("default allow\nsubscribe ask " + address + " {\nuri /\n" + text + "\n}"))
		if err == nil || !strings.Contains(err.Error(), "placeholder {http.request.") || !strings.Contains(err.Error(), "Caddyfile:") {
			t.Errorf("%s: %v", text, err)
		}
	}
}
