// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package expr

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/functions"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"cel.dev/cel-go/interpreter"
)

// An expression can walk through and compare what clients send. So that a small rule
// never becomes much work:
//
//   - an expression with a loop stops after maxSteps, which also limits its memory;
//   - functions that are worse than linear refuse arguments that are too large;
//   - patterns are part of the rule and never come from a client.
//
// Everything else is linear in its input.
//
// The limit counts steps, not time, so a rule gives the same answer for a message however
// busy the machine is. CEL can count costs itself, but counting is quadratic.
const (
	// maxSteps is the largest number of steps of an expression with a loop. Each value
	// that is read or made is a step, and so is each value inside it, and each textStep
	// bytes of text. So many steps take 20 to 50 ms. Comparing two lists of 32,000
	// numbers (64 KiB) takes 160,000.
	maxSteps = 250_000
	// maxDeliverSteps is the same at deliver. There an expression is evaluated for each
	// receiver, by the goroutine that writes to all of them. So many steps take 1 to 2
	// ms.
	maxDeliverSteps = 10_000
	textStep        = 16
	// maxNesting is how deep loops can be nested.
	maxNesting = 4
	// maxPairs is the largest number of comparisons in a function that compares each
	// value with each other. They take about 5 ms.
	maxPairs = 100_000
	// maxScan limits searches: the bytes of the text times those of the word. A word of
	// 64 bytes in 64 KiB takes about 5 ms.
	maxScan = 4 << 20
	// maxMatch limits matching: the bytes of the text times the steps of the pattern. A
	// pattern of 32 steps on 64 KiB takes 10 to 30 ms.
	maxMatch = 2 << 20
	// maxPattern is the largest number of steps of a pattern.
	maxPattern = 1_000
	// maxRange is the largest number of elements of lists.range.
	maxRange = 10_000
)

var (
	errTooManySteps = errors.New("the expression took too many steps for this data")
	errTooMany      = errors.New("the expression compares too much")
	errTextTooLong  = errors.New("the text is too long for this search")
)

// A bound returns how many steps a call with such arguments takes, besides those of its
// result. The error refuses the call.
type bound func(args []ref.Val) (steps int, err error)

var bounds = map[string]bound{
	"sets.contains":   func(args []ref.Val) (int, error) { return boundPairs(args[0], args[1]) },
	"sets.intersects": func(args []ref.Val) (int, error) { return boundPairs(args[0], args[1]) },
	"sets.equivalent": func(args []ref.Val) (int, error) { return boundPairs(args[0], args[1]) },
	"distinct":        func(args []ref.Val) (int, error) { return boundPairs(args[0], args[0]) },
	"indexOf":         boundSearch,
	"lastIndexOf":     boundSearch,
	"replace":         boundReplace,
	"join":            boundJoin,
}

func boundPairs(a, b ref.Val) (int, error) {
	pairs := weight(a, maxPairs) * weight(b, maxPairs)
	if pairs > maxPairs {
		return 0, errTooMany
	}
	return pairs, nil
}

func boundSearch(args []ref.Val) (int, error) {
	text, _ := args[0].(types.String)
	word, _ := args[1].(types.String)
	size := len(text) * len(word)
	if size > maxScan {
		return 0, errTextTooLong
	}
	return size / textStep, nil
}

func boundReplace(args []ref.Val) (int, error) {
	text, _ := args[0].(types.String)
	from, _ := args[1].(types.String)
	to, _ := args[2].(types.String)
	if len(text)+strings.Count(string(text), string(from))*len(to) > maxValue {
		return 0, errValueSize
	}
	return 0, nil
}

func boundJoin(args []ref.Val) (int, error) {
	list, ok := args[0].(traits.Lister)
	if !ok {
		return 0, nil
	}
	size, between := 0, 0
	if len(args) > 1 {
		s, _ := args[1].(types.String)
		between = len(s)
	}
	for it := list.Iterator(); it.HasNext() == types.True; {
		s, _ := it.Next().(types.String)
		if size += len(s) + between; size > maxValue {
			return 0, errValueSize
		}
	}
	return 0, nil
}

// boundReplacing is the bound of regex.replace for one pattern.
func boundReplacing(re *regexp.Regexp, args []ref.Val) error {
	text, _ := args[0].(types.String)
	to, _ := args[2].(types.String)
	if (len(text)+1)*(len(to)+1) > maxValue && len(text)+len(re.FindAllStringIndex(string(text), -1))*len(to) > maxValue {
		return errValueSize
	}
	return nil
}

// weight returns how many steps it takes to read v. It may stop counting at most.
func weight(v ref.Val, most int) int {
	n := 1
	switch v := v.(type) {
	case types.String:
		n += len(v) / textStep
	case types.Bytes:
		n += len(v) / textStep
	case traits.Mapper:
		for it := v.Iterator(); n < most && it.HasNext() == types.True; {
			n += weight(v.Get(it.Next()), most-n)
		}
	case traits.Lister:
		for it := v.Iterator(); n < most && it.HasNext() == types.True; {
			n += weight(it.Next(), most-n)
		}
	}
	return n
}

