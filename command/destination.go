package command

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// mappedBits is the length of ::ffff:0:0/96, the IPv4-mapped part of IPv6.
const mappedBits = 96

// widestPrefix is the shortest prefix length that may be hung up without --yes.
const widestPrefix = 8

// resolver looks up the addresses of a name; net.Resolver has it.
type resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// parseHosts turns addresses, prefixes and names into prefixes. A name stands for
// all its A and AAAA addresses.
func parseHosts(ctx context.Context, hosts []string, names resolver) ([]netip.Prefix, error) {
	var prefixes []netip.Prefix
	for _, host := range hosts {
		found, err := parseHost(ctx, host, names)
		if err != nil {
			return nil, err
		}
		prefixes = append(prefixes, found...)
	}
	slices.SortFunc(prefixes, netip.Prefix.Compare)
	return slices.Compact(prefixes), nil
}

// isName reports whether a HOST that was parsed is a name.
func isName(host string) bool {
	_, err := netip.ParseAddr(host)
	return err != nil && !strings.Contains(host, "/")
}

func addressList(prefixes []netip.Prefix) string {
	var addresses []string
	for _, p := range prefixes {
		addresses = append(addresses, p.Addr().String())
	}
	return strings.Join(addresses, ", ")
}

func parseHost(ctx context.Context, host string, names resolver) ([]netip.Prefix, error) {
	if strings.Contains(host, "/") {
		p, err := parseHostPrefix(host)
		return []netip.Prefix{p}, err
	}
	if a, err := netip.ParseAddr(host); err == nil {
		p, err := hostPrefix(a)
		return []netip.Prefix{p}, err
	}
	if host == "" || strings.ContainsAny(host, ":[] ") {
		return nil, fmt.Errorf("%w: HOST %q is no address, prefix or name; write HOST and PORT as two words, an IPv6 address without brackets", ErrUsage, host)
	}
	addrs, err := names.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, fmt.Errorf("%w: HOST %q does not resolve: %w", ErrUsage, host, err)
	}
	var prefixes []netip.Prefix
	for _, a := range addrs {
		p, err := hostPrefix(a)
		if err != nil {
			return nil, err
		}
		prefixes = append(prefixes, p)
	}
	if len(prefixes) == 0 {
		return nil, fmt.Errorf("%w: HOST %q has no address", ErrUsage, host)
	}
	return prefixes, nil
}

// hostPrefix is the prefix of one address, IPv4-mapped ones as IPv4.
func hostPrefix(a netip.Addr) (netip.Prefix, error) {
	a = a.Unmap()
	switch {
	case a.Zone() != "":
		return netip.Prefix{}, fmt.Errorf("%w: HOST %q has a zone; write %s, which means this address on every interface", ErrUsage, a, a.WithZone(""))
	case a.IsUnspecified():
		return netip.Prefix{}, fmt.Errorf("%w: HOST %q is the unspecified address, to which no flow can lead; write a prefix to mean many", ErrUsage, a)
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}

// parseHostPrefix takes a prefix without host bits. A prefix of IPv4-mapped
// addresses is the IPv4 prefix that it stands for.
func parseHostPrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%w: HOST %q is no prefix: write ADDRESS/BITS", ErrUsage, s)
	}
	if p.Addr().Is4In6() {
		if p.Bits() < mappedBits {
			return netip.Prefix{}, fmt.Errorf("%w: HOST %q reaches beyond the IPv4-mapped addresses: write an IPv4 prefix", ErrUsage, s)
		}
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-mappedBits)
	}
	if p != p.Masked() {
		return netip.Prefix{}, fmt.Errorf("%w: HOST %q has host bits set: write %s for the network or %s for the one address", ErrUsage, s, p.Masked(), p.Addr())
	}
	return p, nil
}

// parsePort takes a number or a service name; 0 stands for every port and yields
// none.
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
