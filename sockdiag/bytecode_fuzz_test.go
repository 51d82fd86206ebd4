package sockdiag

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"
)

// draw generates values from the bytes of a fuzzer. Exhausted bytes read as 0.
type draw struct {
	bytes     []byte
	addresses []netip.Addr // preferred choices
	ports     []uint16     // preferred choices
}

func (d *draw) byte() byte {
	if len(d.bytes) == 0 {
		return 0
	}
	b := d.bytes[0]
	d.bytes = d.bytes[1:]
	return b
}

func (d *draw) below(n int) int { return int(d.byte()) % n }
func (d *draw) u16() uint16     { return uint16(d.byte())<<8 | uint16(d.byte()) }
func (d *draw) u32() uint32     { return uint32(d.u16())<<16 | uint32(d.u16()) }

func pick[T any](d *draw, from []T) T { return from[d.below(len(from))] }

// address returns a preferred address, one with a single bit flipped, or a random one.
func (d *draw) address() netip.Addr {
	switch d.below(8) {
	case 0:
		return netip.AddrFrom4([4]byte{d.byte(), d.byte(), d.byte(), d.byte()})
	case 1:
		var b [16]byte
		for i := range b {
			b[i] = d.byte()
		}
		return netip.AddrFrom16(b)
	case 2:
		b := pick(d, d.addresses).AsSlice()
		bit := d.below(8 * len(b))
		b[bit/8] ^= 0x80 >> (bit % 8)
		a, _ := netip.AddrFromSlice(b)
		return a
	default:
		return pick(d, d.addresses)
	}
}

func (d *draw) port() uint16 {
	if d.below(4) == 0 {
		return d.u16()
	}
	return pick(d, d.ports)
}

func (d *draw) selector() *Selector {
	s := &Selector{Direction: Direction(d.below(3))}
	if d.below(2) == 0 {
		s.States = StateSet(d.u16())
	}
	for range 1 + d.below(4) {
		s.Destinations = append(s.Destinations, d.prefix())
	}
	for range max(d.below(5), 2) - 2 { // most selectors have no source
		s.Sources = append(s.Sources, d.prefix())
	}
	for range d.below(5) {
		r := PortRange{First: d.port()}
		if r.Last = r.First; d.below(2) == 0 {
			r.Last = d.port()
		}
		if r.Last < r.First && d.below(8) > 0 { // few ranges are empty
			r.First, r.Last = r.Last, r.First
		}
		s.Ports = append(s.Ports, r)
	}
	return s
}

func (d *draw) prefix() netip.Prefix {
	a := d.address()
	if d.below(4) == 0 { // an IPv4-mapped prefix is an IPv6 prefix
		a = netip.AddrFrom16(a.As16())
	}
	return netip.PrefixFrom(a, d.below(a.BitLen()+1))
}

func (d *draw) flow() *Flow {
	f := &Flow{Family: IPv6, State: State(d.below(int(MaxState) + 1))}
	local, remote := d.address().Unmap(), d.address().Unmap()
	if local.Is4() && remote.Is4() && d.below(2) == 0 {
		f.Family = IPv4
	}
	f.Local, f.Remote = netip.AddrPortFrom(local, d.port()), netip.AddrPortFrom(remote, d.port())
	return f
}

// kernelMayMatch is the reference for a selector's program: MayMatch, but the kernel also
// treats the addresses of an IPv6 socket as IPv6.
func kernelMayMatch(s *Selector, f *Flow) bool {
	asIPv6 := func(end netip.AddrPort) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom16(end.Addr().As16()), end.Port())
	}
	if f.Family != IPv6 {
		return s.MayMatch(f)
	}
	for _, local := range []netip.AddrPort{f.Local, asIPv6(f.Local)} {
		for _, remote := range []netip.AddrPort{f.Remote, asIPv6(f.Remote)} {
			seen := *f
			seen.Local, seen.Remote = local, remote
			if s.MayMatch(&seen) {
				return true
			}
		}
	}
	return false
}

