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

// An Env is what the guards of one policy share. It is immutable once the policy
// is in use.
type Env struct {
	// Generation is different for every policy that was ever compiled: part of
	// the key of whatever is cached or asked once for many.
	Generation uint64
	// Mount names the endpoint over all generations of the configuration; "" outside
	// of one.
	Mount string
	// Server is what the endpoint is served by; nil outside of one (a dry run).
	Server *caddyhttp.Server
	// Log is the policy's; never nil.
	Log *slog.Logger
	// Snapshot names the placeholders that are looked up when a session opens, because
	// the policy names them and nothing else of the session tells their values.
	Snapshot []string
	// Learned names, in canonical form, the header fields that guards of the
	// policy set: what a client sent under such a name is deleted from the
	// requests that guards see.
	Learned []string
}

var generations atomic.Uint64

// NextGeneration returns a number that no policy has had.
func NextGeneration() uint64 { return generations.Add(1) }

// trusts returns something that is another whenever the server trusts other proxies:
// what it sends to a backend of the addresses between depends on it.
func (e *Env) trusts() string {
	if e.Server == nil {
		return ""
	}
	// Caddy tells nobody, so it is looked up; what cannot be read looks new each time.
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

// isLearned reports whether what the client sent in the header field is not to
// be believed.
func (e *Env) isLearned(name string) bool {
	name = http.CanonicalHeaderKey(name)
	if strings.HasPrefix(name, "Pushit-") {
		return true
	}
	return slices.Contains(e.Learned, name)
}
