package collector

import (
	"net/netip"
	"slices"
	"strconv"
)

// A destination is named by a netip.AddrPort: an address, or the first one of the
// prefix that destinations are widened to, and a port.

// folder decides under which destination a flow is counted.
type folder struct {
	include, exclude []netip.Prefix
	bits4, bits6     int
}

// destination returns the destination of a flow to remote and reports false when
// the configuration leaves that address out.
func (f *folder) destination(remote netip.AddrPort) (netip.AddrPort, bool) {
	addr := remote.Addr()
	contains := func(p netip.Prefix) bool { return p.Contains(addr) }
	if len(f.include) > 0 && !slices.ContainsFunc(f.include, contains) {
		return netip.AddrPort{}, false
	}
	if slices.ContainsFunc(f.exclude, contains) {
		return netip.AddrPort{}, false
	}
	if f.bits(addr) == addr.BitLen() {
		return remote, true
	}
	return netip.AddrPortFrom(f.prefix(addr).Addr(), remote.Port()), true
}

// prefix returns all addresses that are counted together with addr.
func (f *folder) prefix(addr netip.Addr) netip.Prefix {
	return netip.PrefixFrom(addr, f.bits(addr)).Masked()
}

func (f *folder) bits(addr netip.Addr) int {
	if addr.Is4() {
		return f.bits4
	}
	return f.bits6
}

// labels returns the values of the labels destination and port.
func (f *folder) labels(d netip.AddrPort) (destination, port string) {
	port = strconv.Itoa(int(d.Port()))
	if f.bits(d.Addr()) == d.Addr().BitLen() {
		return d.Addr().String(), port
	}
	return f.prefix(d.Addr()).String(), port
}
