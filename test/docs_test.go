// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/push-it/pushit/guards"
	"github.com/push-it/pushit/internal/doctable"
)

// maxReadmeLines keeps the README short, so that people read all of it. Details belong in
// docs/.
const maxReadmeLines = 200

func TestReadmeIsShort(t *testing.T) {
	if n := strings.Count(doctable.Read(t, "README.md"), "\n"); n > maxReadmeLines {
		t.Errorf("README.md has %d lines, %d are the most: move something to docs/", n, maxReadmeLines)
	}
}

// documents returns the Markdown files of the repository.
func documents(t *testing.T) (paths []string) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (entry.Name() == "node_modules" || strings.HasPrefix(entry.Name(), ".") && path != "."):
			return fs.SkipDir
		case filepath.Ext(path) == ".md":
			paths = append(paths, filepath.ToSlash(path))
		}
		return nil
	})
	if err != nil || !slices.Contains(paths, "README.md") || !slices.Contains(paths, "docs/gates.md") {
		t.Fatalf("found %q: %v", paths, err)
	}
	return paths
}

var (
	markdownFence  = regexp.MustCompile("(?ms)^ *```([^\n`]*)\n(.*?)^ *```$")
	markdownCode   = regexp.MustCompile("``[^\n]*?[^`]``(?:[^`]|$)|`[^`\n]+`")
	markdownLink   = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	markdownTitle  = regexp.MustCompile(`(?m)^#{1,6} +(.+)$`)
	markdownAnchor = regexp.MustCompile(`<a id="([^"]+)">`)
)

// TestLinksOfTheDocuments checks each link of a Markdown file to another file of the
// repository, or to a heading in it.
func TestLinksOfTheDocuments(t *testing.T) {
	followed := 0
	for _, path := range documents(t) {
		text := markdownFence.ReplaceAllString(doctable.Read(t, path), "")
		text = markdownCode.ReplaceAllString(text, "code")
		for _, m := range markdownLink.FindAllStringSubmatch(text, -1) {
			link, err := url.Parse(m[1])
			if err != nil {
				t.Errorf("%s: %s: %v", path, m[1], err)
				continue
			}
			if link.Scheme != "" {
				continue
			}
			followed++
			target := path
			if link.Path != "" {
				target = filepath.Join(filepath.Dir(path), filepath.FromSlash(link.Path))
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: the link %s leads nowhere: %v", path, m[1], err)
				continue
			}
			if link.Fragment != "" && !slices.Contains(anchors(doctable.Read(t, target)), link.Fragment) {
				t.Errorf("%s: %s has no heading #%s", path, target, link.Fragment)
			}
		}
	}
	if followed < 50 {
		t.Errorf("only %d links were found", followed)
	}
}

// anchors returns the anchors of a Markdown text: those that GitHub makes from headings,
// and those in the text.
func anchors(text string) (names []string) {
	text = markdownFence.ReplaceAllString(text, "")
	for _, m := range markdownAnchor.FindAllStringSubmatch(text, -1) {
		names = append(names, m[1])
	}
	for _, m := range markdownTitle.FindAllStringSubmatch(text, -1) {
		name := strings.Map(func(c rune) rune {
			switch {
			case c == ' ':
				return '-'
			case unicode.IsLetter(c), unicode.IsDigit(c), c == '-', c == '_':
				return unicode.ToLower(c)
			}
			return -1
		}, m[1])
		again := name
		for n := 1; slices.Contains(names, again); n++ {
			again = fmt.Sprintf("%s-%d", name, n)
		}
		names = append(names, again)
	}
	return names
}

// A fence is a fenced block of a Markdown file.
type fence struct {
	path string
	kind string // the words after the opening fence
	text string
}

func (f fence) language() string {
	language, _, _ := strings.Cut(f.kind, " ")
	return language
}

// fences returns the fenced blocks of the README, xcaddy.md, docs/ and docs/guides/.
func fences(t *testing.T) (all []fence) {
	t.Helper()
	for _, path := range documents(t) {
		if path != "README.md" && path != "xcaddy.md" && filepath.Dir(path) != "docs" && filepath.Dir(path) != guides {
			continue
		}
		for _, m := range markdownFence.FindAllStringSubmatch(doctable.Read(t, path), -1) {
			all = append(all, fence{path, m[1], m[2]})
		}
	}
	return all
}

