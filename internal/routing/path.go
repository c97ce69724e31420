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

// DefaultPath is the path of an endpoint that says none.
const DefaultPath = "/push"

// CheckPath says what is wrong with the path of an endpoint. It has to be plain,
// because two parties read it: Caddy's path matcher, in which *, % and { mean
// something, and the handler.
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

// TrimWildcard reduces a path that covers what is below it, however that is
// written (/push, /push/, /push*, /push/*), to the path itself.
func TrimWildcard(path string) string {
	path = strings.TrimRight(strings.TrimSuffix(path, "*"), "/")
	if path == "" {
		return "/"
	}
	return path
}

// Below returns what of path lies below mount, "" or beginning with a slash, and
// whether path is mount or below it: /push/a is below /push, /pushover is not.
func Below(mount, path string) (rest string, ok bool) {
	rest, ok = strings.CutPrefix(path, strings.TrimSuffix(mount, "/"))
	return rest, ok && (rest == "" || rest[0] == '/')
}
