// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/push-it/pushit/hub"
)

const secretOfTests = "0123456789abcdef0123456789abcdef"

func TestBearer(t *testing.T) {
	authorization := fields("Authorization", "Bearer "+secretOfTests)
	for name, c := range map[string]struct {
		credentials string
		header      string
		want        Kind
		presented   bool
	}{
		"a string":                      {`"` + secretOfTests + `"`, "", Pass, true},
		"a string that is escaped":      {`"\u0030` + secretOfTests[1:] + `"`, "", Pass, true},
		"the second secret":             {`"the other secret"`, "", Pass, true},
		"token in an object":            {` {"name":"bob","token":"` + secretOfTests + `"}`, "", Pass, true},
		"the header":                    {"", authorization, Pass, true},
		"the header, in lower case":     {"", fields("Authorization", "bearer "+secretOfTests), Pass, true},
		"the header, beside null":       {"null", authorization, Pass, true},
		"the header, beside a name":     {`{"name":"bob"}`, authorization, Pass, true},
		"the header, beside an empty":   {`""`, authorization, Pass, true},
		"nothing":                       {"", "", Deny, false},
		"null":                          {"null", "", Deny, false},
		"a number":                      {"42", "", Deny, false},
		"a list":                        {`["` + secretOfTests + `"]`, "", Deny, false},
		"an empty string":               {`""`, "", Deny, false},
		"another one":                   {`"` + secretOfTests[1:] + `x"`, "", Deny, true},
		"part of it":                    {`"` + secretOfTests[:31] + `"`, "", Deny, true},
		"more than it":                  {`"` + secretOfTests + `0"`, "", Deny, true},
		"in another case":               {`"` + strings.ToUpper(secretOfTests) + `"`, "", Deny, true},
		"token in another case":         {`{"Token":"` + secretOfTests + `"}`, "", Deny, false},
		"token that is no string":       {`{"token":["` + secretOfTests + `"]}`, "", Deny, true},
		"token that is null":            {`{"token":null}`, "", Deny, false},
		"Basic":                         {"", fields("Authorization", "Basic "+secretOfTests), Deny, false},
		"without the word":              {"", fields("Authorization", secretOfTests), Deny, false},
		"in another field":              {"", fields("X-Authorization", "Bearer "+secretOfTests), Deny, false},
		"in a cookie":                   {"", fields("Cookie", "token="+secretOfTests), Deny, false},
		"the credentials count first":   {`"another secret of nobody"`, authorization, Deny, true},
		"the placeholder, unexpanded":   {`"{env.PUSH_TOKEN}"`, "", Deny, true},
		"the hash":                      {`"` + string(bytes.Repeat([]byte("x"), 32)) + `"`, "", Deny, true},
		"a NUL behind it":               {`"` + secretOfTests + `\u0000"`, "", Deny, true},
		"two in one header, the second": {"", fields("Authorization", "Bearer x,Bearer "+secretOfTests), Deny, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("PUSH_TOKEN", secretOfTests)
			g := mustLoad(t, `{"guard":"bearer","secrets":["{env.PUSH_TOKEN}","the other secret"]}`).(*Bearer)
			q := questionOf(t, hub.Opening{Header: c.header, URI: "/push?token=" + secretOfTests}, c.credentials)
			if a := g.Decide(t.Context(), q); a.Kind != c.want {
				t.Errorf("got %v, want %v", a.Kind, c.want)
			}
			if got := g.Presented(q); got != c.presented {
				t.Errorf("presented = %v", got)
			}
		})
	}
}

// Clients cannot set a header field that guards set.
func TestBearerBelievesWhatGuardsLearned(t *testing.T) {
	g := mustLoad(t, `{"guard":"bearer","secrets":["`+secretOfTests+`"]}`)
	q := questionOf(t, hub.Opening{Header: fields("Authorization", "Bearer "+secretOfTests)}, "")
	q.Env.Learned = []string{"Authorization"}
	if a := g.Decide(t.Context(), q); a.Kind != Deny {
		t.Errorf("what the client sent was believed: %v", a.Kind)
	}
	q.Learned.Header = []hub.HeaderField{{Name: "authorization", Value: "Bearer " + secretOfTests}}
	if a := g.Decide(t.Context(), q); a.Kind != Pass {
		t.Errorf("what was learned was not: %v", a.Kind)
	}
	q.Learned.Header = append(q.Learned.Header, hub.HeaderField{Name: "Authorization", Value: ""})
	if a := g.Decide(t.Context(), q); a.Kind != Deny {
		t.Errorf("what was learned to be gone was not: %v", a.Kind)
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	for _, config := range []string{
		`{"guard":"bearer","secrets":["` + secretOfTests + `"]}`,
		`{"guard":"jwt","secrets":["` + secretOfTests + `"]}`,
	} {
		g := mustLoad(t, config)
		var out bytes.Buffer
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
			fmt.Fprintf(&out, verb+"\n", g)
		}
		slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "guard", g)
		slog.New(slog.NewTextHandler(&out, nil)).Info("m", "guard", g)
		if s := out.String(); strings.Contains(s, secretOfTests) || strings.Contains(s, fmt.Sprintf("%x", secretOfTests)) || strings.Contains(s, "48 49 50") {
			t.Errorf("got %s", s)
		}
		for _, credentials := range []string{`"` + secretOfTests[1:] + `"`, `"` + secretOfTests + `"`} {
			if a := g.Decide(t.Context(), questionOf(t, hub.Opening{}, credentials)); strings.Contains(fmt.Sprintf("%+v", a), secretOfTests[1:]) {
				t.Errorf("got %+v", a)
			}
		}
	}
}

