// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"path"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// dockerfile checks a Dockerfile with the rules of BuildKit, and that its image runs as a
// user without rights and says how healthy it is.
func (r *report) dockerfile(text []byte) {
	parsed, err := parser.Parse(bytes.NewReader(text))
	if err != nil {
		r.wrong("%v", err)
		return
	}
	warn := func(rule, _, _, message string, at []parser.Range) {
		line := 0
		if len(at) > 0 {
			line = at[0].Start.Line
		}
		r.wrong("line %d: %s: %s", line, rule, message)
	}
	for _, w := range parsed.Warnings {
		r.wrong("%s", w.Short)
	}
	stages, _, err := instructions.Parse(parsed.AST, linter.New(&linter.Config{Warn: warn}))
	if err != nil {
		r.wrong("%v", err)
		return
	}
	if len(stages) < 2 {
		r.wrong("one stage must build, and another one run: the image must not contain the compiler")
		return
	}
	var user string
	var healthy bool
	earlier := make(map[string]bool)
	for i, stage := range stages {
		last := i == len(stages)-1
		if _, tag, _ := strings.Cut(path.Base(stage.BaseName), ":"); !earlier[stage.BaseName] && (tag == "" || tag == "latest") {
			r.wrong("FROM %s has no version", stage.BaseName)
		}
		for _, c := range stage.Commands {
			r.checked++
			switch c := c.(type) {
			case *instructions.UserCommand:
				if last {
					user = c.User
				}
			case *instructions.HealthCheckCommand:
				healthy = healthy || last && c.Health != nil && len(c.Health.Test) > 0 && c.Health.Test[0] != "NONE"
			case *instructions.CopyCommand:
				if c.From != "" && !earlier[c.From] {
					r.wrong("COPY --from=%s: there is no such stage before", c.From)
				}
			}
		}
		earlier[stage.Name] = stage.Name != ""
		earlier[fmt.Sprint(i)] = true
	}
	if name, _, _ := strings.Cut(user, ":"); name == "" || name == "root" || name == "0" {
		r.wrong("the image runs as root: name another USER in the last stage")
	}
	if !healthy {
		r.wrong("the last stage has no HEALTHCHECK")
	}
}
