// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"

	"github.com/push-it/pushit/guards/internal/suggest"
	"github.com/push-it/pushit/guards/internal/upstream"
	"github.com/push-it/pushit/hub"
)

func init() { caddy.RegisterModule(new(Ask)) }

// What a question contains only if the operator asks for it with send.
const (
	sendAgentID     = "agentId"
	sendClaims      = "claims"
	sendAttributes  = "attributes"
	sendCredentials = "credentials"
)

var sendable = []string{sendAgentID, sendClaims, sendAttributes, sendCredentials}

// Ask asks a backend in any language. It sends the question as JSON in a POST, with the
// cookies and all other header fields that the session was opened with, and reads the
// answer. PROTOCOL.md has the JSON Schemas of both.
//
// 204 passes. At publish, 204 acknowledges the message but publishes nothing. 200 with an
// object as application/json passes and can say more: user, claims, attributes, grant,
// subscribe, expires, channels, data. 4xx and redirects refuse. The body of a 4xx is the
// reason that the agent is told, if it is a short line of text/plain. Everything else
// means that the backend could not decide: 408, 425, 429, 499, 5xx, a body that is not
// such an object, no answer.
type Ask struct {
	// HandlerRaw is the HTTP handler that asks, usually a reverse_proxy.
	HandlerRaw json.RawMessage `json:"handler,omitempty" caddy:"namespace=http.handlers inline_key=handler"`

	// Send lists what to send about an agent besides its uuid and user: agentId, claims,
	// attributes, credentials.
	Send []string `json:"send,omitempty"`

	BackendOptions

	handlerGuard
}

// CaddyModule returns the Caddy module information.
func (*Ask) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.pushit.guards.ask", New: func() caddy.Module { return new(Ask) }}
}

// Provision loads the handler.
func (g *Ask) Provision(ctx caddy.Context) error {
	for _, what := range g.Send {
		if err := checkSend(what); err != nil {
			return err
		}
	}
	return g.provision(ctx, g, &g.HandlerRaw, g.BackendOptions)
}

func checkSend(what string) error {
	if slices.Contains(sendable, what) {
		return nil
	}
	return fmt.Errorf("send: there is no %q; %s", what, suggest.Instead(what, sendable))
}

// A question is the JSON that is sent.
type question struct {
	Gate        hub.GateName    `json:"gate"`
	Channel     string          `json:"channel,omitempty"`
	Pattern     bool            `json:"pattern,omitempty"`
	Namespace   string          `json:"namespace,omitempty"`
	Agent       questionAgent   `json:"agent"`
	Message     *questionData   `json:"message,omitempty"`
	Credentials json.RawMessage `json:"credentials,omitempty"`
}

type questionAgent struct {
	UUID       string         `json:"uuid,omitempty"`
	AgentID    string         `json:"agentId,omitempty"`
	User       *string        `json:"user"`
	Claims     map[string]any `json:"claims,omitempty"`
	Attributes map[string]any `json:"attributes,omitempty"`
}

type questionData struct {
	UUID string          `json:"uuid"`
	Data json.RawMessage `json:"data"`
}

// question returns the JSON to send, without the agent's uuid.
func (g *Ask) question(q *Question) *question {
	out := &question{Gate: q.Gate, Channel: q.Channel, Pattern: q.Pattern, Namespace: q.Agent.Opening().Namespace()}
	if user := q.User(); user != "" {
		out.Agent.User = &user
	}
	if m := q.Message; m != nil {
		out.Message = &questionData{UUID: m.UUID, Data: m.Data}
	}
	for _, what := range g.Send {
		switch what {
		case sendAgentID:
			out.Agent.AgentID = q.Agent.AgentID()
		case sendClaims:
			out.Agent.Claims = q.Learned.Claims
		case sendAttributes:
			out.Agent.Attributes = q.Learned.Attributes
		case sendCredentials:
			out.Credentials = q.Credentials
		}
	}
	return out
}

// Decide implements Guard.
func (g *Ask) Decide(ctx context.Context, q *Question) Answer {
	var sent []byte
	if len(g.Send) > 0 && isShared(q.Gate) {
		var err error
		if sent, err = json.Marshal(g.question(q)); err != nil {
			return Answer{Kind: Unavailable, Err: err}
		}
	}
	return g.backend.decide(ctx, q, sent, g.ask)
}

