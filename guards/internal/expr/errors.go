// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package expr

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"

	"github.com/push-it/pushit/guards/internal/suggest"
	"github.com/push-it/pushit/hub"
)

// maxExcerpt is the largest number of characters of an expression that an error shows.
const maxExcerpt = 100

// atPosition returns an error that shows where in src the mistake is.
func atPosition(src string, at common.Location, text string) error {
	lines := strings.Split(src, "\n")
	if at.Line() < 1 || at.Line() > len(lines) {
		return errors.New(text)
	}
	// CEL counts characters from 0.
	line := []rune(strings.ReplaceAll(strings.TrimRight(lines[at.Line()-1], "\r"), "\t", " "))
	column := min(max(at.Column(), 0), len(line))
	from := 0
	for from < column && line[from] == ' ' {
		from++
	}
	if column-from > maxExcerpt/2 {
		from = column - maxExcerpt/2
	}
	line = line[from:min(len(line), from+maxExcerpt)]
	where := ""
	if len(lines) > 1 {
		where = fmt.Sprintf(" (line %d of the expression)", at.Line())
	}
	return fmt.Errorf("%s%s\n\t%s\n\t%s^", text, where, string(line), strings.Repeat(" ", column-from))
}

// firstIssue returns the first mistake. Others may only follow from it.
func firstIssue(issues *cel.Issues) *cel.Error {
	return slices.MinFunc(issues.Errors(), func(a, b *cel.Error) int {
		if a.Location.Line() != b.Location.Line() {
			return a.Location.Line() - b.Location.Line()
		}
		return a.Location.Column() - b.Location.Column()
	})
}

// habits are things that people write although they are not CEL, with what to write
// instead.
var habits = []struct {
	wrong *regexp.Regexp
	right string
}{
	{regexp.MustCompile(`[!=]==`), "write == for equal and != for not equal"},
	{regexp.MustCompile(`(^|[^=!<>])=([^=]|$)`), "write == to compare"},
	{regexp.MustCompile(`\{\$?[\w.]+\}`), "expressions cannot have placeholders; use names such as agent.user, channel, parts[1] and request.host"},
	{regexp.MustCompile(`(?i)\band\b`), "write && for and"},
	{regexp.MustCompile(`(?i)\bor\b`), "write || for or"},
	{regexp.MustCompile(`(?i)\bnot\b`), "write ! for not: !(a in b)"},
	{regexp.MustCompile(`(^|[^&])&([^&]|$)`), "write && for and"},
	{regexp.MustCompile(`(^|[^|])\|([^|]|$)`), "write || for or"},
}

// textLiteral matches text in quotes, which may contain anything.
var textLiteral = regexp.MustCompile("(?s)\"(\\\\.|[^\"\\\\])*\"|'(\\\\.|[^'\\\\])*'")

func explainSyntax(src string, issues *cel.Issues) error {
	e := firstIssue(issues)
	code := textLiteral.ReplaceAllString(src, `""`)
	for _, h := range habits {
		if h.wrong.MatchString(code) {
			return atPosition(src, e.Location, "this is not CEL; "+h.right)
		}
	}
	// Drop the list of everything that could stand there instead: it is too long to help.
	text, _, _ := strings.Cut(strings.TrimPrefix(e.Message, "Syntax error: "), " expecting ")
	text = strings.Replace(text, "mismatched input '<EOF>'", "something is missing at the end", 1)
	text = strings.Replace(text, " at '<EOF>'", " at the end", 1)
	return atPosition(src, e.Location, "this is not CEL: "+text)
}

var (
	undeclared = regexp.MustCompile(`^undeclared reference to '(.*)' \(in container`)
	undefined  = regexp.MustCompile(`^undefined field '(.*)'$`)
	noOverload = regexp.MustCompile(`(?s)^found no matching overload for '(.*)' applied to '(.*)'$`)
	noFields   = regexp.MustCompile(`^type '(.*)' does not support field selection$`)
	wrapper    = regexp.MustCompile(`wrapper\((\w+)\)`)
)

// explainMistake explains a mistake in the names or types of an expression.
func explainMistake(src string, s Scope, env *cel.Env, parsed *cel.Ast, issues *cel.Issues) error {
	e := firstIssue(issues)
	text, at := e.Message, e.Location
	switch {
	case undeclared.MatchString(text):
		name := undeclared.FindStringSubmatch(text)[1]
		text, at = s.unknownName(name, env, parsed, e.ExprID), nameBefore(src, name, at)
	case undefined.MatchString(text):
		text = s.unknownField(undefined.FindStringSubmatch(text)[1], parsed, e.ExprID)
	case text == "comprehension exceeds nesting limit":
		text = fmt.Sprintf("loops can be nested at most %d deep", maxNesting)
	case noFields.MatchString(text):
		text = noFields.FindStringSubmatch(text)[1] + " has no fields"
	case noOverload.MatchString(text):
		m := noOverload.FindStringSubmatch(text)
		name := m[1]
		if operator, ok := operators.FindReverse(name); ok && operator != "" {
			name = operator
		}
		text, at = name+" cannot be used with "+m[2], nameBefore(src, name, at)
		if name == "contains" && strings.HasPrefix(m[2], "list(") {
			text += "; to search a list, write in: \"a\" in parts"
		}
	}
	return atPosition(src, at, nullableText(text))
}

