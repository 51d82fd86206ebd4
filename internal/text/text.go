// Package text formats values for people.
package text

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// From these idle times on, lists and the status page highlight a connection. After
// VeryLongIdle the kernel sends the first keepalive probe by default.
const (
	LongIdle     = 10 * time.Minute
	VeryLongIdle = 2 * time.Hour
)

// Printable returns s with each unprintable character as a Go escape sequence, so that
// s cannot control a terminal or change the direction of the text after it.
func Printable(s string) string {
	var b strings.Builder
	for _, r := range s {
		if unicode.IsPrint(r) {
			b.WriteRune(r)
		} else {
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		}
	}
	return b.String()
}

// Plural returns n and the noun, with an s unless n is 1.
func Plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
