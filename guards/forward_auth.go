// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"

	"github.com/push-it/pushit/guards/internal/placeholder"
	"github.com/push-it/pushit/guards/internal/upstream"
	"github.com/push-it/pushit/hub"
)

func init() { caddy.RegisterModule(new(ForwardAuth)) }

const (
	// maxGrants and maxSubscribe are the largest numbers of names that a backend can
	// grant, and that it can subscribe an agent to.
	maxGrants    = 1024
	maxSubscribe = 128
	// maxLife is the longest time until an answer expires. A backend that says more
	// probably sends something else, such as the seconds since 1970.
	maxLife = 10 * 366 * 24 * time.Hour
)

// ForwardAuth asks an authentication gateway, as Caddy's directive of that name does. It
// sends a GET made from the session: the cookies and all other header fields that the
// session was opened with, and its query.
//
// A 2xx passes. The statuses 408, 425, 429, 499 and 5xx mean that the gateway could not
// decide. Everything else refuses, also a redirect to a login page. Header fields that
// are copied from the answer hold for the guards behind this one. In the connect gate
// they hold for the agent.
//
// Three header fields of an answer that passes are for pushit. In the connect gate,
// Pushit-Grant lists channels and patterns for the guard granted, and Pushit-Subscribe
// lists those to subscribe the agent to at once, both separated by spaces. Pushit-Expires
// says when the answer ends: in seconds from now, or as a date as in Retry-After.
type ForwardAuth struct {
	// HandlerRaw is the HTTP handler that asks: the reverse_proxy that Caddy makes from
	// its forward_auth directive.
	HandlerRaw json.RawMessage `json:"handler,omitempty" caddy:"namespace=http.handlers inline_key=handler"`

	// UserHeader is the header field with the user's name. It must be one of those that
	// are copied.
	UserHeader string `json:"user_header,omitempty"`

	BackendOptions

	handlerGuard
	presents []string // placeholders with what agents present
}

// CaddyModule returns the Caddy module information.
func (*ForwardAuth) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.pushit.guards.forward_auth", New: func() caddy.Module { return new(ForwardAuth) }}
}

// Provision loads the handler.
func (g *ForwardAuth) Provision(ctx caddy.Context) error {
	raw := g.HandlerRaw
	if err := g.provision(ctx, g, &g.HandlerRaw, g.BackendOptions); err != nil {
		return err
	}
	g.UserHeader = http.CanonicalHeaderKey(g.UserHeader)
	if g.UserHeader != "" && !slices.Contains(g.copied, g.UserHeader) {
		return fmt.Errorf("user_header %s: the handler does not copy this header field", g.UserHeader)
	}
	names, err := placeholder.InJSON(raw)
	if err != nil {
		return err
	}
	for _, name := range names {
		for _, prefix := range []string{"http.request.header.", "http.request.cookie.", "http.request.uri.query."} {
			if strings.HasPrefix(name, prefix) {
				g.presents = append(g.presents, name)
			}
		}
		if strings.HasSuffix(name, "agent.credentials") {
			g.presents = append(g.presents, name)
		}
	}
	return nil
}

// Presented implements Presenter. It reports whether the session was opened with a
// cookie, an Authorization field, or any of the header fields, cookies, query parameters
// and credentials that the guard names.
func (g *ForwardAuth) Presented(q *Question) bool {
	r, err := q.Request(context.Background())
	if err != nil {
		return true // asking returns the error
	}
	if r.Header.Get("Cookie") != "" || r.Header.Get("Authorization") != "" {
		return true
	}
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	return slices.ContainsFunc(g.presents, func(name string) bool {
		value, _ := repl.GetString(name)
		return value != "" || upstream.Unanswerable(r) != nil
	})
}

// Decide implements Guard.
func (g *ForwardAuth) Decide(ctx context.Context, q *Question) Answer {
	return g.backend.decide(ctx, q, nil, g.ask)
}

func (g *ForwardAuth) ask(ctx context.Context, q *Question) outcome {
	w := upstream.NewCapture(upstream.MaxAnswer)
	r, err := q.request(ctx, w, nil)
	if err != nil {
		return unavailable(err)
	}
	x := upstream.With(g.handler, w, r)
	if !x.Passed() {
		out := refused(x)
		if out.Kind == Deny && x.Status()/100 == 2 {
			out.Answer = Answer{Kind: Unavailable, Err: errors.New("the handler ended the exchange with a 2xx of its own, so there is no answer of the backend")}
		}
		return out
	}
	// A handler for other responses may let them through, too.
	if status, err := strconv.Atoi(x.Placeholder("http.reverse_proxy.status_code")); err != nil || status/100 != 2 {
		return outcome{Answer: Answer{Kind: kindOf(status), Err: fmt.Errorf("answered HTTP %d", status)}, noStore: x.NoStore()}
	}
	l, size, err := g.learned(q, x)
	if err != nil {
		return unavailable(err)
	}
	return outcome{Answer: Answer{Kind: Pass, Learned: l}, noStore: x.NoStore(), size: size}
}

