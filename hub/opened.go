// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"net/netip"
	"strings"
	"unique"

	"github.com/push-it/pushit/hub/internal/packed"
)

// An Opened is what an agent keeps of its Opening. It has the same values, but takes less
// memory: up to 100,000 agents may be idle, and most of what their requests said is the same
// for thousands of them. Agents share that; package unique forgets what no agent uses.
//
// Strings that it returns may be parts of larger ones, which have cookies in them. Clone those
// that outlive the agent, except Transport, Namespace and User.
type Opened struct {
	site   unique.Handle[site]
	common unique.Handle[string] // the header block, with an empty line for each line in own
	own    string                // the agent's own part; see ownIP
	rare   *rare                 // nil if all its fields are zero
}

// A site is where requests go to. There are few of them.
type site struct{ transport, namespace, scheme, host, uri string }

// rare has what most sessions lack.
type rare struct {
	user, certificate string
	tracer            Tracer
}

// isCommon reports whether many clients send the same value in a header field. All other
// fields, also unknown ones, are the agent's own, so that agents never share credentials: no
// field that may hold some belongs here. A name that is missing here costs memory, and nothing else.
func isCommon(name string) bool {
	switch name {
	case "Accept", "Accept-Charset", "Accept-Encoding", "Accept-Language", "Cache-Control", "Dnt", "Origin", "Pragma",
		"Priority", "User-Agent", "Via", "X-Forwarded-Host", "X-Forwarded-Port", "X-Forwarded-Proto", "X-Requested-With":
		return true
	}
	return strings.HasPrefix(name, "Sec-Ch-") || strings.HasPrefix(name, "Sec-Fetch-") || name == "Sec-Gpc"
}

// The texts at the beginning of own. Header lines follow.
const (
	ownIP         = iota // in binary, because guards need it often; empty if it is invalid
	ownRemoteAddr        // text, because it may be none, as of a unix socket
	ownURI               // empty if the URI is in site: with a query, it may hold a token
	ownValues
	ownHeader
)

// newOpened packs o.
func newOpened(o *Opening) Opened {
	s := site{transport: o.Transport, namespace: o.Namespace, scheme: o.Scheme, host: o.Host}
	uri := ""
	if strings.Contains(o.URI, "?") {
		uri = o.URI
	} else {
		s.uri = o.URI
	}
	common, own := getJoin(len(o.Header)), getJoin(len(o.Header))
	defer putJoin(common)
	defer putJoin(own)
	var room [16]byte
	ip, _ := o.RemoteIP.AppendBinary(room[:0]) // never fails
	for _, text := range [ownHeader]string{ownIP: string(ip), ownRemoteAddr: o.RemoteAddr, ownURI: uri, ownValues: o.Values} {
		own.bytes = packed.AppendText(own.bytes, text)
	}
	for line := range strings.Lines(o.Header) {
		if name, _, ok := strings.Cut(line, ":"); ok && isCommon(name) {
			common.bytes = append(common.bytes, line...)
		} else {
			own.bytes = append(own.bytes, line...)
			common.bytes = append(common.bytes, '\n')
		}
	}
	d := Opened{site: unique.Make(s), common: unique.Make(string(common.bytes)), own: string(own.bytes)}
	if o.User != "" || o.Certificate != "" || o.Tracer != nil {
		d.rare = &rare{o.User, o.Certificate, o.Tracer}
	}
	return d
}

// from returns the part of own that begins with a text, or, with ownHeader, with the header
// lines.
func (o *Opened) from(text int) string {
	rest := o.own
	for range text {
		_, rest = packed.CutText(rest)
	}
	return rest
}

// text returns a text of own.
func (o *Opened) text(text int) string {
	s, _ := packed.CutText(o.from(text))
	return s
}

// Transport returns the name of the session's transport.
func (o *Opened) Transport() string { return o.site.Value().transport }

// Namespace returns the Namespace of the Opening.
func (o *Opened) Namespace() string { return o.site.Value().namespace }

// Scheme returns the Scheme of the Opening.
func (o *Opened) Scheme() string { return o.site.Value().scheme }

// Host returns the Host of the Opening.
func (o *Opened) Host() string { return o.site.Value().host }

// URI returns the URI of the Opening.
func (o *Opened) URI() string {
	if uri := o.text(ownURI); uri != "" {
		return uri
	}
	return o.site.Value().uri
}

// RemoteAddr returns the RemoteAddr of the Opening.
func (o *Opened) RemoteAddr() string { return o.text(ownRemoteAddr) }

// RemoteIP returns the RemoteIP of the Opening.
func (o *Opened) RemoteIP() (ip netip.Addr) {
	_ = ip.UnmarshalBinary([]byte(o.text(ownIP))) // newOpened wrote it
	return ip
}

// address returns the key under which the session counts. It stays the same as long as the
// session lasts.
func (o *Opened) address() netip.Prefix { return addressKey(o.RemoteIP()) }

// User returns the User of the Opening.
func (o *Opened) User() string {
	if o.rare == nil {
		return ""
	}
	return o.rare.user
}

// Certificate returns the Certificate of the Opening.
func (o *Opened) Certificate() string {
	if o.rare == nil {
		return ""
	}
	return o.rare.certificate
}

// tracer returns the Tracer of the Opening.
func (o *Opened) tracer() Tracer {
	if o.rare == nil {
		return nil
	}
	return o.rare.tracer
}

// Values returns the Values of the Opening.
func (o *Opened) Values() string { return o.text(ownValues) }

// Fields yields the name and value of each header field of the Opening, in order.
func (o *Opened) Fields(yield func(name, value string) bool) {
	own := o.from(ownHeader)
	for line := range strings.Lines(o.common.Value()) {
		if line == "\n" {
			line, own = cutLine(own)
		}
		if name, value := cutField(line); !yield(name, value) {
			return
		}
	}
}

// HeaderKey returns two strings that are both equal for sessions whose header fields are the
// same in the same order, and for no others. The second has credentials in it.
func (o *Opened) HeaderKey() (common, own string) {
	return o.common.Value(), o.from(ownHeader)
}

// cutLine returns the first line of text, and what follows it.
func cutLine(text string) (line, rest string) {
	end := strings.IndexByte(text, '\n') + 1
	if end == 0 {
		end = len(text)
	}
	return text[:end], text[end:]
}
