// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package token

import (
	"bytes"
	"encoding/json"
	"strings"
)

// InCredentials returns the token in credentials: a JSON string, or the member "token" of
// an object. An empty one does not count.
func InCredentials(credentials []byte) (token string, presented bool) {
	raw := bytes.TrimSpace(credentials)
	if rest, ok := bytes.CutPrefix(raw, []byte(`{"token":`)); ok && bytes.HasSuffix(rest, []byte("}")) {
		// This is what clients usually send. It takes a fifth of the time of decoding.
		if token, ok = plainString(rest[:len(rest)-1]); ok {
			return token, token != ""
		}
	}
	if len(raw) > 0 && raw[0] == '{' {
		var members map[string]json.RawMessage
		if json.Unmarshal(raw, &members) != nil {
			return "", false
		}
		raw = members["token"]
		if len(raw) == 0 || string(raw) == "null" {
			return "", false
		}
		if raw[0] != '"' {
			return "", true
		}
	}
	if token, ok := plainString(raw); ok {
		return token, token != ""
	}
	if len(raw) == 0 || raw[0] != '"' || json.Unmarshal(raw, &token) != nil {
		return "", false
	}
	return token, token != ""
}

// plainString returns the content of a JSON string without escapes.
func plainString(raw []byte) (string, bool) {
	if len(raw) < 2 || raw[0] != '"' || raw[len(raw)-1] != '"' {
		return "", false
	}
	content := raw[1 : len(raw)-1]
	return string(content), bytes.IndexByte(content, '"') < 0 && bytes.IndexByte(content, '\\') < 0
}

// CutBearer returns what follows the word Bearer (RFC 6750, section 2.1), or the value
// itself.
func CutBearer(value string) (token string, isBearer bool) {
	const word = "Bearer "
	if len(value) >= len(word) && strings.EqualFold(value[:len(word)], word) {
		return strings.TrimSpace(value[len(word):]), true
	}
	return value, false
}
