// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package pushit_test

import (
	"go/ast"
	"go/parser"
	gotoken "go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// withGoroutines are packages whose documentation has a table of their goroutines.
var withGoroutines = []string{"hub", "hub/transport"}

// startersIn returns the functions of a package that start goroutines, as Type.method,
// and the documentation of the package.
func startersIn(t *testing.T, dir string) (starters []string, doc string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no files in %s: %v", dir, err)
	}
	fset := gotoken.NewFileSet()
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(fset, file, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		doc += f.Doc.Text()
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Body == nil {
				continue
			}
			name := strings.TrimPrefix(receiverOf(fn)+"."+fn.Name.Name, ".")
			ast.Inspect(fn.Body, func(n ast.Node) bool {
				if startsGoroutine(n) && !slices.Contains(starters, name) {
					starters = append(starters, name)
				}
				return true
			})
		}
	}
	return starters, doc
}

// startsGoroutine reports whether n is a go statement, or a call that starts a goroutine
// now or later. Calls of context.AfterFunc do not count: they end with their context.
func startsGoroutine(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.GoStmt:
		return true
	case *ast.CallExpr:
		if f, ok := n.Fun.(*ast.SelectorExpr); ok {
			pkg, _ := f.X.(*ast.Ident)
			return f.Sel.Name == "AfterFunc" && pkg != nil && pkg.Name == "time" || f.Sel.Name == "Go" && len(n.Args) == 1
		}
	}
	return false
}

// TestGoroutinesAreDocumented compares the tables of goroutines in the documentation of
// packages with their code. A row names the functions that start it.
func TestGoroutinesAreDocumented(t *testing.T) {
	for _, dir := range withGoroutines {
		starters, doc := startersIn(t, dir)
		_, table, ok := strings.Cut(doc, "\tgoroutine ")
		if !ok {
			t.Fatalf("the documentation of %s has no table of goroutines", dir)
		}
		table, _, _ = strings.Cut(table, "\n\n")
		words := strings.FieldsFunc(table, func(c rune) bool { return strings.ContainsRune(" \t\n,;:", c) })
		for _, name := range starters {
			if !slices.Contains(words, name) {
				t.Errorf("%s starts a goroutine that the table of %s lacks", name, dir)
			}
		}
	}
}

// placeOf finds places in documentation: a function or method in a file.
var placeOf = regexp.MustCompile(`([A-Za-z]\w*(?:\.\w+)?)\]? in\s+([a-z_]+\.go)`)

// TestPlacesAreThere looks for the functions and files that the documentation of packages
// names.
func TestPlacesAreThere(t *testing.T) {
	found := 0
	for _, dir := range []string{".", "hub", "hub/transport", "guards"} {
		_, doc := startersIn(t, dir)
		for _, file := range regexp.MustCompile(`[a-z_]+\.go\b`).FindAllString(doc, -1) {
			if _, err := os.Stat(filepath.Join(dir, file)); err != nil {
				t.Errorf("the documentation of %s names %s: %v", dir, file, err)
			}
		}
		for _, m := range placeOf.FindAllStringSubmatch(doc, -1) {
			code, err := os.ReadFile(filepath.Join(dir, m[2]))
			if err != nil {
				continue // reported above
			}
			decl := `(?m)^(func|type) ` + m[1] + `\b`
			if on, name, ok := strings.Cut(m[1], "."); ok {
				decl = `(?m)^func (\(([a-z]+ )?\*?` + on + `(\[.*\])?\) )` + name + `\b`
			}
			if !regexp.MustCompile(decl).Match(code) {
				t.Errorf("the documentation of %s says that %s is in %s", dir, m[1], m[2])
			}
			found++
		}
	}
	if found < 8 {
		t.Errorf("only %d places were found", found)
	}
}

// The glossary of hub is short enough to learn at once.
func TestGlossaryIsShort(t *testing.T) {
	_, doc := startersIn(t, "hub")
	_, rest, ok := strings.Cut(doc, "# Glossary\n\n")
	if !ok {
		t.Fatal("hub has no glossary")
	}
	glossary, _, _ := strings.Cut(rest, "\n\n")
	if n := strings.Count(glossary, "\n") + 1; n < 15 || n > 25 {
		t.Errorf("the glossary of hub has %d words, want at most 25", n)
	}
}
