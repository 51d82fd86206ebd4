package e2e

import (
	"slices"
	"strings"
	"testing"

	"tcphup/test/kit/program"
)

// TestCompletion runs the completion scripts like each shell does on Tab.
func TestCompletion(t *testing.T) {
	bash := `eval "$("$0" --completion-script-bash)" && COMP_WORDS=("$0" "$@") COMP_CWORD=$# &&
		_tcphup_bash_autocomplete && printf '%s\n' "${COMPREPLY[@]}"`
	// Stubs of zsh's completion system.
	zsh := `compdef() { completes=$1 }; _files() { }; compadd() { print -rl -- "${(@P)2}" }
		eval "$("$0" --completion-script-zsh)" && words=("$0" "$@") CURRENT=$(($# + 1)) && $completes`
	for _, shell := range []struct {
		name   string
		args   []string
		prefix bool // the script filters by prefix; zsh filters itself
	}{
		{name: "bash", args: []string{"--norc", "-c", bash}, prefix: true},
		{name: "zsh", args: []string{"-f", "-c", zsh}},
	} {
		t.Run(shell.name, func(t *testing.T) {
			interpreter := need(t, shell.name, shell.name)
			for _, tt := range []struct {
				words      []string
				want, none string
			}{
				{words: []string{""}, want: "list"},
				{words: []string{""}, want: "check-config"},
				{words: []string{""}, want: "version"},
				{words: []string{"li"}, want: "list", none: "serve"},
				{words: []string{"list", "--"}, want: "--flows"},
				{words: []string{"list", "--wa"}, want: "--watch", none: "--flows"},
				{words: []string{"list", "--output", ""}, want: "json"},
				{words: []string{"hangup", "--method", ""}, want: "destroy"},
				{words: []string{"serve", "--alerts"}, want: "--alerts.token-file", none: "--config.file"},
			} {
				r := runProgram(t, nil, interpreter, slices.Concat(shell.args, []string{program.Path(t)}, tt.words)...)
				r.mustExit(t, 0)
				offered := strings.Split(strings.TrimSpace(r.stdout), "\n")
				if !slices.Contains(offered, tt.want) || shell.prefix && slices.Contains(offered, tt.none) || r.stderr != "" {
					t.Errorf("%q: candidates %q, %s", tt.words, offered, r.stderr)
				}
			}
		})
	}
}

// TestManPage checks that groff formats the man page without a warning, and that it has each
// command and section.
func TestManPage(t *testing.T) {
	r := tcphup(t, "--help-man")
	r.mustExit(t, 0)
	shown := formatManPage(t, r.stdout)
	for _, want := range []string{
		"TCPHUP(1)", "\nNAME\n       tcphup - gracefully close stale TCP connections\n", "\nSYNOPSIS\n       tcphup [hangup] [FLAG...] HOST... PORT\n",
		"tcphup list [FLAG...] [HOST...] [PORT]", "tcphup healthcheck [FLAG...]", "tcphup version\n", "--alerts.token-file=FILE",
		"\nEXIT STATUS\n", "\nFILES\n", "\nEXAMPLES\n", "\nSEE ALSO\n       ss(8),",
	} {
		if !strings.Contains(shown, want) {
			t.Errorf("man page without %s", want)
		}
	}
}

// formatManPage returns the formatted page. A warning of groff fails the test.
func formatManPage(t *testing.T, page string) string {
	t.Helper()
	r := runProgram(t, nil, need(t, "groff", "groff-base"), "-man", "-Tutf8", "-ww", "-P-c", "-P-b", "-P-u", writeFile(t, "tcphup.1", page))
	r.mustExit(t, 0)
	if r.stderr != "" {
		t.Errorf("groff: %s", r.stderr)
	}
	return strings.ReplaceAll(r.stdout, "‐", "-")
}

// TestHelpGoesToStandardOutput checks that --help and --version print to standard output, and
// that a command line without arguments is an error: a command substitution may be empty.
func TestHelpGoesToStandardOutput(t *testing.T) {
	for args, want := range map[string]string{
		"--help": "usage: tcphup HOST... PORT\n", "-h": "usage: tcphup HOST... PORT\n", "help": "usage: tcphup HOST... PORT\n",
		"10.0.0.5 5432 --help": "usage: tcphup HOST... PORT\n",
		"hangup --help":        "usage: tcphup [hangup] [FLAG...] HOST... PORT\n", "help list": "usage: tcphup list [FLAG...]", "serve -h": "usage: tcphup serve [FLAG...]\n",
		"--version": "tcphup", "version": "tcphup",
	} {
		r := tcphup(t, strings.Fields(args)...)
		r.mustExit(t, 0)
		if !strings.HasPrefix(r.stdout, want) || r.stderr != "" {
			t.Errorf("%s: stdout %q, stderr %q", args, r.stdout, r.stderr)
		}
	}
	for _, args := range [][]string{nil, {"hangup"}, {"help", "lst"}, {"lst", "5432"}} {
		if r := tcphup(t, args...); r.exit != 2 || r.stdout != "" || !strings.HasPrefix(r.stderr, "tcphup: ") || strings.Count(r.stderr, "\n") != 1 {
			t.Errorf("%q: exit %d, stdout %q, stderr %q", args, r.exit, r.stdout, r.stderr)
		}
	}
}
