// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
)

// families are the metrics of a server: the values of each label, by the name of a series.
type families map[string]map[string][]string

// added are the labels that Prometheus adds to each series.
var added = []string{"job", "instance"}

// readFamilies reads metrics in the text format.
func readFamilies(path string) (families, error) {
	f, err := os.Open(path) //nolint:gosec // G304: it is there to read this file
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	p := expfmt.NewTextParser(model.UTF8Validation)
	all, err := p.TextToMetricFamilies(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	out := make(families)
	for name, family := range all {
		for _, m := range family.GetMetric() {
			values := make(map[string]string)
			for _, l := range m.GetLabel() {
				values[l.GetName()] = l.GetValue()
			}
			if m.GetHistogram() == nil {
				out.add(name, values)
				continue
			}
			out.add(name+"_count", values)
			out.add(name+"_sum", values)
			for _, b := range m.GetHistogram().GetBucket() {
				values["le"] = fmt.Sprint(b.GetUpperBound())
				out.add(name+"_bucket", values)
			}
		}
	}
	return out, nil
}

func (f families) add(name string, values map[string]string) {
	if f[name] == nil {
		f[name] = make(map[string][]string)
	}
	for label, value := range values {
		if !slices.Contains(f[name][label], value) {
			f[name][label] = append(f[name][label], value)
		}
	}
}

// rules checks a file of alert rules.
func (r *report) rules(known families, text []byte) {
	p := parser.NewParser(parser.Options{})
	groups, errs := rulefmt.Parse(text, false, model.UTF8Validation, p, slog.New(slog.DiscardHandler))
	for _, err := range errs {
		r.wrong("%v", err)
	}
	if groups == nil {
		return
	}
	for _, g := range groups.Groups {
		for _, rule := range g.Rules {
			out := r.expression(known, rule.Alert, rule.Expr)
			for _, key := range []string{"summary", "description"} {
				if rule.Annotations[key] == "" {
					r.wrong("%s has no %s", rule.Alert, key)
				}
			}
			if rule.Labels["severity"] == "" {
				r.wrong("%s has no severity", rule.Alert)
			}
			for _, key := range slices.Sorted(maps.Keys(rule.Annotations)) {
				for _, m := range ruleLabel.FindAllStringSubmatch(rule.Annotations[key], -1) {
					r.has(rule.Alert+": the "+key, out, m[1])
				}
			}
		}
	}
}

var (
	ruleLabel     = regexp.MustCompile(`\$labels\.(\w+)`)
	legendLabel   = regexp.MustCompile(`\{\{\s*(\w+)\s*\}\}`)
	labelValues   = regexp.MustCompile(`^label_values\((\w+),\s*(\w+)\)$`)
	grafanaRange  = strings.NewReplacer("$__rate_interval", "5m", "$__interval", "5m", "$__range", "1h")
	grafanaChoice = regexp.MustCompile(`\$(\w+)`)
)

// A dashboard is what is checked of a dashboard of Grafana.
type dashboard struct {
	Title, UID string
	Panels     []panel
	Templating struct {
		List []struct {
			Name, Type string
			Query      any
		}
	}
}

type panel struct {
	ID          int
	Title, Type string
	Description string
	GridPos     struct{ X, Y, W, H int }
	Targets     []struct{ Expr, LegendFormat string }
	FieldConfig struct {
		Defaults struct{ Unit string }
	}
}

// dashboard checks a dashboard of Grafana: its expressions, and that each panel can be read.
func (r *report) dashboard(known families, text []byte) {
	var d dashboard
	if err := json.Unmarshal(text, &d); err != nil {
		r.wrong("%v", err)
		return
	}
	if d.Title == "" || d.UID == "" {
		r.wrong("the dashboard needs a title and a uid")
	}
	var choices []string
	for _, v := range d.Templating.List {
		choices = append(choices, v.Name)
		if v.Type != "query" {
			continue
		}
		query := fmt.Sprint(v.Query)
		if q, ok := v.Query.(map[string]any); ok {
			query = fmt.Sprint(q["query"])
		}
		m := labelValues.FindStringSubmatch(query)
		if m == nil {
			r.wrong("variable %s: %q is not label_values(metric, label)", v.Name, query)
			continue
		}
		r.checked++
		if known[m[1]] == nil || known[m[1]][m[2]] == nil && !slices.Contains(added, m[2]) {
			r.wrong("variable %s: there is no metric %s with a label %s", v.Name, m[1], m[2])
		}
	}
	for i, p := range d.Panels {
		if p.Type == "row" {
			continue
		}
		if p.Title == "" || p.Description == "" || len(p.Targets) == 0 || p.FieldConfig.Defaults.Unit == "" {
			r.wrong("panel %d %q needs a title, a description, a unit and an expression", p.ID, p.Title)
		}
		for _, other := range d.Panels[:i] {
			a, b := p.GridPos, other.GridPos
			if p.ID == other.ID {
				r.wrong("panels %q and %q have the same id", p.Title, other.Title)
			}
			if a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H {
				r.wrong("panel %q covers %q", p.Title, other.Title)
			}
		}
		for _, target := range p.Targets {
			expr := grafanaRange.Replace(target.Expr)
			for _, m := range grafanaChoice.FindAllStringSubmatch(expr, -1) {
				if !slices.Contains(choices, m[1]) {
					r.wrong("panel %q: there is no variable %s", p.Title, m[1])
				}
			}
			out := r.expression(known, fmt.Sprintf("panel %q", p.Title), grafanaChoice.ReplaceAllString(expr, ".*"))
			for _, m := range legendLabel.FindAllStringSubmatch(target.LegendFormat, -1) {
				r.has(fmt.Sprintf("panel %q: the legend", p.Title), out, m[1])
			}
		}
	}
}

func (r *report) has(where string, out []string, label string) {
	if !slices.Contains(out, label) {
		r.wrong("%s uses the label %s, which the expression does not have: it has %s", where, label, strings.Join(out, ", "))
	}
}

// expression checks that each metric of an expression exists, with the labels that the
// expression names and the values that it compares them with. It returns the labels of the
// result.
func (r *report) expression(known families, where, text string) []string {
	r.checked++
	e, err := parser.NewParser(parser.Options{}).ParseExpr(text)
	if err != nil {
		r.wrong("%s: %v", where, err)
		return nil
	}
	parser.Inspect(e, func(n parser.Node, _ []parser.Node) error {
		if v, ok := n.(*parser.VectorSelector); ok {
			r.selector(known, where, v)
		}
		return nil
	})
	return r.labelsOf(known, where, e)
}

// selector checks that a metric exists.
func (r *report) selector(known families, where string, v *parser.VectorSelector) {
	have := known[v.Name]
	if have == nil {
		r.wrong("%s: there is no metric %s", where, v.Name)
		return
	}
	for _, m := range v.LabelMatchers {
		if m.Name == model.MetricNameLabel || slices.Contains(added, m.Name) {
			continue
		}
		values := have[m.Name]
		if values == nil {
			r.wrong("%s: %s has no label %s", where, v.Name, m.Name)
			continue
		}
		// A value that the hub has never had has no series, except where it always has one.
		if (m.Type == labels.MatchEqual || m.Type == labels.MatchRegexp) && !slices.ContainsFunc(values, m.Matches) {
			r.wrong("%s: no %s has a label that fits %s: it has %s", where, v.Name, m, strings.Join(values, ", "))
		}
	}
}

// labelsOf returns the labels of an expression's result.
func (r *report) labelsOf(known families, where string, e parser.Expr) []string {
	switch e := e.(type) {
	case *parser.VectorSelector:
		return append(slices.Sorted(maps.Keys(known[e.Name])), added...)
	case *parser.MatrixSelector:
		return r.labelsOf(known, where, e.VectorSelector)
	case *parser.SubqueryExpr:
		return r.labelsOf(known, where, e.Expr)
	case *parser.ParenExpr:
		return r.labelsOf(known, where, e.Expr)
	case *parser.UnaryExpr:
		return r.labelsOf(known, where, e.Expr)
	case *parser.AggregateExpr:
		inner := r.labelsOf(known, where, e.Expr)
		for _, l := range e.Grouping {
			if !slices.Contains(inner, l) {
				r.wrong("%s: %s groups by %s, but has only %s", where, e, l, strings.Join(inner, ", "))
			}
		}
		if e.Without {
			return slices.DeleteFunc(inner, func(l string) bool { return slices.Contains(e.Grouping, l) })
		}
		return e.Grouping
	case *parser.Call:
		var all []string
		for _, arg := range e.Args {
			all = append(all, r.labelsOf(known, where, arg)...)
		}
		if e.Func.Name == "histogram_quantile" {
			if !slices.Contains(all, "le") {
				r.wrong("%s: histogram_quantile needs the label le", where)
			}
			all = slices.DeleteFunc(all, func(l string) bool { return l == "le" })
		}
		return all
	case *parser.BinaryExpr:
		left, right := r.labelsOf(known, where, e.LHS), r.labelsOf(known, where, e.RHS)
		_, scalar := e.RHS.(*parser.NumberLiteral)
		if scalar || e.VectorMatching == nil {
			return append(left, right...)
		}
		on := e.VectorMatching.MatchingLabels
		if e.VectorMatching.On {
			for _, l := range on {
				if !slices.Contains(left, l) || !slices.Contains(right, l) {
					r.wrong("%s: a side of %s has no label %s", where, e, l)
				}
			}
			return left
		}
		left, right = without(left, on), without(right, on)
		if !slices.Equal(left, right) && !e.Op.IsSetOperator() {
			r.wrong("%s: %s never has a result: one side has the labels %s, the other %s", where, e, strings.Join(left, ", "), strings.Join(right, ", "))
		}
		return left
	}
	return nil
}

// without returns labels in order, without some.
func without(all, some []string) []string {
	out := slices.DeleteFunc(slices.Clone(all), func(l string) bool { return slices.Contains(some, l) })
	slices.Sort(out)
	return slices.Compact(out)
}