// Comparing takes the same time for a token that is nearly right as for any other. The
// test looks at the code, because it cannot test the time.
func TestBearerComparesInConstantTime(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "bearer.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	compares := false
	for _, decl := range file.Decls {
		f, ok := decl.(*ast.FuncDecl)
		if !ok || f.Name.Name != "Decide" {
			continue
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.SelectorExpr:
				compares = compares || n.Sel.Name == "ConstantTimeCompare"
				if x, ok := n.X.(*ast.Ident); ok && (x.Name == "bytes" || x.Name == "slices" || x.Name == "strings") {
					t.Errorf("%s.%s in Decide", x.Name, n.Sel.Name)
				}
			case *ast.RangeStmt:
				ast.Inspect(n.Body, func(n ast.Node) bool {
					switch n.(type) {
					case *ast.BranchStmt, *ast.ReturnStmt, *ast.IfStmt:
						t.Error("the loop over the secrets ends early, or branches")
					}
					return true
				})
			}
			return true
		})
	}
	if !compares {
		t.Error("no ConstantTimeCompare in Decide")
	}
}

func TestBearerPlaceholders(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(secretOfTests+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PUSH_EMPTY", "")
	t.Setenv("PUSH_SHORT", "short")
	g := mustLoad(t, `{"guard":"bearer","secrets":["{file.`+filepath.ToSlash(file)+`}"]}`)
	if a := g.Decide(t.Context(), questionOf(t, hub.Opening{}, `"`+secretOfTests+`"`)); a.Kind != Pass {
		t.Errorf("the secret of the file: %v", a.Kind)
	}
	for secret, want := range map[string]string{
		"":                        "bearer: secret 1 is empty; is an environment variable not set?",
		"{env.PUSH_EMPTY}":        "bearer: secret 1 is empty, because {env.PUSH_EMPTY} is: set the environment variable PUSH_EMPTY for Caddy",
		"{env.PUSH_NOT_SET}":      "because {env.PUSH_NOT_SET} is",
		"{file./not/there}":       "because {file./not/there} is",
		"{env.PUSH_SHORT}":        "bearer: secret 1, {env.PUSH_SHORT}, has 5 bytes and needs at least 16; make one with: openssl rand -hex 16",
		"x{http.request.uuid}yzz": "has {http.request.uuid}, which has no value when the configuration is loaded: write {env.NAME} or {file.PATH}",
		"half a {env.PUSH_EMPTY}": "secret 1 is incomplete, because {env.PUSH_EMPTY} is empty: set the environment variable",
	} {
		_, err := loadGuard(t, `{"guard":"bearer","secrets":["`+secret+`"]}`)
		wantMistake(t, err, want)
	}
	_, err := loadGuard(t, `{"guard":"bearer"}`)
	wantMistake(t, err, "bearer: it needs a secret")
	if _, err = loadGuard(t, `{"guard":"bearer","secrets":["0123{456789abc}def0"]}`); strings.Contains(err.Error(), "456789") {
		t.Errorf("the error has part of the secret: %v", err)
	}
}

func TestBearerInCaddyfiles(t *testing.T) {
	for text, want := range map[string]string{
		"bearer {env.PUSH_TOKEN}":             `{"guard":"bearer","secrets":["{env.PUSH_TOKEN}"]}`,
		"bearer {env.OLD} {file./run/secret}": `{"guard":"bearer","secrets":["{env.OLD}","{file./run/secret}"]}`,
		"bearer " + secretOfTests:             `{"guard":"bearer","secrets":["` + secretOfTests + `"]}`,
		"optional bearer {env.PUSH_TOKEN}":    `{"guard":"optional","of":{"guard":"bearer","secrets":["{env.PUSH_TOKEN}"]}}`,
	} {
		if got := mustAdapt(t, "", text); got != want {
			t.Errorf("%s: got %s", text, got)
		}
	}
	for text, want := range map[string]string{
		"bearer":                      "bearer needs a secret, for example bearer {env.PUSH_TOKEN}; is an environment variable not set?, at Caddyfile:3",
		"bearer {$NOT_SET}":           "bearer needs a secret",
		`bearer ""`:                   "bearer: the secret is empty; is an environment variable not set?, at Caddyfile:3",
		`bearer "{$NOT_SET}"`:         "bearer: the secret is empty",
		"bearer letmein":              "bearer: the secret has 7 bytes and needs at least 16; make one with: openssl rand -hex 16, at Caddyfile:3",
		"bearer {env.X} {\nheader\n}": "bearer takes no block",
	} {
		t.Run(text, func(t *testing.T) {
			_, err := adaptGuards("", text)
			wantMistake(t, err, want)
			if strings.Contains(err.Error(), "letmein") {
				t.Error("the error has the secret")
			}
		})
	}
}

func TestTokensAreNotForDeliveries(t *testing.T) {
	for _, g := range []GateAware{new(Bearer), new(JWT)} {
		if err := g.ForGate(hub.GateDeliver); err == nil || !strings.Contains(err.Error(), "agent.claims") {
			t.Errorf("%T: got %v", g, err)
		}
		if err := g.ForGate(hub.GateSubscribe); err != nil {
			t.Errorf("%T: got %v", g, err)
		}
	}
}

func BenchmarkBearer(b *testing.B) {
	config := `{"guard":"bearer","secrets":["` + secretOfTests + `"]}`
	for name, credentials := range map[string]string{"string": `"` + secretOfTests + `"`, "object": `{"token":"` + secretOfTests + `"}`} {
		b.Run(name, func(b *testing.B) { benchmarkGuard(b, config, questionOf(b, opening, credentials), Pass) })
	}
}
