// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package pushit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/push-it/pushit/hub"
)

func init() { caddy.RegisterModule(adminAPI{}) }

// adminAPI lets operators see and steer hubs, below /pushit/ of Caddy's admin endpoint. It
// asks no gate: Caddy's admin endpoint says who may use it. Nothing that it answers has
// credentials.
type adminAPI struct{}

// CaddyModule returns the Caddy module information.
func (adminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "admin.api.pushit", New: func() caddy.Module { return new(adminAPI) }}
}

// adminPath is the path of the admin API.
const adminPath = "/pushit/"

// Routes implements caddy.AdminRouter.
func (adminAPI) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{{Pattern: adminPath, Handler: caddy.AdminHandlerFunc(serveAdmin)}}
}

// maxAdminBody is the most bytes of a request to the admin API.
const maxAdminBody = 1 << 20

// An adminCall is a request to the admin API.
type adminCall struct {
	w     http.ResponseWriter
	r     *http.Request
	query url.Values
}

// An adminRoute answers requests to one address of the admin API.
type adminRoute struct {
	method string
	// serve returns an answer, which is written as JSON; nil has been written already.
	serve func(*adminCall) (any, error)
	query []string // the parameters that there are
}

var adminRoutes = map[string]adminRoute{
	"hubs":     {http.MethodGet, adminHubs, nil},
	"channels": {http.MethodGet, adminChannels, []string{"namespace", "prefix", "channel", "after", "hub", "limit"}},
	"agents": {http.MethodGet, adminAgents, []string{
		"agent", "agent_id", "user", "channel", "namespace", "address", "transport", "attribute", "after", "hub", "limit",
	}},
	"history":     {http.MethodGet, adminHistory, []string{"hub", "namespace", "channel", "before", "limit"}},
	"members":     {http.MethodGet, adminMembers, []string{"hub", "namespace", "channel", "after"}},
	"tail":        {http.MethodGet, adminTail, []string{"hub", "namespace", "channel", "last"}},
	"publish":     {http.MethodPost, adminPublish, nil},
	"disconnect":  {http.MethodPost, adminDisconnect, nil},
	"unsubscribe": {http.MethodPost, adminUnsubscribe, nil},
	"reauthorize": {http.MethodPost, adminReauthorize, nil},
}

func serveAdmin(w http.ResponseWriter, r *http.Request) error {
	name := strings.TrimPrefix(r.URL.Path, adminPath)
	route, ok := adminRoutes[name]
	if !ok {
		there := make(map[string][]string)
		for _, other := range slices.Sorted(maps.Keys(adminRoutes)) {
			there[adminRoutes[other].method] = append(there[adminRoutes[other].method], other)
		}
		return adminError(http.StatusNotFound, "there is no %s%s: GET %s; POST %s", adminPath, name,
			strings.Join(there[http.MethodGet], ", "), strings.Join(there[http.MethodPost], ", "))
	}
	if r.Method != route.method {
		w.Header().Set("Allow", route.method)
		return adminError(http.StatusMethodNotAllowed, "%s%s takes %s, not %s", adminPath, name, route.method, r.Method)
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return adminError(http.StatusBadRequest, "the query cannot be read: %v", err)
	}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		if !slices.Contains(route.query, name) {
			return adminError(http.StatusBadRequest, "there is no parameter %q: there are %s", name, strings.Join(route.query, ", "))
		}
	}
	answer, err := route.serve(&adminCall{w, r, query})
	if err != nil {
		return asAdminError(err)
	}
	if answer == nil {
		return nil
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	return json.NewEncoder(w).Encode(answer)
}

func adminError(status int, format string, args ...any) error {
	message := fmt.Sprintf(format, args...)
	return caddy.APIError{HTTPStatus: status, Err: errors.New(message), Message: message}
}

