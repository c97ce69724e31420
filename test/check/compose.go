// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
)

// compose checks a Compose file with the reader of Docker Compose, and that what it uses is
// there: files, networks and volumes, and images that have a version or are built.
func (r *report) compose(at string, text []byte) {
	dir := filepath.Dir(at)
	project, err := loader.LoadWithContext(context.Background(), types.ConfigDetails{
		WorkingDir:  dir,
		ConfigFiles: []types.ConfigFile{{Filename: at, Content: text}},
		Environment: types.Mapping{},
	})
	if err != nil {
		r.wrong("%v", err)
		return
	}
	built := make(map[string]bool)
	for _, s := range project.Services {
		if s.Build != nil {
			built[s.Image] = true
		}
	}
	for name, s := range project.Services {
		r.checked++
		if _, tag, _ := strings.Cut(s.Image, ":"); !built[s.Image] && (tag == "" || tag == "latest") {
			r.wrong("the image %q of %s has no version", s.Image, name)
		}
		if s.Restart == "" {
			r.wrong("%s is not started again when it fails", name)
		}
		if s.Build != nil {
			r.exists(name, filepath.Join(s.Build.Context, s.Build.Dockerfile))
		}
		for _, v := range s.Volumes {
			if v.Type == types.VolumeTypeBind {
				r.exists(name, v.Source)
			}
		}
		for _, p := range s.Ports {
			if p.HostIP != "127.0.0.1" {
				r.wrong("%s listens for other machines at port %s", name, p.Published)
			}
		}
	}
}

// exists notes a file of a service that is not there.
func (r *report) exists(service, path string) {
	if _, err := os.Stat(path); err != nil {
		r.wrong("%s: %v", service, err)
	}
}
