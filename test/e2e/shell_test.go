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
// command.
func TestManPage(t *testing.T) {
	r := tcphup(t, "--help-man")
	r.mustExit(t, 0)
	shown := formatManPage(t, r.stdout)
	for _, want := range []string{"tcphup(1)", "hangup [<flags>]", "list [<flags>]", "--alerts.token-file", "probe [<flags>]", "healthcheck [<flags>]", "version"} {
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

// TestHelpGoesToStandardOutput checks that --help and --version print to standard output.
func TestHelpGoesToStandardOutput(t *testing.T) {
	for _, flag := range []string{"--help", "--version", "version"} {
		r := tcphup(t, flag)
		r.mustExit(t, 0)
		if !strings.Contains(r.stdout, "tcphup") || r.stderr != "" {
			t.Errorf("%s: stdout %q, stderr %q", flag, r.stdout, r.stderr)
		}
	}
}
