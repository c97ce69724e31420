// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package routing

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// DefaultPath is the path of an endpoint without a path.
const DefaultPath = "/push"

// CheckPath returns what is wrong with the path of an endpoint. Caddy's path matcher and
// the handler both read the path, so it must not contain what the matcher treats
// specially: *, % and {.
func CheckPath(path string) error {
	switch {
	case path == "":
		return errors.New("the path is empty")
	case path[0] != '/':
		return fmt.Errorf("the path %q does not begin with a slash: write /%s", path, path)
	case strings.HasSuffix(path, "{"):
		return fmt.Errorf("the path %q ends in {: write a space before it", path)
	case strings.HasSuffix(path, "*"):
		return fmt.Errorf("the path %q ends in *: write %s, which includes everything below it", path, TrimWildcard(path))
	case path != "/" && path[len(path)-1] == '/':
		return fmt.Errorf("the path %q ends in a slash: write %s, which includes everything below it", path, TrimWildcard(path))
	case strings.ContainsAny(path, "{}"):
		return fmt.Errorf("placeholders are not expanded in the path %q; write an environment variable as {$NAME}", path)
	case !utf8.ValidString(path):
		return fmt.Errorf("the path %q is not UTF-8", path)
	}
	for _, c := range path {
		if strings.ContainsRune(`*?#%\`, c) || unicode.IsSpace(c) || unicode.IsControl(c) {
			return fmt.Errorf("the path %q contains %q: write a plain path, such as %s", path, c, DefaultPath)
		}
	}
	for segment := range strings.SplitSeq(path[1:], "/") {
		if path != "/" && (segment == "" || segment == "." || segment == "..") {
			return fmt.Errorf("the path %q contains the segment %q: write a plain path, such as %s", path, segment, DefaultPath)
		}
	}
	return nil
}

// TrimWildcard returns the path without the wildcard or the slash at its end: /push for
// /push/, /push* and /push/*.
func TrimWildcard(path string) string {
	path = strings.TrimRight(strings.TrimSuffix(path, "*"), "/")
	if path == "" {
		return "/"
	}
	return path
}

// Below reports whether path is mount or below it, and returns the rest: "", or text that
// begins with a slash. /push/a is below /push, /pushover is not.
func Below(mount, path string) (rest string, ok bool) {
	rest, ok = strings.CutPrefix(path, strings.TrimSuffix(mount, "/"))
	return rest, ok && (rest == "" || rest[0] == '/')
}