// spend counts steps, and stops the evaluation when there are too many. An error would
// not stop it: in CEL, a loop goes on when a part of it fails.
func spend(frame *interpreter.ExecutionFrame, v ref.Val, steps int) ref.Val {
	found, _ := frame.ResolveName(activationName)
	if vars, ok := found.(*activation); ok && vars.steps != unlimited {
		if vars.steps -= steps + weight(v, vars.steps); vars.steps <= 0 {
			panic(interpreter.EvalCancelledError{Message: errTooManySteps.Error()})
		}
	}
	return v
}

// A meteredAttribute counts the steps of reading a variable or a part of it.
type meteredAttribute struct {
	interpreter.InterpretableAttribute
}

// Exec implements interpreter.InterpretableV2.
func (a *meteredAttribute) Exec(frame *interpreter.ExecutionFrame) ref.Val {
	return spend(frame, a.InterpretableAttribute.Exec(frame), 0)
}

// A meteredCall counts the steps of a call's result.
type meteredCall struct{ interpreter.InterpretableCall }

// Exec implements interpreter.InterpretableV2.
func (c *meteredCall) Exec(frame *interpreter.ExecutionFrame) ref.Val {
	return spend(frame, c.InterpretableCall.Exec(frame), 0)
}

// A boundedCall refuses arguments that are too large.
type boundedCall struct {
	interpreter.InterpretableCall
	bound bound
	op    functions.FunctionOp
}

// Exec implements interpreter.InterpretableV2.
func (c *boundedCall) Exec(frame *interpreter.ExecutionFrame) ref.Val {
	args := make([]ref.Val, len(c.Args()))
	for i, arg := range c.Args() {
		if args[i] = arg.Exec(frame); types.IsUnknownOrError(args[i]) {
			return args[i]
		}
	}
	steps, err := c.bound(args)
	if err != nil {
		return types.WrapErr(err)
	}
	return spend(frame, c.op(args...), steps)
}

// decorate returns a decorator that adds the bounds to a program, and the meters if it
// has loops.
func decorate(env *cel.Env, loops bool) (interpreter.InterpretableDecoratorV2, error) {
	ops := make(map[string]functions.FunctionOp, len(bounds))
	for name := range bounds {
		op, err := functionOp(env, name)
		if err != nil {
			return nil, err
		}
		ops[name] = op
	}
	return func(i interpreter.InterpretableV2) (interpreter.InterpretableV2, error) {
		switch node := i.(type) {
		case *meteredAttribute, *meteredCall, *boundedCall:
			return i, nil
		case interpreter.InterpretableCall:
			if bound := bounds[node.Function()]; bound != nil {
				return &boundedCall{node, bound, ops[node.Function()]}, nil
			}
			if timeZoned[node.Function()] != nil && len(node.Args()) == 2 {
				return inZone(env, node)
			}
			if loops && !gathers(node) {
				return &meteredCall{node}, nil
			}
			return node, nil
		case interpreter.InterpretableAttribute:
			if loops && !isAccumulator(node) {
				return &meteredAttribute{node}, nil
			}
		}
		return i, nil
	}, nil
}

// gathers reports whether a call adds to the result of a loop. The added value was
// counted before.
func gathers(call interpreter.InterpretableCall) bool {
	switch call.Function() {
	case "cel.@mapInsert":
		return true
	case "_+_":
		first, ok := call.Args()[0].(interpreter.InterpretableAttribute)
		return ok && isAccumulator(first)
	}
	return false
}

// isAccumulator reports whether an attribute is the result that a loop builds.
func isAccumulator(a interpreter.InterpretableAttribute) bool {
	named, ok := a.Attr().(interpreter.NamespacedAttribute)
	return ok && slices.Contains(named.CandidateVariableNames(), "@result")
}

// functionOp returns the implementation of a function.
func functionOp(env *cel.Env, name string) (functions.FunctionOp, error) {
	overloads, err := env.Functions()[name].Bindings()
	if err != nil {
		return nil, err
	}
	for _, o := range overloads {
		if o.Operator != name {
			continue
		}
		return func(args ...ref.Val) ref.Val {
			switch {
			case len(args) == 1 && o.Unary != nil:
				return o.Unary(args[0])
			case len(args) == 2 && o.Binary != nil:
				return o.Binary(args[0], args[1])
			case o.Function != nil:
				return o.Function(args...)
			}
			return types.NoSuchOverloadErr()
		}, nil
	}
	return nil, fmt.Errorf("CEL has no function %s", name)
}

