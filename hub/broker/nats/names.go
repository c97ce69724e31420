// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package nats

import "strings"

// Subjects of a hub are below <prefix>.<hub>:
//
//	p.<namespace>.<channel>   what is published, which the stream takes
//	l.<namespace>.<channel>   the same as the stream sends it on, with its number
//	b.<topic>                 broadcasts between nodes
//	r.<incarnation>.<topic>   requests to one node
//	h, g                      heartbeats, goodbyes
//
// Nobody publishes on l, and no node subscribes to p: with a subscriber, a publish to a
// stream that is not there would wait for an answer in vain.

// emptyToken stands for an empty part of a name: NATS knows no empty tokens. No other part
// becomes it, because hexadecimal digits follow each % that comes from a byte.
const emptyToken = "%--"

// appendToken appends text as one token of a subject. Different texts become different
// tokens. Most names stay as they are.
func appendToken(dst []byte, text string) []byte {
	const hex = "0123456789ABCDEF"
	if text == "" {
		return append(dst, emptyToken...)
	}
	for i := range len(text) {
		switch c := text[i]; {
		case c <= ' ', c >= 0x7f, c == '%', c == '.', c == '*', c == '>':
			dst = append(dst, '%', hex[c>>4], hex[c&15])
		default:
			dst = append(dst, c)
		}
	}
	return dst
}

func token(text string) string { return string(appendToken(nil, text)) }

// appendChannel appends a key of a channel (see hub.Message.Key) as tokens: the namespace,
// and one for each segment of the name. So "a.>" has all channels that the pattern "a/*"
// matches. A subject says who may read it, and what the log keeps of it; the record has the
// name itself.
func appendChannel(dst []byte, key string) []byte {
	namespace, channel, found := strings.Cut(key, "\x00")
	if !found {
		channel = key
		dst = append(dst, '0')
	} else {
		dst = appendToken(append(dst, 'n'), namespace)
	}
	for segment := range strings.SplitSeq(channel, "/") {
		dst = appendToken(append(dst, '.'), segment)
	}
	return dst
}

// names are the subjects and the stream of a hub.
type names struct {
	base   string // "<prefix>.<hub>."
	stream string
	api    string // what precedes the subjects of JetStream's API
	node   string // the incarnation of this node
}

func newNames(prefix, hub, domain, incarnation string) names {
	n := names{base: prefix + "." + token(hub) + ".", api: "$JS.API.", node: incarnation}
	n.stream = strings.ReplaceAll(prefix, ".", "%2E") + "-" + token(hub)
	if domain != "" {
		n.api = "$JS." + domain + ".API."
	}
	return n
}

func (n *names) publish(key string) string {
	dst := make([]byte, 0, len(n.base)+len(key)+8)
	return string(appendChannel(append(append(dst, n.base...), "p."...), key))
}

func (n *names) published() string { return n.base + "p.>" }
func (n *names) live() string      { return n.base + "l.>" }
func (n *names) heartbeat() string { return n.base + "h" }
func (n *names) goodbye() string   { return n.base + "g" }

// broadcast returns the subject of broadcasts about a topic, request that of requests to a
// node.
func (n *names) broadcast(topic string) string { return n.base + "b." + token(topic) }

func (n *names) request(incarnation, topic string) string {
	return n.base + "r." + token(incarnation) + "." + token(topic)
}
