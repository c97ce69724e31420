// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package placeholder

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// settingPlaces has the places of placeholders in the Caddyfile that this process has
// adapted last. Their values are resolved later, when the configuration is loaded from
// JSON, which has no places.
var settingPlaces struct {
	sync.Mutex
	of map[string]string // by placeholder, with braces
}

// maxSettingPlaces is the largest number of placeholders whose places are stored.
const maxSettingPlaces = 1000

// NotePlace stores the place of the placeholders in a text.
func NotePlace(text, file string, line int) {
	settingPlaces.Lock()
	defer settingPlaces.Unlock()
	for _, name := range In(text) {
		if !isExpanded(name) {
			continue
		}
		if settingPlaces.of == nil || len(settingPlaces.of) >= maxSettingPlaces {
			settingPlaces.of = make(map[string]string)
		}
		settingPlaces.of["{"+name+"}"] = file + ":" + strconv.Itoa(line)
	}
}

// WithPlace adds the place of a setting to an error, if it is known.
func WithPlace(setting string, err error) error {
	settingPlaces.Lock()
	defer settingPlaces.Unlock()
	for _, name := range In(setting) {
		if place := settingPlaces.of["{"+name+"}"]; err != nil && place != "" {
			return fmt.Errorf("%w, at %s", err, place)
		}
	}
	return err
}

// isExpanded reports whether a placeholder is expanded when the configuration is loaded.
func isExpanded(name string) bool {
	return strings.HasPrefix(name, "env.") && name != "env." || strings.HasPrefix(name, "file.") && name != "file."
}

// Mistakes in placeholders that would leave their own text as the secret, which everybody
// could guess.
var (
	unclosedPlaceholder = regexp.MustCompile(`\{(\$[A-Z_]|env\.|file\.|pushit\.|http\.)[^{}]*$`)
	unopenedPlaceholder = regexp.MustCompile(`^\$?(env\.[A-Z_][A-Z0-9_]*|file\./[^{}\s]*)\}?$`)
	shellVariable       = regexp.MustCompile(`^\$(?:\{([A-Z_][A-Z0-9_]*)\}|([A-Z_][A-Z0-9_]*))$`)
	bareVariable        = regexp.MustCompile(`^\{([A-Za-z_][A-Za-z0-9_]*)\}$`)
)

// checkUnclosed refuses a placeholder without a closing brace.
func checkUnclosed(text string) error {
	if found := unclosedPlaceholder.FindString(text); found != "" {
		return fmt.Errorf("a } is missing after %s: write %s}", found, found)
	}
	return nil
}

// checkSetting refuses a setting that looks like a placeholder but is not one. The error
// continues a sentence that begins with the setting, such as "the secret".
func checkSetting(text string) error {
	if err := checkUnclosed(text); err != nil {
		return fmt.Errorf("is not a placeholder yet: %w", err)
	}
	if unopenedPlaceholder.MatchString(text) {
		return fmt.Errorf("is not a placeholder without braces: write {%s}", strings.TrimRight(strings.TrimPrefix(text, "$"), "}"))
	}
	for _, pattern := range []*regexp.Regexp{shellVariable, bareVariable} {
		if m := pattern.FindStringSubmatch(text); m != nil {
			return fmt.Errorf("is not a placeholder: write {env.%s} for the environment variable", m[1]+strings.Join(m[2:], ""))
		}
	}
	for _, name := range In(text) {
		if foreignPlaceholder.MatchString(name) && !isExpanded(name) && strings.Contains(name, ".") {
			return fmt.Errorf("has {%s}, which has no value when the configuration is loaded: write {env.NAME} or {file.PATH}", name)
		}
	}
	return nil
}

// NoteSetting checks a setting in a Caddyfile and stores its place.
func NoteSetting(d *caddyfile.Dispenser, what, text string) error {
	NotePlace(text, d.File(), d.Line())
	if err := checkSetting(text); err != nil {
		return d.Errf("%s %w", what, err)
	}
	return nil
}

// Resolve expands the placeholders of a setting: {env.NAME} and {file.PATH}. An unknown
// or empty placeholder is an error, because a secret must not shrink to what is left of
// it. The error does not show the secret.
func Resolve(setting string) (string, error) {
	if err := checkSetting(setting); err != nil {
		return "", err
	}
	value, err := caddy.NewReplacer().ReplaceOrErr(setting, true, true)
	if err == nil {
		return value, nil
	}
	if name := emptyIn(setting); name != "" {
		return "", errEmpty(setting, name)
	}
	return "", errors.New(`has a placeholder that is empty or unknown; write {env.NAME} or {file.PATH}, and write a literal brace as \{`)
}

// emptyIn returns the first placeholder of a text that is empty.
func emptyIn(text string) string {
	repl := caddy.NewReplacer()
	for _, name := range In(text) {
		if value, _ := repl.GetString(name); isExpanded(name) && value == "" {
			return name
		}
	}
	return ""
}

// errEmpty returns the error for a text with an empty placeholder.
func errEmpty(text, name string) error {
	if From(text) == "" {
		return fmt.Errorf("is incomplete, because {%s} is empty: %s", name, whatToSet(name))
	}
	return fmt.Errorf("is empty, because {%s} is: %s", name, whatToSet(name))
}

// whatToSet returns what to do about an empty placeholder.
func whatToSet(name string) string {
	if variable, ok := strings.CutPrefix(name, "env."); ok {
		return "set the environment variable " + variable + " for Caddy"
	}
	return "write the file " + strings.TrimPrefix(name, "file.") + ", which Caddy must be able to read"
}

// CheckSent refuses requests to a backend with a header field, usually a secret, whose
// environment variable or file is empty. The backend would be asked without it.
func CheckSent(raw json.RawMessage) (err error) {
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		return err
	}
	EachObject(v, func(handler map[string]any) {
		headers, _ := handler["headers"].(map[string]any)
		request, _ := headers["request"].(map[string]any)
		for _, op := range []string{"set", "add"} {
			fields, _ := request[op].(map[string]any)
			for field, values := range fields {
				EachString(values, func(text string) {
					if name := emptyIn(text); name != "" && err == nil {
						err = WithPlace(text, fmt.Errorf("the header field %s %w", http.CanonicalHeaderKey(field), errEmpty(text, name)))
					}
				})
			}
		}
	})
	return err
}

// From returns the placeholder that a setting consists of, with commas around it, or "".
func From(setting string) string {
	if names := In(setting); len(names) == 1 && setting == "{"+names[0]+"}" {
		return ", " + setting + ","
	}
	return ""
}
