package sockdiag

import "net/netip"

// listeners is the set of listening endpoints of one network namespace. The zero value is
// empty and ready to use.
type listeners struct {
	exact map[netip.AddrPort]struct{}
	any4  portSet // wildcards that accept IPv4
	any6  portSet // wildcards that accept IPv6
}

// portSet is a set of ports, one bit each, for a cheap lookup per flow of a dump.
type portSet [1 << 16 / 64]uint64

func (s *portSet) add(port uint16)      { s[port/64] |= 1 << (port % 64) }
func (s *portSet) has(port uint16) bool { return s[port/64]&(1<<(port%64)) != 0 }

// keptListeners is the number of exact listeners up to which reset keeps the memory of the map: a
// pod with a million of them must not determine the size of the next ones.
const keptListeners = 1024

// reset empties the set.
func (l *listeners) reset() {
	if len(l.exact) > keptListeners {
		l.exact = nil
	}
	clear(l.exact)
	l.any4, l.any6 = portSet{}, portSet{}
}

// add adds a flow in state Listen and ignores any other flow. An IPv6 wildcard accepts
// IPv4 too, unless V6Only is set.
func (l *listeners) add(f *Flow) {
	if f.State != Listen {
		return
	}
	switch {
	case !f.Local.Addr().IsUnspecified():
		if l.exact == nil {
			l.exact = make(map[netip.AddrPort]struct{})
		}
		l.exact[f.Local] = struct{}{}
	case f.Family == IPv6 && f.Local.Addr().Is6():
		l.any6.add(f.Local.Port())
		if !f.V6Only {
			l.any4.add(f.Local.Port())
		}
	default: // an IPv6 socket may be bound to ::ffff:0.0.0.0
		l.any4.add(f.Local.Port())
	}
}

// has reports whether a listener accepts connections to the local endpoint.
func (l *listeners) has(local netip.AddrPort) bool {
	wildcards := &l.any4
	if !local.Addr().Is4() {
		wildcards = &l.any6
	}
	if wildcards.has(local.Port()) {
		return true
	}
	_, ok := l.exact[local]
	return ok
}
