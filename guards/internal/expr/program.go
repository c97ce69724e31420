// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// Package expr compiles and evaluates the CEL expressions of gates: the guard cel and
// the verb transform. It knows the names that expressions can use, explains mistakes
// in them, and bounds what an expression may cost, because clients choose the data.
package expr

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"

	"github.com/push-it/pushit/hub"
)

// A Program is a compiled expression. It is immutable and safe for concurrent use.
type Program struct {
	program cel.Program
	loops   bool // it may walk through data of clients
}

// CompileBool compiles an expression that is true or false. Errors show where in src the
// mistake is, and say what to write instead.
func CompileBool(src string, s Scope) (*Program, error) {
	return compileProgram(src, s, func(t *cel.Type) error {
		switch {
		case t.IsEquivalentType(cel.BoolType), t.Kind() == types.DynKind, t.IsEquivalentType(cel.NullableType(cel.BoolType)):
			return nil
		case isOptional(t):
			return errors.New("this may have no value; add what to use then: .orValue(false)")
		}
		return fmt.Errorf("this must be true or false but is %s; compare it with something", typeText(t))
	})
}

// CompileValue compiles an expression that makes data.
func CompileValue(src string, s Scope) (*Program, error) {
	return compileProgram(src, s, func(t *cel.Type) error {
		switch {
		case isOptional(t):
			return errors.New("this may have no value; add what to use then: .orValue(null)")
		case t.Kind() == types.StructKind, t.Kind() == types.OpaqueKind, t.Kind() == types.TypeKind:
			return fmt.Errorf("this is %s, which cannot be written as JSON; name its fields", typeText(t))
		}
		return nil
	})
}

func isOptional(t *cel.Type) bool {
	return t.Kind() == types.OpaqueKind && t.TypeName() == "optional_type"
}

func compileProgram(src string, s Scope, check func(*cel.Type) error) (*Program, error) {
	checked, env, err := checkExpression(src, s, check)
	if err != nil {
		return nil, err
	}
	p := &Program{loops: hasLoop(checked.NativeRep())}
	bounds, err := decorate(env, p.loops)
	if err != nil {
		return nil, err
	}
	patterns, err := boundPatterns(env)
	if err != nil {
		return nil, err
	}
	p.program, err = env.Program(checked, cel.EvalOptions(cel.OptOptimize), cel.CustomDecoratorV2(bounds), cel.OptimizeRegex(patterns...))
	if err != nil {
		return nil, err
	}
	return p, nil
}

// checkExpression parses src and checks its types. check checks the type of the result.
func checkExpression(src string, s Scope, check func(*cel.Type) error) (*cel.Ast, *cel.Env, error) {
	if strings.TrimSpace(src) == "" {
		return nil, nil, errors.New("the expression is empty")
	}
	env, err := s.env()
	if err != nil {
		return nil, nil, err
	}
	parsed, issues := env.Parse(src)
	if issues.Err() != nil {
		return nil, nil, explainSyntax(src, issues)
	}
	checked, issues := env.Check(parsed)
	if issues.Err() != nil {
		return nil, nil, explainMistake(src, s, env, parsed, issues)
	}
	if err := check(checked.OutputType()); err != nil {
		start := checked.NativeRep().SourceInfo().GetStartLocation(checked.NativeRep().Expr().ID())
		return nil, nil, atPosition(src, start, err.Error())
	}
	if err := checkLiterals(src, checked); err != nil {
		return nil, nil, err
	}
	return checked, env, nil
}

// checkLiterals finds mistakes in literals that would otherwise show only at evaluation.
func checkLiterals(src string, checked *cel.Ast) (err error) {
	info := checked.NativeRep().SourceInfo()
	report := func(e ast.Expr, text string) {
		if err == nil {
			err = atPosition(src, info.GetStartLocation(e.ID()), text)
		}
	}
	ast.PreOrderVisit(checked.NativeRep().Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() != ast.CallKind {
			return
		}
		call := e.AsCall()
		switch name := call.FunctionName(); {
		case slices.Contains(patternFunctions, name):
			checkPattern(name, call, report)
		case call.IsMemberFunction() && len(call.Args()) == 1 && timeZoned[name] != nil:
			if zone, ok := literal(call.Args()[0]); ok {
				checkZone(call.Args()[0], zone, report)
			}
		}
	}))
	return err
}

