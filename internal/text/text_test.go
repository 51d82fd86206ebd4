package text

import (
	"strings"
	"testing"
)

func TestPrintable(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"empty", "", ""},
		{"plain", "nginx: worker", "nginx: worker"},
		{"letters and symbols", "größer ≥ 5 → 日本", "größer ≥ 5 → 日本"},
		{"quotes and backslashes", `a"b'c\d`, `a"b'c\d`},
		{"lines", "a\nb\r\tc", `a\nb\r\tc`},
		{"terminal sequence", "\x1b[31mred\x1b]0;title\a", `\x1b[31mred\x1b]0;title\a`},
		{"bidirectional override", "a\u202eb\u2066c", `a\u202eb\u2066c`},
		{"invisible", "a\u200bb\ufeffc\u00a0d", `a\u200bb\ufeffc\u00a0d`},
		{"not UTF-8", "a\xffb\xe2\x82", `a\xffb\xe2\x82`},
		{"replacement character", "a\ufffdb", "a\ufffdb"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := Printable(tt.text)
			if got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			if again := Printable(got); again != got {
				t.Errorf("a second time: got %s, want %s", again, got)
			}
		})
	}
}

func TestClip(t *testing.T) {
	for text, want := range map[string]string{"": "", "abc": "abc", "abcdefg": "abcd", "abc\ndef": `abc\n`, "abc€": `abc\xe2`} {
		if got := Clip(text, 4); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func TestQuote(t *testing.T) {
	long := strings.Repeat("x", quoteLimit)
	for text, want := range map[string]string{
		"": `""`, `a"b`: `"a\"b"`, "a\nb": `"a\nb"`, "раypal": `"\u0440\u0430ypal"`, long: `"` + long + `"`, long + "y": `"` + long + `" and more`,
	} {
		if got := Quote(text); got != want {
			t.Errorf("%q: got %s, want %s", text, got, want)
		}
	}
}

func TestPlural(t *testing.T) {
	for n, want := range map[int]string{0: "0 flows", 1: "1 flow", 2: "2 flows"} {
		if got := Plural(n, "flow"); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