// runBy names the tests that run the examples of a language: in all documents, or in the
// document whose name follows the language. html and js have their own list.
var runBy = map[string]string{
	"caddyfile":                     "TestCaddyfilesOfTheRepository",
	"json":                          "TestJSONOfTheDocuments",
	"sh":                            "TestCommandsOfTheDocuments",
	"html":                          "client/test/documents.test.mjs",
	"js":                            "client/test/documents.test.mjs",
	"text docs/gates.md":            "guards.TestCELRulesAreDocumented",
	"php docs/publishing.md":        "TestPublishingFromEachLanguage",
	"python docs/publishing.md":     "TestPublishingFromEachLanguage",
	"javascript docs/publishing.md": "TestPublishingFromEachLanguage",
	"ruby docs/publishing.md":       "TestPublishingFromEachLanguage",
	"go docs/publishing.md":         "TestPublishingFromEachLanguage",
	"nginx docs/deployment.md":      "TestDeploymentNginx",
	"haproxy docs/deployment.md":    "TestDeploymentHaproxy",
}

// guides is the folder whose examples are parts of files.
const guides = "docs/guides"

// guideFiles lists the files of which guides show parts, by the test that runs them.
var guideFiles = map[string][]string{
	"TestGuides": {
		"examples/go/Caddyfile",
		"examples/go/shop/shop.go",
		"examples/node/Caddyfile",
		"examples/node/next/app/orders/[order]/ship/route.ts",
		"examples/node/next/app/pushit/channel/route.ts",
		"examples/node/next/app/pushit/session/route.ts",
		"examples/node/shop.mjs",
		"examples/php/Caddyfile",
		"examples/php/public/index.php",
		"examples/python/Caddyfile",
		"examples/python/flask_shop.py",
		"examples/python/shop/settings.py",
		"examples/python/shop/urls.py",
		"examples/python/shop/views.py",
		"examples/rails/Caddyfile",
		"examples/rails/app/controllers/pushit_controller.rb",
		"examples/rails/app/jobs/tell_shipped_job.rb",
		"examples/rails/app/models/order.rb",
		"examples/rails/app/views/orders/_shipped.turbo_stream.erb",
		"examples/rails/app/views/orders/show.html.erb",
		"examples/rails/config/routes.rb",
	},
	"client/test/guides.test.mjs": {
		"examples/react/Caddyfile",
		"examples/react/src/App.tsx",
		"examples/react/src/pushit.ts",
		"examples/react/vite.config.js",
		"examples/svelte/Room.svelte",
		"examples/vue/Room.vue",
		"examples/vue/pushit.ts",
	},
	"TestGuidesForPHPFrameworks": {
		"examples/php/laravel/routes/web.php",
		"examples/php/laravel/app/Providers/AppServiceProvider.php",
		"examples/php/laravel/app/Jobs/TellShipped.php",
		"examples/php/symfony/src/Controller/PushItController.php",
		"examples/php/symfony/src/MessageHandler/TellShipped.php",
		"examples/php/symfony/config/services.yaml",
	},
}

// TestGuidesShowTheirExamples checks that each example of a guide is part of a file that a
// test runs. The file follows the language.
func TestGuidesShowTheirExamples(t *testing.T) {
	run := slices.Concat(slices.Collect(maps.Values(guideFiles))...)
	shown := make(map[string]bool)
	for _, f := range fences(t) {
		if filepath.Dir(f.path) != guides {
			continue
		}
		_, file, _ := strings.Cut(f.kind, " ")
		if !slices.Contains(run, file) {
			t.Errorf("%s: no test runs this %q:\n%s", f.path, f.kind, f.text)
			continue
		}
		shown[file] = true
		text := strings.Replace(doctable.Read(t, file), "http://localhost:8080 {", "example.com {", 1)
		if !strings.Contains("\n"+text, "\n"+f.text) {
			t.Errorf("%s: this is not in %s:\n%s", f.path, file, f.text)
		}
	}
	for _, file := range run {
		if !shown[file] {
			t.Errorf("no guide shows %s", file)
		}
	}
}

