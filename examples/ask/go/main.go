// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// A backend for pushit's guard ask. It answers each request, so make sure that only Caddy
// can reach it.
package main

import (
	"cmp"
	"encoding/json"
	"log"
	"net/http"
	"os"
	"strings"
	"time"
)

type object = map[string]any

var users = map[string]object{ // by token
	"ann-secret": {"user": "ann", "claims": object{"role": "editor"}},
	"bob-secret": {"user": "bob", "claims": object{"role": "reader"}},
}

type question struct {
	Gate, Channel string
	Agent         struct {
		User   string
		Claims struct{ Role string }
	}
	Credentials struct{ Token string }
	Message     struct{ Data struct{ Text string } }
}

func answer(w http.ResponseWriter, r *http.Request) {
	var q question
	yes := func(answer object) {
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			log.Print(err)
		}
	}
	switch err := json.NewDecoder(r.Body).Decode(&q); {
	case err != nil:
		http.Error(w, "not a question", http.StatusBadRequest)
	case q.Gate == "connect" && users[q.Credentials.Token] != nil:
		yes(users[q.Credentials.Token])
	case q.Gate == "connect":
		http.Error(w, "wrong token", http.StatusForbidden)
	case q.Gate == "subscribe" && (q.Channel == "news" || q.Channel == "users/"+q.Agent.User):
		yes(object{})
	case q.Gate == "subscribe":
		http.Error(w, "this channel is not yours", http.StatusForbidden)
	case q.Gate != "publish":
		http.Error(w, "not a question", http.StatusBadRequest)
	case q.Channel != "news" || q.Agent.Claims.Role != "editor":
		http.Error(w, "only editors write here", http.StatusForbidden)
	case strings.TrimSpace(q.Message.Data.Text) == "":
		w.WriteHeader(http.StatusNoContent)
	default:
		yes(object{"data": object{"from": q.Agent.User, "text": strings.TrimSpace(q.Message.Data.Text)}})
	}
}

func main() {
	server := http.Server{
		Addr:              "127.0.0.1:" + cmp.Or(os.Getenv("PORT"), "8081"),
		Handler:           http.HandlerFunc(answer),
		ReadHeaderTimeout: 5 * time.Second,
	}
	log.Fatal(server.ListenAndServe())
}