// patternFunctions are the functions whose second argument is a regular expression. The
// first is the text.
var patternFunctions = []string{"matches", "regex.extract", "regex.extractAll", "regex.replace"}

// compilePattern compiles a regular expression of a rule, and counts its steps.
func compilePattern(pattern string) (re *regexp.Regexp, steps int, err error) {
	parsed, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return nil, 0, err
	}
	program, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		return nil, 0, err
	}
	if steps = len(program.Inst); steps > maxPattern {
		return nil, 0, fmt.Errorf("the pattern has %d steps; at most %d are allowed: repeat less", steps, maxPattern)
	}
	re, err = regexp.Compile(pattern)
	return re, steps, err
}

// compileSteps is what compiling one step of a pattern counts. All functions but matches
// compile their pattern in each call.
const compileSteps = 10

// boundPatterns compiles regular expressions once, and limits the texts that they are
// matched with.
func boundPatterns(env *cel.Env) ([]*interpreter.RegexOptimization, error) {
	var all []*interpreter.RegexOptimization
	for _, name := range patternFunctions {
		op, err := functionOp(env, name)
		if err != nil {
			return nil, err
		}
		factory := func(call interpreter.InterpretableCall, pattern string) (interpreter.InterpretableCall, error) {
			re, steps, err := compilePattern(pattern)
			if err != nil {
				return nil, err
			}
			bounded := &boundedCall{call, func(args []ref.Val) (int, error) {
				text, _ := args[0].(types.String)
				if len(text)*steps > maxMatch {
					return 0, errTextTooLong
				}
				work := len(text) * steps / 8
				switch name {
				case "matches":
					return work, nil
				case "regex.replace":
					return work + steps*compileSteps, boundReplacing(re, args)
				}
				return work + steps*compileSteps, nil
			}, op}
			if name == "matches" {
				bounded.op = func(args ...ref.Val) ref.Val {
					text, ok := args[0].(types.String)
					if !ok {
						return types.NoSuchOverloadErr()
					}
					return types.Bool(re.MatchString(string(text)))
				}
			}
			return bounded, nil
		}
		// The overload is named, too, because otherwise CEL's own takes precedence.
		for _, overload := range env.Functions()[name].OverloadDecls() {
			all = append(all, &interpreter.RegexOptimization{Function: name, OverloadID: overload.ID(), RegexIndex: 1, Factory: factory})
		}
	}
	return all, nil
}

// timeZoned are the functions of a timestamp that take a time zone.
var timeZoned = map[string]func(time.Time) int{
	"getFullYear":     time.Time.Year,
	"getMonth":        func(t time.Time) int { return int(t.Month()) - 1 },
	"getDayOfYear":    func(t time.Time) int { return t.YearDay() - 1 },
	"getDayOfMonth":   func(t time.Time) int { return t.Day() - 1 },
	"getDate":         time.Time.Day,
	"getDayOfWeek":    func(t time.Time) int { return int(t.Weekday()) },
	"getHours":        time.Time.Hour,
	"getMinutes":      time.Time.Minute,
	"getSeconds":      time.Time.Second,
	"getMilliseconds": func(t time.Time) int { return t.Nanosecond() / int(time.Millisecond) },
}

// zoneSteps is what it counts to read a time zone from the disk.
const zoneSteps = 200

// inZone returns a call with a time zone. If the zone is a literal, it is looked up only
// once.
func inZone(env *cel.Env, call interpreter.InterpretableCall) (interpreter.InterpretableV2, error) {
	if zone := literalZone(call.Args()[1]); zone != nil {
		get := timeZoned[call.Function()]
		return &boundedCall{call, func([]ref.Val) (int, error) { return 0, nil }, func(args ...ref.Val) ref.Val {
			t, ok := args[0].(types.Timestamp)
			if !ok {
				return types.NoSuchOverloadErr()
			}
			return types.Int(get(t.In(zone)))
		}}, nil
	}
	op, err := functionOp(env, call.Function())
	return &boundedCall{call, func([]ref.Val) (int, error) { return zoneSteps, nil }, op}, err
}

// literalZone returns the time zone of a literal, or nil if arg is not one.
func literalZone(arg interpreter.InterpretableV2) *time.Location {
	literal, ok := arg.(interpreter.InterpretableConst)
	if !ok {
		return nil
	}
	name, ok := literal.Value().(types.String)
	if !ok || strings.Contains(string(name), ":") {
		return nil // offsets need no lookup
	}
	zone, err := time.LoadLocation(string(name))
	if err != nil {
		return nil
	}
	return zone
}

// evaluate evaluates a program.
func evaluate(program cel.Program, vars *activation) (ref.Val, error) {
	out, _, err := program.Eval(vars)
	if err != nil && errors.As(err, new(interpreter.EvalCancelledError)) {
		err = errTooManySteps
	}
	return out, err
}