// TestEachExampleIsRun checks that a test runs the examples of each language in a
// document. TestGuidesShowTheirExamples does it for the guides.
func TestEachExampleIsRun(t *testing.T) {
	all := fences(t)
	for _, f := range all {
		if filepath.Dir(f.path) != guides && runBy[f.language()] == "" && runBy[f.language()+" "+f.path] == "" {
			t.Errorf("%s: no test runs this %q:\n%s", f.path, f.kind, f.text)
		}
	}
	if len(all) < 20 {
		t.Errorf("only %d examples were found", len(all))
	}
}

// TestJSONOfTheDocuments parses each JSON example. If it is a configuration, the test
// loads it as far as possible without serving it.
func TestJSONOfTheDocuments(t *testing.T) {
	configurations := 0
	for _, f := range fences(t) {
		if f.language() != "json" {
			continue
		}
		if !json.Valid([]byte(f.text)) {
			t.Errorf("%s: this is not JSON:\n%s", f.path, f.text)
		}
		if !strings.Contains(f.text, `"apps"`) {
			continue
		}
		configurations++
		var config caddy.Config
		if err := caddy.StrictUnmarshalJSON([]byte(f.text), &config); err != nil {
			t.Fatalf("%s: %v", f.path, err)
		}
		config.Admin = &caddy.AdminConfig{Disabled: true}
		if err := caddy.Validate(&config); err != nil {
			t.Errorf("%s: %v", f.path, err)
		}
	}
	if configurations == 0 {
		t.Error("no configuration was found")
	}
}

// TestCommandsOfTheDocuments checks each command line: its program, target or file must
// exist, and so must its flags.
func TestCommandsOfTheDocuments(t *testing.T) {
	commands := 0
	for _, f := range fences(t) {
		if f.language() != "sh" {
			continue
		}
		prompts := strings.Contains("\n"+f.text, "\n$ ")
		for line := range strings.Lines(strings.ReplaceAll(f.text, "\\\n", " ")) {
			line = strings.TrimSpace(line)
			if prompts { // lines without a prompt are output
				var ok bool
				if line, ok = strings.CutPrefix(line, "$ "); !ok {
					continue
				}
			}
			if line == "" || strings.HasPrefix(line, "#") {
				continue
			}
			commands++
			if err := checkCommand(t, line); err != nil {
				t.Errorf("%s: %s: %v", f.path, line, err)
			}
		}
	}
	if commands < 10 {
		t.Errorf("only %d commands were found", commands)
	}
}

var inQuotes = regexp.MustCompile(`'([^']*)'|"([^"]*)"|(\S+)`)

// words splits a command line like a shell, as far as the documents need it.
func words(line string) (all []string) {
	for _, m := range inQuotes.FindAllStringSubmatch(line, -1) {
		all = append(all, m[1]+m[2]+m[3])
	}
	return all
}

// checkCommand returns what is wrong with a command line of a document.
func checkCommand(t *testing.T, line string) error {
	t.Helper()
	line, _, _ = strings.Cut(line, " | ")
	line = strings.TrimPrefix(line, "! ")
	args := words(line)
	switch {
	case strings.HasPrefix(line, "go run ./cmd/caddy "):
		return checkCaddyCommand(args[3:])
	case args[0] == "caddy", args[0] == "./caddy":
		return checkCaddyCommand(args[1:])
	case strings.HasPrefix(line, "go run -C bench . "), strings.HasPrefix(line, "go build ./cmd/caddy"), strings.HasPrefix(line, "npm install "):
		return nil
	case args[0] == "make":
		for _, target := range args[1:] {
			if !strings.Contains(doctable.Read(t, "Makefile"), "\n"+target+":") {
				return fmt.Errorf("the Makefile has no target %s", target)
			}
		}
		return nil
	case args[0] == "xcaddy":
		return checkXcaddy(t, line)
	case args[0] == "docker" && args[1] == "build":
		_, err := os.Stat(args[slices.Index(args, "-f")+1])
		return err
	case strings.HasPrefix(args[0], "examples/"):
		_, err := os.Stat(args[0])
		return err
	case args[0] == "docker" && args[1] == "compose":
		_, err := os.Stat(args[slices.Index(args, "-f")+1])
		return err
	case args[0] == "cp" && strings.HasPrefix(args[1], "contrib/"):
		_, err := os.Stat(args[1])
		return err
	case slices.Contains([]string{"curl", "cp", "mkdir", "cd", "printf", "docker", "systemctl", "echo", "export"}, args[0]):
		return nil
	}
	return fmt.Errorf("no test knows the program %s", args[0])
}

