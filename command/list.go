package command

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"golang.org/x/term"

	"tcphup/actuator"
	"tcphup/internal/text"
	"tcphup/sockdiag"
)

// list implements tcphup list.
type list struct {
	host, port string
	flows      bool
	watch      bool
	interval   time.Duration
	output     string
	stale      staleFlags
	netns      netnsFlag
	selector   sockdiag.Selector

	stdin          *os.File
	stdout, stderr io.Writer
}

func newList(cmd *kingpin.CmdClause) *list {
	l := &list{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	cmd.Flag("flows", "One line per connection, with its process, instead of one per destination.").BoolVar(&l.flows)
	cmd.Flag("watch", "Refresh the list like top; press q to quit.").Short('w').BoolVar(&l.watch)
	cmd.Flag("interval", "With --watch: refresh interval.").Default("2s").SetValue(duration{&l.interval, 100 * time.Millisecond})
	setChoice(cmd.Flag("direction", "Direction of connections: outbound (opened by this host), inbound (accepted by this host; PORT is the local port) or either.").
		Default(sockdiag.Outbound.String()), &l.selector.Direction, directions()...)
	setChoice(cmd.Flag("output", "Output format: table or json.").Default("table"), &l.output, "table", "json")
	l.stale.addFlags(cmd)
	l.netns.addFlag(cmd)
	cmd.Arg("HOST", "An address, a prefix or a name; default: every destination.").StringVar(&l.host)
	cmd.Arg("PORT", "A port; 0 or none means every port.").StringVar(&l.port)
	return l
}

func (l *list) run(ctx context.Context) error {
	if err := l.parse(ctx); err != nil {
		return err
	}
	color := useColor(l.stdout)
	if l.watch {
		return l.watchUntilDone(ctx, color)
	}
	s, err := l.snapshot(ctx)
	if err != nil {
		return fmt.Errorf("list connections: %w", err)
	}
	if err := l.write(s, color); err != nil {
		return fmt.Errorf("write list: %w", err)
	}
	line := s.summary()
	if s.count == 0 {
		line += l.netns.hint()
	}
	fmt.Fprintln(l.stderr, "tcphup: "+line)
	if s.scope.incomplete() {
		return ErrIncomplete
	}
	return nil
}

// parse completes the selector from the arguments.
func (l *list) parse(ctx context.Context) error {
	s := &l.selector
	s.Destinations = sockdiag.Everywhere()
	used, err := l.stale.used(l.host != "")
	if err == nil && used {
		s.Destinations, s.Ports, err = l.stale.destinations(ctx, l.stderr)
		return err
	}
	if err == nil && l.host != "" {
		s.Destinations, err = parseHosts(ctx, []string{l.host}, net.DefaultResolver, io.Discard)
	}
	if err == nil && l.port != "" {
		s.Ports, err = parsePort(ctx, l.port)
	}
	return err
}

// snapshot is the result of one scan.
type snapshot struct {
	destinations []*destinationSummary
	count        int // matched flows
	leftAlone    int // flows excluded only by their direction
	hidden       int // subflows of MPTCP connections that the kernel does not list
	scope        scope

	// flows, owners and ownersErr are set with --flows only.
	flows     []*listedFlow
	owners    actuator.Owners
	ownersErr error
}

func (l *list) snapshot(ctx context.Context) (*snapshot, error) {
	s, all := new(snapshot), make(summaries)
	var err error
	if s.scope, err = l.netns.find(); err != nil {
		return nil, err
	}
	s.leftAlone, err = s.scope.scan(ctx, &l.selector, func(f *listedFlow) {
		s.add(f, all)
		if l.flows {
			s.flows = append(s.flows, f)
		}
	})
	if err != nil {
		return nil, err
	}
	s.destinations = all.sorted()
	if l.flows {
		sortFlows(s.flows)
		flows := make([]sockdiag.Flow, len(s.flows))
		for i, f := range s.flows {
			flows[i] = f.Flow
		}
		s.owners, s.ownersErr = actuator.FindOwners(ctx, flows, s.scope.inodes()...)
	}
	return s, nil
}

func (s *snapshot) add(f *listedFlow, all summaries) {
	s.count++
	if f.hidden {
		s.hidden++
	}
	all.add(f)
}

// summary returns the line below the list.
func (s *snapshot) summary() string {
	line := noMatch
	if s.count > 0 {
		line = fmt.Sprintf("%s, %s", text.Plural(s.count, "connection"), text.Plural(len(s.destinations), "destination"))
	}
	line += otherDirection(s.leftAlone)
	if s.hidden > 0 {
		line += fmt.Sprintf("; %s of unlisted MPTCP connections: %v", text.Plural(s.hidden, "subflow"), sockdiag.ErrNoMPTCPDiag)
	}
	switch {
	case s.ownersErr != nil:
		line += "; " + text.Printable(s.ownersErr.Error())
	case s.missesOwners():
		line += uninspected(s.owners.Unreadable, s.owners.Processes) + unsearched(s.owners.Unsearched)
	}
	return line + s.scope.note()
}

// missesOwners reports whether the owner of a flow with an open descriptor is unknown.
func (s *snapshot) missesOwners() bool {
	for _, f := range s.flows {
		if _, known := s.owners.ByInode[f.Inode]; !known && f.Inode != 0 {
			return true
		}
	}
	return false
}

// write prints the snapshot in the format of --output.
func (l *list) write(s *snapshot, color bool) error {
	if l.output == "json" {
		return printJSON(l.stdout, s.json(l.flows))
	}
	return s.table(l.flows).write(l.stdout, color)
}

// useColor reports whether w is a terminal, NO_COLOR is unset and TERM is not dumb.
func useColor(w io.Writer) bool {
	return isTerminal(w) && os.Getenv("NO_COLOR") == "" && !strings.EqualFold(os.Getenv("TERM"), "dumb")
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
