// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// Package transport carries agents' frames over HTTP: net/http in, hub.Conn out.
//
// An [Endpoint] answers what lies below its path: the greeting, /info, and the
// WebSocket in two forms. At <path>/websocket each text message is one JSON
// object; at <path>/<server>/<session>/websocket the same objects travel as
// strings in SockJS frames (o, h, a["…"], c[code,"reason"]). A client of 2011 has
// them as objects (legacy.go).
//
// Pages that cannot have WebSocket use SockJS's fallbacks: a session is then a
// fallback, which requests that receive and requests that send have in common by
// its name and by whom it belongs to. framing.go has the bytes that SockJS wants in
// responses, response.go has the response that carries them, session.go has the
// session.
//
// # What sockjs-go is used for
//
// github.com/igm/sockjs-go exports a handler, its options, and what sets its cookie. The
// cookie is set by it, and the tests compare every framing with its own, byte by byte.
// Its handler serves no request here, because it cannot be had without its sessions:
// they tell clients that do one thing after the other that another connection is open
// (one poll in 300 on a quiet machine), keep everybody waiting for one client that does
// not read, keep messages without a limit, and end with the handler that a reload
// replaces. It takes bodies of any size, and answers 204 to some that it drops.
//
// # What a WebSocket costs while it is idle
//
// The handler returns after the upgrade, so that nothing of the request, of its
// writers or of their buffers lives on. What stays is the net.Conn, one
// goroutine that waits for bytes, and the state of a frame that has not
// arrived whole. On plain TCP and unix sockets no buffer is held while waiting;
// TLS, and what listener wrappers make, need a small one.
//
// # Goroutines
//
//	goroutine  started by      owns                         ends when                  awaited by
//	reader     Endpoint.Serve  reading the net.Conn,        the peer has left, or      nobody; it ends with
//	                           Agent.Receive, closing the   within two seconds of      Agent.Left, which waits
//	                           net.Conn, Agent.Left         Conn.Close                 for the hub's writing
//
//	response   net/http        the header, the first bytes, the response is complete,  net/http
//	                           session.detach               given up or has failed
//	expiry     a timer of the  session.forget, Left         at once                    nobody
//	           session
//	leaving    session.end     Left                         no frame is being received nobody
//
// The hub writes through the Conn, one goroutine at a time. The reader writes
// nothing while the hub may: its pongs go through Agent.Send, and its answer to
// the peer's close frame is written after Agent.Left.
//
// # What comes from outside
//
// is bounded before memory is spent on it: the header of each frame, the length
// of a message over all its fragments, the time from a message's first byte to
// its last, the strings in a SockJS message, the rate of frames that carry
// nothing for the hub. Whatever breaks a rule is told so: Agent.Close with a
// code and a sentence, then the rest is read and dropped for a bounded time, so
// that a reset does not overtake the sentence.
package transport
