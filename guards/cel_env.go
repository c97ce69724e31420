// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/ext"

	"github.com/push-it/pushit/hub"
)

// A Scope is what an expression can name, which depends on the gate.
type Scope struct{ gate hub.GateName }

// ScopeOf returns that of a gate.
func ScopeOf(gate hub.GateName) Scope { return Scope{gate} }

// What the variables of expressions are, besides CEL's own types. The names are
// shown in errors.
const (
	celAgent   = "pushit.Agent"
	celMessage = "pushit.Message"
	celRequest = "pushit.Request"
)

var (
	celText    = cel.NullableType(cel.StringType)
	celObject  = cel.MapType(cel.StringType, cel.DynType)
	celStrings = cel.MapType(cel.StringType, cel.StringType)
)

// A celField is a field of an object. Nothing is built until it is asked for.
type celField struct {
	typ *types.Type
	get func(*celVars) (any, error)
}

// celFields are the fields of an object, by name.
type celFields map[string]celField

var celAgentFields = celFields{
	"uuid":        {cel.StringType, func(v *celVars) (any, error) { return v.q.Agent.UUID(), nil }},
	"agentId":     {cel.StringType, func(v *celVars) (any, error) { return v.q.Agent.AgentID(), nil }},
	"user":        {celText, func(v *celVars) (any, error) { return textOrNull(v.q.User()), nil }},
	"claims":      {celObject, func(v *celVars) (any, error) { return v.q.Learned.Claims, nil }},
	"attributes":  {celObject, func(v *celVars) (any, error) { return v.q.Learned.Attributes, nil }},
	"credentials": {cel.DynType, (*celVars).credentials},
	"remote_ip":   {celText, (*celVars).remoteIP},
}

var celMessageFields = celFields{
	"uuid": {cel.StringType, func(v *celVars) (any, error) { return v.q.Message.UUID, nil }},
	"data": {cel.DynType, (*celVars).data},
}

// celDeliveryFields are the fields of a message on its way to a receiver. Null is
// a publisher that is not known, or not an agent.
var celDeliveryFields = celFields{
	"uuid": celMessageFields["uuid"],
	"data": celMessageFields["data"],
	"user": {celText, func(v *celVars) (any, error) {
		if v.q.Message.From == nil {
			return types.NullValue, nil
		}
		return textOrNull(v.q.Message.From.User), nil
	}},
	"agent": {celText, func(v *celVars) (any, error) {
		if v.q.Message.From == nil {
			return types.NullValue, nil
		}
		return textOrNull(v.q.Message.From.UUID), nil
	}},
}

var celRequestFields = celFields{
	"host":    {cel.StringType, (*celVars).host},
	"path":    {cel.StringType, (*celVars).path},
	"headers": {celStrings, (*celVars).headers},
	"cookies": {celStrings, (*celVars).cookies},
	"query":   {celStrings, (*celVars).query},
}

// textOrNull returns s, or null for nobody: an empty user is none.
func textOrNull(s string) any {
	if s == "" {
		return types.NullValue
	}
	return s
}

// variables returns the variables of a scope and their types.
func (s Scope) variables() map[string]*cel.Type {
	vars := map[string]*cel.Type{
		"agent":   cel.ObjectType(celAgent),
		"request": cel.ObjectType(celRequest),
		"now":     cel.TimestampType,
	}
	switch s.gate {
	case hub.GatePublish, hub.GateDeliver:
		vars["message"] = cel.ObjectType(celMessage)
		fallthrough
	case hub.GateSubscribe, hub.GateUnsubscribe:
		vars["channel"] = cel.StringType
		vars["parts"] = cel.ListType(cel.StringType)
		vars["is_pattern"] = cel.BoolType
	}
	return vars
}

// objects returns the object types of a scope.
func (s Scope) objects() map[string]celFields {
	objects := map[string]celFields{celAgent: celAgentFields, celRequest: celRequestFields}
	switch s.gate {
	case hub.GatePublish:
		objects[celMessage] = celMessageFields
	case hub.GateDeliver:
		objects[celMessage] = celDeliveryFields
	}
	return objects
}

var celEnvs struct {
	sync.Mutex
	of map[hub.GateName]*cel.Env
}

// env returns the environment that expressions of the scope are compiled in. One
// takes milliseconds to make, so each is made once.
func (s Scope) env() (*cel.Env, error) {
	celEnvs.Lock()
	defer celEnvs.Unlock()
	if e := celEnvs.of[s.gate]; e != nil {
		return e, nil
	}
	options := []cel.EnvOption{
		cel.OptionalTypes(),
		cel.CrossTypeNumericComparisons(true),
		cel.DefaultUTCTimeZone(true),
		ext.Strings(),
		ext.Sets(),
		ext.Lists(ext.ListsMaxRangeSize(celMaxRange)),
		ext.Math(),
		ext.Regex(),
		ext.Network(),
		ext.Bindings(),
		ext.TwoVarComprehensions(),
		cel.ASTValidators(cel.ValidateDurationLiterals(), cel.ValidateTimestampLiterals(), cel.ValidateComprehensionNestingLimit(celNesting)),
		func(e *cel.Env) (*cel.Env, error) {
			return cel.CustomTypeProvider(&celProvider{e.CELTypeProvider(), s.objects()})(e)
		},
		func(e *cel.Env) (*cel.Env, error) { return cel.CustomTypeAdapter(celAdapter{e.CELTypeAdapter()})(e) },
	}
	vars := s.variables()
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		options = append(options, cel.Variable(name, vars[name]))
	}
	e, err := cel.NewEnv(options...)
	if err != nil {
		return nil, fmt.Errorf("making a CEL environment: %w", err)
	}
	if celEnvs.of == nil {
		celEnvs.of = make(map[hub.GateName]*cel.Env)
	}
	celEnvs.of[s.gate] = e
	return e, nil
}

// A celProvider tells the compiler which fields objects have, so that a misspelt
// one is found when a rule is written, and the evaluation how to get at them.
type celProvider struct {
	types.Provider
	objects map[string]celFields
}

// FindStructType implements types.Provider.
func (p *celProvider) FindStructType(name string) (*types.Type, bool) {
	if _, ok := p.objects[name]; ok {
		return types.NewTypeTypeWithParam(types.NewObjectType(name)), true
	}
	return p.Provider.FindStructType(name)
}

// FindStructFieldNames implements types.Provider.
func (p *celProvider) FindStructFieldNames(name string) ([]string, bool) {
	if fields, ok := p.objects[name]; ok {
		return slices.Sorted(maps.Keys(fields)), true
	}
	return p.Provider.FindStructFieldNames(name)
}

// FindStructFieldType implements types.Provider.
func (p *celProvider) FindStructFieldType(name, field string) (*types.FieldType, bool) {
	fields, ok := p.objects[name]
	if !ok {
		return p.Provider.FindStructFieldType(name, field)
	}
	f, ok := fields[field]
	if !ok {
		return nil, false
	}
	return &types.FieldType{
		Type: f.typ,
		IsSet: func(object any) bool {
			value, err := object.(*celView).field(f)
			return err == nil && value != types.NullValue
		},
		GetFrom: func(object any) (any, error) { return object.(*celView).field(f) },
	}, true
}

// NewValue implements types.Provider.
func (p *celProvider) NewValue(name string, fields map[string]ref.Val) ref.Val {
	if _, ok := p.objects[name]; ok {
		return types.NewErr("%s cannot be made by an expression", name)
	}
	return p.Provider.NewValue(name, fields)
}
