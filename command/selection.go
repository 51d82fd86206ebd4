package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/alecthomas/kingpin/v2"

	"tcphup/hangup"
	"tcphup/internal/address"
	"tcphup/internal/text"
	"tcphup/sockdiag"
)

// selection has the arguments and flags of hangup and list that select connections. Each
// flag filters further.
type selection struct {
	words  []string // HOST... PORT
	ports  []string // --port
	except []string
	stale  staleFlags
	owner  hangup.OwnerFilter
	netns  netnsFlag
	names  resolver

	// parse sets destinations, ports and the scope. Hosts are the arguments, without ports.
	selector sockdiag.Selector
	hosts    []string
	resolved hostAddresses // of HOST
	scope    scope
}

func (s *selection) addFlags(cmd *kingpin.CmdClause, argumentHelp string) {
	s.names = resolve
	cmd.Flag("port", "PORT, for any HOST: numbers, ranges or names of services, such as 5432,6000-6010,https (repeatable); 0 means every port.").
		PlaceHolder("PORT,...").StringsVar(&s.ports)
	setChoice(cmd.Flag("direction", "Direction of connections: outbound (opened by this host), inbound (accepted by this host; HOST is the peer, PORT the local port) or either.").
		Default(sockdiag.Outbound.String()), &s.selector.Direction, directions()...)
	cmd.Flag("except", "Leave connections to this address, prefix or name alone (repeatable).").PlaceHolder("HOST").StringsVar(&s.except)
	cmd.Flag("source", "Only connections from this local address or prefix (repeatable).").PlaceHolder("ADDRESS").SetValue((*prefixes)(&s.selector.Sources))
	cmd.Flag("state", "Only connections in these TCP states (comma-separated, repeatable): "+strings.Join(stateNames(), ", ")+".").
		PlaceHolder("STATE,...").HintOptions(stateNames()...).SetValue((*states)(&s.selector.States))
	cmd.Flag("min-idle", "Only connections without data in either direction for this long.").Default("0s").SetValue(duration{&s.selector.MinIdle, 0})
	cmd.Flag("pid", "Only connections of these processes (comma-separated, repeatable).").PlaceHolder("PID,...").SetValue((*processIDs)(&s.owner.PIDs))
	cmd.Flag("command", "Only connections of processes with these names, as in /proc/PID/comm (comma-separated, repeatable), with a backslash before a comma in a name.").
		PlaceHolder("NAME,...").SetValue((*processNames)(&s.owner.Commands))
	cmd.Flag("uid", "Only connections of processes that run as these users: ids or names of effective users (comma-separated, repeatable).").
		PlaceHolder("USER,...").SetValue((*userIDs)(&s.owner.UIDs))
	cmd.Flag("cgroup", "Only connections of processes in this cgroup or below it: a path as in /proc/PID/cgroup (repeatable).").
		PlaceHolder("PATH").SetValue((*cgroups)(&s.owner.Cgroups))
	s.stale.addFlags(cmd)
	s.netns.addFlag(cmd)
	cmd.Arg("HOST... PORT", argumentHelp).StringsVar(&s.words)
}

func directions() []sockdiag.Direction {
	return []sockdiag.Direction{sockdiag.Outbound, sockdiag.Inbound, sockdiag.Either}
}

// parse sets the destinations and ports of the selector. check rejects arguments before a
// name is resolved. Addresses of names are printed to notes, and those that --stale leaves
// alone to warnings.
func (s *selection) parse(ctx context.Context, check func(arguments) error, notes, warnings io.Writer) error {
	var err error
	if s.scope, err = s.netns.find(); err != nil {
		return err
	}
	used, err := s.stale.used(len(s.words) > 0 || len(s.ports) > 0)
	switch {
	case err != nil:
		return err
	case used:
		if err := s.parseExcept(ctx, warnings); err != nil {
			return err
		}
		s.selector.Destinations, s.selector.Ports, err = s.stale.destinations(ctx, warnings)
		if errors.Is(err, errNoFormer) {
			err = s.listElsewhere(ctx, err, warnings)
		}
		return err
	default:
		if err := s.parseDestinations(ctx, check, notes, warnings); err != nil {
			return err
		}
		return s.parseExcept(ctx, warnings)
	}
}

// parseExcept sets the excluded addresses. It returns an error for a name whose lookup failed
// in one address family: its connections of that family would not be excluded.
func (s *selection) parseExcept(ctx context.Context, warnings io.Writer) error {
	found, err := parseHosts(ctx, "--except", s.except, s.names, warnings)
	if err != nil {
		return err
	}
	for _, p := range found.partial {
		return argumentErrorf("--except %s: cannot look up all its addresses: %w; write the addresses", p.name, p.err())
	}
	s.selector.Except = found.prefixes
	return nil
}

func (s *selection) parseDestinations(ctx context.Context, check func(arguments) error, notes, warnings io.Writer) error {
	a, err := parseArguments(ctx, s.words, s.ports)
	if err == nil {
		err = check(a)
	}
	if err != nil {
		return err
	}
	s.hosts, s.selector.Ports = a.hosts, a.ports
	if s.selector.Destinations = sockdiag.Everywhere(); len(a.hosts) > 0 {
		if s.resolved, err = parseHosts(ctx, "HOST", a.hosts, s.names, notes); err != nil {
			return err
		}
		s.selector.Destinations = s.resolved.prefixes
		for _, p := range s.resolved.partial {
			fmt.Fprintf(warnings, "tcphup: warning: cannot look up all addresses of %s: %s\n", p.name, text.Printable(p.err().Error()))
		}
	}
	return nil
}

// filters returns the flags that filter connections, as typed in a shell, without
// destinations, ports and direction.
func (s *selection) filters() []string {
	var flags []string
	add := func(name string, values ...string) {
		if len(values) > 0 {
			flags = append(flags, "--"+name+"="+shellQuote(strings.Join(values, ",")))
		}
	}
	for _, p := range s.selector.Sources {
		add("source", address.Format(p))
	}
	if s.selector.States != 0 {
		add("state", (*states)(&s.selector.States).String())
	}
	if s.selector.MinIdle > 0 {
		add("min-idle", s.selector.MinIdle.String())
	}
	add("pid", texts(s.owner.PIDs, strconv.Itoa)...)
	if len(s.owner.Commands) > 0 {
		add("command", hangup.JoinCommands(s.owner.Commands))
	}
	add("uid", texts(s.owner.UIDs, func(uid uint32) string { return strconv.FormatUint(uint64(uid), 10) })...)
	for _, path := range s.owner.Cgroups {
		add("cgroup", path)
	}
	if s.netns.value != "" {
		add("netns", text.Printable(s.netns.value))
	}
	return flags
}

func texts[T any](values []T, format func(T) string) []string {
	list := make([]string, len(values))
	for i, v := range values {
		list[i] = format(v)
	}
	return list
}

// shellQuote quotes a word for a POSIX shell, if necessary.
func shellQuote(word string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=.,:/@%"
	if word != "" && strings.Trim(word, plain) == "" {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
