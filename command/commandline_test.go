package command

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Errors name the flag or the argument. A misspelt command or flag has a suggestion, which is
// never used. Only errors about the form of the command line begin with "usage:".
func TestMessages(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	damaged := t.TempDir()
	if err := os.WriteFile(filepath.Join(damaged, "services.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	const hangup, list = "; see tcphup hangup --help", "; see tcphup list --help"
	for _, tt := range []struct{ args, want string }{
		{"", "usage: tcphup HOST... PORT; 0 means every port"},
		{"hangup", "usage: tcphup HOST... PORT; 0 means every port"},
		{"5432", "PORT 5432 alone would select the connections of every application"},

		{"lst", `unknown command "lst" (did you mean tcphup list?); to hang up, HOST and PORT are both needed; see tcphup --help`},
		{"server", `unknown command "server" (did you mean tcphup serve?); to hang up, HOST and PORT are both needed; see tcphup --help`},
		{"check", `unknown command "check" (did you mean tcphup check-config?); to hang up, HOST and PORT are both needed; see tcphup --help`},
		{"hangpu 10.0.0.5 5432", `unknown command "hangpu" (did you mean tcphup hangup?); for a host of this name, write tcphup hangup hangpu 10.0.0.5 5432; see tcphup --help`},
		{"lst 10.0.0.5", `unknown command "lst" (did you mean tcphup list?); for a host of this name, write tcphup hangup lst 10.0.0.5; see tcphup --help`},
		{"--dry-run List 10.0.0.5", `unknown command "List" (did you mean tcphup list?); for a host of this name, write tcphup hangup List 10.0.0.5; see tcphup --help`},
		{"--netns=all list", "flags come after the command: tcphup list; to hang up, HOST and PORT are both needed" + list},
		{"--dry-run list 10.0.0.5 1", "flags come after the command: tcphup list; for a host of this name, write tcphup hangup list 10.0.0.5 1" + list},
		{"help lst", `unknown command "lst" (did you mean list?); see tcphup --help`},
		{"help nothing", `unknown command "nothing"; see tcphup --help`},

		{"--drian-quiet=1s 10.0.0.5 1", "unknown flag --drian-quiet (did you mean --drain-quiet?)" + hangup},
		{"--drain=1s 10.0.0.5 1", "unknown flag --drain (did you mean --drain-quiet or --drain-deadline or --drain-answer?)" + hangup},
		{"--dryrun 10.0.0.5 1", "unknown flag --dryrun (did you mean --dry-run?)" + hangup},
		{"-dry-run 10.0.0.5 1", "unknown flag -dry-run (did you mean --dry-run?)" + hangup},
		{"10.0.0.5 1 -n", "unknown flag -n" + hangup},
		{"--no-such-flag 10.0.0.5 1", "unknown flag --no-such-flag" + hangup},
		{"--flows 10.0.0.5 1", "--flows is a flag of tcphup list, not of tcphup hangup" + hangup},
		{"list --flow", "unknown flag --flow (did you mean --flows?)" + list},
		{"list --dry-run", "--dry-run is a flag of tcphup hangup, not of tcphup list" + list},
		{"serve --token-file=x", "unknown flag --token-file; see tcphup serve --help"},

		{"--min-idle", "--min-idle needs a value" + hangup},
		{"--min-idle --dry-run", "--min-idle needs a value" + hangup},
		{"--dry-run --dry-run 10.0.0.5 1", "--dry-run is set more than once" + hangup},
		{"--min-idle=x 10.0.0.5 1", `--min-idle: "x" is not a duration of at least 0s, such as 500ms, 3s or 5m` + hangup},
		{"--dry-run=false 10.0.0.5 1", "--dry-run takes no value" + hangup},
		{"10.0.0.5 --no-dry-run=1", "--no-dry-run takes no value" + hangup},
		{"list --flows=yes 10.0.0.5 1", "--flows takes no value" + list},
		{"--drain-quiet=1s 10.0.0.5 1", "--drain-quiet needs --drain-deadline" + hangup},
		{"--drain-answer=1s 10.0.0.5 1", "--drain-answer needs --drain-deadline" + hangup},
		{"--former=10.0.0.5 10.0.0.5 1", "--former needs --stale" + hangup},
		{"--state.directory=/x 10.0.0.5 1", "--state.directory needs --stale" + hangup},
		{"list --former=10.0.0.5", "--former needs --stale" + list},
		{"list --interval=1s", "--interval needs --watch" + list},
		{"--drain-deadline=1s --drain-quiet=2s 10.0.0.5 1", "--drain-quiet 2s is longer than --drain-deadline 1s"},

		{"check-config", "FILE is missing; see tcphup check-config --help"},
		{"check-config a b", `unexpected argument "b"; see tcphup check-config --help`},
		{"version 1", `unexpected argument "1"; see tcphup version --help`},
		{"healthcheck http://%%", `usage: url: parse "http://%%"`},

		{"--stale= --pid=1", "--stale: empty: write NAME or NAME:PORT"},
		{"--stale= 10.0.0.5 1", "--stale: empty: write NAME or NAME:PORT"},
		{"list --stale=", "--stale: empty: write NAME or NAME:PORT"},
		{"--stale=db.internal 10.0.0.5 1", "usage: --stale takes the place of HOST and PORT"},
		{"--stale=10.0.0.5:1 --former=10.0.0.6", "usage: --stale: "},
		{"--stale=db.internal:1 --former=x", "usage: --former: "},
		{"--stale=db.internal --state.directory=" + missing, "--stale: no former addresses of db.internal: read state: open " + missing},
		{"--stale=db.internal:1 --state.directory=" + damaged, "--stale: read state: not a service state file"},
		{"serve --audit.log-file=" + missing + "/file", "open --audit.log-file: open " + missing},
	} {
		t.Run(tt.args, func(t *testing.T) {
			err := Run(t.Context(), strings.Fields(tt.args))
			if err == nil || !strings.HasPrefix(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want %s", err, tt.want)
			}
			if !errors.Is(err, ErrUsage) || strings.Count(err.Error(), "usage:") > strings.Count(tt.want, "usage:") {
				t.Errorf("got %v: want a usage error", err)
			}
		})
	}
}

// Words that are no misspelt command remain hosts.
func TestFirstWord(t *testing.T) {
	for _, args := range [][]string{
		{"10.0.0.5", "1"}, {"db.internal", "5432"}, {"server", "5432"}, {"proxy", "5432"}, {"version1", "5432"}, {"check", "5432"},
		{"hangup", "lst", "5432"}, {"2001:db8::5", "1"}, {"list", "lst"}, {"--", "10.0.0.5", "1"},
	} {
		app, _ := newApp(args)
		parsed, err := app.ParseContext(args)
		if err != nil {
			t.Fatal(err)
		}
		if err := (&commandLine{app, parsed, args}).check(); err != nil {
			t.Errorf("%q: %v", args, err)
		}
	}
}

// Errors about files keep their cause.
func TestInputError(t *testing.T) {
	err := Run(t.Context(), []string{"serve", "--audit.log-file=" + filepath.Join(t.TempDir(), "missing", "file")})
	if !errors.Is(err, fs.ErrNotExist) || !errors.Is(err, ErrUsage) {
		t.Errorf("got %v", err)
	}
}

// Tables of flags name flags that exist, and each flag of a command with groups is in one.
func TestFlagTables(t *testing.T) {
	app, _ := newApp(nil)
	for _, cmd := range app.Model().Commands {
		names := flagNames(cmd.Flags)
		known := func(where, flag string) {
			if !slices.Contains(names, flag) {
				t.Errorf("%s of %s: no flag --%s", where, cmd.Name, flag)
			}
		}
		for flag, other := range needs[cmd.Name] {
			known("needs", flag)
			known("needs", other)
		}
		for _, group := range flagGroups[cmd.Name] {
			for _, flag := range group.flags {
				known("flagGroups", flag)
			}
		}
		for _, group := range grouped(cmd) {
			if flagGroups[cmd.Name] != nil && group.title == otherFlags {
				t.Errorf("flagGroups of %s lacks %q", cmd.Name, flagNames(group.flags))
			}
		}
	}
}