// nameBefore returns the position of a function's name. CEL reports mistakes in a call at
// its parenthesis.
func nameBefore(src, name string, at common.Location) common.Location {
	lines := strings.Split(src, "\n")
	if at.Line() < 1 || at.Line() > len(lines) {
		return at
	}
	line, length := []rune(lines[at.Line()-1]), len([]rune(name))
	if from := at.Column() - length; from >= 0 && at.Column() <= len(line) && string(line[from:at.Column()]) == name {
		return common.NewLocation(at.Line(), from)
	}
	return at
}

// nullableText replaces CEL's word for values that may be null.
func nullableText(text string) string { return wrapper.ReplaceAllString(text, "$1 or null") }

// typeText returns what errors call a type.
func typeText(t *cel.Type) string {
	switch text := nullableText(cel.FormatCELType(t)); {
	case t.Kind() == types.StructKind:
		return "an object, " + strings.ToLower(strings.TrimPrefix(text, "pushit."))
	case t.Kind() == types.IntKind:
		return "an int"
	case t.Kind() == types.StringKind, t.Kind() == types.DoubleKind, t.Kind() == types.UintKind:
		return "a " + text
	default:
		return text
	}
}

// missing says why a variable that other gates have is missing here.
func (s Scope) missing(name string) string {
	switch {
	case s.variables()[name] != nil:
		return ""
	case s == Info && name == "request":
		return "info cannot show the request to others; use agent.user, agent.claims and agent.attributes"
	case name == "message":
		return fmt.Sprintf("there is no message at %s; publish and deliver have one", s.gate)
	case ScopeOf(hub.GateDeliver).variables()[name] != nil:
		return fmt.Sprintf("there is no %s at %s, which is not about a channel", name, s.gate)
	}
	return ""
}

func (s Scope) unknownName(name string, env *cel.Env, parsed *cel.Ast, id int64) string {
	if text := s.missing(name); text != "" {
		return text
	}
	node := nodeByID(parsed, id)
	if node != nil && node.Kind() == ast.CallKind {
		var known []string
		for f := range env.Functions() {
			if !strings.ContainsAny(f, "_@!") {
				known = append(known, f)
			}
		}
		for _, m := range env.Macros() {
			known = append(known, m.Function())
		}
		slices.Sort(known)
		return fmt.Sprintf("unknown function %s", name) + didYouMean(name, known)
	}
	known := slices.Sorted(maps.Keys(s.variables()))
	if near := didYouMean(name, known); near != "" {
		return fmt.Sprintf("unknown name %s", name) + near
	}
	for _, object := range slices.Sorted(maps.Keys(s.objects())) {
		if _, ok := s.objects()[object][name]; ok {
			return fmt.Sprintf("unknown name %s; did you mean %s.%s?", name, strings.ToLower(strings.TrimPrefix(object, "pushit.")), name)
		}
	}
	return fmt.Sprintf("unknown name %s; known are %s; write text in quotes: %q", name, strings.Join(known, ", "), name)
}

func (s Scope) unknownField(name string, parsed *cel.Ast, id int64) string {
	node := nodeByID(parsed, id)
	if node == nil || node.Kind() != ast.SelectKind || node.AsSelect().Operand().Kind() != ast.IdentKind {
		return "unknown field " + name
	}
	variable := node.AsSelect().Operand().AsIdent()
	t := s.variables()[variable]
	if t == nil {
		return "unknown field " + name
	}
	if variable == "message" && deliveryFields[name].typ != nil {
		return fmt.Sprintf("message.%s is known only at deliver; here the publisher is the agent: use agent.uuid or agent.user", name)
	}
	known := slices.Sorted(maps.Keys(s.objects()[t.TypeName()]))
	if s == Info && agentFields[name].typ != nil {
		return fmt.Sprintf("info cannot show %s.%s to others; it has %s", variable, name, strings.Join(known, ", "))
	}
	if near := didYouMean(name, known); near != "" {
		return fmt.Sprintf("%s has no %s", variable, name) + near
	}
	return fmt.Sprintf("%s has no %s; it has %s", variable, name, strings.Join(known, ", "))
}

func didYouMean(word string, known []string) string {
	// In a short word, two edits make a different word.
	if near := suggest.Nearest(word, known); near != "" && suggest.Distance(word, near) <= max(1, len(word)/3) {
		return fmt.Sprintf("; did you mean %s?", near)
	}
	return ""
}

// nodeByID returns the part of an expression with that id, or nil.
func nodeByID(parsed *cel.Ast, id int64) (found ast.Expr) {
	ast.PreOrderVisit(parsed.NativeRep().Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.ID() == id {
			found = e
		}
	}))
	return found
}
