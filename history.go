// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package pushit

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/internal/hubpool"
)

// History says which messages of a channel the server keeps for agents that come back,
// and where.
type History struct {
	// How many messages of each channel are kept. Between 1 and 100000. Required, unless
	// it is off, or only `channels` keep messages.
	Count int `json:"count,omitempty"`

	// How long a message is kept. Between 1s and 30d. Required like `count`.
	TTL caddy.Duration `json:"ttl,omitempty"`

	// The file that has the messages, as an absolute path, such as
	// `/var/lib/caddy/history.db`. Global placeholders are expanded. The file belongs to
	// the hub: all endpoints with a `file` and the same name must have the same one, and
	// it has no place in `channels`. Default: the messages are only in memory, and a
	// restart loses them.
	File string `json:"file,omitempty"`

	// How long messages may be only with the operating system, and not on the disk yet. A
	// power cut loses the messages of this time. Between 10ms and 1m. Default: 0, a
	// message is acknowledged when it is on the disk. Only with `file`.
	Sync caddy.Duration `json:"sync,omitempty"`

	// Keep nothing of these channels, although the history of the handler, or of a block
	// below, would. Without count and ttl.
	Off bool `json:"off,omitempty"`
}

// The ranges of a History.
const (
	maxHistoryCount = 100_000
	minHistoryTTL   = time.Second
	maxHistoryTTL   = 30 * 24 * time.Hour
)

// check returns what is wrong with the history outside of channel blocks, if blocks is not
// nil, or with that in one of them.
func (h *History) check(blocks []ChannelBlock) error {
	if h == nil {
		return nil
	}
	if blocks == nil && (h.File != "" || h.Sync != 0) {
		return errFileInBlock
	}
	if err := h.checkFile(); err != nil {
		return err
	}
	if h.Off {
		if h.Count != 0 || h.TTL != 0 {
			return errors.New("history: with off there is no count and no ttl")
		}
		return nil
	}
	if h.File != "" && h.Count == 0 && h.TTL == 0 {
		if !slices.ContainsFunc(blocks, func(b ChannelBlock) bool { return b.History != nil && !b.History.Off }) {
			return errors.New("history has a file, but keeps nothing: write how many messages of each channel are kept, and for how long, such as history 100 1h, here or in a channel block")
		}
		return nil
	}
	if err := checkHistoryCount(h.Count); err != nil {
		return err
	}
	return checkRange("the time of history", h.TTL, minHistoryTTL, maxHistoryTTL)
}

var errFileInBlock = errors.New("history has no file in a channel block, because the file belongs to the hub: write history { file <path> } outside of channel blocks")

func (h *History) checkFile() error {
	return hubpool.File{Path: h.File, Sync: time.Duration(h.Sync)}.Check()
}

// keepHistory tells the hub which file its history is in, if h has one.
func (h *Handler) keepHistory(log *slog.Logger) error {
	if h.History == nil || h.History.File == "" {
		return nil
	}
	path, err := caddy.NewReplacer().ReplaceOrErr(h.History.File, true, true)
	if err != nil {
		return fmt.Errorf("history: the path of file: %w", err)
	}
	f := hubpool.File{Path: filepath.Clean(path), Sync: time.Duration(h.History.Sync)}
	if err := f.Check(); err != nil {
		return fmt.Errorf("%s: %w", h.History.File, err)
	}
	return h.use.KeepIn(f, h.site.place(), log)
}

// checkHistories returns what is wrong with the histories of h.
func (h *Handler) checkHistories() error {
	return errors.Join(h.History.check(h.blocks()), h.eachBlock(func(b *ChannelBlock) error { return b.History.check(nil) }))
}

// blocks returns the channel blocks; never nil.
func (h *Handler) blocks() []ChannelBlock { return append([]ChannelBlock{}, h.Channels...) }

func checkHistoryCount(n int) error {
	return checkCount("history: the number of messages", n, maxHistoryCount)
}

// histories finds the history of a channel.
type histories struct {
	rules  []channelRule[hub.HistoryRule]
	others hub.HistoryRule // of channels without a block
}

// histories returns the history rules of h, or nil if h keeps nothing.
func (h *Handler) histories() (hub.Histories, error) {
	rules, err := channelRules(h, func(b *ChannelBlock) (hub.HistoryRule, bool, error) { return b.History.rule(), b.History != nil, nil })
	if err != nil || h.History == nil && rules == nil {
		return nil, err
	}
	return &histories{rules, h.History.rule()}, nil
}

