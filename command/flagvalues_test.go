package command

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"tcphup/collector"
	"tcphup/services"
)

func TestWholeNumber(t *testing.T) {
	for text, want := range map[string]int{"0": 0, "1": 1, "100": 100, "007": 7} {
		var got int
		if err := (wholeNumber{&got, 0, 100}).Set(text); err != nil || got != want {
			t.Errorf("%q: got %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "0.9", "1.9", "1e2", "-1", "101", "99999999999999999999", "0x10", "1_0", " 1", "one"} {
		got := 50
		if err := (wholeNumber{&got, 0, 100}).Set(text); err == nil || got != 50 {
			t.Errorf("%q: got %d, %v; want an error and 50", text, got, err)
		}
	}
}

func TestRate(t *testing.T) {
	for text, want := range map[string]float64{"0": 0, "0.5": 0.5, "1e3": 1000} {
		var got float64
		if err := (rate{&got}).Set(text); err != nil || got != want {
			t.Errorf("%q: got %v, %v; want %v", text, got, err, want)
		}
	}
}

func TestServiceFlag(t *testing.T) {
	var flag serviceFlags
	if err := flag.Set("Mail.internal:25"); err != nil {
		t.Fatal(err)
	}
	want := serviceFlags{{Name: "mail.internal", Port: 25, Settle: services.DefaultSettle, Interval: services.DefaultInterval}}
	if diff := cmp.Diff(want, flag, cmpopts.EquateComparable(want[0])); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// --sigpipe-safe is repeatable and takes lists.
func TestCommandNames(t *testing.T) {
	app, commands := newApp(nil)
	if _, err := app.Parse([]string{"--sigpipe-safe=psql,pgbouncer", "--sigpipe-safe=a b", "10.0.0.1", "80"}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"psql", "pgbouncer", "a b"}, commands["hangup"].(*hangupCommand).request.SIGPIPESafe); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// --collector.histograms takes a list; its default is idle, and an empty value selects none.
func TestHistogramsFlag(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want []collector.Histogram
	}{
		{nil, []collector.Histogram{"idle"}},
		{[]string{"--collector.histograms="}, []collector.Histogram{}},
		{[]string{"--collector.histograms=age,peer_silence"}, []collector.Histogram{"age", "peer_silence"}},
	} {
		app, commands := newApp(nil)
		if _, err := app.Parse(append([]string{"serve"}, tt.args...)); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tt.want, commands["serve"].(*serve).options.Collector.Histograms); diff != "" {
			t.Errorf("%v (-want +got):\n%s", tt.args, diff)
		}
	}
}

// The error about a value names the flag, the value and the allowed range, matches
// ErrUsage, and is one line.
func TestBadFlagValues(t *testing.T) {
	const nonNegative = " is not a duration of at least 0s, such as 500ms, 3s or 5m"
	const hangup, list = "hangup 10.0.0.1 80", "list"
	for _, tt := range []struct{ command, flag, value, want string }{
		{hangup, "rate", "-1", " is not a number of at least 0"},
		{hangup, "rate", "x", " is not a number of at least 0"},
		{hangup, "rate", "NaN", " is not a number of at least 0"},
		{hangup, "rate", "+Inf", " is not a number of at least 0"},
		{hangup, "rate", "1e999", " is not a number of at least 0"},
		{hangup, "max-flows", "-1", " is not a whole number from 0 to 2147483647"},
		{hangup, "max-flows", "0.9", " is not a whole number from 0 to 2147483647"},
		{hangup, "linger", "0s", " is not a duration above 0s, such as 500ms, 3s or 5m"},
		{hangup, "linger", "-3s", " is not a duration above 0s, such as 500ms, 3s or 5m"},
		{hangup, "linger", "3", " is not a duration above 0s, such as 500ms, 3s or 5m"},
		{hangup, "min-idle", "-1s", nonNegative},
		{hangup, "min-idle", "x", nonNegative},
		{hangup, "drain-quiet", "-1s", nonNegative},
		{hangup, "drain-deadline", "1d", nonNegative},
		{hangup, "watch-reconnect", "99999999h", nonNegative},
		{hangup, "method", "rst", " is not one of auto, shutdown, destroy"},
		{hangup, "method", "", " is not one of auto, shutdown, destroy"},
		{hangup, "direction", "Inbound", " is not one of outbound, inbound, either"},
		{hangup, "mptcp", "all", " is not one of connection, path"},
		{hangup, "sigpipe-safe", "", " is not a command name of 1 to 15 bytes"},
		{hangup, "sigpipe-safe", "0123456789abcdef", " is not a command name of 1 to 15 bytes"},
		{hangup, "output", "xml", " is not one of table, json"},
		{list, "interval", "1ms", " is not a duration of at least 100ms, such as 500ms, 3s or 5m"},
		{list, "interval", "2", " is not a duration of at least 100ms, such as 500ms, 3s or 5m"},
		{list, "direction", "both", " is not one of outbound, inbound, either"},
		{list, "output", "yaml", " is not one of table, json"},
		{"probe", "output", "yaml", " is not one of table, json"},
		{"healthcheck", "timeout", "0s", " is not a duration of at least 1ms, such as 500ms, 3s or 5m"},
		{"serve", "watch-reconnect", "-5s", nonNegative},
		{"serve", "collector.max-destinations", "0", " is not a whole number from 1 to 1000000"},
		{"serve", "collector.max-destinations-per-pod", "0", " is not a whole number from 1 to 1000000"},
		{"serve", "node.cpu-budget", "-1s", nonNegative},
		{"serve", "collector.histograms", "silence", " is not one of idle, age, peer_silence, subflow_idle"},
		{"serve", "collector.prefix-length-v4", "0", " is not a whole number from 1 to 32"},
		{"serve", "collector.prefix-length-v4", "33", " is not a whole number from 1 to 32"},
		{"serve", "collector.prefix-length-v6", "0", " is not a whole number from 1 to 128"},
		{"serve", "collector.include", "10.0.0.1/8", " is a prefix with bits set after its length"},
		{"serve", "collector.exclude", "db.internal", " is not an address or prefix"},
		{"serve", "service", "db.internal", " has no port: write NAME:PORT"},
	} {
		t.Run(tt.flag+"="+tt.value, func(t *testing.T) {
			err := Run(t.Context(), append(strings.Fields(tt.command), "--"+tt.flag+"="+tt.value))
			if want := "--" + tt.flag + `: "` + tt.value + `"` + tt.want; err == nil || !strings.HasPrefix(err.Error(), want) {
				t.Errorf("got %v, want %s", err, want)
			}
			if !errors.Is(err, ErrUsage) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %q, want a usage error of one line", err)
			}
		})
	}
}

