// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"github.com/push-it/pushit/guards/internal/expr"
	"github.com/push-it/pushit/hub"
)

// CheckTransform returns what is wrong with the expression of a transform in a gate. The error
// shows where the mistake is, and says what to write instead.
func CheckTransform(src string, gate hub.GateName) error {
	_, err := expr.CompileValue(src, expr.ScopeOf(gate))
	return err
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
		return p.Value(q, session{full})
	}, nil
}
