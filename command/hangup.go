package command

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"

	"tcphup/actuator"
	"tcphup/hangup"
	"tcphup/internal/address"
	"tcphup/internal/text"
	"tcphup/sockdiag"
)

// hangupCommand implements tcphup hangup.
type hangupCommand struct {
	selection
	yes     bool
	output  string
	audit   string // path
	request hangup.Request
	// watchSet is set if the command line has --watch-reconnect.
	watchSet bool

	stdout, stderr io.Writer
}

func newHangup(cmd *kingpin.CmdClause) *hangupCommand {
	h := &hangupCommand{stdout: os.Stdout, stderr: os.Stderr}
	r := &h.request
	h.addFlags(cmd, "Destination: one or more addresses, prefixes or names, then a port, a list or a range; 0 means every port. HOST:PORT is one word. "+
		"With --pid, --command, --uid or --cgroup, HOST may be absent.")
	cmd.Flag("dry-run", "Find matching connections and run every safety check, but close nothing; shadow is the same for alerts.").BoolVar(&r.DryRun)
	setChoice(cmd.Flag("method", "How to close connections: shutdown (FIN; needs access to the owning process), destroy (RST; needs CAP_NET_ADMIN), or auto (shutdown where it can, otherwise destroy).").
		Default(string(hangup.Auto)), &r.Method, hangup.Methods()...)
	setChoice(cmd.Flag("mptcp", "What to close when a subflow of a Multipath TCP connection matches: the connection, or only the subflow (path) while another one remains.").
		Default(string(hangup.Connection)), &r.MPTCP, hangup.MPTCPModes()...)
	cmd.Flag("sigpipe-safe", "Commands whose processes never receive SIGPIPE although they neither ignore nor catch it, such as psql (comma-separated, repeatable, with a backslash before a comma in a name): shutdown is safe for them.").
		PlaceHolder("NAME,...").SetValue((*commandNames)(&r.SIGPIPESafe))
	cmd.Flag("linger", "How long the peer has to acknowledge the FIN before the kernel drops the connection.").
		Default(hangup.DefaultLinger.String()).SetValue(duration{&r.Linger, time.Nanosecond})
	cmd.Flag("rate", "Connections to close per second, with jitter; 0 disables the limit.").Default("0").SetValue(rate{&r.Rate})
	cmd.Flag("max-flows", "Close nothing if more connections than this match; 0 disables the limit.").Default("0").
		SetValue(wholeNumber{&r.MaxFlows, 0, math.MaxInt32})
	cmd.Flag("drain-quiet", "With --drain-deadline: how long a connection must be quiet before it is closed.").Default("1s").SetValue(duration{&r.DrainQuiet, 0})
	cmd.Flag("drain-deadline", "How long to wait for busy connections to become quiet before they are closed anyway; 0 disables the wait.").Default("0s").SetValue(duration{&r.DrainDeadline, 0})
	cmd.Flag("drain-answer", "With --drain-deadline: how long a connection must be quiet if the kernel cannot show whether a response is missing.").
		Default(hangup.DefaultDrainAnswer.String()).SetValue(duration{&r.DrainAnswer, 0})
	cmd.Flag("receive-wait", "How long to wait for the end of a message that a connection is receiving, or sending if it is inbound; 0 disables the wait. Not with --method=destroy.").
		Default(hangup.DefaultReceiveWait.String()).SetValue(duration{&r.ReceiveWait, 0})
	cmd.Flag("watch-reconnect", "How long to watch for reconnects of the applications after the report; 0 disables the watch. Default: "+terminalWatch.String()+" on a terminal, else 0s.").
		PlaceHolder("DURATION").IsSetByUser(&h.watchSet).SetValue(duration{&r.WatchReconnect, 0})
	cmd.Flag("audit.log-file", "Append the hang-up to this audit file of tcphup serve, which must exist. Default: "+packagedAuditFile+", if it exists.").
		PlaceHolder("FILE").StringVar(&h.audit)
	cmd.Flag("yes", fmt.Sprintf("Allow prefixes shorter than /%d.", widestPrefix)).BoolVar(&h.yes)
	setChoice(cmd.Flag("output", "Output format: table or json.").Default("table"), &h.output, "table", "json")
	return h
}

// terminalWatch is the default of --watch-reconnect on a terminal.
const terminalWatch = 2 * time.Second

