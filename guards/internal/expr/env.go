// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package expr

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

// ScopeOf returns the scope of a gate.
func ScopeOf(gate hub.GateName) Scope { return Scope{gate} }

// Info is the scope of what others see of a member of a channel. It has nothing that they
// must not see, such as credentials and addresses.
var Info = Scope{"info"}

// The types of the variables, besides CEL's own types. Errors show these names.
const (
	agentType   = "pushit.Agent"
	messageType = "pushit.Message"
	requestType = "pushit.Request"
)

var (
	nullableString = cel.NullableType(cel.StringType)
	mapOfAny       = cel.MapType(cel.StringType, cel.DynType)
	mapOfStrings   = cel.MapType(cel.StringType, cel.StringType)
)

// A field is a field of an object. Its value is made only when an expression reads it.
type field struct {
	typ *types.Type
	get func(*activation) (any, error)
}

// fields are the fields of an object, by name.
type fields map[string]field

var agentFields = fields{
	"uuid":        {cel.StringType, func(v *activation) (any, error) { return v.q.Agent.UUID(), nil }},
	"agentId":     {cel.StringType, func(v *activation) (any, error) { return v.q.Agent.AgentID(), nil }},
	"user":        {nullableString, func(v *activation) (any, error) { return textOrNull(v.subject.User()), nil }},
	"claims":      {mapOfAny, func(v *activation) (any, error) { return v.subject.Claims(), nil }},
	"attributes":  {mapOfAny, func(v *activation) (any, error) { return v.subject.Attributes(), nil }},
	"credentials": {cel.DynType, (*activation).credentials},
	"remote_ip":   {nullableString, (*activation).remoteIP},
}

var messageFields = fields{
	"uuid": {cel.StringType, func(v *activation) (any, error) { return v.q.Message.UUID, nil }},
	"data": {cel.DynType, (*activation).data},
}

// deliveryFields are the fields of a message on its way to a receiver. user and agent are
// null if the publisher is unknown or not an agent.
var deliveryFields = fields{
	"uuid":  messageFields["uuid"],
	"data":  messageFields["data"],
	"user":  {nullableString, func(v *activation) (any, error) { return textOrNull(v.sender().User), nil }},
	"agent": {nullableString, func(v *activation) (any, error) { return textOrNull(v.sender().UUID), nil }},
}

// sender returns the publisher of the message, which is empty if it is unknown.
func (v *activation) sender() (s hub.Sender) {
	if from := v.q.Message.From; from != nil {
		s = *from
	}
	return s
}

var requestFields = fields{
	"host":    {cel.StringType, (*activation).host},
	"path":    {cel.StringType, (*activation).path},
	"headers": {mapOfStrings, (*activation).headers},
	"cookies": {mapOfStrings, (*activation).cookies},
	"query":   {mapOfStrings, (*activation).query},
}

// shownFields are the fields of an agent that others may see.
var shownFields = fields{
	"uuid":       agentFields["uuid"],
	"user":       agentFields["user"],
	"claims":     agentFields["claims"],
	"attributes": agentFields["attributes"],
}

// textOrNull returns s, or null if s is empty.
func textOrNull(s string) any {
	if s == "" {
		return types.NullValue
	}
	return s
}

// variables returns the variables of a scope, with their types.
func (s Scope) variables() map[string]*cel.Type {
	vars := map[string]*cel.Type{
		"agent":   cel.ObjectType(agentType),
		"request": cel.ObjectType(requestType),
		"now":     cel.TimestampType,
	}
	switch s.gate {
	case Info.gate:
		delete(vars, "request")
		vars["channel"] = cel.StringType
		vars["parts"] = cel.ListType(cel.StringType)
	case hub.GatePublish, hub.GateDeliver:
		vars["message"] = cel.ObjectType(messageType)
		fallthrough
	case hub.GateSubscribe, hub.GateUnsubscribe, hub.GatePresence, hub.GateHistory:
		vars["channel"] = cel.StringType
		vars["parts"] = cel.ListType(cel.StringType)
		vars["is_pattern"] = cel.BoolType
	}
	return vars
}

