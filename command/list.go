package command

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/alecthomas/kingpin/v2"

	"tcphup/actuator"
	"tcphup/hangup"
	"tcphup/internal/text"
	"tcphup/sockdiag"
)

// The values of --sort.
const (
	sortIdle        = "idle"
	sortSockets     = "sockets"
	sortDestination = "destination"
	sortOwner       = "owner"
)

// list implements tcphup list.
type list struct {
	selection
	flows    bool
	watch    bool
	interval time.Duration
	sort     string
	output   string

	stdin          *os.File
	stdout, stderr io.Writer
}

func newList(cmd *kingpin.CmdClause) *list {
	l := &list{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	l.addFlags(cmd, "Destination: addresses, prefixes or names, then a port, a list or a range; default: every destination and port. HOST:PORT is one word, :PORT is a port of any HOST.")
	cmd.Flag("flows", "One line per connection, with its process, instead of one per destination.").BoolVar(&l.flows)
	cmd.Flag("watch", "Refresh the list like top; press q to quit.").Short('w').BoolVar(&l.watch)
	setChoice(cmd.Flag("sort", "Order of the rows: idle (longest first), sockets (most first), destination, or owner (with --flows).").Default(sortIdle),
		&l.sort, sortIdle, sortSockets, sortDestination, sortOwner)
	cmd.Flag("interval", "With --watch: refresh interval.").Default("2s").SetValue(duration{&l.interval, 100 * time.Millisecond})
	setChoice(cmd.Flag("output", "Output format: table or json.").Default("table"), &l.output, "table", "json")
	return l
}

func (l *list) run(ctx context.Context) error {
	if l.sort == sortOwner && !l.flows {
		return fmt.Errorf("%w: --sort=owner needs --flows", ErrUsage)
	}
	console := newConsole(l.stderr)
	defer console.close()
	l.stderr = console
	console.show(hangup.Progress{Activity: "looking up names"})
	if err := l.parse(ctx); err != nil {
		return err
	}
	color := useColor(l.stdout)
	if l.watch {
		console.close()
		return l.watchUntilDone(ctx, color)
	}
	console.show(hangup.Progress{Activity: "reading connections"})
	s, err := l.snapshot(ctx)
	console.close()
	if err != nil {
		return fmt.Errorf("list connections: %w", err)
	}
	if err := l.write(s, color); err != nil {
		return fmt.Errorf("write list: %w", err)
	}
	line := "tcphup: " + s.summary()
	if s.count == 0 {
		line += l.netns.hint()
	}
	console.print("", line)
	if s.scope.incomplete() {
		return ErrIncomplete
	}
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
	closing      int // matched flows that the local side has closed already
	leftAlone    int // flows excluded only by their direction
	direction    sockdiag.Direction
	hidden       int // subflows of MPTCP connections that the kernel does not list
	scope        scope

	// flows, owners and ownersErr are set with --flows or an owner filter only.
	flows     []*listedFlow
	owners    actuator.Owners
	ownersErr error
	// unknownOwner counts the flows that match except for the owner filter and have no visible
	// process, and otherOwner those of other processes.
	unknownOwner, otherOwner int
}

func (l *list) snapshot(ctx context.Context) (*snapshot, error) {
	s, all := &snapshot{direction: l.selector.Direction}, make(summaries)
	var err error
	if s.scope, err = l.netns.find(); err != nil { // again for each refresh
		return nil, err
	}
	if !l.owner.IsZero() {
		err = l.scanOwned(ctx, s, all)
	} else {
		s.leftAlone, err = s.scope.scan(ctx, &l.selector, func(f *listedFlow) {
			s.add(f, all)
			if l.flows {
				s.flows = append(s.flows, f)
			}
		})
	}
	if err != nil {
		return nil, err
	}
	s.destinations = all.sorted(l.sort)
	if l.flows && l.owner.IsZero() {
		s.owners, s.ownersErr = actuator.FindOwners(ctx, plainFlows(s.flows), s.scope.inodes()...)
	}
	s.sortFlows(l.sort)
	return s, nil
}

// scanOwned adds the flows of the processes that the owner filter selects.
func (l *list) scanOwned(ctx context.Context, s *snapshot, all summaries) error {
	found, err := l.selection.scanOwned(ctx, &s.scope, &l.selector)
	if err != nil {
		return err
	}
	s.flows, s.leftAlone, s.owners = found.flows, found.leftAlone, found.owners
	s.unknownOwner, s.otherOwner = found.unknown, found.other
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
	if f.ClosedHere() {
		s.closing++
	}
	all.add(f)
}

// summary returns the line below the list.
func (s *snapshot) summary() string {
	line := noMatch
	if s.count > 0 {
		line = fmt.Sprintf("%s, %s", text.Plural(s.count, "connection"), text.Plural(len(s.destinations), "destination"))
	}
	if s.closing > 0 {
		line += "; " + closing(s.closing)
	}
	line += otherDirection(s.leftAlone, s.direction, s.count > 0) + unknownOwner(s.unknownOwner)
	if s.count+s.leftAlone == 0 {
		line += otherOwner(s.otherOwner)
	}
	if s.hidden > 0 {
		line += fmt.Sprintf("; %s of unlisted MPTCP connections: %v", text.Plural(s.hidden, "subflow"), sockdiag.ErrNoMPTCPDiag)
	}
	switch {
	case s.ownersErr != nil:
		line += "; " + text.Printable(s.ownersErr.Error())
	case s.missesOwners() || s.unknownOwner > 0:
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