func (g *Ask) ask(ctx context.Context, q *Question) outcome {
	asked := g.question(q)
	asked.Agent.UUID = q.Agent.UUID()
	body, err := json.Marshal(asked)
	if err != nil {
		return unavailable(err)
	}
	limit := upstream.MaxAnswer
	if q.Gate == hub.GatePublish {
		limit += q.Agent.Policy().Limits.MessageSize
	}
	w := upstream.NewCapture(limit)
	r, err := q.request(ctx, w, body)
	if err != nil {
		return unavailable(err)
	}
	x := upstream.With(g.handler, w, r)
	switch {
	case x.Broken() != nil, x.Err != nil, w.Code()/100 > 2:
		return refused(x)
	case x.End != nil || w.Code() == 0:
		return unavailable(errors.New("the handler did not answer"))
	case w.Code() == http.StatusNoContent:
		return outcome{Answer: Answer{Kind: Pass, Learned: Learned{Drop: q.Gate == hub.GatePublish}}, noStore: x.NoStore()}
	case w.Code() != http.StatusOK:
		return unavailable(fmt.Errorf("answered HTTP %d; to approve, answer 204, or 200 with an object as application/json", w.Code()))
	}
	l, err := g.answer(q, w)
	if err != nil {
		return unavailable(err)
	}
	return outcome{Answer: Answer{Kind: Pass, Learned: l}, noStore: x.NoStore(), size: len(w.Body()) * 2}
}

// answer reads the body of a 200.
func (g *Ask) answer(q *Question, w *upstream.Capture) (Learned, error) {
	kind := w.Header().Get("Content-Type")
	if media, _, err := mime.ParseMediaType(kind); err != nil || media != "application/json" {
		return Learned{}, fmt.Errorf("answered HTTP 200 with Content-Type %q, not application/json: is this the site's index page, and uri wrong?", kind)
	}
	if coding := w.Header().Get("Content-Encoding"); isCoding(coding) {
		return Learned{}, fmt.Errorf("the answer has Content-Encoding %q; send it without an encoding", coding)
	}
	size := q.Agent.Policy().Limits.MessageSize
	return readAnswer(q.Gate, w.Body(), size, time.Now())
}

// isCoding reports whether a Content-Encoding is one. identity is none (RFC 9110, section
// 8.4.1).
func isCoding(encoding string) bool {
	return encoding != "" && !strings.EqualFold(encoding, "identity")
}

// reasonIn returns the body of a refusal if an agent may see it: one short line of plain
// text. Otherwise it returns "".
func reasonIn(w *upstream.Capture) string {
	const most = 200 // characters
	media, params, err := mime.ParseMediaType(w.Header().Get("Content-Type"))
	if err != nil || media != "text/plain" || isCoding(w.Header().Get("Content-Encoding")) {
		return ""
	}
	if charset := strings.ToLower(params["charset"]); charset != "" && charset != "utf-8" && charset != "us-ascii" {
		return ""
	}
	return oneLine(string(w.Body()), most)
}

// UnmarshalHelper sets up the guard from Caddyfile tokens. Syntax:
//
//	ask [<upstreams…>] {
//		uri <path>
//		send agentId|claims|attributes|credentials…
//		cache <ttl>
//		key <values…>
//		in_flight <n>
//		<options of Caddy's reverse_proxy, except method, rewrite and handle_response>
//	}
func (g *Ask) UnmarshalHelper(h httpcaddyfile.Helper) error {
	b, err := upstream.ReadBlock(h, "ask localhost:8080 { uri /pushit }")
	if err != nil {
		return err
	}
	err = b.Options(func(d *caddyfile.Dispenser) (bool, error) {
		if d.Val() != "send" {
			return g.unmarshalOption(d)
		}
		if g.Send = d.RemainingArgs(); len(g.Send) == 0 {
			return true, d.Errf("send takes what to send about an agent besides its uuid and user: %s", strings.Join(sendable, ", "))
		}
		for _, what := range g.Send {
			if err := checkSend(what); err != nil {
				return true, d.WrapErr(err)
			}
		}
		return true, nil
	})
	if err != nil {
		return err
	}
	if err := b.CheckProxy(); err != nil {
		return err
	}
	for _, name := range []string{"handle_response", "copy_headers", "user_header"} {
		if entry := b.Find(name); entry != nil {
			return upstream.ErrAt(entry[0], "ask has no %s: the answer says as JSON who the user is", name)
		}
	}
	b.Find("uri")[0].Text = "rewrite" // the name of the option in reverse_proxy
	raw, err := b.ParseAs(h, "reverse_proxy")
	if err != nil {
		return err
	}
	g.HandlerRaw, err = upstream.Changed(raw, upstream.CompleteFastCGI)
	return err
}

// Interface guards
var (
	_ Guard              = (*Ask)(nil)
	_ HelperUnmarshaler  = (*Ask)(nil)
	_ caddy.Provisioner  = (*Ask)(nil)
	_ caddy.CleanerUpper = (*Ask)(nil)
)
