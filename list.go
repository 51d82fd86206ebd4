package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"golang.org/x/term"

	"tcphup/actuator"
	"tcphup/internal/text"
	"tcphup/sockdiag"
)

// list is the command of the same name.
type list struct {
	host, port string
	direction  string
	flows      bool
	watch      bool
	interval   time.Duration
	output     string
	stale      stale
	selector   sockdiag.Selector

	stdin          *os.File
	stdout, stderr io.Writer
}

func newList(cmd *kingpin.CmdClause) *list {
	l := &list{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	cmd.Flag("flows", "One line for each flow, with its process, in place of one for each destination.").BoolVar(&l.flows)
	cmd.Flag("watch", "Show it again and again, like top; q ends it.").Short('w').BoolVar(&l.watch)
	cmd.Flag("interval", "With --watch: how often.").Default("2s").DurationVar(&l.interval)
	cmd.Flag("direction", "Which flows: outbound (opened here), inbound (accepted here; PORT is then the local one) or either.").
		Default("outbound").EnumVar(&l.direction, "outbound", "inbound", "either")
	cmd.Flag("output", "Form of the list: table or json.").Default("table").EnumVar(&l.output, "table", "json")
	l.stale.addFlags(cmd)
	cmd.Arg("HOST", "An address, a prefix or a name; none means every destination.").StringVar(&l.host)
	cmd.Arg("PORT", "A port; none or 0 means every port.").StringVar(&l.port)
	return l
}

func (l *list) run(ctx context.Context) (int, error) {
	if err := l.parse(ctx); err != nil {
		return exitUsage, err
	}
	colour := useColour(l.stdout)
	if l.watch {
		return exitDone, l.watchUntilDone(ctx, colour)
	}
	v, err := l.look(ctx)
	if err != nil {
		return exitIncomplete, fmt.Errorf("list flows: %w", err)
	}
	if err := l.write(v, colour); err != nil {
		return exitIncomplete, err
	}
	fmt.Fprintln(l.stderr, "tcphup: "+v.summary())
	return exitDone, nil
}

// parse completes the selector from the command line.
func (l *list) parse(ctx context.Context) error {
	if l.interval < 100*time.Millisecond {
		return fmt.Errorf("%w: --interval must be at least 100ms", errUsage)
	}
	l.selector = sockdiag.Selector{Destinations: everywhere(), Direction: parseDirection(l.direction)}
	asked, err := l.stale.isAsked(l.host != "")
	switch {
	case err != nil:
		return err
	case asked:
		l.selector.Destinations, l.selector.Ports, err = l.stale.destinations(ctx, l.stderr)
		return err
	}
	if l.host != "" {
		if l.selector.Destinations, err = parseHosts(ctx, []string{l.host}, net.DefaultResolver); err != nil {
			return err
		}
	}
	if l.port != "" {
		l.selector.Ports, err = parsePort(ctx, l.port)
	}
	return err
}

func everywhere() []netip.Prefix {
	return []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
}

// view is what one look has shown.
type view struct {
	destinations []*destinationSummary
	count        int
	leftAlone    int

	flows  []*seen // with --flows, and their owners
	owners actuator.Owners
	// ownersErr says why no owner could be looked for.
	ownersErr error
}

func (l *list) look(ctx context.Context) (*view, error) {
	v, all := new(view), make(summaries)
	var err error
	v.leftAlone, err = survey(ctx, &l.selector, func(s *seen) {
		v.count++
		all.add(s)
		if l.flows {
			kept := *s
			v.flows = append(v.flows, &kept)
		}
	})
	if err != nil {
		return nil, err
	}
	v.destinations = all.sorted()
	if l.flows {
		sortFlows(v.flows)
		inodes := make([]uint32, len(v.flows))
		for i, f := range v.flows {
			inodes[i] = f.Inode
		}
		v.owners, v.ownersErr = actuator.FindOwners(ctx, inodes)
	}
	return v, nil
}

// summary is one line about all of it.
func (v *view) summary() string {
	s := "no flow matches"
	if v.count > 0 {
		s = fmt.Sprintf("%s, %s", text.Plural(v.count, "flow"), text.Plural(len(v.destinations), "destination"))
	}
	if v.leftAlone > 0 {
		s += fmt.Sprintf("; %d of the other direction left alone (--direction)", v.leftAlone)
	}
	switch {
	case v.ownersErr != nil:
		s += "; " + text.Printable(v.ownersErr.Error())
	case v.owners.Unreadable > 0 && v.missesOwners():
		s += fmt.Sprintf("; %d of %d processes kept their descriptors secret (tcphup probe says why)", v.owners.Unreadable, v.owners.Processes)
	}
	return s
}

// missesOwners reports whether a flow that some process holds has no owner.
func (v *view) missesOwners() bool {
	for _, f := range v.flows {
		if _, known := v.owners.ByInode[f.Inode]; !known && f.Inode != 0 {
			return true
		}
	}
	return false
}

// write prints the view to where it was asked for.
func (l *list) write(v *view, colour bool) error {
	var err error
	if l.output == "json" {
		encoder := json.NewEncoder(l.stdout)
		encoder.SetIndent("", "  ")
		err = encoder.Encode(v.json(l.flows))
	} else {
		for _, line := range v.table(l.flows).lines(colour) {
			if _, err = fmt.Fprintln(l.stdout, line); err != nil {
				break
			}
		}
	}
	if err != nil {
		return fmt.Errorf("write list: %w", err)
	}
	return nil
}

// useColour reports whether w is a terminal whose user has not asked for plain
// text by NO_COLOR or TERM=dumb.
func useColour(w io.Writer) bool {
	return isTerminal(w) && os.Getenv("NO_COLOR") == "" && !strings.EqualFold(os.Getenv("TERM"), "dumb")
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
