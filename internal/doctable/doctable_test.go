// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package doctable

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

const document = "# Title\r\n\r\n| `a` | before |\r\n\r\n## Options\r\n\r\n| option | default |\r\n|---|---|\r\n" +
	"| `path`, `name` | `/push` |\r\n| `origins` | | more |\r\n| no code | x |\r\n\r\n### More\r\n\r\n| `b` | below |\r\n\r\n## Next\r\n\r\n| `c` | behind |\r\n"

func TestRows(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.md")
	if err := os.WriteFile(path, []byte(document), 0o600); err != nil {
		t.Fatal(err)
	}
	for heading, want := range map[string][][]string{
		"## Options": {{"`path`, `name`", "`/push`"}, {"`origins`", "", "more"}, {"`b`", "below"}},
		"### More":   {{"`b`", "below"}},
		"## Next":    {{"`c`", "behind"}},
		"# Title":    {{"`a`", "before"}, {"`path`, `name`", "`/push`"}, {"`origins`", "", "more"}, {"`b`", "below"}, {"`c`", "behind"}},
	} {
		if got := Rows(t, path, heading); !reflect.DeepEqual(got, want) {
			t.Errorf("%s has the rows %q, want %q", heading, got, want)
		}
	}
	if got := Codes("`path`, name and `a b`"); !reflect.DeepEqual(got, []string{"path", "a b"}) {
		t.Errorf("the code is %q", got)
	}
}
