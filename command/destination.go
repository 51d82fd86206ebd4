package command

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"tcphup/internal/address"
	"tcphup/internal/text"
)

// widestPrefix is the shortest prefix length that hangup accepts without --yes.
const widestPrefix = 8

// resolver is the part of net.Resolver that parseHosts uses.
type resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// parseHosts returns the sorted prefixes for addresses, prefixes and names. A name
// resolves to all its A and AAAA addresses, which parseHosts prints to notes. Errors begin
// with argument, the name of the argument or flag.
func parseHosts(ctx context.Context, argument string, hosts []string, names resolver, notes io.Writer) ([]netip.Prefix, error) {
	var prefixes []netip.Prefix
	for _, host := range hosts {
		found, err := parseHost(ctx, host, names, notes)
		if err != nil {
			return nil, argumentErrorf("%s %w", argument, err)
		}
		prefixes = append(prefixes, found...)
	}
	slices.SortFunc(prefixes, netip.Prefix.Compare)
	return slices.Compact(prefixes), nil
}

func parseHost(ctx context.Context, host string, names resolver, notes io.Writer) ([]netip.Prefix, error) {
	prefix, name, err := address.ParseHost(host)
	switch {
	case err != nil:
		return nil, err
	case name == "":
		return []netip.Prefix{prefix}, nil
	}
	addrs, err := names.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, fmt.Errorf("%s does not resolve: %w", text.Quote(host), err)
	}
	var prefixes []netip.Prefix
	var list []string
	for _, a := range addrs {
		p, err := address.FromAddr(a)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", text.Quote(host), err)
		}
		prefixes, list = append(prefixes, p), append(list, p.Addr().String())
	}
	if len(prefixes) == 0 {
		return nil, fmt.Errorf("%s has no address", text.Quote(host))
	}
	fmt.Fprintf(notes, "tcphup: %s resolves to %s\n", host, strings.Join(list, ", "))
	return prefixes, nil
}
