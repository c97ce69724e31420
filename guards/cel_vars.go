// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

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

// celVars are the variables of one evaluation. Each is made when the expression
// comes to it, and none twice.
type celVars struct {
	q                       *Question
	agent, message, request celView

	steps    int // how many are left, or unlimited
	now      ref.Val
	parts    []string
	dataOf   any // decoded, nil before
	credsOf  any // decoded, nil before
	headerOf traits.Mapper
	cookieOf map[string]string
	queryOf  map[string]string
}

const unlimited = -1

// celVarsName is what the variables themselves are found by: no name.
const celVarsName = "\x00"

func newCELVars(q *Question) *celVars {
	v := &celVars{q: q, steps: unlimited}
	v.agent = celView{v, celAgent, celAgentFields}
	v.request = celView{v, celRequest, celRequestFields}
	v.message = celView{v, celMessage, celMessageFields}
	if q.Gate == hub.GateDeliver {
		v.message.fields = celDeliveryFields
	}
	return v
}

// ResolveName implements cel.Activation.
func (v *celVars) ResolveName(name string) (any, bool) {
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
	case celVarsName:
		return v, true
	}
	return nil, false
}

// Parent implements cel.Activation.
func (v *celVars) Parent() cel.Activation { return nil }

// segments returns the parts of the channel. The "*" of a pattern is none: it
// would be equal to the name of a user who is called so.
func (v *celVars) segments() []string {
	if v.parts == nil {
		v.parts = v.q.Parts()
	}
	return v.parts
}

func (v *celVars) credentials() (any, error) {
	if v.credsOf == nil {
		value, err := decodeJSON(v.q.Credentials)
		if err != nil {
			return nil, fmt.Errorf("agent.credentials: %w", err)
		}
		v.credsOf = value
	}
	return v.credsOf, nil
}

func (v *celVars) remoteIP() (any, error) {
	ip := v.q.Agent.Opening().RemoteIP
	if !ip.IsValid() {
		return types.NullValue, nil
	}
	return ip.Unmap().WithZone("").String(), nil
}

// data returns the data of the message: what would be published by now, if a
// guard before this one has put other data in its place.
func (v *celVars) data() (any, error) {
	if v.dataOf == nil {
		value, err := v.decodeData()
		if err != nil {
			return nil, fmt.Errorf("message.data: %w", err)
		}
		v.dataOf = value
	}
	return v.dataOf, nil
}

func (v *celVars) decodeData() (any, error) {
	if v.q.Gate == hub.GateDeliver {
		return deliveries.decode(v.q.Message)
	}
	return decodeJSON(v.raw())
}

// raw is data as JSON.
func (v *celVars) raw() []byte {
	if v.q.Learned.Data != nil {
		return v.q.Learned.Data
	}
	return v.q.Message.Data
}

// host returns the host that the session was opened on, in lower case and
// without the port, as {http.request.host} has it.
func (v *celVars) host() (any, error) {
	host := v.q.Agent.Opening().Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return strings.ToLower(host), nil
}

func (v *celVars) path() (any, error) {
	path, _, _ := strings.Cut(v.q.Agent.Opening().URI, "?")
	path, err := url.PathUnescape(path)
	if err != nil {
		return nil, fmt.Errorf("request.path: %w", err)
	}
	return path, nil
}

// headers returns the header fields by their names, of which the case does not
// matter. A field that was sent several times is joined with commas.
func (v *celVars) headers() (any, error) {
	if v.headerOf == nil {
		header := v.q.header(v.q.Agent.Opening())
		joined := make(map[string]string, len(header))
		for name, values := range header {
			joined[strings.ToLower(name)] = strings.Join(values, ", ")
		}
		if v.q.Pattern {
			joined = withoutStars(joined).(map[string]string)
		}
		v.headerOf = celHeader{types.NewStringStringMap(types.DefaultTypeAdapter, joined)}
	}
	return v.headerOf, nil
}

