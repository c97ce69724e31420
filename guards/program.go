// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"context"
	"net/http"

	"github.com/push-it/pushit/guards/internal/expr"
	"github.com/push-it/pushit/hub"
)

// A Scope is the set of names that an expression can use. It depends on the gate.
type Scope = expr.Scope

// ScopeOf returns the scope of a gate.
func ScopeOf(gate hub.GateName) Scope { return expr.ScopeOf(gate) }

// A Program is a compiled CEL expression. It is immutable and safe for concurrent
// use.
type Program struct{ program *expr.Program }

// CompileBool compiles an expression that is true or false. Errors show where in
// src the mistake is, and say what to write instead.
func CompileBool(src string, s Scope) (*Program, error) {
	p, err := expr.CompileBool(src, s)
	if err != nil {
		return nil, err
	}
	return &Program{p}, nil
}

// CompileValue compiles an expression that makes data.
func CompileValue(src string, s Scope) (*Program, error) {
	p, err := expr.CompileValue(src, s)
	if err != nil {
		return nil, err
	}
	return &Program{p}, nil
}

// CompileInfo compiles an expression that makes what others see of a member of a channel.
func CompileInfo(src string) (func(*hub.Question) ([]byte, error), error) {
	p, err := expr.CompileValue(src, expr.Info)
	if err != nil {
		return nil, err
	}
	return func(q *hub.Question) ([]byte, error) {
		id := q.Identity
		full := &Question{Question: q, Env: new(Env), Learned: Learned{User: id.User, Claims: id.Claims, Attributes: id.Attributes}}
		return p.Value(q, subject{full})
	}, nil
}

// Bool evaluates an expression that is true or false. Treat an error as false.
func (p *Program) Bool(_ context.Context, q *Question) (bool, error) {
	return p.program.Bool(q.Question, subject{q})
}

// Value evaluates an expression that makes data and returns the data as JSON. If
// the result is the message's data, unchanged, Value returns the same bytes.
func (p *Program) Value(_ context.Context, q *Question) ([]byte, error) {
	return p.program.Value(q.Question, subject{q})
}

// A subject is a question as expressions see it.
type subject struct{ *Question }

// Header implements expr.Subject.
func (s subject) Header() http.Header { return s.header(s.Agent.Opening()) }

// Claims implements expr.Subject.
func (s subject) Claims() map[string]any { return s.Learned.Claims }

// Attributes implements expr.Subject.
func (s subject) Attributes() map[string]any { return s.Learned.Attributes }

// Replaced implements expr.Subject.
func (s subject) Replaced() []byte { return s.Learned.Data }
