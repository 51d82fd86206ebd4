package sockdiag

import (
	"encoding/binary"
	"net/netip"
)

// Operations of struct inet_diag_bc_op that only the interpreter needs. The interpreter
// follows net/ipv4/inet_diag.c. TestPrivilegedInterpreter compares it with the kernel.
const (
	opNop             = 0  // INET_DIAG_BC_NOP
	opAuto            = 6  // INET_DIAG_BC_AUTO
	opDeviceCondition = 9  // INET_DIAG_BC_DEV_COND
	opMarkCondition   = 10 // INET_DIAG_BC_MARK_COND
	opSourceEQ        = 11 // INET_DIAG_BC_S_EQ
	opDestEQ          = 12 // INET_DIAG_BC_D_EQ
	opCgroupCondition = 13 // INET_DIAG_BC_CGROUP_COND
)

// socket has the fields that a program compares.
type socket struct {
	family       Family
	source, dest []byte // 4 or 16 bytes, by family
	sport, dport uint16
	device, mark uint32
	cgroup       uint64
	boundPort    bool // bound to a port by the application (SOCK_BINDPORT_LOCK)
}

// newSocket returns the socket of a flow. A flow has no mark and no boundPort.
func newSocket(f *Flow) socket {
	address := func(a netip.Addr) []byte {
		if f.Family == IPv6 {
			a = netip.AddrFrom16(a.As16())
		}
		return a.AsSlice()
	}
	return socket{
		family: f.Family,
		source: address(f.Local.Addr()), sport: f.Local.Port(),
		dest: address(f.Remote.Addr()), dport: f.Remote.Port(),
		device: f.Interface, cgroup: f.CgroupID,
	}
}

// program is inet_diag bytecode.
type program []byte

func (p program) u16(at int) uint16 { return binary.NativeEndian.Uint16(p[at:]) }
func (p program) u32(at int) uint32 { return binary.NativeEndian.Uint32(p[at:]) }

// An operation has a code, a jump for true, a jump for false and an argument. Jumps are in
// bytes from the start of the operation.
func (p program) code(at int) uint8    { return p[at] }
func (p program) whenTrue(at int) int  { return int(p[at+1]) }
func (p program) whenFalse(at int) int { return int(p.u16(at + 2)) }

// accepts reports whether a program accepts a socket: execution stops exactly at the end.
// The program must be valid.
func (p program) accepts(s *socket) bool {
	at := 0
	for at < len(p) {
		if p.matches(at, s) {
			at += p.whenTrue(at)
		} else {
			at += p.whenFalse(at)
		}
	}
	return at == len(p)
}

func (p program) matches(at int, s *socket) bool {
	argument := at + opLen
	switch code := p.code(at); code {
	case opNop:
		return true
	case opJump:
		return false
	case opSourceEQ, opSourceGE, opSourceLE, opDestEQ, opDestGE, opDestLE:
		// The port is in the no field of the following inet_diag_bc_op.
		return compares(code, s, p.u16(argument+2))
	case opAuto:
		return !s.boundPort
	case opDeviceCondition:
		return s.device == p.u32(argument)
	case opMarkCondition:
		return s.mark&p.u32(argument+4) == p.u32(argument)
	case opCgroupCondition:
		return s.cgroup == binary.NativeEndian.Uint64(p[argument:])
	case opSourceCondition:
		return p.hostMatches(argument, s.family, s.source, s.sport)
	case opDestCondition:
		return p.hostMatches(argument, s.family, s.dest, s.dport)
	default:
		return true
	}
}

func compares(code uint8, s *socket, port uint16) bool {
	switch code {
	case opSourceEQ:
		return s.sport == port
	case opSourceGE:
		return s.sport >= port
	case opSourceLE:
		return s.sport <= port
	case opDestEQ:
		return s.dport == port
	case opDestGE:
		return s.dport >= port
	default:
		return s.dport <= port
	}
}

// hostMatches evaluates a struct inet_diag_hostcond: family, prefix length, two bytes of
// padding, port, address.
func (p program) hostMatches(at int, family Family, address []byte, port uint16) bool {
	wantedFamily, bits := Family(p[at]), int(p[at+1])
	if wantedPort := int32(p.u32(at + 4)); wantedPort != -1 && wantedPort != int32(port) {
		return false
	}
	switch wanted := p[at+conditionLen:]; wantedFamily {
	case 0: // AF_UNSPEC, without an address
		return true
	case family:
		return sameBits(address, wanted, bits)
	case IPv4:
		mapped := [12]byte{10: 0xff, 11: 0xff}
		return sameBits(address, mapped[:], 96) && sameBits(address[12:], wanted, bits)
	default:
		return false
	}
}

func sameBits(a, b []byte, bits int) bool {
	for i := range bits {
		if (a[i/8]^b[i/8])&(0x80>>(i%8)) != 0 {
			return false
		}
	}
	return true
}

// valid reports whether the kernel accepts a program from a process with CAP_NET_ADMIN,
// which opMarkCondition requires. Every operation must be complete. Every jump must lead
// forward to an operation, to the end or one operation past the end. The whenTrue jumps
// must reach the end.
func (p program) valid() bool {
	if len(p) == 0 || len(p)%opLen != 0 {
		return false
	}
	at := 0
	for at < len(p) {
		left := len(p) - at
		size, ok := p.operationLen(at)
		if !ok || left < size {
			return false
		}
		validJump := func(jump int) bool { return jump >= size && jump <= left+opLen && jump%opLen == 0 }
		if no := p.whenFalse(at); p.code(at) != opNop && (!validJump(no) || no < left && !p.isStep(at+no)) {
			return false
		}
		if !validJump(p.whenTrue(at)) {
			return false
		}
		at += p.whenTrue(at)
	}
	return at == len(p)
}

// operationLen returns the length of an operation with its argument. It reports false for
// an unknown or incomplete operation.
func (p program) operationLen(at int) (int, bool) {
	switch p.code(at) {
	case opNop, opJump, opAuto:
		return opLen, true
	case opSourceEQ, opSourceGE, opSourceLE, opDestEQ, opDestGE, opDestLE, opDeviceCondition:
		return opLen + 4, true
	case opMarkCondition, opCgroupCondition:
		return opLen + 8, true
	case opSourceCondition, opDestCondition:
		if len(p) < at+opLen+conditionLen {
			return 0, false
		}
		addressLen, ok := map[uint8]int{0: 0, uint8(IPv4): 4, uint8(IPv6): 16}[p[at+opLen]]
		return opLen + conditionLen + addressLen, ok && int(p[at+opLen+1]) <= 8*addressLen
	default:
		return 0, false
	}
}

// isStep reports whether the whenTrue jumps from the start reach target.
func (p program) isStep(target int) bool {
	at := 0
	for at < target {
		step := p.whenTrue(at)
		if step < opLen || step%opLen != 0 {
			return false
		}
		at += step
	}
	return at == target
}
