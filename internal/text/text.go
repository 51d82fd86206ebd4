// Package text formats values for people: printable text, plurals and the idle times
// that tables and charts highlight.
package text

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Idle times from which the table and the page highlight a flow.
const (
	LongIdle = 10 * time.Minute
	// VeryLongIdle is the kernel's default for the first keepalive probe
	// (net.ipv4.tcp_keepalive_time).
	VeryLongIdle = 2 * time.Hour
)

// quoteLimit is how many bytes of untrusted input an error quotes.
const quoteLimit = 80

// Printable replaces unprintable runes and invalid UTF-8 by escape sequences as in Go
// source: control characters, terminal sequences and bidirectional overrides. It keeps
// quotes and backslashes, so that Printable(Printable(s)) is Printable(s).
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

// Clip returns the first limit bytes of s, printable.
func Clip(s string, limit int) string { return Printable(s[:min(len(s), limit)]) }

// Quote returns s in double quotes, in one line of ASCII. It cuts long text.
func Quote(s string) string {
	if len(s) > quoteLimit {
		return strconv.QuoteToASCII(s[:quoteLimit]) + " and more"
	}
	return strconv.QuoteToASCII(s)
}

// Plural returns a count with its noun: "1 flow", "2 flows".
func Plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