// Errors about the values of flags from other packages name the flag too.
func TestBadLogLevel(t *testing.T) {
	if err := Run(t.Context(), []string{"serve", "--log.level=loud"}); !errors.Is(err, ErrUsage) || !strings.HasPrefix(err.Error(), "--log.level: ") {
		t.Errorf("got %v", err)
	}
}

// Of two flags of a type, the error names the flag with the bad value.
func TestBadFlagValueAmongOthers(t *testing.T) {
	err := Run(t.Context(), []string{"--min-idle=1s", "--drain-quiet=x", "--watch-reconnect=2s", "10.0.0.1", "80"})
	if err == nil || !strings.HasPrefix(err.Error(), `--drain-quiet: "x" `) {
		t.Errorf("got %v", err)
	}
}

// Defaults are valid, and every flag value prints as it is parsed.
func TestDefaults(t *testing.T) {
	app, commands := newApp(nil)
	if _, err := app.Parse([]string{"10.0.0.1", "80"}); err != nil {
		t.Fatal(err)
	}
	r := commands["hangup"].(*hangupCommand).request
	if r.Linger != 3*time.Second || r.DrainQuiet != time.Second || r.Method != "auto" || r.MPTCP != "connection" || r.Rate != 0 || r.MaxFlows != 0 {
		t.Errorf("got %+v", r)
	}
	for _, cmd := range app.Model().Commands {
		for _, f := range cmd.Flags {
			if cmd.Default && len(f.Default) == 1 && f.Value.Set(f.Value.String()) != nil {
				t.Errorf("--%s: %q is not a valid value", f.Name, f.Value)
			}
		}
	}
}
