// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package pushit

import (
	"errors"

	"github.com/push-it/pushit/internal/explain"
	"github.com/push-it/pushit/internal/routing"
)

// checkPlace finds mistakes in where the directive stands in the site. Caddy does not
// tell a directive about its neighbours, so checkPlace adapts the whole file once more. A
// configuration that comes over the admin API has no file. Then Provision finds the
// mistakes.
func (p *parser) checkPlace() error {
	filename, _ := p.Option("filename").(string)
	if filename == "" || p.Option(routing.ProbingOption) != nil {
		return nil
	}
	a := p.adaptation()
	if a.whole == nil {
		a.places = make(explain.Places)
		a.whole = routing.AdaptFile(filename, map[string]any{explain.PlacesOption: a.places})
	}
	if a.places[p.handler.mount()][""] != place(p.directive) {
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

// notePlaces notes where p's handler is written. Provision needs the place for its errors and
// warnings about the routes around the handler. explain needs it for its answer.
func (p *parser) notePlaces() {
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