// learned returns what an answer that passes says.
func (g *ForwardAuth) learned(q *Question, x *upstream.Exchange) (l Learned, size int, err error) {
	l.Header, size = fieldsOf(x.End.Header, g.copied)
	if g.UserHeader != "" {
		l.User, l.UserBy = x.End.Header.Get(g.UserHeader), UserByHeader
	}
	if q.Gate == hub.GateConnect {
		grants, subscribe := x.Header("Pushit-Grant"), x.Header("Pushit-Subscribe")
		size += len(grants) + len(subscribe)
		if l.Grants, err = namesIn("Pushit-Grant", grants, maxGrants); err != nil {
			return l, 0, err
		}
		if l.Subscribe, err = namesIn("Pushit-Subscribe", subscribe, maxSubscribe); err != nil {
			return l, 0, err
		}
	}
	if l.Expires, err = expiresIn(x.Header("Pushit-Expires"), time.Now()); err != nil {
		return l, 0, err
	}
	return l, size, checkLearned(&l, size)
}

// namesIn reads a header field that lists channels and patterns. Spaces separate them,
// because no name can have a space. Names can have commas, so a comma would split one
// name in two.
func namesIn(field, list string, most int) ([]string, error) {
	names := strings.Fields(list)
	if len(names) == 0 {
		return nil, nil
	}
	if len(names) > most {
		return nil, fmt.Errorf("%s has %d names; at most %d are allowed", field, len(names), most)
	}
	for _, name := range names {
		if strings.Contains(name, ",") {
			return nil, fmt.Errorf("%s has a comma; separate the names with spaces, in one field; a name that has a comma cannot be listed", field)
		}
		if r := hub.CheckPattern(name, hub.MaxNameLength); r != nil {
			return nil, fmt.Errorf("%s: %q: %s", field, name, r.Reason)
		}
	}
	return names, nil
}

// expiresIn reads a Pushit-Expires field. It returns the zero time for an empty field.
func expiresIn(value string, now time.Time) (time.Time, error) {
	if value == "" {
		return time.Time{}, nil
	}
	at, err := http.ParseTime(value)
	if err != nil {
		seconds, err := strconv.ParseUint(value, 10, 63)
		if err != nil {
			return time.Time{}, fmt.Errorf("Pushit-Expires: %q is neither seconds nor a date", value)
		}
		at = now.Add(time.Duration(min(seconds, uint64(2*maxLife/time.Second))) * time.Second)
	}
	return at, checkExpires(at, now)
}

// checkExpires refuses an expiry that is past or too far away.
func checkExpires(at, now time.Time) error {
	switch life := at.Sub(now); {
	case life <= 0:
		return errors.New("the answer says that it has expired already; is a clock wrong?")
	case life > maxLife:
		return errors.New("the answer says that it expires in more than ten years; seconds are counted from now")
	}
	return nil
}

// UnmarshalHelper sets up the guard from Caddyfile tokens. Syntax:
//
//	forward_auth [<upstreams…>] {
//		uri <path>
//		copy_headers <fields…>
//		user_header <field>
//		cache <ttl>
//		key <values…>
//		in_flight <n>
//		<other options of Caddy's forward_auth and reverse_proxy>
//	}
func (g *ForwardAuth) UnmarshalHelper(h httpcaddyfile.Helper) error {
	b, err := upstream.ReadBlock(h, "forward_auth localhost:8080 { uri /auth }")
	if err != nil {
		return err
	}
	if err := g.readUserHeader(b); err != nil {
		return err
	}
	if err := b.Options(g.unmarshalOption); err != nil {
		return err
	}
	if err := b.CheckProxy(); err != nil {
		return err
	}
	raw, err := b.ParseAs(h, "forward_auth")
	if err != nil {
		return err
	}
	g.HandlerRaw, err = upstream.Changed(raw, upstream.CompleteFastCGI)
	return err
}

// readUserHeader reads the option user_header. If the field is not copied yet, it puts
// copy_headers in the place of the option.
func (g *ForwardAuth) readUserHeader(b *upstream.Block) error {
	entry := b.Find("user_header")
	if entry == nil {
		return nil
	}
	if len(entry) != 2 || strings.ContainsAny(entry[1].Text, ">{}") {
		return upstream.ErrAt(entry[0], "user_header takes the header field of the answer that has the user's name: user_header Remote-User")
	}
	g.UserHeader = entry[1].Text
	if !b.Copies(g.UserHeader) {
		entry[0].Text = "copy_headers"
	} else {
		b.Remove("user_header")
	}
	if second := b.Find("user_header"); second != nil {
		return upstream.ErrAt(second[0], "user_header is written twice")
	}
	return nil
}

// Interface guards
var (
	_ Guard              = (*ForwardAuth)(nil)
	_ Presenter          = (*ForwardAuth)(nil)
	_ HelperUnmarshaler  = (*ForwardAuth)(nil)
	_ caddy.Provisioner  = (*ForwardAuth)(nil)
	_ caddy.CleanerUpper = (*ForwardAuth)(nil)
)
