package command

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"tcphup/internal/address"
	"tcphup/internal/text"
	"tcphup/services"
)

// widestPrefix is the shortest prefix length that hangup accepts without --yes.
const widestPrefix = 8

// resolver resolves a name in both address families.
type resolver func(ctx context.Context, name string) (services.Resolved, error)

func resolve(ctx context.Context, name string) (services.Resolved, error) {
	return services.Resolve(ctx, services.Service{Name: name})
}

// hostAddresses has the addresses of the hosts of arguments or of a flag.
type hostAddresses struct {
	prefixes []netip.Prefix // sorted
	partial  []partial
}

// partial is a name with addresses in one family. The lookup in the other family failed.
type partial struct {
	name string
	services.Resolved
}

func (p *partial) err() error {
	return cmp.Or(p.Err(netip.IPv4Unspecified()), p.Err(netip.IPv6Unspecified()))
}

// mayHave reports whether an address may belong to a host because a lookup failed.
func (a *hostAddresses) mayHave(addr netip.Addr) bool {
	return slices.ContainsFunc(a.partial, func(p partial) bool { return p.Err(addr) != nil })
}

// parseHosts returns the prefixes for addresses, prefixes and names. A name resolves to all its
// A and AAAA addresses, which parseHosts prints to notes; see partial. Errors begin with argument, the name
// of the argument or flag.
func parseHosts(ctx context.Context, argument string, list []string, names resolver, notes io.Writer) (hostAddresses, error) {
	var all hostAddresses
	for _, host := range list {
		if err := all.add(ctx, host, names, notes); err != nil {
			return hostAddresses{}, argumentErrorf("%s %w", argument, err)
		}
	}
	slices.SortFunc(all.prefixes, netip.Prefix.Compare)
	all.prefixes = slices.Compact(all.prefixes)
	return all, nil
}

func (a *hostAddresses) add(ctx context.Context, host string, names resolver, notes io.Writer) error {
	prefix, name, err := address.ParseHost(host)
	switch {
	case err != nil:
		return err
	case name == "":
		a.prefixes = append(a.prefixes, prefix)
		return nil
	}
	resolved, err := names(ctx, host)
	if err != nil {
		return fmt.Errorf("%s does not resolve: %w", text.Quote(host), err)
	}
	var list []string
	for _, addr := range resolved.Addrs {
		p, err := address.FromAddr(addr)
		if err != nil {
			return fmt.Errorf("%s: %w", text.Quote(host), err)
		}
		a.prefixes, list = append(a.prefixes, p), append(list, p.Addr().String())
	}
	if len(list) == 0 {
		return fmt.Errorf("%s has no address", text.Quote(host))
	}
	if p := (partial{host, resolved}); p.err() != nil {
		a.partial = append(a.partial, p)
	}
	fmt.Fprintf(notes, "tcphup: %s resolves to %s\n", host, strings.Join(list, ", "))
	return nil
}
