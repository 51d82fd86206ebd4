package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"

	"tcphup/endpoints"
)

// stale is what the command line says of a service that has left addresses behind.
type stale struct {
	service string // NAME or NAME:PORT
	former  []string
	file    string // state file
}

// destinations returns the former addresses and the port, without a port those of
// every port. An address that the name has now is never among them, so the name
// must resolve: without that nobody can tell.
func (s *stale) destinations(ctx context.Context, stderr io.Writer) ([]netip.Prefix, []uint16, error) {
	name, port, err := parseService(s.service)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: --stale: %w", errUsage, err)
	}
	former, current, known, err := s.read(name)
	if err != nil {
		return nil, nil, err
	}
	if port == 0 {
		port = known
	}
	now, err := endpoints.Resolve(ctx, endpoints.Service{Name: name, Port: port})
	if err != nil {
		return nil, nil, fmt.Errorf("%w: --stale: where %s is now is not known: %w; to hang up all the same, write tcphup ADDRESS PORT", errUsage, name, err)
	}
	current = append(current, now...)
	var prefixes []netip.Prefix
	for _, a := range former {
		if slices.Contains(current, a) {
			fmt.Fprintf(stderr, "tcphup: %s is an address of %s now, left alone\n", a, name)
			continue
		}
		prefix, err := hostPrefix(a)
		if err != nil {
			return nil, nil, err
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

// read returns the addresses that the name had before, those that it had when the
// state file was written, and the port of that file.
func (s *stale) read(name string) (former, current []netip.Addr, port uint16, err error) {
	if s.file == "" && len(s.former) == 0 {
		return nil, nil, 0, fmt.Errorf("%w: --stale: which addresses %s had before is not known: add --endpoints.state-file or --former ADDRESS", errUsage, name)
	}
	for _, text := range s.former {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return nil, nil, 0, fmt.Errorf("%w: --former %q is not an address", errUsage, text)
		}
		former = append(former, a.Unmap())
	}
	if s.file == "" {
		return former, nil, 0, nil
	}
	known, err := endpoints.ReadState(s.file, name)
	switch {
	case errors.Is(err, endpoints.ErrUnknown) && len(s.former) > 0:
		return former, nil, 0, nil
	case err != nil:
		return nil, nil, 0, fmt.Errorf("%w: --stale: %w", errUsage, err)
	}
	return append(former, known.Former...), known.Current, known.Port, nil
}