func (h *hangupCommand) run(ctx context.Context) error {
	if !h.watchSet && h.output == "table" && isTerminal(h.stdout) && isTerminal(h.stderr) {
		h.request.WatchReconnect = terminalWatch
	}
	console := newConsole(h.stderr)
	defer console.close()
	h.stderr = console
	console.show(hangup.Progress{Activity: "looking up names"})
	if err := h.parse(ctx); err != nil {
		return err
	}
	console.show(hangup.Progress{Activity: "reading connections"})
	elsewhere := strings.TrimSuffix(h.elsewhere(ctx), "\n")
	warnElsewhere := func() {
		if elsewhere != "" {
			console.print(warning, elsewhere)
		}
	}
	warnElsewhere()
	undecided := h.leftUndecided(ctx)
	// The report has the outcome of each flow, and the last line the reconnects.
	logger := slog.New(slog.NewTextHandler(h.stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	h.request.Progress, h.request.Namespaces = console.show, h.scope.namespaces
	a := actuator.New(actuator.Config{Logger: logger})
	defer a.Close()
	audited := auditHangup(h.audit, &h.request, h.filters(), h.stderr)
	report, err := a.HangUp(ctx, h.request)
	audited.end(ctx, report, err)
	if err != nil {
		return err
	}
	h.scope.unread = report.NamespaceErrors
	interrupted := ctx.Err() != nil
	if h.output == "json" {
		// The JSON form of a flow has its reconnect.
		h.awaitReconnects(ctx, console, report)
	}
	console.show(hangup.Progress{})
	if err := h.write(report); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	line := "tcphup: " + summary(report, h.selector.Direction) + h.scope.note()
	switch {
	case undecided != "":
		line += undecided
	case len(report.Results) == 0:
		line += h.netns.hint()
	}
	if h.request.DryRun && len(report.Results) > 0 {
		line += "; dry run: nothing was closed"
	}
	console.print("", line)
	if len(report.Results) > 0 {
		warnElsewhere() // again, below the table
	}
	if h.output != "json" && !interrupted && h.awaitReconnects(ctx, console, report) {
		if style, line := reconnects(report); line != "" {
			console.print(style, "tcphup: "+line)
		}
	}
	if report.Count(hangup.Failed, hangup.Lingering, hangup.Refused) > 0 || undecided != "" || h.scope.incomplete() || interrupted {
		return ErrIncomplete
	}
	return nil
}

func (h *hangupCommand) write(report *hangup.Report) error {
	if h.output == "json" {
		return writeJSON(h.stdout, report)
	}
	return writeTable(h.stdout, report)
}

// awaitReconnects waits for the end of the reconnect watch, or of ctx. It returns false if
// there was no watch, or after a message if the watch failed.
func (h *hangupCommand) awaitReconnects(ctx context.Context, console *console, report *hangup.Report) bool {
	if report.AwaitReconnects == nil {
		return false
	}
	console.show(hangup.Progress{Activity: "watching for reconnects, Ctrl-C ends the watch", Until: time.Now().Add(h.request.WatchReconnect)})
	err := report.AwaitReconnects(ctx)
	console.show(hangup.Progress{})
	if err != nil {
		console.print("", fmt.Sprintf("tcphup: cannot watch for reconnects: %v", err))
		return false
	}
	return true
}

// parse completes the request from the arguments. It prints the addresses of names: after a
// failover, a name no longer resolves to the addresses of stale connections.
func (h *hangupCommand) parse(ctx context.Context) error {
	if err := h.selection.parse(ctx, h.check, h.stderr, h.stderr); err != nil {
		return err
	}
	if len(h.hosts) > 0 && !h.yes {
		for _, p := range h.selector.Destinations {
			if p.Bits() < widestPrefix {
				return argumentErrorf("HOST %s is a prefix shorter than /%d: add --yes to allow it", p, widestPrefix)
			}
		}
	}
	r := &h.request
	if r.DrainDeadline > 0 && r.DrainQuiet > r.DrainDeadline {
		return argumentErrorf("--drain-quiet %s is longer than --drain-deadline %s: no busy connection could become quiet in time", r.DrainQuiet, r.DrainDeadline)
	}
	if r.MPTCP == hangup.Path && r.Method == hangup.Shutdown {
		return argumentErrorf("--mptcp=path needs --method=auto or destroy: a single subflow cannot be shut down")
	}
	r.Selector, r.Owner = h.selector, h.owner
	return nil
}

// check rejects arguments that would select more connections than meant: a port without HOST
// or an owner filter has those of every application.
func (h *hangupCommand) check(a arguments) error {
	const every = "0 means every port"
	hosts := len(a.hosts)
	if hosts == 1 && !a.hasPort {
		if _, _, err := address.ParseHost(a.hosts[0]); err != nil {
			return argumentErrorf("HOST %w; PORT is another word: 10.0.0.5 5432", err)
		}
	}
	switch {
	case hosts == 0 && h.owner.IsZero() && a.hasPort:
		return argumentErrorf("PORT %[1]s alone would select the connections of every application: write HOST... %[1]s, or --port=%[1]s with --pid, --command, --uid or --cgroup",
			sockdiag.FormatPorts(a.ports))
	case hosts == 0 && h.owner.IsZero():
		return fmt.Errorf("%w: tcphup HOST... PORT; %s", ErrUsage, every)
	case a.bare != "":
		return argumentErrorf("argument %s may be a PORT or one more process: write --port=%[1]s, or several processes as one word, such as --pid=12,34", a.bare)
	case hosts == 0 || a.hasPort:
		return nil
	case hosts > 1:
		return argumentErrorf("PORT is missing: the last word %s is neither a number from 0 to 65535 nor a known service name; %s", text.Quote(h.words[len(h.words)-1]), every)
	case strings.Count(a.hosts[0], ":") > 1:
		return argumentErrorf("PORT is missing after HOST %s: write it as the last word, or one such as [2001:db8::5]:5432; %s", text.Quote(a.hosts[0]), every)
	default:
		return argumentErrorf("PORT is missing after HOST %s: write %[2]s 5432; %[3]s", text.Quote(a.hosts[0]), a.hosts[0], every)
	}
}