// checkPattern refuses patterns that are not literals: a pattern made from values could
// match anything, or take forever.
func checkPattern(name string, call ast.CallExpr, report func(ast.Expr, string)) {
	args := call.Args()
	if !call.IsMemberFunction() {
		args = args[1:]
	}
	pattern, ok := literal(args[0])
	if !ok {
		report(args[0], "the pattern of "+name+" must be text in quotes, because a pattern made from values could match anything; compare with ==, startsWith, endsWith, contains or in")
		return
	}
	if _, _, err := compilePattern(pattern); err != nil {
		report(args[0], err.Error())
	}
}

func checkZone(e ast.Expr, zone string, report func(ast.Expr, string)) {
	if _, err := time.LoadLocation(zone); err == nil {
		return
	}
	if _, err := time.Parse("-07:00", zone); err == nil {
		return
	}
	if _, err := time.Parse("07:00", zone); err == nil {
		return
	}
	report(e, fmt.Sprintf("unknown time zone %q; write one like \"Europe/Berlin\", or \"+01:00\"", zone))
}

func literal(e ast.Expr) (string, bool) {
	if e.Kind() != ast.LiteralKind {
		return "", false
	}
	s, ok := e.AsLiteral().(types.String)
	return string(s), ok
}

// hasLoop reports whether the expression has a loop. cel.bind and the like do not count,
// although CEL makes a loop over nothing of them.
func hasLoop(a *ast.AST) (found bool) {
	ast.PreOrderVisit(a.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() != ast.ComprehensionKind {
			return
		}
		over := e.AsComprehension().IterRange()
		found = found || over.Kind() != ast.ListKind || over.AsList().Size() > 0
	}))
	return found
}

// A Subject is the question that an expression is evaluated about, as far as guards know
// more of it than the hub. Its methods are called only if the expression needs them.
type Subject interface {
	// User returns the agent's user, or "" if it is unknown.
	User() string
	// Claims and Attributes return those of the user.
	Claims() map[string]any
	Attributes() map[string]any
	// Parts returns the segments of the channel.
	Parts() []string
	// Header returns the header fields that guards see.
	Header() http.Header
	// Replaced returns the data that a guard has put in place of the message's, or nil.
	Replaced() []byte
}

func (p *Program) vars(q *hub.Question, subject Subject) *activation {
	vars := newActivation(q, subject)
	if p.loops {
		vars.steps = maxSteps
		if q.Gate == hub.GateDeliver {
			vars.steps = maxDeliverSteps
		}
	}
	return vars
}

// Bool evaluates an expression that is true or false. Treat an error as false.
func (p *Program) Bool(q *hub.Question, subject Subject) (bool, error) {
	out, err := evaluate(p.program, p.vars(q, subject))
	if err != nil {
		return false, evaluationError(err)
	}
	yes, ok := out.(types.Bool)
	if !ok {
		return false, fmt.Errorf("the expression is neither true nor false, but %s", out.Type().TypeName())
	}
	return bool(yes), nil
}

// Value evaluates an expression that makes data and returns the data as JSON. If the
// result is the message's data, unchanged, Value returns the same bytes.
func (p *Program) Value(q *hub.Question, subject Subject) (json []byte, err error) {
	vars := p.vars(q, subject)
	out, err := evaluate(p.program, vars)
	if err == nil {
		if vars.dataOf != nil && sameValue(out, vars.dataOf) {
			return vars.raw(), nil
		}
		json, err = appendValue(nil, out, 0)
	}
	switch {
	case err == nil:
		return json, nil
	case vars.dataOf != nil:
		return nil, &DataFault{evaluationError(err)}
	default:
		return nil, evaluationError(err)
	}
}

// A DataFault is the error of an expression that failed after it had read the message's
// data. The data probably does not have the form that the expression expects.
type DataFault struct{ Err error }

func (f *DataFault) Error() string { return f.Err.Error() }

func (f *DataFault) Unwrap() error { return f.Err }

var noKey = regexp.MustCompile(`^no such key: ([A-Za-z_][A-Za-z0-9_]{0,63})$`)

// Reason returns what to tell the publisher. It shows nothing of the expression except
// the name of a missing member.
func (f *DataFault) Reason() string {
	if m := noKey.FindStringSubmatch(f.Err.Error()); m != nil {
		return "this channel does not accept this data: it lacks the member " + m[1]
	}
	return "this channel does not accept this data"
}

// maxErrorText is the largest number of bytes of an evaluation error. The error may quote
// what a client sent.
const maxErrorText = 200

func evaluationError(err error) error {
	text := err.Error()
	if len(text) <= maxErrorText {
		return err
	}
	return errors.New(text[:maxErrorText] + "…")
}
