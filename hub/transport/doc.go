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
// its name and by whom it belongs to. github.com/igm/sockjs-go writes the
// responses that receive. Each is a session of its own to it, with one request:
// its sessions say that another connection is open to clients that do one thing
// after the other (one poll in 300 on a quiet machine), keep everybody waiting
// for one who does not read, and end with the handler that a reload replaces. So
// the sessions are pushit's, and their queues the hub's. Bodies of requests that
// send are read here: sockjs-go has no limit for them, and answers 204 to some
// that it has dropped.
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
//	response   net/http            sockjs-go's writing of it,   the response is complete,  net/http
//	                               fallback.detach              given up or has failed
//	sockjs-go's sockjs-go          nothing of ours              the response ends          nobody
//	expiry     a timer of the      fallback.forget, Left        at once                    nobody
//	           fallback
//	leaving    fallback.end        Left                         no frame is being received nobody
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
