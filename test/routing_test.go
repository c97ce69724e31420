// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// A checked is the result of adapting and validating a Caddyfile.
type checked struct {
	adapt    string   // the error of adapting the file
	validate string   // the error of validating it without a file, as over the admin API
	warnings []string // log lines about other handlers
}

// check adapts a Caddyfile with and without a file, and validates the results.
func check(t *testing.T, config string) (v checked) {
	t.Helper()
	t.Chdir(t.TempDir())
	if err := os.WriteFile("Caddyfile", []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	adapter := caddyconfig.GetAdapter("caddyfile")
	if _, _, err := adapter.Adapt([]byte(config), map[string]any{"filename": "Caddyfile"}); err != nil {
		v.adapt = err.Error()
	}
	adapted, _, err := adapter.Adapt([]byte(config), nil)
	if err != nil {
		t.Fatalf("%s\nadapting as text: %v", config, err)
	}
	v.validate, v.warnings = validated(t, adapted)
	return v
}

// validated validates a configuration. It returns the error and the warnings about routes
// around pushits.
func validated(t *testing.T, adapted []byte) (failed string, warnings []string) {
	t.Helper()
	logged, err := validate(t, adapted)
	if err != nil {
		failed = err.Error()
	}
	for _, w := range logged {
		if strings.HasPrefix(w.Msg, "pushit /") {
			warnings = append(warnings, w.Msg+" | "+w.ToDo)
		}
	}
	slices.Sort(warnings)
	return failed, warnings
}

// TestTrapsAreErrors adapts each testdata/adapt/invalid/trap_* as a file. This must fail
// with the error below the border, which has a line and says what to write instead. A
// configuration that comes over the admin API has no file, and must fail when it is
// provisioned.
func TestTrapsAreErrors(t *testing.T) {
	for _, file := range goldenFiles(t, "invalid/trap_*") {
		file, err := filepath.Abs(file)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(strings.TrimSuffix(filepath.Base(file), ".caddyfiletest"), func(t *testing.T) {
			input, want := readGolden(t, file)
			if formatted := caddyfile.Format(input); !bytes.Equal(formatted, input) {
				t.Errorf("not as caddy fmt writes it, which is:\n%s", formatted)
			}
			v := check(t, string(input))
			if *update {
				writeGolden(t, file, input, v.adapt+"\n")
				return
			}
			if got := v.adapt + "\n"; got != want {
				t.Errorf("got:\n%swant:\n%s", got, want)
			}
			about := trapAbout.FindStringSubmatch(v.adapt)
			if about == nil {
				t.Fatal("the error does not say where the mistake is, or what to write")
			}
			problem := trapPlace.ReplaceAllString(about[1], "") // only files have places
			if !strings.Contains(v.validate, "pushit /") || !strings.Contains(v.validate, problem) {
				t.Errorf("validating what has no file: %s\nwant in it: %s", v.validate, problem)
			}
		})
	}
}

var (
	trapAbout = regexp.MustCompile(`(?s)'pushit': ([^\n]*?)(?:\. W|: w)rite.*Caddyfile:\d+`)
	trapPlace = regexp.MustCompile(` at Caddyfile:\d+`)
)

// TestValidCaddyfilesAreNoTraps adapts valid Caddyfiles as files.
func TestValidCaddyfilesAreNoTraps(t *testing.T) {
	t.Setenv("PUSHIT_TEST_PATH", "/live")
	t.Setenv("PUSHIT_TEST_ORIGINS", "https://a.example.com https://b.example.com")
	for _, file := range goldenFiles(t, "valid/*") {
		input, _ := readGolden(t, file)
		name := filepath.Join(t.TempDir(), "Caddyfile")
		if err := os.WriteFile(name, input, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := caddyconfig.GetAdapter("caddyfile").Adapt(input, map[string]any{"filename": name}); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}

// TestHarmlessHandlersCauseNoWarning has sites with harmless handlers before pushit. There
// is no warning, and requests arrive.
func TestHarmlessHandlersCauseNoWarning(t *testing.T) {
	const spa = "try_files {path} /index.html\n"
	for _, tc := range []struct{ name, path, site string }{
		{"alone", "/push", "pushit\n"},
		{"a file server", "/push", "pushit\nfile_server\n"},
		{"try_files after it, in a route", "/push", "route {\npushit\n" + spa + "file_server\n}\n"},
		{"the route that the error proposes", "/push", "route {\npushit /push\n" + spa + "}\nfile_server\n"},
		{"the handle blocks that the error proposes", "/push", "handle /push/* {\npushit /push\n}\nhandle {\n" + spa + "file_server\n}\n"},
		{"pushit beside handle, as the error proposes", "/push", "pushit /push\nhandle {\n" + spa + "file_server\n}\n"},
		{"try_files without a file of its own", "/push", "try_files {path} {path}.html {path}/index.html\npushit\nfile_server\n"},
		{"a rewrite of other paths", "/push", "rewrite /blog/* /blog.html\npushit\n"},
		{"a rewrite of a path that begins alike", "/push", "rewrite /pushover* /over.html\npushit\n"},
		{"a rewrite of all but it", "/push", "@app not path /push/*\nrewrite @app /index.html\npushit\n"},
		{"a rewrite of all but it, by a pattern", "/push", "@app path_regexp ^/(app|blog)/\nrewrite @app /index.html\npushit\n"},
		{"a rewrite of all but it, by an expression", "/push", "@app expression `!path('/push/*') && {path} != '/'`\nrewrite @app /index.html\npushit\n"},
		{"a rewrite of pages", "/push", "@page header Accept *text/html*\nrewrite @page /index.html\npushit\n"},
		{"a rewrite of files that are there", "/push", "@static file\nrewrite @static /static{uri}\npushit\n"},
		{"maintenance", "/push", "@maintenance file /maintenance.html\nrewrite @maintenance /maintenance.html\npushit\n"},
		{"a file that is a sign, for a handle block", "/push", "@off file /off\nhandle @off {\nrespond off 503\n}\nhandle {\npushit\n}\n"},
		{"slashes that are merged", "/push", "uri path_regexp /{2,} /\nuri strip_suffix /\npushit\n"},
		{"a rewrite by query", "/push", "@old query id=*\nrewrite @old /item/{query.id}\npushit\n"},
		{"a rewrite of the query alone", "/push", "rewrite * ?a=b\npushit\n"},
		{"a rewrite to itself", "/push", "rewrite * {path}\npushit\n"},
		{"only the first rewrite counts", "/push", "rewrite /push/* {path}\nrewrite * /index.html\npushit\n"},
		{"another host", "/push", "@www host www.localhost\nredir @www http://localhost{uri}\npushit\n"},
		{"redirections of other paths", "/push", "redir /feed /feed.xml\nredir /push /push/ 308\npushit\n"},
		{"https elsewhere", "/push", "@plain protocol https\nredir @plain http://{host}{uri}\npushit\n"},
		{"addresses that are shut out", "/push", "@out remote_ip 192.0.2.0/24\nroute {\nabort @out\npushit\n}\n"},
		{"files that nobody may have", "/push", "route {\n@hidden path */.git/*\nrespond @hidden 404\npushit\n}\n"},
		{"who has no cookie", "/push", "route {\n@nobody header Cookie *blocked*\nrespond @nobody 403\npushit\n}\n"},
		{"a file server that passes on", "/push", "route {\nfile_server {\npass_thru\n}\npushit\n}\n"},
		{"a login", "/push", "forward_auth /secret/* localhost:1 {\nuri /\n}\npushit\n"},
		{"responses that are changed", "/push", "header X-A b\nencode\ntemplates\nrequest_header X-C d\npushit\nrespond hi\n"},
		{"uri strip_prefix of another path", "/push", "uri strip_prefix /api\npushit\n"},
		{"uri strip_prefix before it", "/live", "uri strip_prefix /live\npushit {\npath /\n}\n"},
		{"handle_path", "/live", "handle_path /live/* {\npushit {\npath /\n}\n}\n"},
		{"handle_path, in handle_path", "/a/b", "handle_path /a/* {\nhandle_path /b/* {\npushit /\n}\n}\n"},
		{"handle_path, and a path below", "/api/push", "handle_path /api/* {\npushit /push\n}\n"},
		{"handle_path, and a path in the block", "/api/push", "handle_path /api/* {\npushit {\npath /push\n}\n}\n"},
		{"handle_path, and the same path again below", "/push/live", "handle_path /push/* {\npushit /live\n}\n"},
		{"handle", "/push", "handle /push* {\npushit\n}\nhandle {\nrespond hi\n}\n"},
		{"handle of some of it", "/push", "handle /push/info {\npushit\n}\n"},
		{"handle of a deeper path", "/a/push", "handle /a/* {\npushit /a/push\n}\n"},
		{"a catch-all handle", "/push", "pushit\nhandle {\nrespond hi\n}\n"},
		{"an earlier handle of another path", "/push", "handle /api/* {\nrespond hi\n}\nhandle {\npushit\n}\n"},
		{"matchers of its own", "/push", "@ok {\nnot header X-Bad *\n}\npushit @ok\n"},
		{"what is rewritten to it", "/ws", "@ws path /ws/*\nhandle @ws {\nuri replace /ws/ /push/\npushit\n}\n"},
		{"a named route", "/push", "invoke live\n"},
		{"PHP after it", "/push", "root /srv\npushit\nphp_fastcgi localhost:1\n"},
		{"errors", "/push", "pushit\nhandle_errors {\nrewrite * /error.html\nrespond oops\n}\n"},
		{"a proxy for other WebSockets", "/push", "@ws {\nheader Connection *Upgrade*\nheader Upgrade websocket\n}\npushit\nreverse_proxy @ws localhost:1\n"},
		{"one of its paths, on purpose", "/push", "redir /push/pushit.mjs https://cdn.example.com/pushit.mjs\npushit\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			named := ""
			if strings.Contains(tc.site, "invoke") {
				named = "&(live) {\npushit {\nname live\n}\n}\n"
			}
			config := named + "http://localhost, http://[::1], http://www.localhost, http://*.localhost {\n" + tc.site + "}\n"
			if v := check(t, config); v.adapt != "" || v.validate != "" || len(v.warnings) > 0 {
				t.Errorf("%s\nadapting: %s\nvalidating: %s\nwarnings: %q", config, v.adapt, v.validate, v.warnings)
			}
			s := serve(t, config).site("localhost")
			if status, body := s.get(tc.path+"/info", nil); status != http.StatusOK || !strings.Contains(body, `"websocket"`) {
				t.Errorf("%s\n%s/info: status %d: %s", config, tc.path, status, body)
			}
		})
	}
}

// TestWarningsAboutHandlersThatMayTakeRequests has sites with handlers that take some of
// the requests, or may take them. The log has a warning, with file and line if they are
// known.
func TestWarningsAboutHandlersThatMayTakeRequests(t *testing.T) {
	for _, tc := range []struct{ name, site, want string }{
		{"a rewrite for some browsers", "@mobile header User-Agent *Mobile*\nrewrite @mobile /m{uri}\npushit\n", "rewrite at Caddyfile:3 may take requests of this pushit before it runs: /push/pushit.mjs becomes /m/push/pushit.mjs | write\n\n\troute {\n\t\tpushit /push\n\t\trewrite @mobile /m{uri}\n\t}"},
		{"a redirection for some browsers", "@de header Accept-Language de*\nredir @de /de{uri}\npushit\n", "redir at Caddyfile:3 may take"},
		{"a rewrite of files of a kind", "@modules path *.mjs\nrewrite @modules /bundle.mjs\npushit\n", "rewrite at Caddyfile:3 may take requests of this pushit before it runs: /push/pushit.mjs becomes /bundle.mjs"},
		{"a method", "method GET\npushit\n", "method at Caddyfile:2 may take requests of this pushit before it runs: /push/0/session/xhr is asked for with GET"},
		{"WebSockets that are answered before", "route {\n@ws header Upgrade websocket\nreverse_proxy @ws localhost:1\npushit\n}\n", "reverse_proxy at Caddyfile:4 may take requests of this pushit before it runs: /push/websocket does not arrive"},
		{"handle_path, and no path", "handle_path /live/* {\npushit\n}\n", "pushit /push (Caddyfile:3, the server srv0 for localhost): /live is stripped from the path before a request comes to this pushit, and the pushit does not say its path, so its address is /live/push | write\n\n\tpath /\n\nin the block of pushit to have it at /live"},
		{"a variable", "@x vars a b\nrewrite @x /x{uri}\npushit\n", "rewrite at Caddyfile:3 may take"},
		{"an expression", "@x expression `{header.X} == 'y' && path('/*')`\nrewrite @x /x{uri}\npushit\n", "rewrite at Caddyfile:3 may take"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			config := "http://localhost {\n" + tc.site + "}\n"
			if err := os.WriteFile("Caddyfile", []byte(config), 0o600); err != nil {
				t.Fatal(err)
			}
			adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(config), map[string]any{"filename": "Caddyfile"})
			if err != nil {
				t.Fatal(err)
			}
			failed, warnings := validated(t, adapted)
			if failed != "" || len(warnings) != 1 || !strings.Contains(warnings[0], tc.want) {
				t.Errorf("error %q, warnings %q, want in one: %s", failed, warnings, tc.want)
			}
			// The next configuration does not get the places of an earlier one.
			if _, warnings := validated(t, adapted); strings.HasPrefix(tc.site, "handle_path") {
				if len(warnings) > 0 {
					t.Errorf("as JSON, where the path is always written: %q", warnings)
				}
			} else if len(warnings) != 1 || strings.Contains(warnings[0], "Caddyfile:") {
				t.Errorf("as JSON: %q", warnings)
			}
		})
	}
}

