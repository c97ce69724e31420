// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// Package transport carries agents' frames over HTTP: net/http in, hub.Conn out.
//
// An [Endpoint] answers the requests below its path: the greeting, /info, WebSockets and
// SockJS's fallbacks, Server-Sent Events, and programs that publish.
//
//	endpoint.go, transports.go  which request gets which answer
//	origin.go, owner.go         which pages may use the endpoint; which requests may use a session
//	websocket.go                the WebSocket handshake
//	wsconn.go, wsframe.go       a WebSocket as the hub writes to it
//	wsreader.go, wsread.go      its reading side: bytes in, messages out
//	form.go                     the encodings of frames for WebSockets
//	allowance.go                the rate of frames that carry nothing for the hub
//	rawconn_unix.go             reads and writes a socket without buffers
//	baresocket_unix.go          a socket that needs no net.Conn while nobody waits for it
//	resting_linux.go            waits for idle WebSockets without a goroutine for each
//	turns.go                    has sessions that begin take turns, so that messages do not wait
//	tlsbuffers.go               frees what crypto/tls holds for an idle WebSocket
//	fallback_http.go            the requests of a fallback
//	session.go                  a session over a fallback, which joins its requests
//	response.go, framing.go     a response that carries frames, and the bytes SockJS wants in it
//	departed.go                 whether the client of a response has left
//	sse.go                      streams of Server-Sent Events
//	publish.go                  requests of programs that publish
//	status.go                   requests for the status page
//	sockjs.go, legacy.go        what SockJS clients send, today's and those of 2011
//	relay.go, relay_home.go     requests of a session that another machine has
//	relay_abandon.go            tells that machine which sessions their clients gave up
//	hang.go                     clients that leave while their machine hangs, or is cut off
//
// Limits of frames, publishes and queues are those of the hub: see the documentation of
// package hub. This package limits what must be known before there is a frame.
//
// At <path>/websocket each text message is one JSON object. At
// <path>/<server>/<session>/websocket the same objects are strings in SockJS frames: o,
// h, a["…"], c[code,"reason"]. A client of 2011 sends and gets them as objects (legacy.go).
//
// Set the field ConnContext of the http.Server to [ConnContext].
//
// Pages that cannot use WebSocket use the fallbacks. Then a session consists of many
// requests: some receive frames, others send them. The session's name joins them, and they
// must have the same owner.
//
// # What sockjs-go is used for
//
// github.com/igm/sockjs-go exports a handler, its options and the function that sets its
// cookie. This package calls that function. Its tests compare all framings with those of
// sockjs-go, byte by byte.
//
// The handler serves no request here, because it only works with its own sessions. Those
// tell well-behaved clients that another connection is open (one poll in 300 on a quiet
// machine). One client that does not read makes all others wait. They queue messages
// without a limit, and they end when a reload replaces the handler. The handler also
// accepts bodies of any size, and answers 204 to some that it drops.
//
// # Sessions at other machines
//
// If the hub has a Bus, any machine takes any request of a fallback session, and relays it to
// the session's home: see relay.go for both sides, relay_home.go for the home's. Without a
// Bus, a request costs one look at a nil more.
//
// # What an idle session costs
//
// For a WebSocket, the HTTP handler returns after the upgrade, so the request, its writers
// and their buffers can be freed. What stays is the net.Conn, and what reads and writes it. On
// Linux, no goroutine waits for bytes: the reader rests (resting_linux.go) from the end of one
// message to the beginning of the next, unless its peer is talkative. Elsewhere, and for the
// connections of listener wrappers, one goroutine waits. Plain TCP, unix sockets and TLS need
// no buffer while they wait, and listener wrappers a small one.
//
// Close, Cut and all that ends a session wake a reader that rests. Then it waits in a goroutine
// of its own, where read deadlines apply. There is no deadline while a reader rests: the hub's
// heartbeats show whether the peer is alive.
//
// For a fallback or a stream of Server-Sent Events, net/http keeps the request, its buffers
// and two goroutines. This package adds none.
//
// # Many that come at once
//
// On Linux, sessions that begin take turns: when they are opened, and before the first reads of
// their WebSockets. The user of this package should call [AcceptTurn] in the ConnState of the
// http.Server for each new connection, and [Turn] before it handles its first request. A few
// turns are free in each millisecond. Otherwise newcomers wait until Go's scheduler has nothing
// else to run, or its poller has been asked, which it is each 10 ms. So they take what is left of
// the processor, and a share of it if nothing is left.
//
// # Goroutines
//
//	goroutine  started by                                   owns                                         ends when                              awaited by
//	reader     Endpoint.serveWebSocket, wsReader.read       reading the net.Conn, Agent.Receive,         it rests, the peer has left, or within nothing: it ends with Agent.Left,
//	           restingReaders.run, wsConn.wake              closing the net.Conn, Agent.Left             two seconds of Conn.Close              which waits for the hub's writer
//	           epollSet.add
//	resting    restingReaders.enter                         nothing: it wakes readers                    the last WebSocket has ended           the end of that reader
//	response   net/http                                     the header, the first bytes, session.detach  the response is complete or cancelled  net/http
//	deadline   Endpoint.serveReceive, Endpoint.serveStream  nothing: it asks a response to end           at once                                nothing
//	           Sessions.receiveFor
//	greeting   session.endGreeting                          nothing: likewise for the first stream       at once                                nothing
//	expiry     session.expireInLocked                       session.forget, Left                         at once                                nothing
//	leaving    session.endLocked, session.Cut               Left                                         no frame is being received             nothing
//	relayed    relays.obtain                                session.detach, the result of a relay        the frame is written, or given up      nothing
//	hurrying   Sessions.hurry                               nothing: it asks the home to end a response  the response has ended, in a second    nothing
//	giving up  relay.receive                                nothing: it tells the home                   the home has heard it, in two seconds  nothing
//	abandoning Endpoint.abandonLocked                       abandonments.list                            all homes have heard it, in 30 s        nothing
//	pulse      Sessions.feelPulse                           Sessions.pulse                               the hub ends                            nothing
//	forgetting relays.answered                              relays.byID                                  at once                                nothing
//
// The hub writes to a Conn from one goroutine at a time. The reader never writes while the
// hub may: it sends pongs with Agent.Send, and answers the peer's close frame after
// Agent.Left.
//
// # What clients send
//
// This package checks limits before it uses memory: the header of each frame, the length
// of a message with all its fragments, the time from a message's first byte to its last,
// the number of strings in a SockJS message, and the rate of frames that carry nothing for
// the hub. If a client breaks a rule, Agent.Close tells it the code and the reason. Then
// the reader drops the rest for a bounded time, so that no TCP reset overtakes the reason.
//
// The package is larger than 3,500 lines because WebSocket and the fallbacks share origins,
// owners and limits, which would otherwise have to be exported.
package transport