// asAdminError gives an error the status that it has.
func asAdminError(err error) error {
	var already caddy.APIError
	var refusal *hub.Refusal
	if listen := (*hub.ListenError)(nil); errors.As(err, &listen) {
		err = listen.Refusal
	}
	switch {
	case errors.As(err, &already):
		return err
	case errors.Is(err, hub.ErrSelector):
		return adminError(http.StatusBadRequest, "%s", strings.TrimPrefix(err.Error(), hub.ErrSelector.Error()+": "))
	case errors.As(err, &refusal):
		status := map[hub.Code]int{
			hub.CodeInvalid: http.StatusBadRequest, hub.CodeMissing: http.StatusNotFound,
			hub.CodeTooLarge: http.StatusRequestEntityTooLarge, hub.CodeLimit: http.StatusTooManyRequests,
		}[refusal.Code]
		if status == 0 {
			status = http.StatusServiceUnavailable
		}
		return adminError(status, "%s", refusal.Reason)
	}
	return adminError(http.StatusServiceUnavailable, "%v", err)
}

// list returns the hub and the limit, 0 if there is none, of a request that lists something.
func (c *adminCall) list() (h *hub.Hub, limit int, err error) {
	if limit, err = c.count("limit", "a number"); err != nil {
		return nil, 0, err
	}
	h, err = hubOf(c.query.Get("hub"))
	return h, limit, err
}

// count returns a parameter from 1 to 1000, 0 if there is none. what says what it is, for
// errors.
func (c *adminCall) count(name, what string) (int, error) {
	text := c.query.Get(name)
	if text == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > 1000 {
		return 0, adminError(http.StatusBadRequest, "%s must be %s from 1 to 1000, not %q", name, what, text)
	}
	return n, nil
}

