package command

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/alecthomas/kingpin/v2"

	"tcphup/actuator"
	"tcphup/hangup"
	"tcphup/sockdiag"
)

// hangupCommand implements tcphup hangup.
type hangupCommand struct {
	targets []string // HOST... PORT
	except  []string // HOST
	yes     bool
	output  string
	stale   staleFlags
	netns   netnsFlag
	scope   scope
	request hangup.Request

	stdout, stderr io.Writer
}

func newHangup(cmd *kingpin.CmdClause) *hangupCommand {
	h := &hangupCommand{stdout: os.Stdout, stderr: os.Stderr}
	r := &h.request
	cmd.Flag("dry-run", "Find matching connections and run every safety check, but close nothing; shadow is the same for alerts.").BoolVar(&r.DryRun)
	setChoice(cmd.Flag("method", "How to close connections: shutdown (FIN; needs access to the owning process), destroy (RST; needs CAP_NET_ADMIN), or auto (shutdown where it can, otherwise destroy).").
		Default(string(hangup.Auto)), &r.Method, hangup.Methods()...)
	setChoice(cmd.Flag("direction", "Direction of connections: outbound (opened by this host), inbound (accepted by this host; HOST is the peer, PORT the local port) or either.").
		Default(sockdiag.Outbound.String()), &r.Selector.Direction, directions()...)
	cmd.Flag("min-idle", "Only connections without data in either direction for this long.").Default("0s").SetValue(duration{&r.Selector.MinIdle, 0})
	setChoice(cmd.Flag("mptcp", "What to close when a subflow of a Multipath TCP connection matches: the connection, or only the subflow (path) while another one remains.").
		Default(string(hangup.Connection)), &r.MPTCP, hangup.MPTCPModes()...)
	cmd.Flag("sigpipe-safe", "Commands whose processes never receive SIGPIPE although they neither ignore nor catch it, such as psql (comma-separated, repeatable): shutdown is safe for them.").
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
	cmd.Flag("watch-reconnect", "How long to watch for reconnects of the applications; 0 disables the watch.").Default("0s").SetValue(duration{&r.WatchReconnect, 0})
	cmd.Flag("except", "Leave connections to this address, prefix or name alone (repeatable).").PlaceHolder("HOST").StringsVar(&h.except)
	h.stale.addFlags(cmd)
	h.netns.addFlag(cmd)
	cmd.Flag("yes", fmt.Sprintf("Allow prefixes shorter than /%d.", widestPrefix)).BoolVar(&h.yes)
	setChoice(cmd.Flag("output", "Output format: table or json.").Default("table"), &h.output, "table", "json")
	cmd.Arg("HOST... PORT", "Destination: one or more addresses, prefixes or names, then a port; 0 means every port.").StringsVar(&h.targets)
	return h
}

func directions() []sockdiag.Direction {
	return []sockdiag.Direction{sockdiag.Outbound, sockdiag.Inbound, sockdiag.Either}
}

func (h *hangupCommand) run(ctx context.Context) error {
	if err := h.parse(ctx); err != nil {
		return err
	}
	var err error
	if h.scope, err = h.netns.find(); err != nil {
		return err
	}
	h.request.Namespaces = h.scope.namespaces
	elsewhere := h.elsewhere(ctx)
	fmt.Fprint(h.stderr, elsewhere)
	// The report has the outcome of each flow; the logger gets other warnings.
	logger := slog.New(slog.NewTextHandler(h.stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	report, err := actuator.New(actuator.Config{Logger: logger}).HangUp(ctx, h.request)
	if err != nil {
		return err
	}
	h.scope.unread = report.NamespaceErrors
	write := writeTable
	if h.output == "json" {
		write = writeJSON
	}
	if err := write(h.stdout, report); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	line := summary(report) + h.scope.note()
	if len(report.Results) == 0 {
		line += h.netns.hint()
	}
	fmt.Fprintln(h.stderr, "tcphup: "+line)
	fmt.Fprint(h.stderr, elsewhere)
	if report.Count(hangup.Failed, hangup.Lingering, hangup.Refused) > 0 || h.scope.incomplete() || ctx.Err() != nil {
		return ErrIncomplete
	}
	return nil
}

// parse completes the request from the arguments.
func (h *hangupCommand) parse(ctx context.Context) error {
	prefixes, ports, err := h.destinations(ctx)
	if err != nil {
		return err
	}
	for _, p := range prefixes {
		if p.Bits() < widestPrefix && !h.yes {
			return fmt.Errorf("%w: HOST %s is a prefix shorter than /%d: add --yes to allow it", ErrUsage, p, widestPrefix)
		}
	}
	r := &h.request
	if r.Selector.Except, err = parseHosts(ctx, h.except, net.DefaultResolver, h.stderr); err != nil {
		return fmt.Errorf("--except: %w", err)
	}
	if r.DrainDeadline > 0 && r.DrainQuiet > r.DrainDeadline {
		return fmt.Errorf("%w: --drain-quiet %s is longer than --drain-deadline %s: no busy connection could become quiet in time", ErrUsage, r.DrainQuiet, r.DrainDeadline)
	}
	if r.MPTCP == hangup.Path && r.Method == hangup.Shutdown {
		return fmt.Errorf("%w: --mptcp=path needs --method=auto or destroy: a single subflow cannot be shut down", ErrUsage)
	}
	r.Selector.Destinations, r.Selector.Ports = prefixes, ports
	return nil
}

// destinations returns the prefixes and ports of --stale or of HOST and PORT. It prints
// the addresses of names: after a failover, a name no longer resolves to the addresses of
// stale connections.
func (h *hangupCommand) destinations(ctx context.Context) ([]netip.Prefix, []uint16, error) {
	if used, err := h.stale.used(len(h.targets) > 0); err != nil {
		return nil, nil, err
	} else if used {
		return h.stale.destinations(ctx, h.stderr)
	}
	if len(h.targets) < 2 {
		return nil, nil, fmt.Errorf("%w: tcphup HOST... PORT: both are needed; PORT 0 means every port", ErrUsage)
	}
	last := len(h.targets) - 1
	ports, err := parsePort(ctx, h.targets[last])
	if err != nil {
		return nil, nil, err
	}
	prefixes, err := parseHosts(ctx, h.targets[:last], net.DefaultResolver, h.stderr)
	return prefixes, ports, err
}
