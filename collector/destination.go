package collector

import (
	"net/netip"
	"slices"
	"strconv"
)

// destinationMapper maps the remote address of a flow to a destination. A destination is
// a netip.AddrPort with an address, or the first address of a prefix.
type destinationMapper struct {
	include, exclude []netip.Prefix
	bits4, bits6     int
}

// destination returns the destination of a flow to remote. It reports false for an
// address that include or exclude leaves out.
func (m *destinationMapper) destination(remote netip.AddrPort) (netip.AddrPort, bool) {
	addr := remote.Addr()
	contains := func(p netip.Prefix) bool { return p.Contains(addr) }
	if len(m.include) > 0 && !slices.ContainsFunc(m.include, contains) {
		return netip.AddrPort{}, false
	}
	if slices.ContainsFunc(m.exclude, contains) {
		return netip.AddrPort{}, false
	}
	if m.bits(addr) == addr.BitLen() {
		return remote, true
	}
	return netip.AddrPortFrom(m.prefix(addr).Addr(), remote.Port()), true
}

// prefix returns the prefix that addr is aggregated by.
func (m *destinationMapper) prefix(addr netip.Addr) netip.Prefix {
	return netip.PrefixFrom(addr, m.bits(addr)).Masked()
}

func (m *destinationMapper) bits(addr netip.Addr) int {
	if addr.Is4() {
		return m.bits4
	}
	return m.bits6
}

// labels returns the values of the labels destination and port.
func (m *destinationMapper) labels(d netip.AddrPort) (destination, port string) {
	port = strconv.Itoa(int(d.Port()))
	if m.bits(d.Addr()) == d.Addr().BitLen() {
		return d.Addr().String(), port
	}
	return m.prefix(d.Addr()).String(), port
}
