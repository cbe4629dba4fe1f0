// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzWhatATestWrites finds a termination message or a log that cannot be stored, or
// is not read back as it was stored.
func FuzzWhatATestWrites(f *testing.F) {
	for _, seed := range []string{`{"p99": 1.5}`, `{"a":"\u0000␛","a":[1e308,-0,null]}`, "{\"\xff\":1}", "\x1b[2J\x9b\n", strings.Repeat(`{"a":`, 900), `{"a":1e999}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if results := parseResults(text); results != nil {
			again := parseResults(string(results))
			// Escapes may make it longer than what is read at most.
			if len(results) <= MaxResults && !bytes.Equal(results, again) {
				t.Errorf("%q is read back as %q", results, again)
			}
			if !json.Valid(results) || hasNUL(results) {
				t.Errorf("%q cannot be stored", results)
			}
		}
		for name, kept := range map[string]string{"log": Log(text), "message": clean(text, MaxResults), "line": lastLine(text)} {
			if !utf8.ValidString(kept) || strings.ContainsAny(kept, "\x00\u241B") || len(kept) > max(maxLog, MaxResults) {
				t.Errorf("the %s is %q", name, kept)
			}
			if name != "log" && strings.ContainsAny(kept, "\x1b\u009b\r") {
				t.Errorf("the %s steers a terminal: %q", name, kept)
			}
		}
	})
}

// hasNUL reports whether a text of a document holds a NUL, written as an escape.
func hasNUL(document []byte) bool {
	return bytes.Contains(bytes.ReplaceAll(document, []byte(`\\`), nil), []byte(`\u0000`))
}
