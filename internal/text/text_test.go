package text

import "testing"

func TestPrintable(t *testing.T) {
	for s, want := range map[string]string{
		"":                "",
		"java 21 käse":    "java 21 käse",
		"\x1b[2J\x00":     `\x1b[2J\x00`,
		"a\u202eb\n":      `a\u202eb\n`,
		"it's \"quoted\"": `it's "quoted"`,
		"'":               "'",
		"\xff":            "\ufffd",
	} {
		if got := Printable(s); got != want {
			t.Errorf("%q: %q, want %q", s, got, want)
		}
	}
}

func TestPlural(t *testing.T) {
	for n, want := range map[int]string{0: "0 flows", 1: "1 flow", 2: "2 flows"} {
		if got := Plural(n, "flow"); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}
