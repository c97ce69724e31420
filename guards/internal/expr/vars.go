// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package expr

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"

	"github.com/push-it/pushit/hub"
)

// An activation has the variables of one evaluation. Each is made when the expression
// reads it, and only once.
type activation struct {
	q                       *hub.Question
	subject                 Subject
	agent, message, request view

	steps    int // the steps left, or unlimited
	now      ref.Val
	parts    []string
	dataOf   any // decoded; nil before that
	credsOf  any // decoded; nil before that
	headerOf traits.Mapper
	cookieOf map[string]string
	queryOf  map[string]string
}

const unlimited = -1

// activationName is the name of the activation itself. No expression can use it.
const activationName = "\x00"

func newActivation(q *hub.Question, subject Subject) *activation {
	v := &activation{q: q, subject: subject, steps: unlimited}
	v.agent, v.request, v.message = view{v, &agentKind}, view{v, &requestKind}, view{v, &messageKind}
	if q.Gate == hub.GateDeliver {
		v.message.kind = &deliveryKind
	}
	return v
}

// ResolveName implements cel.Activation.
func (v *activation) ResolveName(name string) (any, bool) {
	switch name {
	case "agent":
		return &v.agent, true
	case "message":
		return &v.message, true
	case "request":
		return &v.request, true
	case "channel":
		return v.q.Channel, true
	case "parts":
		return v.segments(), true
	case "is_pattern":
		return v.q.Pattern, true
	case "now":
		if v.now == nil {
			v.now = types.Timestamp{Time: time.Now().UTC()}
		}
		return v.now, true
	case activationName:
		return v, true
	}
	return nil, false
}

// Parent implements cel.Activation.
func (v *activation) Parent() cel.Activation { return nil }

// segments returns the parts of the channel. The "*" of a pattern is not a part, because
// it would equal the name of a user called "*".
func (v *activation) segments() []string {
	if v.parts == nil {
		v.parts = v.subject.Parts()
	}
	return v.parts
}

func (v *activation) credentials() (any, error) {
	if v.credsOf == nil {
		value, err := decodeJSON(v.q.Credentials)
		if err != nil {
			return nil, fmt.Errorf("agent.credentials: %w", err)
		}
		v.credsOf = value
	}
	return v.credsOf, nil
}

func (v *activation) remoteIP() (any, error) {
	ip := v.q.Agent.Opening().RemoteIP()
	if !ip.IsValid() {
		return types.NullValue, nil
	}
	return ip.Unmap().WithZone("").String(), nil
}

// data returns the data of the message as it would be published now. A guard before this
// one may have replaced it.
func (v *activation) data() (any, error) {
	if v.dataOf == nil {
		value, err := v.decodeData()
		if err != nil {
			return nil, fmt.Errorf("message.data: %w", err)
		}
		v.dataOf = value
	}
	return v.dataOf, nil
}

func (v *activation) decodeData() (any, error) {
	if v.q.Gate == hub.GateDeliver {
		return deliveries.decode(v.q.Message)
	}
	return decodeJSON(v.raw())
}

// raw returns data as JSON.
func (v *activation) raw() []byte {
	if replaced := v.subject.Replaced(); replaced != nil {
		return replaced
	}
	return v.q.Message.Data
}

// host returns the host that the session was opened on, in lower case and without the
// port, like {http.request.host}.
func (v *activation) host() (any, error) {
	host := v.q.Agent.Opening().Host()
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return strings.ToLower(host), nil
}

func (v *activation) path() (any, error) {
	path, _, _ := strings.Cut(v.q.Agent.Opening().URI(), "?")
	path, err := url.PathUnescape(path)
	if err != nil {
		return nil, fmt.Errorf("request.path: %w", err)
	}
	return path, nil
}

// headers returns the header fields by name, in any case. Several fields of one name are
// joined with commas.
func (v *activation) headers() (any, error) {
	if v.headerOf == nil {
		header := v.subject.Header()
		joined := make(map[string]string, len(header))
		for name, values := range header {
			joined[strings.ToLower(name)] = strings.Join(values, ", ")
		}
		if v.q.Pattern {
			joined = withoutStars(joined).(map[string]string)
		}
		v.headerOf = headerMap{types.NewStringStringMap(types.DefaultTypeAdapter, joined)}
	}
	return v.headerOf, nil
}

// cookies returns the cookies by name. The first of each name counts.
func (v *activation) cookies() (any, error) {
	if v.cookieOf == nil {
		v.cookieOf = make(map[string]string)
		r := http.Request{Header: v.subject.Header()}
		for _, c := range r.Cookies() {
			if _, ok := v.cookieOf[c.Name]; !ok {
				v.cookieOf[c.Name] = c.Value
			}
		}
	}
	return v.cookieOf, nil
}

