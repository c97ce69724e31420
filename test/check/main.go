// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// Command check looks for mistakes in the files of contrib: alert rules, dashboards, a
// Dockerfile, a Compose file and the configuration of a release. It compares the metrics that rules and
// dashboards name with those of a server:
//
//	check -metrics metrics.txt rules.yml dashboard.json Dockerfile .goreleaser.yaml
//
// It is a module of its own, so that nobody else needs what it imports.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/goreleaser/goreleaser/v2/pkg/config"
)

// A report collects mistakes, and counts what was checked.
type report struct {
	file     string // that is being checked
	checked  int    // expressions, instructions and builds
	mistakes []string
}

func (r *report) wrong(format string, args ...any) {
	r.mistakes = append(r.mistakes, r.file+": "+fmt.Sprintf(format, args...))
}

func main() {
	metrics := flag.String("metrics", "", "a file with the metrics of a server, as it answers GET /metrics")
	flag.Parse()
	r, err := check(*metrics, flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	for _, m := range r.mistakes {
		fmt.Println(m)
	}
	fmt.Printf("%d parts checked, %d mistakes\n", r.checked, len(r.mistakes))
	if len(r.mistakes) > 0 || r.checked == 0 {
		os.Exit(1)
	}
}

// check checks each file by its name.
func check(metrics string, paths []string) (*report, error) {
	r := new(report)
	var known families
	if metrics != "" {
		var err error
		if known, err = readFamilies(metrics); err != nil {
			return nil, err
		}
	}
	for _, path := range paths {
		text, err := os.ReadFile(path) //nolint:gosec // G304: it is there to read these files
		if err != nil {
			return nil, err
		}
		r.file = filepath.Base(path)
		switch name := r.file; {
		case strings.HasPrefix(name, ".goreleaser"):
			r.release(text)
		case strings.HasPrefix(name, "Dockerfile"):
			r.dockerfile(text)
		case strings.HasPrefix(name, "compose"):
			r.compose(path, text)
		case filepath.Ext(name) == ".yml":
			r.rules(known, text)
		case filepath.Ext(name) == ".json":
			r.dashboard(known, text)
		default:
			return nil, fmt.Errorf("%s: this kind of file is unknown", path)
		}
	}
	return r, nil
}

// release checks the configuration of GoReleaser. Unknown keys are mistakes.
func (r *report) release(text []byte) {
	project, err := config.LoadReader(bytes.NewReader(text))
	if err != nil {
		r.wrong("%v", err)
		return
	}
	for _, b := range project.Builds {
		r.checked++
		static := false
		for _, env := range b.Env {
			static = static || env == "CGO_ENABLED=0"
		}
		if !static {
			r.wrong("the build of %s is not static: write CGO_ENABLED=0 in its env", b.Main)
		}
	}
	if project.Checksum.NameTemplate == "" {
		r.wrong("there are no checksums")
	}
}