// checkCaddyCommand checks the name of a Caddy command, its flags, and the configuration
// file in it.
func checkCaddyCommand(args []string) error {
	command, ok := caddycmd.Commands()[args[0]]
	if !ok {
		return fmt.Errorf("caddy has no command %s", args[0])
	}
	cmd := &cobra.Command{Use: command.Name}
	if command.CobraFunc != nil {
		command.CobraFunc(cmd)
	}
	found, rest, err := cmd.Find(args[1:])
	if err != nil {
		return err
	}
	if err := found.ParseFlags(rest); err != nil {
		return err
	}
	flag := found.Flag("config")
	if flag == nil || flag.Value.String() == "" || flag.Value.String() == "Caddyfile" {
		return nil
	}
	_, err = os.Stat(flag.Value.String())
	return err
}

// checkXcaddy compares a build command with go.mod.
func checkXcaddy(t *testing.T, line string) error {
	t.Helper()
	mod := doctable.Read(t, "go.mod")
	module := regexp.MustCompile(`(?m)^module (\S+)$`).FindStringSubmatch(mod)[1]
	version := regexp.MustCompile(`(?m)^\s*github.com/caddyserver/caddy/v2 (\S+)$`).FindStringSubmatch(mod)[1]
	for _, part := range []string{"build " + version + " ", "--with " + module + "@"} {
		if !strings.Contains(line, part) {
			return fmt.Errorf("it lacks %q", part)
		}
	}
	return nil
}

// TestGuardsAreDocumented checks that docs/gates.md has each guard and each of its JSON
// fields.
func TestGuardsAreDocumented(t *testing.T) {
	gates := doctable.Read(t, "docs/gates.md")
	_, settings, _ := strings.Cut(gates, "\n## Settings of the guards\n")
	settings, _, _ = strings.Cut(settings, "\n## ")
	modules := caddy.GetModules(guards.Namespace)
	for _, m := range modules {
		name := m.ID.Name()
		if !regexp.MustCompile("(?m)^\\| `+" + name + "\\b").MatchString(gates) {
			t.Errorf("the guard %s is not documented", name)
		}
		for _, field := range jsonFields(reflect.TypeOf(m.New()).Elem()) {
			if !strings.Contains(settings, "`"+field+"`") {
				t.Errorf("the field %s of %s is not documented", field, name)
			}
		}
	}
	if len(modules) < 12 {
		t.Errorf("there are only %d guards", len(modules))
	}
}

// jsonFields returns the JSON names of a struct's fields.
func jsonFields(s reflect.Type) (names []string) {
	for field := range s.Fields() {
		if field.Anonymous && field.Type.Kind() == reflect.Struct {
			names = append(names, jsonFields(field.Type)...)
		}
		if name, _, _ := strings.Cut(field.Tag.Get("json"), ","); name != "" {
			names = append(names, name)
		}
	}
	return names
}

