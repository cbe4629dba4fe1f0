// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// PostgreSQL stores neither NUL nor invalid UTF-8 in text, and no lone
// surrogate in jsonb. They are written with an escape that begins with
// U+241B SYMBOL FOR ESCAPE and can be undone:
//
//	␛0      U+0000
//	␛xHH    a byte HH that is not UTF-8
//	␛uHHHH  a lone surrogate of JSON, \uHHHH
//	␛␛      ␛ itself
const escapeRune = '␛'

const escapeMark = string(escapeRune)

const hexDigits = "0123456789ABCDEF"

// escapeText makes any string one that PostgreSQL accepts as text.
func escapeText(s string) string {
	if utf8.ValidString(s) && !strings.ContainsAny(s, "\x00"+escapeMark) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		writeEscaped(&b, r, size, s[i])
		i += size
	}
	return b.String()
}

func writeEscaped(b *strings.Builder, r rune, size int, first byte) {
	switch {
	case r == utf8.RuneError && size == 1:
		b.WriteString(escapeMark + "x")
		b.WriteByte(hexDigits[first>>4])
		b.WriteByte(hexDigits[first&0xF])
	case r == 0:
		b.WriteString(escapeMark + "0")
	case r == escapeRune:
		b.WriteString(escapeMark + escapeMark)
	default:
		b.WriteRune(r)
	}
}

// Unescape undoes the escape of a text column, or of a string of a jsonb column.
func Unescape(s string) string {
	if !strings.Contains(s, escapeMark) {
		return s
	}
	var b strings.Builder
	for {
		before, after, found := strings.Cut(s, escapeMark)
		b.WriteString(before)
		if !found {
			return b.String()
		}
		s = unescapeOne(&b, after)
	}
}

// unescapeOne writes what the text after an escape mark stands for, and returns
// what follows it. A lone surrogate becomes the three bytes that UTF-8 would
// have for it (WTF-8), since Go's strings have no other form.
func unescapeOne(b *strings.Builder, s string) string {
	hex := func(n int) (uint64, bool) {
		if len(s) < 1+n {
			return 0, false
		}
		v, err := strconv.ParseUint(s[1:1+n], 16, 16)
		return v, err == nil
	}
	switch {
	case strings.HasPrefix(s, escapeMark):
		b.WriteString(escapeMark)
		return s[len(escapeMark):]
	case strings.HasPrefix(s, "0"):
		b.WriteByte(0)
		return s[1:]
	case strings.HasPrefix(s, "x"):
		if v, ok := hex(2); ok {
			b.WriteByte(byte(v))
			return s[3:]
		}
	case strings.HasPrefix(s, "u"):
		if v, ok := hex(4); ok {
			b.Write([]byte{0xE0 | byte(v>>12), 0x80 | byte(v>>6)&0x3F, 0x80 | byte(v)&0x3F})
			return s[5:]
		}
	}
	b.WriteString(escapeMark)
	return s
}

// escapeJSON makes a JSON document one that PostgreSQL accepts as jsonb. The
// document is otherwise left as it is, and need not be valid. A null document
// is none: a nil json.RawMessage that went through JSON comes back as one.
func escapeJSON(doc []byte) string {
	if len(doc) == 0 || string(bytes.TrimSpace(doc)) == "null" {
		return ""
	}
	if utf8.Valid(doc) && !bytes.Contains(doc, []byte(`\u`)) && !bytes.Contains(doc, []byte(escapeMark)) {
		return string(doc)
	}
	var b strings.Builder
	b.Grow(len(doc) + 16)
	for i := 0; i < len(doc); {
		if doc[i] == '\\' && i+1 < len(doc) {
			i += writeJSONEscape(&b, doc[i:])
			continue
		}
		r, size := utf8.DecodeRune(doc[i:])
		if r == 0 {
			b.WriteByte(0) // not JSON: the database says so
		} else {
			writeEscaped(&b, r, size, doc[i])
		}
		i += size
	}
	return b.String()
}

// writeJSONEscape handles one backslash sequence and returns its length.
func writeJSONEscape(b *strings.Builder, s []byte) int {
	r, ok := jsonUnicode(s)
	if !ok {
		b.Write(s[:2])
		return 2
	}
	if !utf16.IsSurrogate(r) {
		switch r {
		case 0:
			b.WriteString(escapeMark + "0")
		case escapeRune:
			b.WriteString(escapeMark + escapeMark)
		default:
			b.Write(s[:6])
		}
		return 6
	}
	if low, ok := jsonUnicode(s[6:]); ok && utf16.DecodeRune(r, low) != utf8.RuneError {
		b.Write(s[:12])
		return 12
	}
	fmt.Fprintf(b, "%su%04X", escapeMark, r)
	return 6
}

// jsonUnicode reads a sequence \uHHHH at the start of s.
func jsonUnicode(s []byte) (rune, bool) {
	if len(s) < 6 || s[0] != '\\' || s[1] != 'u' {
		return 0, false
	}
	v, err := strconv.ParseUint(string(s[2:6]), 16, 16)
	return rune(v), err == nil
}
