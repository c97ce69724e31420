// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package pushit

import (
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/push-it/pushit/guards"
	"github.com/push-it/pushit/hub/transport"
	"github.com/push-it/pushit/internal/explain"
	"github.com/push-it/pushit/internal/hubpool"
	"github.com/push-it/pushit/internal/routing"
)

func init() {
	// RegisterHandlerDirective would drop the path of the matcher, and the handler must
	// know it.
	httpcaddyfile.RegisterDirective("pushit", parseCaddyfile)
	// Handlers that authenticate or rewrite come before pushit. So does encode, which
	// compresses answers to plain requests. handle and all handlers that respond come
	// after it.
	httpcaddyfile.RegisterDirectiveOrder("pushit", httpcaddyfile.After, "encode")
}

// parseCaddyfile reads the pushit directive. Syntax:
//
//	pushit [<matcher>] {
//	    path      <path>
//	    name      <hub>
//	    origins   <origin...>
//	    transports      websocket|xhr_streaming|xhr|eventsource|htmlfile|jsonp|sse...
//	    session_cookies <name...>
//	    compression
//	    heartbeat <duration>
//	    handshake <duration>
//	    drain     <duration>
//	    grace     <duration>
//	    limits {
//	        message_size             <size>
//	        credentials_size         <size>
//	        name_length              <count>
//	        channels_per_agent       <count>
//	        channels                 <count>|unlimited
//	        agents                   <count>|unlimited
//	        agents_per_ip            <count>|unlimited
//	        unconnected_per_ip       <count>|unlimited
//	        queue_messages           <count>
//	        queue_bytes              <size>
//	        history_bytes            <size>
//	        frames_per_second        <count>|unlimited
//	        publishes_per_second     <count>|unlimited
//	        api_publishes_per_second <count>|unlimited
//	    }
//	    namespace <placeholder>
//	    default   allow|deny
//	    timeout   <gate> <duration>
//	    history   [<count> <duration>] {
//	        file <path>
//	        sync always|<duration>
//	    }
//	    broker    <engine> [<args...>] {
//	        ...
//	    }
//	    history   <guard>
//	    history {
//	        <guards...>
//	        timeout <duration>
//	    }
//	    connect|subscribe|unsubscribe|publish|deliver|disconnect|api|debug <guard>
//	    connect|subscribe|unsubscribe|publish|deliver|disconnect|api|debug {
//	        <guards...>
//	        to        <channel...>
//	        transform <expression>
//	        discard
//	        timeout   <duration>
//	        recheck   <duration>
//	    }
//	    channel <pattern...> {
//	        subscribe|unsubscribe|publish|deliver <guard>
//	        subscribe|unsubscribe|publish|deliver {
//	            ...
//	        }
//	        history <count> <duration>
//	        history <guard>
//	        echo    off
//	        existing
//	        conflate
//	        patterns
//	    }
//	    @<name> <matcher>
//	}
//
// The matcher is a path, *, or a named matcher. A path such as /push covers everything
// below it, and may also be written /push* or /push/*. With *, a named matcher or no
// matcher, the block gives the path; the default is /push. After handle_path, which
// strips the path, it is /.
//
// Handlers with the same name share a hub, also across sites. One handler in a Caddyfile
// may have no name. In a named route each handler needs one.
//
// A guard is a module of the namespace http.pushit.guards. The module reads its
// arguments, and its block if it has one. Guards know the matchers of the site and those
// that the block of pushit defines.
func parseCaddyfile(h httpcaddyfile.Helper) ([]httpcaddyfile.ConfigValue, error) {
	h.Next() // the name of the directive
	if matchers, ok := h.BlockState[matchersKey].(*httpcaddyfile.Helper); ok {
		*matchers = h
		return nil, nil
	}
	p := &parser{Helper: h, directive: h.Token(), seen: make(map[string]caddyfile.Token), places: make(map[string]caddyfile.Token)}
	if err := p.checkBraces(); err != nil {
		return nil, err
	}
	if err := p.defineMatchers(); err != nil {
		return nil, err
	}
	matcher, err := p.matcher()
	if err != nil {
		return nil, err
	}
	if err := p.block("pushit", subdirectives()); err != nil {
		return nil, err
	}
	if err := p.finish(); err != nil {
		return nil, err
	}
	if err := p.checkPlace(); err != nil {
		return nil, err
	}
	p.notePlaces()
	return h.NewRoute(p.route(matcher), &p.handler), nil
}