func (h *History) rule() hub.HistoryRule {
	if h == nil {
		return hub.HistoryRule{}
	}
	return hub.HistoryRule{Count: h.Count, TTL: time.Duration(h.TTL)}
}

// History implements hub.Histories.
func (all *histories) History(channel string) hub.HistoryRule {
	return firstRule(all.rules, channel, all.others)
}

// historyOrGate reads what `history` says. If a number, `off`, or a block with a file
// follows, it says what is kept. Else it is the gate history. parent is where the gates are in the JSON.
func historyOrGate(p *parser, parent string, to **History, gates *map[string]*Gate) error {
	what := "history with guards"
	if saysWhatIsKept(p) {
		what = "history"
	}
	if first, ok := p.seen["read: "+what]; ok {
		return p.Errf("%s is given twice, first at %s: keep one", what, place(first))
	}
	p.seen["read: "+what] = p.Token()
	if what == "history" {
		return p.history(to, parent != "")
	}
	return p.gate(parent, gates)
}

// saysWhatIsKept reports whether `history`, the current word, says what is kept.
func saysWhatIsKept(p *parser) bool {
	if p.NextArg() {
		defer p.Prev()
		return p.Val() == "off" || strings.IndexAny(p.Val(), "+-0123456789") == 0
	}
	if !p.Next() {
		return true
	}
	defer p.Prev()
	if p.Val() != "{" {
		return true
	}
	if !p.Next() {
		return false
	}
	defer p.Prev()
	return p.Val() == "file" || p.Val() == "sync"
}

// history reads `history [<count> <time>] [{ … }]`, or `history off`. in says that it is in a
// channel block, where it has no block of its own.
func (p *parser) history(to **History, in bool) error {
	const example = "history 100 1h"
	at := p.Token()
	h := new(History)
	args := p.CountRemainingArgs()
	if args == 1 && p.NextArg() && p.Val() == "off" {
		*to = &History{Off: true}
		return p.noBlock("history off")
	}
	if args != 2 && (in || args != 0) {
		return p.Errf("history needs a number of messages and a time, or guards: write %s, or history user", example)
	}
	if args == 2 {
		p.NextArg()
		n, err := strconv.Atoi(p.Val())
		if err != nil {
			return p.Errf("history: %q is not a whole number: write a number of messages and a time, such as %s", p.Val(), example)
		}
		if err := checkHistoryCount(n); err != nil {
			return p.WrapErr(err)
		}
		h.Count = n
		if err := p.durationIn("the time of history", &h.TTL, "1h", minHistoryTTL, maxHistoryTTL); err != nil {
			return err
		}
	}
	last := p.Val()
	if in {
		if p.NextBlock(p.Nesting()) || p.Val() != last {
			return errorAt(at, errFileInBlock)
		}
	} else if err := p.block("history", []subdirective{
		{name: "file", parse: func(p *parser) error {
			return p.text(&h.File, hubpool.ExampleFile, func(path string) error { return hubpool.File{Path: path}.Check() })
		}},
		{name: "sync", parse: func(p *parser) error { return historySync(p, h) }},
	}); err != nil {
		return err
	}
	switch {
	case h.File == "" && args == 0:
		return errorAt(at, fmt.Errorf("history needs a number of messages and a time, or guards: write %s, or history user", example))
	case h.File == "":
		if sync, ok := p.seen["history sync"]; ok && !in {
			return errorAt(sync, errors.New("history has sync, but no file: write file <path>, or leave sync out"))
		}
	}
	*to = h
	return nil
}

// historySync reads `sync always|<duration>`.
func historySync(p *parser, h *History) error {
	text, err := p.argument("always")
	if err != nil {
		return err
	}
	if text != "always" {
		d, err := caddy.ParseDuration(text)
		if err != nil {
			return p.Errf("sync: %q is neither always nor a duration: write sync always, or a number with a unit, such as sync 100ms", text)
		}
		h.Sync = caddy.Duration(d)
		if err := hubpool.CheckSync(d); err != nil {
			return p.WrapErr(err)
		}
	}
	return p.noBlock("sync")
}
