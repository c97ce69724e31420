// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package expr

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"weak"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"

	"github.com/push-it/pushit/hub"
)

// decodeJSON decodes data into values that adapter understands. Empty data is null.
// Numbers stay text, so that no digits are lost.
func decodeJSON(data []byte) (any, error) {
	if len(data) == 0 {
		return types.NullValue, nil
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var value any
	if err := d.Decode(&value); err != nil {
		return nil, err
	}
	if value == nil {
		return types.NullValue, nil
	}
	return value, nil
}

// deliveries caches the decoded data of messages that are being delivered, because a rule
// sees the same message once for each receiver. Garbage collection empties it.
var deliveries decodedMessages

type decodedMessages struct {
	slots [16]atomic.Pointer[weak.Pointer[decodedMessage]]
}

type decodedMessage struct {
	of    *hub.Message
	value any
}

var decodedSeed = maphash.MakeSeed()

func (c *decodedMessages) decode(m *hub.Message) (any, error) {
	slot := &c.slots[maphash.String(decodedSeed, m.UUID)%uint64(len(c.slots))]
	if w := slot.Load(); w != nil {
		if d := w.Value(); d != nil && d.of == m {
			return d.value, nil
		}
	}
	value, err := decodeJSON(m.Data)
	if err != nil {
		return nil, err
	}
	w := weak.Make(&decodedMessage{m, value})
	slot.Store(&w)
	return value, nil
}

// An adapter makes CEL values from those of JSON, tokens and backends. A whole number is
// an int, 5.0 as well as 5, because it must not matter how a client writes it.
type adapter struct{ types.Adapter }

// wholeFloats is the largest whole number up to which float64 has every whole number.
const wholeFloats = 1 << 53

// NativeToValue implements types.Adapter.
func (a adapter) NativeToValue(value any) ref.Val {
	switch v := value.(type) {
	case ref.Val:
		return v
	case string:
		return types.String(v)
	case float64:
		return wholeOrDouble(v)
	case float32:
		return wholeOrDouble(float64(v))
	case json.Number:
		return jsonNumber(string(v))
	case json.RawMessage:
		decoded, err := decodeJSON(v)
		if err != nil {
			return types.WrapErr(err)
		}
		return a.NativeToValue(decoded)
	case map[string]any:
		return types.NewStringInterfaceMap(a, v)
	case map[string]string:
		return types.NewStringStringMap(a, v)
	case []any:
		return types.NewDynamicList(a, v)
	case []string:
		return types.NewStringList(a, v)
	case []byte:
		return types.Bytes(v)
	}
	switch r := reflect.ValueOf(value); r.Kind() {
	case reflect.Slice, reflect.Array:
		return types.NewDynamicList(a, value)
	case reflect.Map:
		return types.NewDynamicMap(a, value)
	default:
		return a.Adapter.NativeToValue(value)
	}
}

func wholeOrDouble(f float64) ref.Val {
	if f == math.Trunc(f) && math.Abs(f) <= wholeFloats {
		return types.Int(f)
	}
	return types.Double(f)
}

// jsonNumber returns the value of a JSON number: an int if it is whole, a uint if it is
// too large for an int, otherwise a double.
func jsonNumber(s string) ref.Val {
	if i, err := strconv.ParseInt(s, 10, 64); err == nil {
		return types.Int(i)
	}
	if u, err := strconv.ParseUint(s, 10, 64); err == nil {
		return types.Uint(u)
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return types.NewErr("a number that is out of range")
	}
	return wholeOrDouble(f)
}

const (
	// maxValue is the largest number of bytes that an expression may make. It allows for
	// the largest message_size; callers check message_size itself.
	maxValue = 1 << 20
	// maxValueDepth is how deep objects and arrays in a message's data can be nested: one
	// less than in a frame (PROTOCOL.md), which is an object around them.
	maxValueDepth = 31
)

var (
	errValueSize  = fmt.Errorf("the expression makes more than %d bytes", maxValue)
	errValueDepth = fmt.Errorf("the expression makes objects and lists more than %d deep", maxValueDepth)
)

// appendValue appends value to dst as JSON. depth is the number of objects and lists
// around it.
func appendValue(dst []byte, value ref.Val, depth int) ([]byte, error) {
	var err error
	switch v := value.(type) {
	case types.Null:
		dst = append(dst, "null"...)
	case types.Bool:
		dst = strconv.AppendBool(dst, bool(v))
	case types.Int:
		dst = strconv.AppendInt(dst, int64(v), 10)
	case types.Uint:
		dst = strconv.AppendUint(dst, uint64(v), 10)
	case types.Double:
		dst, err = appendDouble(dst, float64(v))
	case types.String:
		dst, err = appendText(dst, string(v))
	case types.Bytes:
		dst, err = appendText(dst, base64.StdEncoding.EncodeToString(v))
	case types.Timestamp:
		dst = append(v.UTC().AppendFormat(append(dst, '"'), time.RFC3339Nano), '"')
	case types.Duration:
		dst, err = appendText(dst, strconv.FormatFloat(v.Seconds(), 'f', -1, 64)+"s")
	case traits.Mapper:
		dst, err = appendObject(dst, v, depth+1)
	case traits.Lister:
		dst, err = appendList(dst, v, depth+1)
	case *types.Optional:
		return nil, errors.New("the result has an optional value; add what to use if it is missing: .orValue(null)")
	case *types.Err:
		return nil, v
	default:
		return nil, fmt.Errorf("a value of type %s cannot be written as JSON", value.Type().TypeName())
	}
	if err == nil && len(dst) > maxValue {
		err = errValueSize
	}
	return dst, err
}

func appendDouble(dst []byte, f float64) ([]byte, error) {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return nil, fmt.Errorf("the number %v cannot be written as JSON", f)
	}
	text, err := json.Marshal(f)
	return append(dst, text...), err
}