// query returns the query parameters by name. The first of each name counts. Invalid ones
// are left out.
func (v *activation) query() (any, error) {
	if v.queryOf == nil {
		_, raw, _ := strings.Cut(v.q.Agent.Opening().URI(), "?")
		values, _ := url.ParseQuery(raw)
		v.queryOf = make(map[string]string, len(values))
		for name, all := range values {
			v.queryOf[name] = all[0]
		}
	}
	return v.queryOf, nil
}

// A headerMap is a map whose keys are names of header fields.
type headerMap struct{ traits.Mapper }

// Find implements traits.Mapper.
func (h headerMap) Find(key ref.Val) (ref.Val, bool) { return h.Mapper.Find(lowerCase(key)) }

// Get implements traits.Indexer.
func (h headerMap) Get(key ref.Val) ref.Val { return h.Mapper.Get(lowerCase(key)) }

// Contains implements traits.Container.
func (h headerMap) Contains(key ref.Val) ref.Val { return h.Mapper.Contains(lowerCase(key)) }

func lowerCase(key ref.Val) ref.Val {
	if s, ok := key.(types.String); ok {
		return types.String(strings.ToLower(string(s)))
	}
	return key
}

// A view is an object whose fields an expression can read.
type view struct {
	vars *activation
	kind *kind
}

// A kind is what a view is.
type kind struct {
	name   string
	fields fields
}

var (
	agentKind    = kind{agentType, agentFields}
	requestKind  = kind{requestType, requestFields}
	messageKind  = kind{messageType, messageFields}
	deliveryKind = kind{messageType, deliveryFields}
)

func (o *view) field(f field) (any, error) {
	value, err := f.get(o.vars)
	if o.vars.q.Pattern {
		value = withoutStars(value)
	}
	return value, err
}

// noStar replaces "*" in values of agents, tokens and backends while a gate is asked
// about a pattern. No channel or pattern contains it.
const noStar = "\x00"

// withoutStars returns v without "*" in its strings and keys. Otherwise a rule that
// compares the channel with a claim would take the pattern "users/*" for the name of
// somebody called "*". Only a "*" in the rule itself counts.
func withoutStars(v any) any {
	plain := func(s string) string { return strings.ReplaceAll(s, "*", noStar) }
	switch v := v.(type) {
	case string:
		return plain(v)
	case []string:
		out := make([]string, len(v))
		for i, s := range v {
			out[i] = plain(s)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = withoutStars(e)
		}
		return out
	case map[string]string:
		out := make(map[string]string, len(v))
		for k, s := range v {
			out[plain(k)] = plain(s)
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			out[plain(k)] = withoutStars(e)
		}
		return out
	}
	return v
}

// Get implements traits.Indexer, for dyn(agent).user.
func (o *view) Get(index ref.Val) ref.Val {
	f, err := o.find(index)
	if err != nil {
		return types.WrapErr(err)
	}
	value, err := o.field(f)
	if err != nil {
		return types.WrapErr(err)
	}
	return adapter{types.DefaultTypeAdapter}.NativeToValue(value)
}

// IsSet implements traits.FieldTester.
func (o *view) IsSet(index ref.Val) ref.Val {
	f, err := o.find(index)
	if err != nil {
		return types.WrapErr(err)
	}
	value, err := o.field(f)
	return types.Bool(err == nil && value != types.NullValue)
}

func (o *view) find(index ref.Val) (field, error) {
	name, _ := index.(types.String)
	f, ok := o.kind.fields[string(name)]
	if !ok {
		return f, fmt.Errorf("%s has no field %v", o.kind.name, index)
	}
	return f, nil
}

// ConvertToNative implements ref.Val.
func (o *view) ConvertToNative(t reflect.Type) (any, error) {
	return nil, fmt.Errorf("%s is not a value of Go's type %v", o.kind.name, t)
}

// ConvertToType implements ref.Val.
func (o *view) ConvertToType(t ref.Type) ref.Val {
	if t == types.TypeType {
		return types.NewObjectType(o.kind.name)
	}
	return types.NewErr("%s cannot be made %s", o.kind.name, t.TypeName())
}

// Equal implements ref.Val.
func (o *view) Equal(other ref.Val) ref.Val { return types.Bool(other == ref.Val(o)) }

// Type implements ref.Val.
func (o *view) Type() ref.Type { return types.NewObjectType(o.kind.name) }

// Value implements ref.Val.
func (o *view) Value() any { return o }

var (
	_ cel.Activation     = (*activation)(nil)
	_ ref.Val            = (*view)(nil)
	_ traits.Indexer     = (*view)(nil)
	_ traits.FieldTester = (*view)(nil)
)
