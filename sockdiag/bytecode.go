package sockdiag

import (
	"encoding/binary"
	"net/netip"
)

// Operations of struct inet_diag_bc_op (linux/inet_diag.h).
const (
	opJump            = 1 // INET_DIAG_BC_JMP
	opSourceCondition = 7 // INET_DIAG_BC_S_COND
	opDestCondition   = 8 // INET_DIAG_BC_D_COND

	opLen        = 4 // sizeof(struct inet_diag_bc_op)
	conditionLen = 8 // sizeof(struct inet_diag_hostcond), without the address

	anyPort = -1

	// maxBytecode is the longest program that fits one netlink attribute. A selector
	// with a longer program is matched in user space only.
	maxBytecode = 1<<16 - 1 - attrHeader
)

// condition is one comparison of a program, by address prefix or by port.
type condition struct {
	op     uint8
	prefix netip.Prefix // the zero Prefix compares no address
	port   int32        // anyPort compares no port
}

func (c condition) len() int { return opLen + conditionLen + c.prefix.Addr().BitLen()/8 }

// bytecode returns the inet_diag program that drops sockets for which MayMatch is false.
// It returns nil if the program would exceed maxBytecode. The program has one part for
// addresses and one for ports. A part is a list of alternatives and ends at the first
// match.
func (s *Selector) bytecode() []byte {
	var addresses, ports []condition
	for _, p := range s.Destinations {
		addresses = append(addresses, condition{op: opDestCondition, prefix: p.Masked(), port: anyPort})
	}
	for _, p := range s.Ports {
		ports = append(ports,
			condition{op: opDestCondition, port: int32(p)},
			condition{op: opSourceCondition, port: int32(p)})
	}

	end := partLen(addresses) + partLen(ports)
	if end > maxBytecode {
		return nil
	}
	b := make([]byte, 0, end)
	b = appendPart(b, addresses, end)
	return appendPart(b, ports, end)
}

// partLen returns the length of a part in bytes. A jump to the end of the part follows
// each alternative except the last.
func partLen(part []condition) int {
	n := opLen * max(len(part)-1, 0)
	for _, c := range part {
		n += c.len()
	}
	return n
}

// appendPart appends one part of a program of length end. The kernel accepts a socket if
// execution stops exactly at end, and rejects it if execution stops one operation later.
func appendPart(b []byte, part []condition, end int) []byte {
	partEnd := len(b) + partLen(part)
	for i, c := range part {
		at, size := len(b), c.len()
		no := end + opLen - at
		if i < len(part)-1 {
			no = size + opLen
		}
		b = appendCondition(b, c, no)
		if i < len(part)-1 {
			b = appendOp(b, opJump, opLen, partEnd-len(b))
		}
	}
	return b
}

func appendOp(b []byte, op uint8, yes, no int) []byte {
	b = append(b, op, uint8(yes))
	return binary.NativeEndian.AppendUint16(b, uint16(no))
}

func appendCondition(b []byte, c condition, no int) []byte {
	var family, bits uint8 // AF_UNSPEC compares no address
	if c.prefix.IsValid() {
		family, bits = uint8(IPv6), uint8(c.prefix.Bits())
		if c.prefix.Addr().Is4() {
			family = uint8(IPv4)
		}
	}
	b = appendOp(b, c.op, c.len(), no)
	b = append(b, family, bits, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, uint32(c.port))
	return append(b, c.prefix.Addr().AsSlice()...)
}