// TestMistakesOfTheDocuments adapts the mistakes in docs/caddyfile.md, which must fail
// with a line, and the corrections, which must not.
func TestMistakesOfTheDocuments(t *testing.T) {
	t.Setenv("JWT_SECRET", "a secret of some length, for these tests alone")
	rows := doctable.Rows(t, "docs/caddyfile.md", "## Errors")
	if len(rows) < 10 {
		t.Errorf("only %d mistakes were found", len(rows))
	}
	site := func(cell string) []byte {
		inner := strings.TrimSpace(strings.Trim(cell, "`"))
		if strings.Contains(inner, " cel ") && strings.HasPrefix(cell, "``") { // the backquotes belong to the expression
			inner = strings.TrimSpace(strings.TrimSuffix(strings.TrimPrefix(cell, "``"), "``"))
		}
		inner = strings.NewReplacer("; ", "\n", " { ", " {\n", " }", "\n}").Replace(inner)
		inner = strings.ReplaceAll(inner, "{\n\"", "{ \"")
		return caddyfile.Format([]byte("http://localhost {\n\tpushit /push {\n" + inner + "\n\t}\n}\n"))
	}
	adapter := caddyconfig.GetAdapter("caddyfile")
	for _, row := range rows {
		wrong, right := site(row[0]), site(row[2])
		_, _, err := adapter.Adapt(wrong, map[string]any{"filename": "Caddyfile"})
		if err == nil {
			adapted, _, _ := adapter.Adapt(wrong, nil)
			err = validateJSON(t, adapted)
		}
		if err == nil || !strings.Contains(err.Error(), "Caddyfile:") {
			t.Errorf("%s is to be an error with a line, and is: %v", row[0], err)
		}
		adapted, _, err := adapter.Adapt(right, map[string]any{"filename": "Caddyfile"})
		if err == nil {
			err = validateJSON(t, adapted)
		}
		if err != nil {
			t.Errorf("%s: %v, in\n%s", row[2], err, right)
		}
	}
}

// validateJSON returns what is wrong with a configuration.
func validateJSON(t *testing.T, text []byte) error {
	t.Helper()
	var config caddy.Config
	if err := json.Unmarshal(text, &config); err != nil {
		return err
	}
	config.Admin = &caddy.AdminConfig{Disabled: true}
	raw, err := json.Marshal(object{"module": "file_system", "root": t.TempDir()})
	if err != nil {
		return err
	}
	config.StorageRaw = bytes.Clone(raw)
	return caddy.Validate(&config)
}

// TestSizingFollowsFromTheMeasurements compares the memory that docs/operations.md says to
// plan with what docs/performance.md says was measured.
func TestSizingFollowsFromTheMeasurements(t *testing.T) {
	text := doctable.Read(t, "docs/operations.md")
	m := regexp.MustCompile(`Each session comes on top: (\d+) KiB over WebSocket, (\d+) KiB with TLS, (\d+) KiB over a fallback`).FindStringSubmatch(text)
	if m == nil {
		t.Fatal("docs/operations.md does not say what a session needs")
	}
	measured := doctable.Read(t, "docs/performance.md")
	var each []float64 // KiB of a session in each column
	for i, row := range []string{"the same with SockJS framing", "the same with TLS 1.3, bare framing", "an idle session over `xhr_streaming`, 2,000 sessions"} {
		found := regexp.MustCompile(`(?m)^\| ` + regexp.QuoteMeta(row) + ` \| (?:[\d.]+ to )?([\d.]+) KiB`).FindStringSubmatch(measured)
		if found == nil {
			t.Fatalf("docs/performance.md has no %q", row)
		}
		planned, measured := number(t, m[i+1]), number(t, found[1])
		if planned < measured || planned > measured+4 {
			t.Errorf("%s: planned %v KiB, measured %v", row, planned, measured)
		}
		each = append(each, planned)
	}
	rows := regexp.MustCompile(`(?m)^\| ([\d,]+) \| (.*?) (.)iB \| (.*?) (.)iB \| (.*?) (.)iB \| ([\d,]+) \|$`).FindAllStringSubmatch(text, -1)
	if len(rows) < 4 {
		t.Errorf("only %d rows were found", len(rows))
	}
	for _, row := range rows {
		sessions := number(t, row[1])
		for i, kib := range each {
			said := number(t, row[2*i+2]) * map[string]float64{"M": 1 << 10, "G": 1 << 20}[row[2*i+3]]
			if off := said/(sessions*kib) - 1; off < -0.03 || off > 0.08 {
				t.Errorf("%s sessions of %v KiB: it says %s %siB", row[1], kib, row[2*i+2], row[2*i+3])
			}
		}
		if files := number(t, row[8]); files != sessions {
			t.Errorf("%v sessions need %v files", sessions, files)
		}
	}
}

// number reads a number of a document.
func number(t *testing.T, text string) float64 {
	t.Helper()
	f, err := strconv.ParseFloat(strings.ReplaceAll(text, ",", ""), 64)
	if err != nil {
		t.Fatal(err)
	}
	return f
}
