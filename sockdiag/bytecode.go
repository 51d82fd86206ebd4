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

	// maxBytecode keeps the program within one attribute. A selector that needs
	// more goes unfiltered through the kernel and is matched on our side alone.
	maxBytecode = 1<<16 - 1 - attrHeader
)

// condition is one comparison of the program: an address prefix or a port.
type condition struct {
	op     uint8
	prefix netip.Prefix // the zero Prefix compares no address
	port   int32        // anyPort compares no port
}

func (c condition) len() int {
	switch {
	case !c.prefix.IsValid():
		return opLen + conditionLen
	case c.prefix.Addr().Is4():
		return opLen + conditionLen + 4
	default:
		return opLen + conditionLen + 16
	}
}

// bytecode returns the program by which the kernel keeps back every socket that
// does not match the selector (see MayMatch), or nil when the selector is too long
// for one. The program has two parts, one for addresses and one for ports, each
// a list of alternatives: the first that holds ends its part.
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

// partLen is the length of a part in bytes: each alternative but the last is
// followed by a jump to the end of the part.
func partLen(part []condition) int {
	n := 0
	for i, c := range part {
		n += c.len()
		if i < len(part)-1 {
			n += opLen
		}
	}
	return n
}

// appendPart appends a part of the program, whose length as a whole is end. The
// kernel accepts a socket when it arrives exactly at the end and rejects it when
// it arrives one operation behind.
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
	var family, bits uint8 // AF_UNSPEC: compare no address
	if c.prefix.IsValid() {
		family, bits = uint8(IPv6), uint8(c.prefix.Bits())
		if c.prefix.Addr().Is4() {
			family = uint8(IPv4)
		}
	}
	b = appendOp(b, c.op, c.len(), no)
	b = append(b, family, bits, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, uint32(c.port))
	if c.prefix.IsValid() {
		b = append(b, c.prefix.Addr().AsSlice()...)
	}
	return b
}
