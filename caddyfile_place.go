// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package pushit

import (
	"errors"

	"github.com/push-it/pushit/internal/explain"
	"github.com/push-it/pushit/internal/routing"
)

// checkPlace finds what is wrong with where the directive stands. A directive is not
// told what else is in the site, so the file is adapted once more, as a whole. Where
// there is no file, or it is not this one, as for a configuration that comes over the
// admin API, the mistakes are found when the handler is provisioned.
func (p *parser) checkPlace() error {
	filename, _ := p.Option("filename").(string)
	if filename == "" || p.Option(routing.ProbingOption) != nil {
		return nil
	}
	a := p.adaptation()
	if a.whole == nil {
		a.written = make(explain.Places)
		a.whole = routing.AdaptFile(filename, map[string]any{explain.PlacesOption: a.written})
	}
	if a.written[p.handler.mount()][""] != place(p.directive) {
		return nil
	}
	for _, server := range a.whole.Servers {
		for _, t := range routing.Check(server, p.handler.mount(), false) {
			if t.Certain {
				at := p.directive
				if namespace, ok := p.seen["namespace"]; ok && t.IsAboutNamespace() {
					at = namespace
				}
				return errorAt(at, errors.New(t.Text(a.whole.Around(p.directive))))
			}
		}
	}
	return nil
}

// tell notes where p's handler is written, for whom that concerns: the check of what
// stands around it when it is provisioned, and explain.
func (p *parser) tell() {
	if p.Option(routing.ProbingOption) == nil {
		_, inMatcher := p.seen["matcher"]
		_, inBlock := p.seen["path"]
		noted := routing.Directive{Place: place(p.directive), Bare: !inMatcher && !inBlock}
		if whole := p.adaptation().whole; whole != nil {
			noted.Source = whole.Around(p.directive)
		}
		routing.Note(p.handler.mount(), noted)
	}
	wanted, ok := p.Option(explain.PlacesOption).(explain.Places)
	if !ok {
		return
	}
	written := map[string]string{"": place(p.directive)}
	for path, token := range p.places {
		written[path] = place(token)
	}
	wanted[p.handler.mount()] = written
}
