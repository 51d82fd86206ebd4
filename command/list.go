package command

import (
	"context"
	"fmt"
	"io"
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
	selection
	flows    bool
	watch    bool
	interval time.Duration
	output   string

	stdin          *os.File
	stdout, stderr io.Writer
}

func newList(cmd *kingpin.CmdClause) *list {
	l := &list{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	l.addFlags(cmd, "Destination: addresses, prefixes or names, then a port, a list or a range; default: every destination and port. HOST:PORT is one word, :PORT is a port of any HOST.")
	cmd.Flag("flows", "One line per connection, with its process, instead of one per destination.").BoolVar(&l.flows)
	cmd.Flag("watch", "Refresh the list like top; press q to quit.").Short('w').BoolVar(&l.watch)
	cmd.Flag("interval", "With --watch: refresh interval.").Default("2s").SetValue(duration{&l.interval, 100 * time.Millisecond})
	setChoice(cmd.Flag("output", "Output format: table or json.").Default("table"), &l.output, "table", "json")
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
	fmt.Fprintln(l.stderr, "tcphup: "+s.summary())
	return nil
}

// parse completes the selector from the arguments.
func (l *list) parse(ctx context.Context) error {
	return l.selection.parse(ctx, func(a arguments) error {
		if len(l.words) == 1 && len(a.hosts) == 1 && !a.hasPort && isService(ctx, a.hosts[0]) {
			return argumentErrorf("argument %s may be a HOST or the name of a service: write %[2]s 0, or :%[2]s", text.Quote(a.hosts[0]), a.hosts[0])
		}
		return nil
	}, io.Discard, l.stderr)
}

// snapshot is the result of one scan.
type snapshot struct {
	destinations []*destinationSummary
	count        int // matched flows
	leftAlone    int // flows excluded only by their direction
	hidden       int // subflows of MPTCP connections that the kernel does not list

	// flows, owners and ownersErr are set with --flows or an owner filter only.
	flows     []*listedFlow
	owners    actuator.Owners
	ownersErr error
	// unknownOwner counts the flows that match except for the owner filter and have no visible
	// process.
	unknownOwner int
}

func (l *list) snapshot(ctx context.Context) (*snapshot, error) {
	s, all := new(snapshot), make(summaries)
	var err error
	if !l.owner.IsZero() {
		err = l.scanOwned(ctx, s, all)
	} else {
		s.leftAlone, err = scan(ctx, &l.selector, func(f *listedFlow) {
			s.add(f, all)
			if l.flows {
				s.flows = append(s.flows, f)
			}
		})
	}
	if err != nil {
		return nil, err
	}
	s.destinations = all.sorted()
	sortFlows(s.flows)
	if l.flows && l.owner.IsZero() {
		s.owners, s.ownersErr = actuator.FindOwners(ctx, plainFlows(s.flows))
	}
	return s, nil
}

// scanOwned adds the flows of the processes that the owner filter selects.
func (l *list) scanOwned(ctx context.Context, s *snapshot, all summaries) error {
	found, err := l.selection.scanOwned(ctx, &l.selector)
	if err != nil {
		return err
	}
	s.flows, s.leftAlone, s.owners, s.unknownOwner = found.flows, found.leftAlone, found.owners, found.unknown
	for _, f := range s.flows {
		s.add(f, all)
	}
	return nil
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
	line += otherDirection(s.leftAlone) + unknownOwner(s.unknownOwner)
	if s.hidden > 0 {
		line += fmt.Sprintf("; %s of unlisted MPTCP connections: %v", text.Plural(s.hidden, "subflow"), sockdiag.ErrNoMPTCPDiag)
	}
	switch {
	case s.ownersErr != nil:
		line += "; " + text.Printable(s.ownersErr.Error())
	case s.missesOwners() || s.unknownOwner > 0:
		line += uninspected(s.owners.Unreadable, s.owners.Processes) + unsearched(s.owners.Unsearched)
	}
	return line
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