// read reads the body of a request.
func (c *adminCall) read(to any) error {
	body, err := io.ReadAll(http.MaxBytesReader(c.w, c.r.Body, maxAdminBody))
	if err != nil {
		return adminError(http.StatusRequestEntityTooLarge, "the body cannot be read: %v", err)
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(to); err != nil {
		return adminError(http.StatusBadRequest, "the body must be a JSON object: %v", err)
	}
	if d.Decode(new(any)) != io.EOF {
		return adminError(http.StatusBadRequest, "the body must be one JSON object")
	}
	return nil
}

// hubOf returns the hub of that name. Without a name, there must be only one hub.
func hubOf(name string) (*hub.Hub, error) {
	names := hubNames()
	if name == "" && len(names) == 1 {
		name = names[0]
	}
	if h, ok := FindHub(name); ok {
		return h, nil
	}
	all := strings.Join(names, ", ")
	switch {
	case len(names) == 0:
		return nil, adminError(http.StatusNotFound, "there is no hub: the configuration has no pushit")
	case name == "":
		return nil, adminError(http.StatusBadRequest, "there are several hubs: name one of %s", all)
	}
	return nil, adminError(http.StatusNotFound, "there is no hub %q: there are %s", name, all)
}

// A hubListing describes a hub on each machine.
type hubListing struct {
	Hub    string         `json:"hub"`
	Nodes  []hub.NodeInfo `json:"nodes"`
	Silent []string       `json:"silent,omitempty"`
}

func adminHubs(c *adminCall) (any, error) {
	all := []hubListing{}
	for _, name := range hubNames() {
		h, ok := FindHub(name)
		if !ok {
			continue // a reload has just removed it
		}
		nodes, silent, err := h.Operator().Nodes(c.r.Context())
		if err != nil {
			return nil, err
		}
		all = append(all, hubListing{name, nodes, silent})
	}
	return map[string]any{"hubs": all}, nil
}

func adminChannels(c *adminCall) (any, error) {
	h, limit, err := c.list()
	if err != nil {
		return nil, err
	}
	q := hub.ChannelQuery{Namespace: c.query.Get("namespace"), Prefix: c.query.Get("prefix"), Channel: c.query.Get("channel"), After: c.query.Get("after"), Limit: limit}
	return h.Operator().Channels(c.r.Context(), q)
}

func adminAgents(c *adminCall) (any, error) {
	h, limit, err := c.list()
	if err != nil {
		return nil, err
	}
	s := hub.Selector{
		Agent: c.query.Get("agent"), AgentID: c.query.Get("agent_id"), User: c.query.Get("user"), Channel: c.query.Get("channel"),
		Namespace: c.query.Get("namespace"), Address: c.query.Get("address"), Transport: c.query.Get("transport"),
	}
	for _, text := range c.query["attribute"] {
		if err := addAttribute(&s, text); err != nil {
			return nil, adminError(http.StatusBadRequest, "%v", err)
		}
	}
	return h.Operator().Agents(c.r.Context(), hub.AgentQuery{Selector: s, After: c.query.Get("after"), Limit: limit})
}

// addAttribute adds an attribute in the form name=value.
func addAttribute(s *hub.Selector, text string) error {
	name, value, ok := strings.Cut(text, "=")
	if !ok || name == "" {
		return fmt.Errorf("write an attribute as name=value, not %q", text)
	}
	if s.Attributes == nil {
		s.Attributes = make(map[string]string)
	}
	s.Attributes[name] = value
	return nil
}

// named returns the hub and the namespace that the query names, and its channel, which must
// be there.
func (c *adminCall) named() (in *hub.Inside, channel string, err error) {
	h, err := hubOf(c.query.Get("hub"))
	if err != nil {
		return nil, "", err
	}
	channel = c.query.Get("channel")
	if r := hub.CheckPattern(channel, hub.MaxNameLength); r != nil {
		return nil, "", r
	}
	return hub.NewInside(h, c.query.Get("namespace")), channel, nil
}

func adminHistory(c *adminCall) (any, error) {
	limit, err := c.count("limit", "a number")
	if err != nil {
		return nil, err
	}
	in, channel, err := c.named()
	if err != nil {
		return nil, err
	}
	page, r := in.History(channel, c.query.Get("before"), limit)
	if r != nil {
		return nil, r
	}
	return page, nil
}

func adminMembers(c *adminCall) (any, error) {
	var after uint64
	if text := c.query.Get("after"); text != "" {
		var err error
		if after, err = strconv.ParseUint(text, 10, 64); err != nil {
			return nil, adminError(http.StatusBadRequest, "after must be the next of the previous page, not %q", text)
		}
	}
	in, channel, err := c.named()
	if err != nil {
		return nil, err
	}
	members, next := in.Members(channel, after)
	answer := map[string]any{"members": append([]hub.MemberInfo{}, members...)}
	if next != 0 {
		answer["next"] = strconv.FormatUint(next, 10)
	}
	return answer, nil
}

// adminTail writes the messages of channels as they come, one to a line, until the client
// ends it.
func adminTail(c *adminCall) (any, error) {
	last, err := c.count("last", "a number of messages")
	if err != nil {
		return nil, err
	}
	h, err := hubOf(c.query.Get("hub"))
	if err != nil {
		return nil, err
	}
	feed, err := hub.NewInside(h, c.query.Get("namespace")).Listen(c.r.Context(), hub.Listening{Channels: c.query["channel"], Last: last})
	if err != nil {
		return nil, err
	}
	defer feed.Close()
	c.w.Header().Set("Content-Type", "application/x-ndjson")
	c.w.Header().Set("Cache-Control", "no-store")
	out := http.NewResponseController(c.w)
	_ = out.Flush() // that it has begun; if it fails, so does the first message
	to := json.NewEncoder(c.w)
	for m := range feed.All() {
		if to.Encode(m) != nil || out.Flush() != nil {
			return nil, nil // the client is gone
		}
	}
	if err := feed.Err(); err != nil {
		_ = to.Encode(map[string]string{"error": err.Error()}) // the client may be gone
	}
	return nil, nil
}

// An adminPublication is the body of a publish.
type adminPublication struct {
	Hub       string          `json:"hub"`
	Namespace string          `json:"namespace"`
	Channel   string          `json:"channel"`
	Channels  []string        `json:"channels"`
	Data      json.RawMessage `json:"data"`
	UUID      string          `json:"uuid"`
	Except    string          `json:"except"`
	History   *bool           `json:"history"`
}

func adminPublish(c *adminCall) (any, error) {
	var p adminPublication
	if err := c.read(&p); err != nil {
		return nil, err
	}
	switch {
	case p.Channel != "" && p.Channels != nil:
		return nil, adminError(http.StatusBadRequest, "write channel or channels, not both")
	case p.Data == nil:
		return nil, adminError(http.StatusBadRequest, "data is missing: write null for a message without data")
	case p.Channel != "":
		p.Channels = []string{p.Channel}
	}
	h, err := hubOf(p.Hub)
	if err != nil {
		return nil, err
	}
	receipt, r := hub.NewInside(h, p.Namespace).Publish(c.r.Context(), hub.Publication{
		Channels: p.Channels, Data: p.Data, UUID: p.UUID, Except: p.Except, NoHistory: p.History != nil && !*p.History,
	})
	if r != nil {
		return nil, r
	}
	answer := map[string]any{"uuid": receipt.UUID, "subscriptions": receipt.Subscriptions}
	if receipt.Position != "" {
		answer["position"] = receipt.Position
	}
	if receipt.Repeated {
		answer["repeated"] = true
	}
	return answer, nil
}

// An adminChange is the body of a change: which agents it is about, and what they are told.
type adminChange struct {
	Hub string `json:"hub"`
	hub.Selector
	Reason string `json:"reason"`
	// Retry is how long disconnected agents stay away, such as "30s"; "never" keeps them
	// from coming back by themselves.
	Retry string `json:"retry"`
}

func (c *adminCall) change() (o *hub.Operator, change adminChange, err error) {
	if err = c.read(&change); err != nil {
		return nil, change, err
	}
	h, err := hubOf(change.Hub)
	if err != nil {
		return nil, change, err
	}
	return h.Operator(), change, nil
}

var errRetryElsewhere = adminError(http.StatusBadRequest, "retry is for disconnect alone")

func adminDisconnect(c *adminCall) (any, error) {
	o, change, err := c.change()
	if err != nil {
		return nil, err
	}
	f := hub.Farewell{Reason: change.Reason, ForGood: change.Retry == "never"}
	if change.Retry != "" && !f.ForGood {
		if f.Retry, err = caddy.ParseDuration(change.Retry); err != nil || f.Retry < 0 || f.Retry > 30*24*time.Hour {
			return nil, adminError(http.StatusBadRequest, `retry must be a time up to 30d, such as "30s", or "never", not %q`, change.Retry)
		}
	}
	return o.Disconnect(c.r.Context(), change.Selector, f)
}

func adminUnsubscribe(c *adminCall) (any, error) {
	o, change, err := c.change()
	switch {
	case err != nil:
		return nil, err
	case change.Retry != "":
		return nil, errRetryElsewhere
	case change.Channel == "":
		return nil, adminError(http.StatusBadRequest, "channel is missing: name the channel or pattern that the agents have subscribed to")
	}
	return o.Unsubscribe(c.r.Context(), change.Selector, change.Channel, change.Reason)
}

func adminReauthorize(c *adminCall) (any, error) {
	o, change, err := c.change()
	switch {
	case err != nil:
		return nil, err
	case change.Retry != "":
		return nil, errRetryElsewhere
	case change.Reason != "":
		return nil, adminError(http.StatusBadRequest, "reauthorize takes no reason: the gates give theirs")
	}
	return o.Reauthorize(c.r.Context(), change.Selector)
}

// Interface guards
var _ caddy.AdminRouter = (*adminAPI)(nil)
