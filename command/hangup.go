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
	"slices"
	"time"

	"github.com/alecthomas/kingpin/v2"

	"tcphup/actuator"
	"tcphup/hangup"
	"tcphup/sockdiag"
)

// hangupCommand is the command of the same name.
type hangupCommand struct {
	targets   []string
	yes       bool
	direction string
	method    string
	mptcp     string
	output    string
	minIdle   time.Duration
	stale     stale
	request   hangup.Request

	stdout, stderr io.Writer
}

func newHangup(cmd *kingpin.CmdClause) *hangupCommand {
	h := &hangupCommand{stdout: os.Stdout, stderr: os.Stderr}
	cmd.Flag("dry-run", "Find the flows and their owners and try every guard, but close nothing.").BoolVar(&h.request.DryRun)
	cmd.Flag("method", "How to hang up: shutdown (FIN; needs the owner's process), destroy (RST; needs CAP_NET_ADMIN), or auto, for each flow the first of them that is right.").
		Default(string(hangup.Auto)).EnumVar(&h.method, names(hangup.Methods())...)
	cmd.Flag("direction", "Which flows: outbound (opened here), inbound (accepted here; HOST is the peer all the same, and PORT the local one) or either.").
		Default("outbound").EnumVar(&h.direction, "outbound", "inbound", "either")
	cmd.Flag("min-idle", "Only flows without data in either direction for this long.").Default("0s").DurationVar(&h.minIdle)
	cmd.Flag("mptcp", "What to hang up when a path of a Multipath TCP connection matches: the connection, or the path alone, where another one remains.").
		Default(string(hangup.Connection)).EnumVar(&h.mptcp, names(hangup.MPTCPModes())...)
	cmd.Flag("linger", "How long the peer may take to answer before the flow is taken down without it.").
		Default(hangup.DefaultLinger.String()).DurationVar(&h.request.Linger)
	cmd.Flag("rate", "Flows a second, with jitter; 0 means all at once.").Default("0").Float64Var(&h.request.Rate)
	cmd.Flag("max-flows", "Hang up nothing when more flows than this match; 0 means no limit.").Default("0").
		SetValue(wholeNumber{&h.request.MaxFlows, 0, math.MaxInt32})
	cmd.Flag("drain-quiet", "With --drain-deadline: how long a flow must have been quiet before it is hung up.").Default("1s").DurationVar(&h.request.DrainQuiet)
	cmd.Flag("drain-deadline", "How long to wait for busy flows to fall quiet, before they are hung up all the same; 0 means not to wait.").Default("0s").DurationVar(&h.request.DrainDeadline)
	cmd.Flag("watch-reconnect", "How long to watch where the applications go next; 0 means not to.").Default("0s").DurationVar(&h.request.WatchReconnect)
	h.stale.addFlags(cmd)
	cmd.Flag("yes", fmt.Sprintf("Allow a prefix shorter than /%d.", widestPrefix)).BoolVar(&h.yes)
	cmd.Flag("output", "Form of the report: table or json.").Default("table").EnumVar(&h.output, "table", "json")
	cmd.Arg("HOST... PORT", "Destination: one or more addresses, prefixes or names, then a port; 0 means every port.").StringsVar(&h.targets)
	return h
}

func names[T ~string](values []T) []string {
	s := make([]string, len(values))
	for i, v := range values {
		s[i] = string(v)
	}
	return s
}

func (h *hangupCommand) run(ctx context.Context) error {
	if err := h.parse(ctx); err != nil {
		return err
	}
	// The report says what became of the flows; what else goes wrong is told here.
	logger := slog.New(slog.NewTextHandler(h.stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	report, err := actuator.New(actuator.Config{Logger: logger}).HangUp(ctx, h.request)
	if err != nil {
		return err
	}
	if h.output == "json" {
		err = writeJSON(h.stdout, report)
	} else {
		err = writeTable(h.stdout, report)
	}
	if err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	fmt.Fprintln(h.stderr, "tcphup: "+summary(report))
	if report.Count(hangup.Failed, hangup.Lingering, hangup.Refused) > 0 || ctx.Err() != nil {
		return ErrIncomplete
	}
	return nil
}

// parse completes the request from the command line.
func (h *hangupCommand) parse(ctx context.Context) error {
	prefixes, ports, err := h.destinations(ctx)
	if err != nil {
		return err
	}
	for _, p := range prefixes {
		if p.Bits() < widestPrefix && !h.yes {
			return fmt.Errorf("%w: HOST %s covers a large part of all addresses; add --yes if that is meant", ErrUsage, p)
		}
	}
	if h.minIdle < 0 || h.request.Linger <= 0 || h.request.Rate < 0 || math.IsNaN(h.request.Rate) || math.IsInf(h.request.Rate, 0) ||
		h.request.DrainQuiet < 0 || h.request.DrainDeadline < 0 || h.request.WatchReconnect < 0 {
		return fmt.Errorf("%w: --linger must be above 0, --min-idle, --rate, --drain-quiet, --drain-deadline and --watch-reconnect must not be below 0", ErrUsage)
	}
	if h.request.DrainDeadline > 0 && h.request.DrainQuiet > h.request.DrainDeadline {
		return fmt.Errorf("%w: --drain-quiet must not be longer than --drain-deadline: no busy flow could fall quiet in time", ErrUsage)
	}
	direction, err := sockdiag.ParseDirection(h.direction)
	if err != nil {
		return fmt.Errorf("%w: --direction: %w", ErrUsage, err)
	}
	h.request.Selector = sockdiag.Selector{
		Destinations: prefixes,
		Ports:        ports,
		Direction:    direction,
		MinIdle:      h.minIdle,
	}
	h.request.Method = hangup.Method(h.method)
	h.request.MPTCP = hangup.MPTCPMode(h.mptcp)
	if h.request.MPTCP == hangup.Path && h.request.Method == hangup.Shutdown {
		return fmt.Errorf("%w: --mptcp=path needs --method=auto or destroy: a single path cannot be shut down", ErrUsage)
	}
	return nil
}

// destinations returns what the command line names.
func (h *hangupCommand) destinations(ctx context.Context) ([]netip.Prefix, []uint16, error) {
	if asked, err := h.stale.isAsked(len(h.targets) > 0); err != nil {
		return nil, nil, err
	} else if asked {
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
	var prefixes []netip.Prefix
	for _, host := range h.targets[:last] {
		found, err := parseHosts(ctx, []string{host}, net.DefaultResolver)
		if err != nil {
			return nil, nil, err
		}
		if isName(host) {
			// After a failover a name leads to where nothing is stale.
			fmt.Fprintf(h.stderr, "tcphup: %s is %s\n", host, addressList(found))
		}
		prefixes = append(prefixes, found...)
	}
	slices.SortFunc(prefixes, netip.Prefix.Compare)
	return slices.Compact(prefixes), ports, nil
}
