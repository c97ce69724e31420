// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"fmt"
	"log/slog"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// An Env is what the guards of one policy share. It does not change once the policy is in
// use.
type Env struct {
	// Generation is different for each policy that was ever compiled. It is part of the
	// keys of answers that are cached or shared.
	Generation uint64
	// Mount identifies the endpoint across reloads. It is "" outside of one.
	Mount string
	// Server serves the endpoint. It is nil outside of one, as in a dry run.
	Server *caddyhttp.Server
	// Log is the policy's logger. It is never nil.
	Log *slog.Logger
	// Snapshot names the placeholders to look up when a session opens: those that the
	// policy uses and whose values sessions do not store otherwise.
	Snapshot []string
	// Learned has the names, in canonical form, of the header fields that guards of the
	// policy set. Fields of these names that a client sent are removed from the requests
	// that guards see.
	Learned []string
}

var generations atomic.Uint64

// NextGeneration returns a number that no policy has had before.
func NextGeneration() uint64 { return generations.Add(1) }

// trusts returns a text that changes when the server trusts other proxies, because the
// addresses it sends to backends depend on them.
func (e *Env) trusts() string {
	if e.Server == nil {
		return ""
	}
	// Caddy does not export this field. If it cannot be read, treat it as changed.
	proxies := reflect.ValueOf(e.Server).Elem().FieldByName("trustedProxies")
	if !proxies.IsValid() {
		return strconv.FormatUint(e.Generation, 10)
	}
	for proxies.Kind() == reflect.Interface || proxies.Kind() == reflect.Pointer {
		if proxies.IsNil() {
			return "nobody"
		}
		proxies = proxies.Elem()
	}
	return fmt.Sprintf("%s %q %v %+v", proxies.Type(), e.Server.ClientIPHeaders, e.Server.TrustedProxiesStrict, proxies)
}

// isLearned reports whether to ignore what the client sent in a header field.
func (e *Env) isLearned(name string) bool {
	name = http.CanonicalHeaderKey(name)
	if strings.HasPrefix(name, "Pushit-") {
		return true
	}
	return slices.Contains(e.Learned, name)
}
