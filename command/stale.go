package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"slices"
	"time"

	"github.com/alecthomas/kingpin/v2"

	"tcphup/internal/address"
	"tcphup/internal/text"
	"tcphup/services"
	"tcphup/sockdiag"
)

// staleFlags selects connections to the former addresses of a service.
type staleFlags struct {
	service   string   // NAME or NAME:PORT
	set       bool     // the command line has --stale
	former    []string // in addition to the state file
	directory string   // of the state file; empty means defaultStateDirectory, if it has one

	// undecided are addresses that may be former ones. destinations sets them.
	undecided []netip.Prefix
}

// defaultStateDirectory is the state directory of the packaged service.
const defaultStateDirectory = "/var/lib/tcphup"

func (s *staleFlags) addFlags(cmd *kingpin.CmdClause) {
	cmd.Flag("stale", "Instead of HOST and PORT: connections to addresses that NAME no longer resolves to (NAME or NAME:PORT). Needs the state file of tcphup serve or --former; without both, prints where connections lead, and closes nothing.").
		PlaceHolder("NAME[:PORT]").IsSetByUser(&s.set).StringVar(&s.service)
	cmd.Flag("former", "With --stale: a former address of NAME (repeatable).").PlaceHolder("ADDRESS").StringsVar(&s.former)
	cmd.Flag("state.directory", "With --stale: state directory of tcphup serve, with the former addresses of NAME. Default: "+defaultStateDirectory+", if it has a state file.").
		StringVar(&s.directory)
}

// used reports whether --stale is set. It returns an error if HOST is given as well, and for
// "", the value of an unset variable of a shell: the other flags would select more connections.
func (s *staleFlags) used(hostGiven bool) (bool, error) {
	switch {
	case s.set && s.service == "":
		return false, argumentErrorf("--stale: empty: write NAME or NAME:PORT")
	case s.set && hostGiven:
		return false, fmt.Errorf("%w: --stale takes the place of HOST and PORT: write NAME:PORT to name a port", ErrUsage)
	}
	return s.set, nil
}

// destinations returns the former addresses and the port; no port means every port. It
// excludes current addresses of the name, and returns an error if the name does not
// resolve. It also excludes undecided addresses: those of a family whose lookup failed and,
// without --former, those that are not former yet or that another service has now. Notes about
// excluded addresses go to stderr.
func (s *staleFlags) destinations(ctx context.Context, stderr io.Writer) ([]netip.Prefix, []sockdiag.PortRange, error) {
	name, port, err := address.ParseService(s.service)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: --stale: %w", ErrUsage, err)
	}
	named, state, err := s.read(name)
	if err != nil {
		return nil, nil, err
	}
	port = cmp.Or(port, state.Port)
	resolved, err := services.Resolve(ctx, services.Service{Name: name, Port: port, Resolver: state.Resolver})
	if err != nil {
		return nil, nil, inputError{fmt.Errorf("--stale: cannot look up current addresses of %s: %w; to hang up anyway, run tcphup ADDRESS PORT", name, err)}
	}
	leaveAlone := func(a netip.Addr, why string) {
		fmt.Fprintf(stderr, "tcphup: %s left alone: %s\n", a, why)
		s.undecided = append(s.undecided, netip.PrefixFrom(a, a.BitLen()))
	}
	now, former := resolved.Addrs, state.Former
	for _, a := range state.Current {
		if resolved.Err(a) == nil && !slices.Contains(now, a) && !slices.Contains(named, a) {
			leaveAlone(a, notYetFormer(a, name, &state, time.Now()))
			former = slices.DeleteFunc(former, func(f netip.Addr) bool { return f == a })
		}
	}
	former = slices.DeleteFunc(former, func(a netip.Addr) bool {
		other := state.SharedWith(a, port)
		if other == "" || slices.Contains(named, a) || slices.Contains(now, a) {
			return false
		}
		leaveAlone(a, fmt.Sprintf("%s has it now, and connections may belong to that service; to include it, add --former=%s", other, a))
		return true
	})
	if len(named)+len(state.Former)+len(s.undecided) == 0 {
		at := ""
		if port != 0 {
			at = fmt.Sprintf(" :%d", port)
		}
		fmt.Fprintf(stderr, "tcphup: tcphup serve has recorded no former address of %s; to see where connections lead: tcphup list%s --except=%[1]s\n", name, at)
	}
	var prefixes []netip.Prefix
	for _, a := range append(named, former...) {
		if err := resolved.Err(a); err != nil {
			leaveAlone(a, fmt.Sprintf("cannot look up current addresses of %s: %s", name, text.Printable(err.Error())))
			continue
		}
		if slices.Contains(now, a) {
			fmt.Fprintf(stderr, "tcphup: %s left alone: %s resolves to it\n", a, name)
			continue
		}
		prefix, err := address.FromAddr(a)
		if err != nil {
			return nil, nil, fmt.Errorf("%w: --stale: %w", ErrUsage, err)
		}
		prefixes = append(prefixes, prefix)
	}
	slices.SortFunc(prefixes, netip.Prefix.Compare)
	var ports []sockdiag.PortRange
	if port != 0 {
		ports = sockdiag.Ports(port)
	}
	return slices.Compact(prefixes), ports, nil
}

// notYetFormer explains why tcphup serve lists an address as current to which the name does not
// resolve.
func notYetFormer(a netip.Addr, name string, state *services.Known, now time.Time) string {
	include := fmt.Sprintf("; to include it now, add --former=%s", a)
	since, missing := state.Missing[a]
	former := since.Add(state.Settle)
	switch {
	case !missing:
		return fmt.Sprintf("%s no longer resolves to it, but tcphup serve has not recorded that", name) + include
	case now.Before(former):
		return fmt.Sprintf("%s changed %s ago, and the address stays current until %s, for another %s (settle: %s)", name,
			text.Duration(now.Sub(since)), former.Local().Format(time.TimeOnly), text.Duration(former.Sub(now)), text.Duration(state.Settle)) + include
	default:
		return fmt.Sprintf("%s changed %s ago, but tcphup serve does not list it as former: it has stopped, its lookups fail, or the addresses rotate",
			name, text.Duration(now.Sub(since))) + include
	}
}

// errNoFormer matches errors about a name without known former addresses.
var errNoFormer = errors.New("no former addresses")

// read returns the addresses of --former and the service's entry of the state file.
// Without an entry it returns an error unless --former is set.
func (s *staleFlags) read(name string) (named []netip.Addr, state services.Known, err error) {
	for _, text := range s.former {
		a, err := address.ParseAddr(text)
		if err != nil {
			return nil, state, fmt.Errorf("%w: --former: %w", ErrUsage, err)
		}
		named = append(named, a)
	}
	state, err = services.ReadState(cmp.Or(s.directory, defaultStateDirectory), name)
	missing, unknown := errors.Is(err, fs.ErrNotExist), errors.Is(err, services.ErrUnknown)
	absent := s.directory == "" && (missing || errors.Is(err, fs.ErrPermission))
	switch {
	case err == nil, len(named) > 0 && (absent || unknown):
		return named, state, nil
	case len(named) == 0 && (absent || unknown || missing):
		return nil, state, fmt.Errorf("--stale: %w of %s: %w", errNoFormer, name, err)
	default:
		return nil, state, inputError{fmt.Errorf("--stale: %w", err)}
	}
}
