// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package pushit_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	gotoken "go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Larger code is hard to read. Tests may be larger. So may a package, a type or a
// function whose comment says why, in a sentence with "more than 25 fields because" or
// "larger than 3,500 lines because".
const (
	maxPackageLines  = 3500
	maxTypeFields    = 25
	maxTypeMethods   = 40
	maxFunctionLines = 80
)

// A sized is a part of the code whose size has a limit.
type sized struct {
	name      string // with its position
	size, max int
	unit      string
	comment   string
}

// excused reports whether the comment says why the limit is exceeded.
func (s *sized) excused() bool { return strings.Contains(s.comment, s.excuse()) }

// excuse returns the words that must precede the reason.
func (s *sized) excuse() string { return fmt.Sprintf("than %s %s because ", grouped(s.max), s.unit) }

// grouped writes a number below a million as English does: 3,500.
func grouped(n int) string {
	if n < 1000 {
		return strconv.Itoa(n)
	}
	return fmt.Sprintf("%d,%03d", n/1000, n%1000)
}

// sourcePackage is the code of one directory, without tests.
type sourcePackage struct {
	lines   sized
	types   map[string]*sized // number of fields
	methods map[string]*sized // by type
	sizes   []*sized          // number of lines of each function
}

// textOf returns a comment on one line.
func textOf(comments ...*ast.CommentGroup) (text string) {
	for _, c := range comments {
		text += " " + strings.Join(strings.Fields(c.Text()), " ")
	}
	return text
}

// receiverOf returns the name of the type that a method belongs to.
func receiverOf(f *ast.FuncDecl) string {
	if f.Recv == nil || len(f.Recv.List) == 0 {
		return ""
	}
	e := f.Recv.List[0].Type
	for {
		switch t := e.(type) {
		case *ast.StarExpr:
			e = t.X
		case *ast.IndexExpr:
			e = t.X
		case *ast.IndexListExpr:
			e = t.X
		case *ast.Ident:
			return t.Name
		default:
			return ""
		}
	}
}

// fieldsOf counts the fields that a type declares. An embedded type counts as one; its
// fields count for itself.
func fieldsOf(e ast.Expr) (n int) {
	s, ok := e.(*ast.StructType)
	if !ok {
		return 0
	}
	for _, f := range s.Fields.List {
		n += max(len(f.Names), 1)
	}
	return n
}

func (p *sourcePackage) add(fset *gotoken.FileSet, f *ast.File) {
	p.lines.size += fset.File(f.FileStart).LineCount()
	p.lines.comment += textOf(f.Doc)
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			name := d.Name.Name
			if on := receiverOf(d); on != "" {
				name = on + "." + name
				m := p.methods[on]
				if m == nil {
					m = &sized{name: "type " + on, max: maxTypeMethods, unit: "methods"}
					p.methods[on] = m
				}
				m.size++
			}
			lines := fset.Position(d.End()).Line - fset.Position(d.Pos()).Line + 1
			p.sizes = append(p.sizes, &sized{fmt.Sprintf("%s: %s", fset.Position(d.Pos()), name), lines, maxFunctionLines, "lines", textOf(d.Doc)})
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				if s, ok := spec.(*ast.TypeSpec); ok {
					name := fmt.Sprintf("%s: type %s", fset.Position(s.Pos()), s.Name.Name)
					p.types[s.Name.Name] = &sized{name, fieldsOf(s.Type), maxTypeFields, "fields", textOf(d.Doc, s.Doc)}
				}
			}
		}
	}
}

// readPackages reads the code of the repository, without tests. The modules below this one,
// such as bench and those in contrib, count too.
func readPackages(t *testing.T) map[string]*sourcePackage {
	t.Helper()
	packages := make(map[string]*sourcePackage)
	fset := gotoken.NewFileSet()
	err := filepath.WalkDir(".", func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() {
			hidden := strings.HasPrefix(e.Name(), ".") || e.Name() == "testdata" || e.Name() == "node_modules"
			if path != "." && hidden {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(fset, path, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		dir := filepath.Dir(path)
		if packages[dir] == nil {
			packages[dir] = &sourcePackage{
				lines:   sized{name: "package " + dir, max: maxPackageLines, unit: "lines"},
				types:   make(map[string]*sized),
				methods: make(map[string]*sized),
			}
		}
		packages[dir].add(fset, f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return packages
}

func TestNothingIsTooLarge(t *testing.T) {
	packages := readPackages(t)
	for _, name := range []string{".", "hub", "bench", "contrib/embedded-nats"} { // also those of other modules
		if packages[filepath.FromSlash(name)] == nil {
			t.Fatalf("the package %s was not found", name)
		}
	}
	for _, p := range packages {
		all := append([]*sized{&p.lines}, p.sizes...)
		for name, fields := range p.types {
			all = append(all, fields)
			if m := p.methods[name]; m != nil {
				m.name, m.comment = fields.name, fields.comment
				all = append(all, m)
			}
		}
		for _, s := range all {
			switch {
			case s.size > s.max && !s.excused():
				t.Errorf("%s has %d %s: divide it, or say in its comment that it is larger %s…", s.name, s.size, s.unit, s.excuse())
			case s.size <= s.max && s.excused():
				t.Errorf("%s has only %d %s: remove the sentence %q from its comment", s.name, s.size, s.unit, s.excuse())
			}
		}
	}
}
