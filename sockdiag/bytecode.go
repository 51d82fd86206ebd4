package sockdiag

import (
	"encoding/binary"
	"net/netip"
)

// Operations of struct inet_diag_bc_op (linux/inet_diag.h).
const (
	opJump            = 1 // INET_DIAG_BC_JMP
	opSourceGE        = 2 // INET_DIAG_BC_S_GE
	opSourceLE        = 3 // INET_DIAG_BC_S_LE
	opDestGE          = 4 // INET_DIAG_BC_D_GE
	opDestLE          = 5 // INET_DIAG_BC_D_LE
	opSourceCondition = 7 // INET_DIAG_BC_S_COND
	opDestCondition   = 8 // INET_DIAG_BC_D_COND

	opLen        = 4 // sizeof(struct inet_diag_bc_op)
	conditionLen = 8 // sizeof(struct inet_diag_hostcond), without the address

	anyPort = -1

	// maxBytecode is the longest program that fits one netlink attribute. A selector
	// with a longer program is matched in user space only.
	maxBytecode = 1<<16 - 1 - attrHeader
)

// condition is one comparison of a program: by address prefix, by port, or by the first or
// last port of a range.
type condition struct {
	op     uint8
	prefix netip.Prefix // the zero Prefix compares no address
	port   int32        // anyPort compares no port
}

func (c condition) isBound() bool { return c.op >= opSourceGE && c.op <= opDestLE }

func (c condition) len() int {
	if c.isBound() {
		return 2 * opLen // the port is in the second operation
	}
	return opLen + conditionLen + c.prefix.Addr().BitLen()/8
}

// alternative is a list of conditions that must all be true.
type alternative []condition

func (a alternative) len() int {
	n := 0
	for _, c := range a {
		n += c.len()
	}
	return n
}

// bytecode returns the inet_diag program that drops sockets for which MayMatch is false.
// It returns nil if the program would exceed maxBytecode. The program has one part for
// peers, one for local addresses and one for ports. A part is a list of alternatives and
// ends at the first match.
func (s *Selector) bytecode() []byte {
	var ports []alternative
	for _, r := range s.Ports {
		ports = append(ports, inRange(r, opDestCondition, opDestGE, opDestLE), inRange(r, opSourceCondition, opSourceGE, opSourceLE))
	}
	parts := [][]alternative{within(opDestCondition, s.Destinations), within(opSourceCondition, s.Sources), ports}
	end := 0
	for _, part := range parts {
		end += partLen(part)
	}
	if end > maxBytecode {
		return nil
	}
	b := make([]byte, 0, end)
	for _, part := range parts {
		b = appendPart(b, part, end)
	}
	return b
}

func within(op uint8, prefixes []netip.Prefix) (part []alternative) {
	for _, p := range prefixes {
		part = append(part, alternative{{op: op, prefix: p.Masked(), port: anyPort}})
	}
	return part
}

// inRange returns the alternative for a range, by the operation for a single port or by those
// for the first and the last port.
func inRange(r PortRange, single, first, last uint8) alternative {
	if r.First == r.Last && r.First != 0 {
		return alternative{{op: single, port: int32(r.First)}}
	}
	return alternative{{op: first, port: int32(max(r.First, 1))}, {op: last, port: int32(r.Last)}}
}

// partLen returns the length of a part in bytes. A jump to the end of the part follows
// each alternative except the last.
func partLen(part []alternative) int {
	n := opLen * max(len(part)-1, 0)
	for _, a := range part {
		n += a.len()
	}
	return n
}

// appendPart appends one part of a program of length end. The kernel accepts a socket if
// execution stops exactly at end, and rejects it if execution stops one operation later.
func appendPart(b []byte, part []alternative, end int) []byte {
	partEnd := len(b) + partLen(part)
	for i, a := range part {
		no := end + opLen // the target of a condition that is false
		if i < len(part)-1 {
			no = len(b) + a.len() + opLen
		}
		for _, c := range a {
			b = appendCondition(b, c, no-len(b))
		}
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
	if c.isBound() {
		b = appendOp(b, c.op, c.len(), no)
		return appendOp(b, 0, 0, int(c.port))
	}
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
