// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"testing"

	"github.com/push-it/pushit/hub"
)

func TestUser(t *testing.T) {
	for name, c := range map[string]struct {
		ids     []string
		site    string // that the site authenticated
		learned string // that the connect gate learned
		want    Kind
	}{
		"anybody":                         {nil, "bob", "", Pass},
		"anybody, learned":                {nil, "", "bob", Pass},
		"nobody":                          {nil, "", "", Deny},
		"one of them":                     {[]string{"alice", "bob"}, "bob", "", Pass},
		"one of them, learned":            {[]string{"alice", "bob"}, "", "bob", Pass},
		"none of them":                    {[]string{"alice"}, "bob", "", Deny},
		"nobody is none of them":          {[]string{"alice"}, "", "", Deny},
		"case counts":                     {[]string{"Bob"}, "bob", "", Deny},
		"the site's comes first":          {[]string{"alice"}, "bob", "alice", Deny},
		"a user called like a wildcard":   {[]string{"alice"}, "*", "", Deny},
		"a user who has another's prefix": {[]string{"bob"}, "bobby", "", Deny},
	} {
		t.Run(name, func(t *testing.T) {
			q := questionOf(t, hub.Opening{User: c.site}, "")
			q.Learned.User = c.learned
			a := (&User{IDs: c.ids}).Decide(t.Context(), q)
			if a.Kind != c.want {
				t.Errorf("got %v, want %v", a.Kind, c.want)
			}
			if a.Err != nil {
				t.Errorf("an ordinary answer has the error %v", a.Err)
			}
		})
	}
}

func TestUserInCaddyfiles(t *testing.T) {
	for text, want := range map[string]string{
		"user":           `{"guard":"user"}`,
		"user bob":       `{"guard":"user","ids":["bob"]}`,
		"user bob alice": `{"guard":"user","ids":["bob","alice"]}`,
		`user "a b"`:     `{"guard":"user","ids":["a b"]}`,
	} {
		if got := mustAdapt(t, "", text); got != want {
			t.Errorf("%s: got %s", text, got)
		}
		mustLoad(t, want)
	}
	for text, want := range map[string]string{
		`user ""`:               "user: an id is empty; is an environment variable not set?, at Caddyfile:3",
		`user "{$NOT_SET}"`:     "an id is empty",
		"user *":                "write user alone for everybody who is authenticated, at Caddyfile:3",
		"user @bob":             "@bob looks like a matcher; write allow @bob",
		"user {env.ADMIN}":      "placeholders are not expanded in the id {env.ADMIN}; write an environment variable as {$NAME}",
		"user {pushit.parts.1}": "the channel's name by cel `parts[1] == agent.user`",
		"user bob {\nalice\n}":  "user takes no block: write the ids on its line",
	} {
		t.Run(text, func(t *testing.T) {
			_, err := adaptGuards("", text)
			wantMistake(t, err, want)
		})
	}
	for config, want := range map[string]string{
		`{"guard":"user","ids":[""]}`:    "user: an id is empty",
		`{"guard":"user","ids":["{x}"]}`: "placeholders are not expanded",
	} {
		_, err := loadGuard(t, config)
		wantMistake(t, err, want)
	}
}