// FuzzBytecode compares the program of a selector with kernelMayMatch and Match.
func FuzzBytecode(f *testing.F) {
	var addresses []netip.Addr
	for _, text := range []string{
		"10.0.0.1", "10.0.0.2", "10.255.0.1", "0.0.0.0", "255.255.255.255", "127.0.0.1", "::", "::1", "2001:db8::1",
		"2001:db8:0:1::1", "::ffff:0.0.0.0", "::10.0.0.1", "::fffe:10.0.0.1", "ffff::",
	} {
		addresses = append(addresses, netip.MustParseAddr(text))
	}
	random := rand.NewChaCha8([32]byte{})
	for range 32 {
		b := make([]byte, 128)
		_, _ = random.Read(b)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d := &draw{bytes: b, addresses: addresses, ports: []uint16{0, 1, 80, 443, 5432, 32768, 65535}}
		s := d.selector()
		p := program(s.bytecode())
		if !p.valid() {
			t.Fatalf("invalid program for %+v: % x", s, p)
		}
		for range 4 {
			flow := d.flow()
			socket := newSocket(flow)
			accepted := p.accepts(&socket)
			if want := kernelMayMatch(s, flow); accepted != want {
				t.Errorf("%+v: program accepts %+v: %t, want %t", s, flow, accepted, want)
			}
			for _, direction := range []Direction{Outbound, Inbound} {
				if !accepted && s.Match(flow, direction) {
					t.Errorf("%+v: program drops matching %s flow %+v", s, direction, flow)
				}
			}
		}
	})
}

// The longest program is valid. A longer program is nil.
func TestBytecodeLimit(t *testing.T) {
	s := &Selector{Destinations: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
	flow := Flow{Family: IPv4, Local: netip.MustParseAddrPort("10.0.0.1:1"), Remote: netip.MustParseAddrPort("10.0.0.2:1")}
	for port := uint16(2); s.bytecode() != nil; port++ {
		s.Ports = append(s.Ports, Ports(port)...)
		for len(s.Ports) < 2000 {
			port++
			s.Ports = append(s.Ports, Ports(port)...)
		}
	}
	s.Ports = s.Ports[:len(s.Ports)-1]
	p := program(s.bytecode())
	if len(p) > 1<<16-1-attrHeader || len(p) < 1<<16-64 {
		t.Errorf("longest program: %d bytes", len(p))
	}
	if !p.valid() {
		t.Error("longest program is invalid")
	}
	last := s.Ports[len(s.Ports)-1].Last
	for port, want := range map[uint16]bool{1: false, 2: true, last: true, last + 1: false} {
		flow.Remote = netip.AddrPortFrom(flow.Remote.Addr(), port)
		if socket := newSocket(&flow); p.accepts(&socket) != want {
			t.Errorf("accepts port %d: %t", port, !want)
		}
	}
}

// testMark is the mark of marked test sockets.
const testMark = 0xa5

// program returns a program of random operations. Most are valid.
func (d *draw) program() program {
	codes := []uint8{
		opNop, opJump, opSourceGE, opSourceLE, opDestGE, opDestLE, opAuto, opSourceCondition, opDestCondition,
		opDeviceCondition, opMarkCondition, opSourceEQ, opDestEQ, opCgroupCondition,
	}
	var p program
	starts := []int{}
	for range 1 + d.below(6) {
		starts = append(starts, len(p))
		code := pick(d, codes)
		p = append(p, code, 0, 0, 0)
		p = append(p, d.argument(code)...)
	}
	starts = append(starts, len(p), len(p)+opLen)
	for i, at := range starts[:len(starts)-2] {
		p[at+1] = byte(starts[i+1] - at)
		no := starts[i+1+d.below(len(starts)-i-1)] - at
		binary.NativeEndian.PutUint16(p[at+2:], uint16(no))
	}
	switch d.below(6) {
	case 0:
		p[d.below(len(p))] = d.byte()
	case 1:
		p = p[:len(p)-d.below(5)]
	}
	return p
}

func (d *draw) argument(code uint8) []byte {
	switch code {
	case opNop, opJump, opAuto:
		return nil
	case opDeviceCondition:
		return binary.NativeEndian.AppendUint32(nil, uint32(d.below(3)))
	case opMarkCondition:
		mask := d.u32()
		return binary.NativeEndian.AppendUint32(binary.NativeEndian.AppendUint32(nil, mask&testMark), mask)
	case opCgroupCondition:
		return binary.NativeEndian.AppendUint64(nil, uint64(d.below(3)))
	case opSourceCondition, opDestCondition:
		port := uint32(1<<32 - 1)
		if d.below(2) == 0 {
			port = uint32(d.port())
		}
		a := d.address()
		if d.below(3) == 0 {
			return binary.NativeEndian.AppendUint32(make([]byte, 4), port)
		}
		family := uint8(IPv6)
		if a.Is4() {
			family = uint8(IPv4)
		}
		head := binary.NativeEndian.AppendUint32([]byte{family, byte(d.below(a.BitLen() + 1)), 0, 0}, port)
		return append(head, a.AsSlice()...)
	default:
		return binary.NativeEndian.AppendUint16([]byte{0, 0}, d.port())
	}
}
