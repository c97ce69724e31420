// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/push-it/pushit/hub"
)

// A gate is a listener of a server that hangs: connections wait in the kernel.
type gate struct {
	net.Listener
	hung sync.RWMutex
}

func (g *gate) Accept() (net.Conn, error) {
	conn, err := g.Listener.Accept()
	g.hung.RLock()
	defer g.hung.RUnlock()
	return conn, err
}

// A server that hung may find requests to receive whose clients have left meanwhile. A frame
// that it writes for such a client has not arrived, so the session ends, and not only when it
// expires. This is so at the home of the session, and at a machine that relays the request.
func TestClientsThatLeaveAServerThatHangs(t *testing.T) {
	t.Parallel()
	for at, where := range []string{"home", "relaying"} {
		t.Run(where, func(t *testing.T) {
			t.Parallel()
			m := newMachines(t, 2, hub.Policy{}, nil)
			m.choose = func(*http.Request) int { return 0 }
			const clients = 20
			var paths []string
			for range clients {
				c := m.client(t)
				c.connect("xhr")
				c.finish()
				paths = append(paths, strings.TrimPrefix(c.URL, "http://site.example"))
			}
			home, hung := m.all[0].e.Hub, m.all[at]
			hung.gate.hung.Lock()
			for _, path := range paths {
				conn, err := net.Dial("tcp", hung.gate.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				_, err = fmt.Fprintf(conn, "POST %s/xhr?n=9 HTTP/1.1\r\nHost: site.example\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", path)
				if err := errors.Join(err, conn.Close()); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := home.Publish(t.Context(), hub.NewMessage("room", "1", []byte("1"))); err != nil {
				t.Fatal(err)
			}
			waitFor(t, "frames to wait", func() bool {
				page, err := home.Operator().Agents(t.Context(), hub.AgentQuery{})
				waiting := 0
				for _, a := range page.Agents {
					waiting += min(a.QueuedFrames, 1)
				}
				return err == nil && waiting == clients
			})
			hung.gate.hung.Unlock()
			waitFor(t, "all sessions without a client to end", func() bool { return home.Agents() == 0 })
		})
	}
}

// A response that another machine relays ends when the home knows that the frame was written. A
// client that leaves before, because the home hangs, has given the session up.
func TestClientsThatLeaveWhileTheHomeHangs(t *testing.T) {
	t.Parallel()
	m := newMachines(t, 2, hub.Policy{}, nil)
	m.choose = func(*http.Request) int { return 0 }
	c := m.client(t)
	c.connect("xhr")
	c.finish()
	c.publish("x") // so that there is a frame
	home := m.all[0]
	asked, goesOn := make(chan struct{}), make(chan struct{})
	home.Handle(relayTopic, func(ctx context.Context, from hub.NodeID, b []byte) []byte {
		var q relayRequest
		if _, ok := parseRelay(b, &q); ok && q.Do == relayWritten {
			close(asked)
			<-goesOn
		}
		return home.e.Sessions.answerRelay(ctx, from, b)
	})
	conn, err := net.Dial("tcp", m.all[1].s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(conn, "POST %s/xhr?n=9 HTTP/1.1\r\nHost: site.example\r\nContent-Length: 0\r\n\r\n", strings.TrimPrefix(c.URL, "http://site.example")); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	for line := ""; !strings.HasPrefix(line, "a["); {
		if line, err = r.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	<-asked
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	close(goesOn)
	waitFor(t, "the session without a client to end", func() bool { return home.e.Hub.Agents() == 0 })
}