// A parser reads one pushit directive.
type parser struct {
	httpcaddyfile.Helper
	handler   Handler
	directive caddyfile.Token
	// seen has the place of each subdirective, by name; of limits, as "limits <name>". If
	// the matcher gave the path, "matcher" has its place.
	seen map[string]caddyfile.Token
	// places has where gates, guards and channel blocks are written, by their path in the
	// JSON of the handler.
	places map[string]caddyfile.Token
}

// A subdirective reads its arguments, up to the end of its line or block.
type subdirective struct {
	name    string
	parse   func(*parser) error
	repeats bool // it may be given more than once
}

// subdirectives returns the subdirectives of pushit.
func subdirectives() []subdirective {
	return append([]subdirective{
		{name: "path", parse: (*parser).path},
		{name: "name", parse: (*parser).name},
		{name: "origins", parse: (*parser).origins},
		{name: "heartbeat", parse: func(p *parser) error {
			return p.duration(&p.handler.Heartbeat, "25s", minHeartbeat, maxHeartbeat)
		}},
		{name: "handshake", parse: func(p *parser) error {
			return p.duration(&p.handler.Handshake, "10s", minHandshake, maxHandshake)
		}},
		{name: "grace", parse: func(p *parser) error {
			return p.duration(&p.handler.Grace, "60s", minGrace, maxGrace)
		}},
		{name: "drain", parse: (*parser).drain},
		{name: "broker", parse: parseBroker},
		{name: "limits", parse: (*parser).limits},
	}, append(transportSubdirectives(), gateSubdirectives()...)...)
}

// limitSubdirectives returns the subdirectives of limits.
func limitSubdirectives() []subdirective {
	all := make([]subdirective, len(limitTable))
	for i := range limitTable {
		l := &limitTable[i]
		all[i] = subdirective{name: l.name, parse: func(p *parser) error { return p.limit(l) }}
	}
	return all
}

// matcher reads the matcher token. It stores a path in the handler, and returns the
// matchers of a name.
func (p *parser) matcher() (set caddy.ModuleMap, err error) {
	if !p.NextArg() {
		return nil, nil
	}
	switch text := p.Val(); {
	case strings.HasPrefix(text, "/"):
		p.handler.Path = routing.TrimWildcard(text)
		if err := routing.CheckPath(p.handler.Path); err != nil {
			return nil, p.WrapErr(err)
		}
		p.seen["matcher"] = p.Token()

	case text == "*", strings.HasPrefix(text, "@"):
		p.Prev() // MatcherToken reads the next token
		if set, _, err = p.MatcherToken(); err != nil {
			return nil, p.WrapErr(err)
		}

	case text == "":
		return nil, p.empty("the matcher of pushit")

	default:
		proposed := "/" + strings.TrimLeft(text, "./")
		if routing.CheckPath(proposed) != nil {
			proposed = routing.DefaultPath
		}
		return nil, p.Errf("%q is not a matcher: write a path, such as pushit %s, or the @name of a matcher, or no matcher", text, proposed)
	}
	if p.NextArg() {
		return nil, p.Errf("unexpected %q: a pushit has one path; for another path write a second pushit with its own name", p.Val())
	}
	return set, nil
}

// block reads a block, if there is one. Its subdirectives may be given once, or more
// often if they repeat. parent names the block in errors.
func (p *parser) block(parent string, known []subdirective) error {
	for nesting := p.Nesting(); p.NextBlock(nesting); {
		word := p.Val()
		sub := find(known, word)
		if strings.HasPrefix(word, "@") && parent == "pushit" {
			p.NextSegment() // defineMatchers has read it
			continue
		}
		if sub == nil {
			return p.Errf("unrecognized subdirective %q of %s; %s", word, parent, proposal(word, known))
		}
		key := word
		if parent != "pushit" {
			key = parent + " " + word
		}
		if err := p.once(sub, key); err != nil {
			return err
		}
	}
	return nil
}