// setsSomething is a handler of another package. The model does not know what it does.
type setsSomething struct{}

func (setsSomething) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.pushit_test_sets", New: func() caddy.Module { return new(setsSomething) }}
}

func (setsSomething) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	return next.ServeHTTP(w, r)
}

func init() {
	caddy.RegisterModule(setsSomething{})
	httpcaddyfile.RegisterHandlerDirective("pushit_test_sets", func(httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		return setsSomething{}, nil
	})
}

// TestHandlersOfOtherPackagesMaySetTheNamespace has handlers of another package, which may
// set the placeholder of a namespace, and a named route that invokes itself.
func TestHandlersOfOtherPackagesMaySetTheNamespace(t *testing.T) {
	const pushit = "pushit {\nname live\nnamespace {tenant}\n}\n"
	for config, want := range map[string]string{
		"http://localhost {\nroute {\npushit_test_sets\n" + pushit + "}\n}\n":           "",
		"http://localhost {\nroute {\n" + pushit + "pushit_test_sets\n}\n}\n":           "nothing before this pushit sets",
		"&(live) {\ninvoke live\n" + pushit + "}\nhttp://localhost {\ninvoke live\n}\n": "nothing before this pushit sets",
	} {
		v := check(t, config)
		for what, got := range map[string]string{"adapting": v.adapt, "validating": v.validate} {
			if want == "" && got != "" || !strings.Contains(got, want) {
				t.Errorf("%s\n%s: %q, want %q", config, what, got, want)
			}
		}
	}
}
