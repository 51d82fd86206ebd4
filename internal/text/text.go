// Package text formats values for output: printable text, quoted input and plurals. It also
// defines the idle times that tables and charts highlight.
package text

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Minimum idle times that the table and the status page highlight.
const (
	LongIdle = 10 * time.Minute
	// VeryLongIdle is the kernel's default for the first keepalive probe
	// (net.ipv4.tcp_keepalive_time).
	VeryLongIdle = 2 * time.Hour
)

// quoteLimit is the maximum of untrusted input in an error, in bytes.
const quoteLimit = 80

// Printable escapes unprintable runes and invalid UTF-8 as in Go source: control characters,
// terminal sequences and bidirectional overrides. It keeps quotes and backslashes, so it is
// idempotent.
func Printable(s string) string {
	var b strings.Builder
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		if strconv.IsPrint(r) && (r != utf8.RuneError || size > 1) {
			b.WriteString(s[:size])
		} else {
			quoted := strconv.Quote(s[:size])
			b.WriteString(quoted[1 : len(quoted)-1])
		}
		s = s[size:]
	}
	return b.String()
}

// Clip returns at most limit bytes of s, escaped by Printable.
func Clip(s string, limit int) string { return Printable(s[:min(len(s), limit)]) }

// Quote returns s in double quotes, as one line of ASCII, truncated to 80 bytes of s.
func Quote(s string) string {
	if len(s) > quoteLimit {
		return strconv.QuoteToASCII(s[:quoteLimit]) + " and more"
	}
	return strconv.QuoteToASCII(s)
}

// JoinNonEmpty is strings.Join without empty parts.
func JoinNonEmpty(separator string, parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), separator)
}

// Plural returns a count and a regular noun: "1 flow", "2 flows".
func Plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
