package command

import (
	"strings"
	"testing"
)

// The first page of help fits a terminal of 80 columns and 30 lines. It begins with the usual
// form, and has four examples, each with the old address, and every command.
func TestHelp(t *testing.T) {
	app, _ := newApp(nil)
	help := formatHelp(app.Model(), 80)
	if !strings.HasPrefix(help, "usage: tcphup HOST... PORT\n") {
		t.Errorf("first line: %s", help)
	}
	if n := strings.Count(help, "\n  tcphup 10.20.0."); n != 4 {
		t.Errorf("%d examples with the old address, want 4:\n%s", n, help)
	}
	for _, cmd := range app.Model().Commands {
		if !cmd.Hidden && cmd.Name != "help" && !strings.Contains(help, "\n  "+cmd.Name+" ") {
			t.Errorf("no command %s:\n%s", cmd.Name, help)
		}
	}
	if n := strings.Count(help, "\n"); n > 30 {
		t.Errorf("%d lines", n)
	}
	mustFit(t, "tcphup", help)
}

// Help of a command has every visible flag once, with its value and default.
func TestCommandHelp(t *testing.T) {
	app, _ := newApp(nil)
	for _, cmd := range app.Model().Commands {
		help := formatCommandHelp(cmd, 80)
		if !strings.HasPrefix(help, "usage: tcphup ") || !strings.Contains(help, "tcphup "+cmd.Name) && !strings.Contains(help, "tcphup ["+cmd.Name) {
			t.Errorf("%s: %s", cmd.Name, help)
		}
		for _, f := range cmd.Flags {
			want := 1
			if f.Hidden {
				want = 0
			}
			if n := strings.Count(help, "\n"+strings.TrimRight("  "+flagText(f), " ")+"\n") + strings.Count(help, "\n  "+flagText(f)+" "); n != want {
				t.Errorf("%s: %q is there %d times, want %d:\n%s", cmd.Name, flagText(f), n, want, help)
			}
		}
		mustFit(t, cmd.Name, help)
	}
	help := formatCommandHelp(app.GetCommand("hangup").Model(), 80)
	for _, want := range []string{"--linger=DURATION", "--method=auto|shutdown|destroy", "--max-flows=N", "--except=HOST", "(default 3s)", "\nWhich connections:\n"} {
		if !strings.Contains(help, want) && !strings.Contains(strings.Join(strings.Fields(help), " "), want) {
			t.Errorf("no %q:\n%s", want, help)
		}
	}
	for name, list := range examples {
		for _, e := range list {
			if words := strings.Fields(e.line); words[1] != name && name != "hangup" || !strings.Contains(e.line, " 10.20.0.") {
				t.Errorf("example of %s without the old address: %s", name, e.line)
			}
		}
	}
}

func mustFit(t *testing.T, name, help string) {
	t.Helper()
	for line := range strings.Lines(help) {
		if n := len(strings.TrimSuffix(line, "\n")); n > 80 && strings.Contains(strings.TrimSpace(line), " ") {
			t.Errorf("%s: line of %d columns: %s", name, n, line)
		}
	}
}

// The examples are valid command lines.
func TestExamples(t *testing.T) {
	for _, list := range examples {
		for _, e := range list {
			args := strings.Fields(e.line)[1:]
			app, _ := newApp(args)
			if _, err := app.Parse(args); err != nil {
				t.Errorf("%s: %v", e.line, err)
			}
		}
	}
}
