package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"tcphup/internal/address"
)

// widestPrefix is the shortest prefix length that hangup accepts without --yes.
const widestPrefix = 8

// resolver is the part of net.Resolver that parseHosts uses.
type resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// parseHosts returns the sorted prefixes for addresses, prefixes and names. A name
// resolves to all its A and AAAA addresses, which parseHosts prints to notes.
func parseHosts(ctx context.Context, hosts []string, names resolver, notes io.Writer) ([]netip.Prefix, error) {
	var prefixes []netip.Prefix
	for _, host := range hosts {
		found, err := parseHost(ctx, host, names, notes)
		if err != nil {
			return nil, err
		}
		prefixes = append(prefixes, found...)
	}
	slices.SortFunc(prefixes, netip.Prefix.Compare)
	return slices.Compact(prefixes), nil
}

func parseHost(ctx context.Context, host string, names resolver, notes io.Writer) ([]netip.Prefix, error) {
	prefix, err := address.Parse(host)
	switch {
	case err == nil:
		return []netip.Prefix{prefix}, nil
	case !errors.Is(err, address.ErrSyntax):
		return nil, fmt.Errorf("%w: HOST %w", ErrUsage, err)
	case strings.Trim(host, "0123456789.") == "" || strings.ContainsAny(host, "/:[] "):
		return nil, fmt.Errorf("%w: HOST %q is not an address, a prefix or a name: write one such as 10.0.0.5, 10.20.0.0/16, 2001:db8::5 or db.internal, and HOST and PORT as two words", ErrUsage, host)
	}
	addrs, err := names.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, inputError{fmt.Errorf("HOST %q does not resolve: %w", host, err)}
	}
	var prefixes []netip.Prefix
	var list []string
	for _, a := range addrs {
		p, err := address.FromAddr(a)
		if err != nil {
			return nil, inputError{fmt.Errorf("HOST %q: %w", host, err)}
		}
		prefixes, list = append(prefixes, p), append(list, p.Addr().String())
	}
	if len(prefixes) == 0 {
		return nil, inputError{fmt.Errorf("HOST %q has no address", host)}
	}
	fmt.Fprintf(notes, "tcphup: %s resolves to %s\n", host, strings.Join(list, ", "))
	return prefixes, nil
}

// parsePort returns the port for a number or a service name, and nil for 0, which means
// every port.
func parsePort(ctx context.Context, s string) ([]uint16, error) {
	if n, err := strconv.ParseUint(s, 10, 16); err == nil {
		if n == 0 {
			return nil, nil
		}
		return []uint16{uint16(n)}, nil
	}
	if strings.Trim(s, "0123456789+-") == "" {
		return nil, fmt.Errorf("%w: PORT %q is not between 0 and 65535", ErrUsage, s)
	}
	port, err := net.DefaultResolver.LookupPort(ctx, "tcp", s)
	if err != nil {
		return nil, fmt.Errorf("%w: PORT %q is neither a number from 0 to 65535 nor a known service name; 0 means every port", ErrUsage, s)
	}
	return []uint16{uint16(port)}, nil
}
