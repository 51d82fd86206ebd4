package command

import (
	"slices"
	"strings"
	"testing"
)

func TestManPage(t *testing.T) {
	app, _ := newApp(nil)
	var b strings.Builder
	if err := writeManPage(&b, app.Model()); err != nil {
		t.Fatal(err)
	}
	page := b.String()
	// whatis reads this line.
	if !strings.Contains(page, "\n.SH NAME\ntcphup \\- gracefully close stale TCP connections\n") {
		t.Error("no line for whatis")
	}
	rest := page
	for _, section := range []string{"NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "ENVIRONMENT", "FILES", "EXAMPLES", "SEE ALSO"} {
		_, after, found := strings.Cut(rest, "\n.SH "+section+"\n")
		if !found {
			t.Errorf("no section %s, or not in this order", section)
			continue
		}
		rest = after
	}
	for _, cmd := range app.Model().Commands {
		for _, f := range cmd.Flags {
			if !f.Hidden && !strings.Contains(page, `\-\-`+strings.ReplaceAll(f.Name, "-", `\-`)) {
				t.Errorf("no --%s", f.Name)
			}
		}
	}
	macros := strings.Fields(".TH .SH .SS .TP .PP .B .BR .I .nf .fi")
	for line := range strings.Lines(page) {
		if strings.HasPrefix(line, "'") || strings.HasPrefix(line, ".") && !slices.Contains(macros, strings.Fields(line)[0]) {
			t.Errorf("unknown macro: %s", line)
		}
	}
}

func TestRoff(t *testing.T) {
	for text, want := range map[string]string{
		"plain": "plain", "--flag": `\-\-flag`, ".first": `\&.first`, "'quoted'": `\(aqquoted\(aq`, `a\b`: `a\eb`,
	} {
		if got := roff(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