// once reads a subdirective, or fails if seen has the key already.
func (p *parser) once(sub *subdirective, key string) error {
	if first, ok := p.seen[key]; ok && !sub.repeats {
		return p.Errf("%s is given twice, first at %s: keep one", key, place(first))
	}
	p.seen[key] = p.Token()
	return sub.parse(p)
}

// checkBraces requires that a closing brace ends its line. Otherwise Caddy takes the
// brace for a word of the block, and the block goes on.
func (p *parser) checkBraces() error {
	defer p.reset()
	for p.Next() {
		if last := p.Token(); last.Text != "}" || last.Quoted() || !p.NextArg() {
			continue
		}
		return p.Errf("unexpected %q after }: write it on a line of its own", p.Val())
	}
	return nil
}

func find(known []subdirective, word string) *subdirective {
	for i := range known {
		if known[i].name == word {
			return &known[i]
		}
	}
	return nil
}

// proposal suggests what to write instead of an unknown word.
func proposal(word string, known []subdirective) string {
	names := make([]string, len(known))
	for i, k := range known {
		names[i] = k.name
	}
	if name := guards.Nearest(word, names); name != "" {
		return fmt.Sprintf("did you mean %q?", name)
	}
	if strings.HasPrefix(word, "@") {
		return "define matchers in the block of pushit itself, or before it in the site"
	}
	if find(limitSubdirectives(), word) != nil {
		return "write it in a limits block"
	}
	if find(verbs("", new(Gate)), word) != nil {
		return "write it in the block of a gate"
	}
	if find(subdirectives(), word) != nil {
		return "write it in the block of pushit itself"
	}
	if find(channelSubdirectives("", new(ChannelBlock)), word) != nil {
		return "write it in the block of a channel"
	}
	if isGuard(word) {
		return fmt.Sprintf("it is a guard: write it after a gate, such as connect %s, or in the block of a gate", word)
	}
	return "there are " + strings.Join(names, ", ")
}

func (p *parser) path() error {
	path, err := p.argument("/push")
	if err != nil {
		return err
	}
	if err := routing.CheckPath(path); err != nil {
		return p.WrapErr(err)
	}
	if matcher, ok := p.seen["matcher"]; ok && path != p.handler.Path {
		return p.Errf("the path is %s here and %s in the matcher at %s: keep one of them", path, p.handler.Path, place(matcher))
	}
	p.handler.Path = path
	return p.noBlock("path")
}

func (p *parser) name() error { return p.text(&p.handler.Name, "chat", checkName) }

// text reads the only argument of the current subdirective, which check must accept.
func (p *parser) text(to *string, example string, check func(string) error) (err error) {
	word := p.Val()
	if *to, err = p.argument(example); err != nil {
		return err
	}
	if err := check(*to); err != nil {
		return p.WrapErr(err)
	}
	return p.noBlock(word)
}

func (p *parser) origins() error {
	if p.CountRemainingArgs() == 0 {
		return p.missing("origins", "https://app.example.com")
	}
	for p.NextArg() {
		switch origin := p.Val(); {
		case origin == "":
			return p.empty("an origin")
		case strings.ContainsAny(origin, "{}"):
			return p.Errf("placeholders are not expanded in the origin %q; write an environment variable as {$NAME}", origin)
		default:
			if _, err := transport.ParseOrigins([]string{origin}); err != nil {
				return p.WrapErr(err)
			}
			p.handler.Origins = append(p.handler.Origins, origin)
		}
	}
	return p.noBlock("origins")
}

func (p *parser) duration(to *caddy.Duration, example string, least, most time.Duration) error {
	return p.durationOf(p.Val(), to, example, least, most)
}

// durationOf reads a duration. Errors call it name.
func (p *parser) durationOf(name string, to *caddy.Duration, example string, least, most time.Duration) error {
	if err := p.durationIn(name, to, example, least, most); err != nil {
		return err
	}
	return p.noBlock(name)
}

// durationIn is durationOf, but a block may follow.
func (p *parser) durationIn(name string, to *caddy.Duration, example string, least, most time.Duration) error {
	text, err := p.argumentOf(name, example)
	if err != nil {
		return err
	}
	d, err := caddy.ParseDuration(text)
	if err != nil {
		return p.Errf("%s: %q is not a duration: write a number with a unit, such as %s", name, text, example)
	}
	if err := checkRange(name, caddy.Duration(d), least, most); err != nil {
		return p.WrapErr(err)
	}
	*to = caddy.Duration(d)
	return nil
}