// cookies returns the cookies by name: the first of each.
func (v *celVars) cookies() (any, error) {
	if v.cookieOf == nil {
		v.cookieOf = make(map[string]string)
		r := http.Request{Header: v.q.header(v.q.Agent.Opening())}
		for _, c := range r.Cookies() {
			if _, ok := v.cookieOf[c.Name]; !ok {
				v.cookieOf[c.Name] = c.Value
			}
		}
	}
	return v.cookieOf, nil
}

// query returns the parameters of the query by name: the first of each. What
// cannot be read is left out.
func (v *celVars) query() (any, error) {
	if v.queryOf == nil {
		_, raw, _ := strings.Cut(v.q.Agent.Opening().URI, "?")
		values, _ := url.ParseQuery(raw)
		v.queryOf = make(map[string]string, len(values))
		for name, all := range values {
			v.queryOf[name] = all[0]
		}
	}
	return v.queryOf, nil
}

// A celHeader is a map whose keys are the names of header fields.
type celHeader struct{ traits.Mapper }

// Find implements traits.Mapper.
func (h celHeader) Find(key ref.Val) (ref.Val, bool) { return h.Mapper.Find(lowerCase(key)) }

// Get implements traits.Indexer.
func (h celHeader) Get(key ref.Val) ref.Val { return h.Mapper.Get(lowerCase(key)) }

// Contains implements traits.Container.
func (h celHeader) Contains(key ref.Val) ref.Val { return h.Mapper.Contains(lowerCase(key)) }

func lowerCase(key ref.Val) ref.Val {
	if s, ok := key.(types.String); ok {
		return types.String(strings.ToLower(string(s)))
	}
	return key
}

// A celView is an object of which the expression may name fields.
type celView struct {
	vars   *celVars
	name   string
	fields celFields
}

func (o *celView) field(f celField) (any, error) {
	value, err := f.get(o.vars)
	if o.vars.q.Pattern {
		value = withoutStars(value)
	}
	return value, err
}

// noStar stands for "*" in what agents, tokens and backends say, while a pattern is
// asked about. No channel or pattern can have it.
const noStar = "\x00"

// withoutStars returns v with no "*" in its strings and keys. A rule that compares the
// channel with a claim would take the pattern "users/*" for the own name of somebody
// who is called "*", or is named so by a header field: only the "*" of the rule itself
// is one.
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
func (o *celView) Get(index ref.Val) ref.Val {
	f, err := o.find(index)
	if err != nil {
		return types.WrapErr(err)
	}
	value, err := o.field(f)
	if err != nil {
		return types.WrapErr(err)
	}
	return celAdapter{types.DefaultTypeAdapter}.NativeToValue(value)
}

// IsSet implements traits.FieldTester.
func (o *celView) IsSet(index ref.Val) ref.Val {
	f, err := o.find(index)
	if err != nil {
		return types.WrapErr(err)
	}
	value, err := o.field(f)
	return types.Bool(err == nil && value != types.NullValue)
}

func (o *celView) find(index ref.Val) (celField, error) {
	name, _ := index.(types.String)
	f, ok := o.fields[string(name)]
	if !ok {
		return f, fmt.Errorf("%s has no field %v", o.name, index)
	}
	return f, nil
}

// ConvertToNative implements ref.Val.
func (o *celView) ConvertToNative(t reflect.Type) (any, error) {
	return nil, fmt.Errorf("%s is not a value of Go's type %v", o.name, t)
}

// ConvertToType implements ref.Val.
func (o *celView) ConvertToType(t ref.Type) ref.Val {
	if t == types.TypeType {
		return types.NewObjectType(o.name)
	}
	return types.NewErr("%s cannot be made %s", o.name, t.TypeName())
}

// Equal implements ref.Val.
func (o *celView) Equal(other ref.Val) ref.Val { return types.Bool(other == ref.Val(o)) }

// Type implements ref.Val.
func (o *celView) Type() ref.Type { return types.NewObjectType(o.name) }

// Value implements ref.Val.
func (o *celView) Value() any { return o }

var (
	_ cel.Activation     = (*celVars)(nil)
	_ ref.Val            = (*celView)(nil)
	_ traits.Indexer     = (*celView)(nil)
	_ traits.FieldTester = (*celView)(nil)
)
