// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"slices"
	"strings"

	"github.com/push-it/pushit/guards/internal/placeholder"
)

// Names are the placeholders in the configuration of a guard, by where their values
// come from. The answer to a question can depend on each of them.
type Names struct {
	// Question has those of the question itself: {pushit.*}.
	Question []string
	// LookedUp has those that are looked up when a session opens.
	LookedUp []string
	// Required has those of LookedUp that no handler of the guard sets. If one has no
	// value, nothing is asked.
	Required []string
	// Request has those that depend on the request, but not on the session alone.
	Request []string
}

// Names returns the placeholders of the configuration that r reaches, and of keys,
// which are the guard's own templates.
func (r *Reach) Names(keys []string) (n Names, err error) {
	lookedUp, err := placeholder.ToLookUp(r.Texts, r.Others)
	if err != nil {
		return n, err
	}
	vars := make([]string, len(r.Vars))
	for i, variable := range r.Vars {
		vars[i] = placeholder.VarsPrefix + variable
	}
	n.LookedUp, err = placeholder.Filter(slices.Concat(lookedUp, vars, placeholder.In(strings.Join(keys, " "))), func(string) bool { return true })
	if err != nil {
		return n, err
	}
	for _, name := range n.LookedUp {
		if variable, isVar := strings.CutPrefix(name, placeholder.VarsPrefix); !isVar || !placeholder.SetsVar(r.Texts, variable) {
			n.Required = append(n.Required, name)
		}
	}
	var names []string
	for _, text := range r.Texts {
		named, err := placeholder.InJSON(text)
		if err != nil {
			return n, err
		}
		names = append(names, named...)
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		switch {
		case slices.Contains(n.LookedUp, name):
		case strings.HasPrefix(name, placeholder.Prefix):
			n.Question = append(n.Question, name)
		case !placeholder.IsInSnapshot(name) && placeholder.IsVariable(name):
			n.Request = append(n.Request, name)
		}
	}
	return n, nil
}