// drain reads the time that stopping may take. It must be shorter than Caddy's
// grace_period, which ends it.
func (p *parser) drain() error {
	at := p.Token()
	if err := p.duration(&p.handler.Drain, "5s", minDrain, maxDrain); err != nil {
		return err
	}
	grace, _ := p.Option("grace_period").(caddy.Duration)
	if err := checkDrain(time.Duration(p.handler.Drain), time.Duration(grace)); err != nil {
		return errorAt(at, err)
	}
	return nil
}

func (p *parser) limits() error {
	if p.NextArg() {
		return p.Errf("unexpected %q after limits: it takes a block, with a limit on each line", p.Val())
	}
	if err := p.block("limits", limitSubdirectives()); err != nil {
		return err
	}
	if p.Val() != "}" {
		return p.Errf("limits takes a block, with a limit on each line")
	}
	if err := p.handler.Limits.checkQueue(); err != nil {
		at, ok := p.seen["limits queue_bytes"]
		if !ok {
			at = p.seen["limits message_size"]
		}
		return errorAt(at, err)
	}
	return nil
}

func (p *parser) limit(l *limit) error {
	text, err := p.argument(l.example())
	if err != nil {
		return err
	}
	v, err := l.parse(text)
	if err != nil {
		return p.WrapErr(fmt.Errorf("limits: %w", err))
	}
	*l.field(&p.handler.Limits) = v
	return p.noBlock(l.name)
}

// argument returns the only argument of the current subdirective.
func (p *parser) argument(example string) (string, error) { return p.argumentOf(p.Val(), example) }

// argumentOf returns the only argument of what errors call word.
func (p *parser) argumentOf(word, example string) (string, error) {
	if !p.NextArg() {
		return "", p.missing(word, example)
	}
	value := p.Val()
	if value == "" {
		return "", p.empty(word)
	}
	if p.NextArg() {
		return "", p.Errf("unexpected %q after %s %s: %s takes one value", p.Val(), word, value, word)
	}
	return value, nil
}

func (p *parser) missing(word, example string) error {
	return p.Errf("%s needs a value, such as %s %s; is an environment variable not set?", word, word, example)
}

func (p *parser) empty(what string) error {
	return p.Errf("%s is empty; is an environment variable not set?", what)
}

// noBlock fails if a block follows the arguments of word, because Caddy silently ignores
// what a directive does not read.
func (p *parser) noBlock(word string) error {
	last := p.Val()
	if p.NextBlock(p.Nesting()) || p.Val() != last {
		return p.Errf("%s takes no block", word)
	}
	return nil
}

// finish checks the directive as a whole, and compares it with the other ones.
func (p *parser) finish() error {
	if p.handler.Path == "" {
		p.handler.Path = routing.DefaultPath
	}
	if err := p.checkPolicy(); err != nil {
		return err
	}
	if err := p.handler.checkBroker(); err != nil {
		return errorAt(p.seen["broker"], err)
	}
	a := p.adaptation()
	if err := a.chooseName(p); err != nil {
		return errorAt(p.directive, err)
	}
	if err := a.addEndpoint(p); err != nil {
		return errorAt(p.directive, err)
	}
	return nil
}

// route returns the matchers of the route: those of set, and the path. Only in this form
// does Caddy sort longer paths first. A set that has a path matcher stays as it is,
// because the handler compares the path itself.
func (p *parser) route(set caddy.ModuleMap) caddy.ModuleMap {
	if _, ok := set["path"]; ok {
		return set
	}
	matchers := caddy.ModuleMap{}
	maps.Copy(matchers, set)
	pattern := p.handler.Path + "*"
	matchers["path"] = p.JSON(caddyhttp.MatchPath{pattern})
	return matchers
}

// An adaptation is what the pushit directives of one Caddyfile share. Caddy adapts named
// routes separately from the sites, so they have another one.
type adaptation struct {
	unnamed   *caddyfile.Token           // the directive without a name
	named     map[string]caddyfile.Token // the first directive with each name
	endpoints map[string]adapted         // the first directive with each name and path
	whole     *routing.File              // the whole Caddyfile; nil until a directive needs it
	places    explain.Places             // where whole has each pushit; likewise nil
}

