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

	"github.com/alecthomas/kingpin/v2"

	"tcphup/internal/address"
	"tcphup/internal/text"
	"tcphup/services"
)

// stale is what the command line says of a service that has left addresses behind.
type stale struct {
	service string // NAME or NAME:PORT
	former  []string
	// directory is that of the state file; empty means defaultStateDirectory, if it has
	// one.
	directory string
}

// defaultStateDirectory is the state directory of the packaged service.
const defaultStateDirectory = "/var/lib/tcphup"

func (s *stale) addFlags(cmd *kingpin.CmdClause) {
	cmd.Flag("stale", "In place of HOST and PORT: the flows to where this name was, and is no more (NAME or NAME:PORT). Needs the state file of tcphup serve or --former.").
		StringVar(&s.service)
	cmd.Flag("former", "With --stale: an address that the name had before (repeatable).").StringsVar(&s.former)
	cmd.Flag("state.directory", "With --stale: the state directory of tcphup serve, with the addresses that the name had before. Default: "+defaultStateDirectory+", if it has them.").
		StringVar(&s.directory)
}

// isAsked reports whether the flags are to be used, given whether the command line
// names a destination as well.
func (s *stale) isAsked(named bool) (bool, error) {
	switch {
	case s.service != "" && named:
		return false, fmt.Errorf("%w: --stale takes the place of HOST and PORT: write NAME:PORT to name a port", ErrUsage)
	case s.service == "" && (len(s.former) > 0 || s.directory != ""):
		return false, fmt.Errorf("%w: --former and --state.directory need --stale NAME[:PORT]", ErrUsage)
	default:
		return s.service != "", nil
	}
}

// destinations returns the former addresses and the port, without a port those of
// every port. An address that the name has now is never among them, so the name must
// resolve. Addresses of a family whose lookup failed are left out.
func (s *stale) destinations(ctx context.Context, stderr io.Writer) ([]netip.Prefix, []uint16, error) {
	name, port, err := address.ParseService(s.service)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: --stale: %w", ErrUsage, err)
	}
	asked, former, current, known, err := s.read(name)
	if err != nil {
		return nil, nil, err
	}
	if port == 0 {
		port = known
	}
	resolved, err := services.Resolve(ctx, services.Service{Name: name, Port: port})
	if err != nil {
		return nil, nil, fmt.Errorf("%w: --stale: where %s is now is not known: %w; to hang up all the same, write tcphup ADDRESS PORT", ErrUsage, name, err)
	}
	now := resolved.Addrs
	for _, a := range current {
		if resolved.Err(a) == nil && !slices.Contains(now, a) && !slices.Contains(asked, a) {
			fmt.Fprintf(stderr, "tcphup: %s is not in the answer for %s any more and does not count as former yet: add --former=%s to take it too\n", a, name, a)
			former = slices.DeleteFunc(former, func(f netip.Addr) bool { return f == a })
		}
	}
	var prefixes []netip.Prefix
	for _, a := range append(asked, former...) {
		if err := resolved.Err(a); err != nil {
			fmt.Fprintf(stderr, "tcphup: %s left alone: cannot look up current addresses of %s: %s\n", a, name, text.Printable(err.Error()))
			continue
		}
		if slices.Contains(now, a) {
			fmt.Fprintf(stderr, "tcphup: %s is an address of %s now, left alone\n", a, name)
			continue
		}
		prefix, err := address.FromAddr(a)
		if err != nil {
			return nil, nil, fmt.Errorf("%w: --stale: %w", ErrUsage, err)
		}
		prefixes = append(prefixes, prefix)
	}
	slices.SortFunc(prefixes, netip.Prefix.Compare)
	var ports []uint16
	if port != 0 {
		ports = []uint16{port}
	}
	return slices.Compact(prefixes), ports, nil
}

// read returns the addresses that are asked for as former ones, and what the state file
// says: those that the name had before, those that it had last, and the port.
func (s *stale) read(name string) (asked, former, current []netip.Addr, port uint16, err error) {
	for _, text := range s.former {
		a, err := address.ParseAddr(text)
		if err != nil {
			return nil, nil, nil, 0, fmt.Errorf("%w: --former %w", ErrUsage, err)
		}
		asked = append(asked, a)
	}
	known, err := services.ReadState(cmp.Or(s.directory, defaultStateDirectory), name)
	absent := s.directory == "" && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission))
	switch {
	case err == nil:
		return asked, known.Former, known.Current, known.Port, nil
	case len(s.former) > 0 && (absent || errors.Is(err, services.ErrUnknown)):
		return asked, nil, nil, 0, nil
	case absent:
		return nil, nil, nil, 0, fmt.Errorf("%w: --stale: which addresses %s had before is not known: %w: add --state.directory or --former ADDRESS", ErrUsage, name, err)
	default:
		return nil, nil, nil, 0, fmt.Errorf("%w: --stale: %w", ErrUsage, err)
	}
}