func appendText(dst []byte, s string) ([]byte, error) {
	if len(dst)+len(s) > maxValue {
		return nil, errValueSize
	}
	plain := func(r rune) bool { return r >= ' ' && r != '"' && r != '\\' && r < 0x7f }
	if strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return append(append(append(dst, '"'), s...), '"'), nil
	}
	text, err := json.Marshal(s)
	return append(dst, text...), err
}

func appendList(dst []byte, list traits.Lister, depth int) (_ []byte, err error) {
	if depth > maxValueDepth {
		return nil, errValueDepth
	}
	dst = append(dst, '[')
	for i := range list.Size().(types.Int) {
		if i > 0 {
			dst = append(dst, ',')
		}
		if dst, err = appendValue(dst, list.Get(i), depth); err != nil {
			return nil, err
		}
	}
	return append(dst, ']'), nil
}

// appendObject appends a map with sorted keys, so that equal data has equal text.
func appendObject(dst []byte, m traits.Mapper, depth int) (_ []byte, err error) {
	if depth > maxValueDepth {
		return nil, errValueDepth
	}
	type entry struct {
		name  string
		value ref.Val
	}
	entries := make([]entry, 0, min(m.Size().(types.Int), maxValue))
	for it := m.Iterator(); it.HasNext() == types.True; {
		key := it.Next()
		name, err := keyText(key)
		if err != nil {
			return nil, err
		}
		entries = append(entries, entry{name, m.Get(key)})
	}
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	dst = append(dst, '{')
	for i, e := range entries {
		if i > 0 {
			if e.name == entries[i-1].name {
				return nil, fmt.Errorf("the result has two keys that are %q in JSON", e.name)
			}
			dst = append(dst, ',')
		}
		if dst, err = appendText(dst, e.name); err != nil {
			return nil, err
		}
		if dst, err = appendValue(append(dst, ':'), e.value, depth); err != nil {
			return nil, err
		}
	}
	return append(dst, '}'), nil
}

func keyText(key ref.Val) (string, error) {
	switch k := key.(type) {
	case types.String:
		return string(k), nil
	case types.Int:
		return strconv.FormatInt(int64(k), 10), nil
	case types.Uint:
		return strconv.FormatUint(uint64(k), 10), nil
	case types.Bool:
		return strconv.FormatBool(bool(k)), nil
	}
	return "", fmt.Errorf("a key of type %s cannot be written as JSON", key.Type().TypeName())
}

// sameValue reports whether value is the very value that decodeJSON returned, not just an
// equal one.
func sameValue(value ref.Val, decoded any) bool {
	switch decoded.(type) {
	case map[string]any, []any:
	default:
		return false
	}
	native := value.Value()
	if reflect.TypeOf(native) != reflect.TypeOf(decoded) {
		return false
	}
	a, b := reflect.ValueOf(native), reflect.ValueOf(decoded)
	return a.Pointer() == b.Pointer() && a.Len() == b.Len()
}
