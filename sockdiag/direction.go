package sockdiag

import "net/netip"

// Direction says which side opened a flow. The zero value is Outbound.
type Direction uint8

const (
	// Outbound flows were opened by the local side.
	Outbound Direction = iota
	// Inbound flows were accepted: their local address and port belong to a
	// listener of the same network namespace.
	Inbound
	// Either is both; it is a choice of a Selector, never a property of a flow.
	Either
)

// String returns "outbound", "inbound" or "either".
func (d Direction) String() string {
	return [...]string{"outbound", "inbound", "either"}[min(d, Either)]
}

// Listeners is the set of local endpoints that accept connections in one network
// namespace. The zero value is empty and ready for use.
type Listeners struct {
	exact map[netip.AddrPort]struct{}
	any4  portSet // wildcards that take IPv4
	any6  portSet // wildcards that take IPv6

	ephemeral PortRange
}

// portSet is a set of ports, one bit each: a look-up for every flow of a dump must
// cost next to nothing.
type portSet [1 << 16 / 64]uint64

func (s *portSet) add(port uint16)      { s[port/64] |= 1 << (port % 64) }
func (s *portSet) has(port uint16) bool { return s[port/64]&(1<<(port%64)) != 0 }

// PortRange is a range of ports, both ends included. The zero value holds none:
// port 0 is nobody's.
type PortRange struct{ First, Last uint16 }

// Contains reports whether the range holds the port.
func (r PortRange) Contains(port uint16) bool {
	return port != 0 && r.First <= port && port <= r.Last
}

// SetEphemeral names the ports that the kernel gives to whoever opens a flow
// without choosing one (see EphemeralPorts). They decide where no listener does,
// because it has been closed and its flows live on, and Flow.Opener is not known
// either: a flow from one of these ports to a local port that is none of them is
// inbound. Without a call, or with the zero PortRange, they decide nothing.
func (l *Listeners) SetEphemeral(r PortRange) { l.ephemeral = r }

// Add puts a flow in state Listen into the set; others are ignored. An IPv6
// wildcard counts for IPv4 too, unless it was restricted to IPv6.
func (l *Listeners) Add(f *Flow) {
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

// Direction returns Inbound when the flow's local endpoint belongs to a listener
// of the set, whoever has opened the flow: what is not hung up by mistake is the
// lesser harm. Where no listener is left it goes by who has opened the flow, and where
// that is not known by its ports (see SetEphemeral). During the handshake the state
// itself tells who began, but for a socket that a process has and that has sent a SYN
// and received one.
func (l *Listeners) Direction(f *Flow) Direction {
	switch {
	case f.State == SynSent:
		return Outbound
	case Handshake.Has(f.State) && f.Inode == 0:
		return Inbound
	}
	wildcards := &l.any4
	if !f.Local.Addr().Is4() {
		wildcards = &l.any6
	}
	if wildcards.has(f.Local.Port()) {
		return Inbound
	}
	if _, ok := l.exact[f.Local]; ok {
		return Inbound
	}
	switch {
	case f.Opener == OpenedHere:
		return Outbound
	case f.Opener == OpenedByPeer, l.ephemeral.Contains(f.Remote.Port()) && !l.ephemeral.Contains(f.Local.Port()):
		return Inbound
	default:
		return Outbound
	}
}
