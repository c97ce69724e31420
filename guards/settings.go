// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"fmt"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/push-it/pushit/guards/internal/placeholder"
)

// NoteSetting checks a setting in a Caddyfile that may have placeholders, such as a secret,
// and stores its place for the errors of ResolveSetting. what names the setting in errors,
// which do not show it.
func NoteSetting(d *caddyfile.Dispenser, what, text string) error {
	return placeholder.NoteSetting(d, what, text)
}

// ResolveSetting expands {env.NAME} and {file.PATH} in a setting, when the configuration is
// loaded. A placeholder that is empty or unknown is an error, which begins with what, names
// the place in the Caddyfile if that is known, and does not show the setting.
func ResolveSetting(what, text string) (string, error) {
	value, err := placeholder.Resolve(text)
	if err != nil {
		return "", placeholder.WithPlace(text, fmt.Errorf("%s %w", what, err))
	}
	return value, nil
}