// objects returns the object types of a scope.
func (s Scope) objects() map[string]fields {
	objects := map[string]fields{agentType: agentFields, requestType: requestFields}
	switch s.gate {
	case Info.gate:
		return map[string]fields{agentType: shownFields}
	case hub.GatePublish:
		objects[messageType] = messageFields
	case hub.GateDeliver:
		objects[messageType] = deliveryFields
	}
	return objects
}

// Names returns every name that an expression of the scope can use, such as "channel"
// and "agent.user".
func Names(s Scope) []string {
	var names []string
	for name, t := range s.variables() {
		object := s.objects()[t.TypeName()]
		if object == nil {
			names = append(names, name)
		}
		for field := range object {
			names = append(names, name+"."+field)
		}
	}
	slices.Sort(names)
	return names
}

var envs struct {
	sync.Mutex
	of map[hub.GateName]*cel.Env
}

// env returns the environment for expressions of the scope. It takes milliseconds to
// make, so each environment is made once.
func (s Scope) env() (*cel.Env, error) {
	envs.Lock()
	defer envs.Unlock()
	if e := envs.of[s.gate]; e != nil {
		return e, nil
	}
	options := []cel.EnvOption{
		cel.OptionalTypes(),
		cel.CrossTypeNumericComparisons(true),
		cel.DefaultUTCTimeZone(true),
		ext.Strings(),
		ext.Sets(),
		ext.Lists(ext.ListsMaxRangeSize(maxRange)),
		ext.Math(),
		ext.Regex(),
		ext.Network(),
		ext.Bindings(),
		ext.TwoVarComprehensions(),
		cel.ASTValidators(cel.ValidateDurationLiterals(), cel.ValidateTimestampLiterals(), cel.ValidateComprehensionNestingLimit(maxNesting)),
		func(e *cel.Env) (*cel.Env, error) {
			return cel.CustomTypeProvider(&provider{e.CELTypeProvider(), s.objects()})(e)
		},
		func(e *cel.Env) (*cel.Env, error) { return cel.CustomTypeAdapter(adapter{e.CELTypeAdapter()})(e) },
	}
	vars := s.variables()
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		options = append(options, cel.Variable(name, vars[name]))
	}
	e, err := cel.NewEnv(options...)
	if err != nil {
		return nil, fmt.Errorf("making a CEL environment: %w", err)
	}
	if envs.of == nil {
		envs.of = make(map[hub.GateName]*cel.Env)
	}
	envs.of[s.gate] = e
	return e, nil
}

// A provider tells CEL's compiler which fields objects have, so that misspelt fields are
// found when a rule is compiled. It also tells the evaluation how to read them.
type provider struct {
	types.Provider
	objects map[string]fields
}

// FindStructType implements types.Provider.
func (p *provider) FindStructType(name string) (*types.Type, bool) {
	if _, ok := p.objects[name]; ok {
		return types.NewTypeTypeWithParam(types.NewObjectType(name)), true
	}
	return p.Provider.FindStructType(name)
}

// FindStructFieldNames implements types.Provider.
func (p *provider) FindStructFieldNames(name string) ([]string, bool) {
	if fields, ok := p.objects[name]; ok {
		return slices.Sorted(maps.Keys(fields)), true
	}
	return p.Provider.FindStructFieldNames(name)
}

// FindStructFieldType implements types.Provider.
func (p *provider) FindStructFieldType(name, field string) (*types.FieldType, bool) {
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
			value, err := object.(*view).field(f)
			return err == nil && value != types.NullValue
		},
		GetFrom: func(object any) (any, error) { return object.(*view).field(f) },
	}, true
}

// NewValue implements types.Provider.
func (p *provider) NewValue(name string, fields map[string]ref.Val) ref.Val {
	if _, ok := p.objects[name]; ok {
		return types.NewErr("%s cannot be made by an expression", name)
	}
	return p.Provider.NewValue(name, fields)
}
