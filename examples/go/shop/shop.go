// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// Package shop is the application of the guide: users log in and see when their orders are
// shipped. It stands for yours: pushit needs Ask, and whatever publishes.
package shop

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/push-it/pushit/examples/go/push"
)

// Your application has users and orders of its own.
var (
	passwords = map[string]string{"ann": "wonderland", "bob": "builder"}
	owners    = map[string]string{"1": "ann", "2": "bob"}
)

// A Shop serves its visitors, and answers pushit.
type Shop struct {
	push  *push.Client
	pages http.ServeMux

	mu       sync.Mutex
	sessions map[string]string // users by their cookies
}

// New returns a shop that publishes with that client.
func New(client *push.Client) *Shop {
	s := &Shop{push: client, sessions: make(map[string]string)}
	s.pages.HandleFunc("POST /login", s.logIn)
	s.pages.HandleFunc("POST /orders/{order}/ship", s.ship)
	return s
}

// Serve serves visitors at one address, and the questions of pushit at another. It closes
// both when one of them fails.
func (s *Shop) Serve(visitors, questions net.Listener) error {
	failed := make(chan error, 2)
	for listener, handler := range map[net.Listener]http.Handler{visitors: &s.pages, questions: http.HandlerFunc(s.Ask)} {
		server := http.Server{
			Handler:           handler,
			ReadHeaderTimeout: 5 * time.Second,
			// Caddy keeps a connection for 2 minutes. It does not send a form again when it
			// finds out that the connection is gone, so we keep it for longer.
			IdleTimeout: 150 * time.Second,
		}
		defer server.Close() //nolint:errcheck // the other error counts
		go func() { failed <- server.Serve(listener) }()
	}
	return <-failed
}

// Ask answers the questions of pushit: who is this, and may this user subscribe? They have
// the cookies of the page. Serve it where only Caddy reaches it.
func (s *Shop) Ask(w http.ResponseWriter, r *http.Request) {
	var question struct {
		Gate, Channel string
		Pattern       bool
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10)).Decode(&question); err != nil {
		http.Error(w, "not a question", http.StatusBadRequest)
		return
	}
	user := s.user(r)
	order, isOrder := strings.CutPrefix(question.Channel, "orders/")
	switch {
	case user == "":
		http.Error(w, "log in first", http.StatusUnauthorized)
	case question.Gate == "connect":
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(map[string]string{"user": user}); err != nil {
			log.Print(err)
		}
	case question.Gate == "subscribe" && isOrder && !question.Pattern && owners[order] == user:
		w.WriteHeader(http.StatusNoContent)
	default:
		http.Error(w, "this is not your order", http.StatusForbidden)
	}
}

// user returns the user who is logged in, or "".
func (s *Shop) user(r *http.Request) string {
	cookie, err := r.Cookie("session")
	if err != nil {
		return ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions[cookie.Value]
}

func (s *Shop) logIn(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
	user := r.PostFormValue("user")
	want, known := passwords[user]
	if !known || subtle.ConstantTimeCompare([]byte(want), []byte(r.PostFormValue("password"))) == 0 {
		http.Error(w, "wrong user or password", http.StatusForbidden)
		return
	}
	id := rand.Text()
	s.mu.Lock()
	s.sessions[id] = user
	s.mu.Unlock()
	// Secure is fine for http://localhost, too, in all browsers but Safari.
	http.SetCookie(w, &http.Cookie{Name: "session", Value: id, Path: "/", HttpOnly: true, Secure: true, SameSite: http.SameSiteLaxMode})
	w.WriteHeader(http.StatusNoContent)
}

func (s *Shop) ship(w http.ResponseWriter, r *http.Request) {
	order := r.PathValue("order")
	if user := s.user(r); user == "" || owners[order] != user {
		http.Error(w, "this is not your order", http.StatusForbidden)
		return
	}
	// The uuid says what happened, so that it is published once, however often this runs.
	err := s.push.Publish(r.Context(), "orders/"+order, map[string]string{"status": "shipped"}, "order-"+order+"-shipped")
	if err != nil {
		log.Print(err)
		http.Error(w, "the pages could not be told", http.StatusBadGateway)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}