type adapted struct {
	directive caddyfile.Token
	handler   *Handler
}

// adaptation returns the adaptation of the current Caddyfile.
func (p *parser) adaptation() *adaptation {
	const key = "http.handlers.pushit"
	a, ok := p.State[key].(*adaptation)
	if !ok {
		a = &adaptation{named: make(map[string]caddyfile.Token), endpoints: make(map[string]adapted)}
		p.State[key] = a
	}
	return a
}

// chooseName gives a name to a handler without one. Only one handler may have no name,
// because sites share a hub only if the Caddyfile says so.
func (a *adaptation) chooseName(p *parser) error {
	name := p.handler.Name
	proposed := a.freeName(p.handler.Path)
	if p.IsNamedRoute() {
		switch name {
		case "":
			return fmt.Errorf("in a named route a pushit needs a name, because all sites that invoke it share its hub: write name %s in its block", proposed)
		case defaultName:
			return fmt.Errorf("in a named route a pushit cannot have the name %s, which belongs to the pushit without a name: write name %s, for example", name, proposed)
		}
	}
	switch first, taken := a.named[defaultName]; {
	case name == "" && a.unnamed != nil && place(*a.unnamed) == place(p.directive):
		return errors.New("a pushit without a name is imported twice: write name {args[0]} in its block, and a name after each import")
	case name == "" && a.unnamed != nil:
		return fmt.Errorf("this pushit has no name, and the one at %s has none either: write name %s in this block to keep them apart, or the same name in both to share a hub",
			place(*a.unnamed), proposed)
	case name == "" && taken:
		return fmt.Errorf("this pushit has no name, so it would be called %s, as the one at %s is: write name %s in this block to keep them apart, or name %s to share a hub",
			defaultName, place(first), proposed, defaultName)
	case name == defaultName && a.unnamed != nil:
		return fmt.Errorf("the name %s belongs to the pushit without a name at %s: write it there too to share a hub, or name %s here to keep them apart",
			name, place(*a.unnamed), proposed)
	case name == "":
		p.handler.Name = defaultName
		a.unnamed = &p.directive
	default:
		if _, ok := a.named[name]; !ok {
			a.named[name] = p.directive
		}
	}
	return nil
}

// freeName makes a name from a path. No pushit before this one has the name.
func (a *adaptation) freeName(path string) string {
	base := strings.Map(func(c rune) rune {
		if c == '/' || !nameChar(c) {
			return '-'
		}
		return c
	}, strings.Trim(path, "/"))
	if base == "" || base == defaultName || len(base) > maxNameLength/2 {
		base = "push"
	}
	name := base
	for n := 2; ; n++ {
		if _, taken := a.named[name]; !taken {
			return name
		}
		name = base + strconv.Itoa(n)
	}
}

// addEndpoint requires that handlers with the same name and path have equal settings.
func (a *adaptation) addEndpoint(p *parser) error {
	first, ok := a.endpoints[p.handler.mount()]
	if !ok {
		a.endpoints[p.handler.mount()] = adapted{p.directive, &p.handler}
		return nil
	}
	if differ := hubpool.Difference(first.handler.settings(), p.handler.settings()); differ != "" {
		return fmt.Errorf("this pushit has the name %s and the path %s, like the one at %s, but differs in %s: make them equal, or give one of them another name or path",
			p.handler.Name, p.handler.Path, placeAndImports(first.directive), differ)
	}
	return nil
}

// place returns the position of a token as Caddy's errors write it.
func place(t caddyfile.Token) string { return fmt.Sprintf("%s:%d", t.File, t.Line) }

// placeAndImports is like place, and adds the imports if the token comes from a snippet
// or an imported file.
func placeAndImports(t caddyfile.Token) string {
	_, text, _ := strings.Cut(errorAt(t, errors.New("it")).Error(), ", at ")
	return text
}

// errorAt adds the position of t to err.
func errorAt(t caddyfile.Token, err error) error {
	d := caddyfile.NewDispenser([]caddyfile.Token{t})
	d.Next()
	return d.WrapErr(err)
}
