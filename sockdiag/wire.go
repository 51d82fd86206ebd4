package sockdiag

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"
)

// Constants of linux/sock_diag.h, linux/inet_diag.h and linux/mptcp.h.
const (
	typeBothFamilies = 18 // TCPDIAG_GETSOCK: its dump has no family
	typeByFamily     = 20 // SOCK_DIAG_BY_FAMILY
	typeDestroy      = 21 // SOCK_DESTROY

	protocolTCP   = 6   // IPPROTO_TCP
	protocolAttr  = 255 // IPPROTO_RAW: the protocol is in reqAttrProtocol
	protocolMPTCP = 262 // IPPROTO_MPTCP, too wide for sdiag_protocol

	reqAttrBytecode = 1 // INET_DIAG_REQ_BYTECODE
	reqAttrProtocol = 3 // INET_DIAG_REQ_PROTOCOL

	extInfo = 1 << (attrInfo - 1)

	attrInfo     = 2  // INET_DIAG_INFO
	attrShutdown = 8  // INET_DIAG_SHUTDOWN
	attrV6Only   = 11 // INET_DIAG_SKV6ONLY
	attrULP      = 19 // INET_DIAG_ULP_INFO
	attrCgroupID = 21 // INET_DIAG_CGROUP_ID

	shutdownBoth = 3 // RCV_SHUTDOWN and SEND_SHUTDOWN (net/sock.h)

	ulpMPTCP = 3 // INET_ULP_INFO_MPTCP

	subflowTokenLocal = 2  // MPTCP_SUBFLOW_ATTR_TOKEN_LOC
	subflowFlags      = 8  // MPTCP_SUBFLOW_ATTR_FLAGS
	subflowIDRemote   = 9  // MPTCP_SUBFLOW_ATTR_ID_REM
	subflowIDLocal    = 10 // MPTCP_SUBFLOW_ATTR_ID_LOC

	bothRequestLen = 60 // sizeof(struct inet_diag_req)

	requestLen = 56 // sizeof(struct inet_diag_req_v2)
	messageLen = 72 // sizeof(struct inet_diag_msg)
	attrHeader = 4  // sizeof(struct nlattr)
	attrType   = 0x3fff
)

// request has the fields of a struct inet_diag_req_v2.
type request struct {
	family   Family // bothFamilies for a dump of type typeBothFamilies
	protocol Protocol
	info     bool // request tcp_info or mptcp_info
	states   StateSet
	flow     *Flow // nil for a dump
}

const bothFamilies Family = 0 // AF_UNSPEC

// noCookie matches any socket (INET_DIAG_NOCOOKIE).
const noCookie = 1<<64 - 1

// bytes encodes the request. Ports and addresses are in network byte order, all other
// numbers in native byte order.
func (r request) bytes() []byte {
	if r.family == bothFamilies {
		return r.bytesOfBoth()
	}
	b := make([]byte, requestLen)
	b[0] = byte(r.family)
	b[1] = protocolTCP
	if r.protocol == MPTCP {
		b[1] = protocolAttr
	}
	if r.info {
		b[2] = extInfo
	}
	binary.NativeEndian.PutUint32(b[4:], uint32(r.states))
	if r.flow == nil {
		putCookie(b[48:], noCookie)
		return b
	}
	binary.BigEndian.PutUint16(b[8:], r.flow.Local.Port())
	binary.BigEndian.PutUint16(b[10:], r.flow.Remote.Port())
	putAddr(b[12:28], r.family, r.flow.Local.Addr())
	putAddr(b[28:44], r.family, r.flow.Remote.Addr())
	binary.NativeEndian.PutUint32(b[44:], r.flow.Interface)
	if r.protocol == MPTCP {
		// For MPTCP the first half of the cookie field holds the token.
		binary.NativeEndian.PutUint32(b[48:], r.flow.MPTCPInfo.Token)
		return b
	}
	putCookie(b[48:], r.flow.Cookie)
	return b
}

// bytesOfBoth encodes the request as a struct inet_diag_req, which dumps the TCP sockets of
// both families.
func (r request) bytesOfBoth() []byte {
	b := make([]byte, bothRequestLen)
	if r.info {
		b[3] = extInfo
	}
	putCookie(b[44:], noCookie)
	binary.NativeEndian.PutUint32(b[52:], uint32(r.states))
	return b
}

// putAddr encodes an address in the family of its socket. For an IPv6 socket an IPv4
// address becomes ::ffff:a.b.c.d.
func putAddr(b []byte, family Family, a netip.Addr) {
	if family == IPv6 {
		a16 := a.As16()
		copy(b, a16[:])
		return
	}
	a4 := a.As4()
	copy(b, a4[:])
}

// putCookie encodes a cookie as two 32-bit words in native byte order, the lower first.
func putCookie(b []byte, cookie uint64) {
	binary.NativeEndian.PutUint32(b, uint32(cookie))
	binary.NativeEndian.PutUint32(b[4:], uint32(cookie>>32))
}

func cookie(b []byte) uint64 {
	return uint64(binary.NativeEndian.Uint32(b)) | uint64(binary.NativeEndian.Uint32(b[4:]))<<32
}

// parseFlow decodes a struct inet_diag_msg and its attributes. It skips unknown attributes
// and accepts shorter and longer kernel structs.
func parseFlow(b []byte, protocol Protocol) (Flow, error) {
	if len(b) < messageLen {
		return Flow{}, fmt.Errorf("parse inet_diag_msg: %w: %d of %d bytes", errShort, len(b), messageLen)
	}
	f := Flow{
		Protocol:     protocol,
		Family:       Family(b[0]),
		State:        State(b[1]),
		Timer:        Timer(b[2]),
		Retries:      b[3],
		Interface:    binary.NativeEndian.Uint32(b[40:]),
		Cookie:       cookie(b[44:]),
		Expires:      milliseconds(b[52:]),
		ReceiveQueue: binary.NativeEndian.Uint32(b[56:]),
		SendQueue:    binary.NativeEndian.Uint32(b[60:]),
		UID:          binary.NativeEndian.Uint32(b[64:]),
		Inode:        binary.NativeEndian.Uint32(b[68:]),
	}
	switch f.Family {
	case IPv4:
		f.Local = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[8:12])), binary.BigEndian.Uint16(b[4:]))
		f.Remote = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[24:28])), binary.BigEndian.Uint16(b[6:]))
	case IPv6:
		f.Local = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:24])).Unmap(), binary.BigEndian.Uint16(b[4:]))
		f.Remote = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[24:40])).Unmap(), binary.BigEndian.Uint16(b[6:]))
	default:
		return Flow{}, fmt.Errorf("parse inet_diag_msg: address family %d is not IPv4 or IPv6", b[0])
	}

	rest := b[messageLen:]
	for len(rest) > 0 {
		kind, value, next, err := splitAttr(rest)
		if err != nil {
			return Flow{}, fmt.Errorf("parse inet_diag_msg: %w", err)
		}
		rest = next
		switch kind {
		case attrInfo:
			// For a listener all times are 0, which would mean "just now".
			switch {
			case protocol == MPTCP:
				f.MPTCPInfo, f.HasMPTCPInfo = parseMPTCPInfo(value)
			case f.State != Listen:
				f.TCPInfo, f.HasInfo = parseTCPInfo(value)
				f.Opener = f.openerOfDump()
			}
		case attrULP:
			f.Subflow, f.IsSubflow, err = parseULP(value)
		case attrShutdown:
			if len(value) >= 1 {
				f.ShutDown = value[0]&shutdownBoth == shutdownBoth
			}
		case attrV6Only:
			f.V6Only = len(value) >= 1 && value[0] != 0
		case attrCgroupID:
			if len(value) >= 8 {
				f.CgroupID = binary.NativeEndian.Uint64(value)
			}
		}
		if err != nil {
			return Flow{}, fmt.Errorf("parse inet_diag_msg: %w", err)
		}
	}
	return f, nil
}

// splitAttr splits the first attribute off b. The value shares the memory of b.
func splitAttr(b []byte) (kind uint16, value, rest []byte, err error) {
	if len(b) < attrHeader {
		return 0, nil, nil, fmt.Errorf("split attribute: %w: %d bytes left", errShort, len(b))
	}
	size := int(binary.NativeEndian.Uint16(b))
	kind = binary.NativeEndian.Uint16(b[2:]) & attrType
	if size < attrHeader || size > len(b) {
		return 0, nil, nil, fmt.Errorf("split attribute %d: %w: length field %d, %d bytes left", kind, errShort, size, len(b))
	}
	return kind, b[attrHeader:size], b[min(align4(size), len(b)):], nil
}

func align4(n int) int { return (n + 3) &^ 3 }

// parseTCPInfo decodes a struct tcp_info (linux/tcp.h). It reports false if b lacks fields
// that every kernel since 2.6 has.
func parseTCPInfo(b []byte) (TCPInfo, bool) {
	const (
		base     = 60  // through tcpi_last_ack_recv
		acked    = 120 // tcpi_bytes_acked, since 4.1
		received = 128 // tcpi_bytes_received, since 4.1
		notSent  = 144 // tcpi_notsent_bytes, since 4.6
		sent     = 200 // tcpi_bytes_sent, since 4.19
		retrans  = 208 // tcpi_bytes_retrans, since 4.19
	)
	if len(b) < base {
		return TCPInfo{}, false
	}
	info := TCPInfo{
		Retransmits:      b[2],
		Probes:           b[3],
		Backoff:          b[4],
		Unacked:          binary.NativeEndian.Uint32(b[24:]),
		LastDataSent:     milliseconds(b[44:]),
		LastDataReceived: milliseconds(b[52:]),
		LastAckReceived:  milliseconds(b[56:]),
	}
	if len(b) >= notSent+4 {
		info.NotSent = binary.NativeEndian.Uint32(b[notSent:])
	}
	if len(b) >= retrans+8 {
		info.HasBytes = true
		info.BytesAcked = binary.NativeEndian.Uint64(b[acked:])
		info.BytesReceived = binary.NativeEndian.Uint64(b[received:])
		info.BytesSent = binary.NativeEndian.Uint64(b[sent:])
		info.BytesRetransmitted = binary.NativeEndian.Uint64(b[retrans:])
	}
	return info, true
}

// parseMPTCPInfo decodes a struct mptcp_info (linux/mptcp.h) of any kernel version. It
// reports false if b is too short for a token.
func parseMPTCPInfo(b []byte) (MPTCPInfo, bool) {
	const (
		base          = 16 // through mptcpi_token
		subflowsTotal = 80 // since 6.4
		times         = 84 // since 6.10
	)
	if len(b) < base {
		return MPTCPInfo{}, false
	}
	info := MPTCPInfo{
		Subflows: b[0],
		Flags:    binary.NativeEndian.Uint32(b[8:]),
		Token:    binary.NativeEndian.Uint32(b[12:]),
	}
	if len(b) > subflowsTotal {
		info.SubflowsTotal = b[subflowsTotal]
	}
	if len(b) >= times+12 && !info.Fallback() {
		info.HasTimes = true
		info.LastDataSent = milliseconds(b[times:])
		info.LastDataReceived = milliseconds(b[times+4:])
		info.LastAckReceived = milliseconds(b[times+8:])
	}
	return info, true
}

// parseULP decodes INET_DIAG_ULP_INFO and reports whether it describes an MPTCP subflow. It
// skips other upper layer protocols (TLS, SMC).
func parseULP(b []byte) (Subflow, bool, error) {
	for len(b) > 0 {
		kind, value, rest, err := splitAttr(b)
		if err != nil {
			return Subflow{}, false, fmt.Errorf("parse INET_DIAG_ULP_INFO: %w", err)
		}
		b = rest
		if kind == ulpMPTCP {
			s, err := parseSubflow(value)
			return s, err == nil, err
		}
	}
	return Subflow{}, false, nil
}

func parseSubflow(b []byte) (Subflow, error) {
	var s Subflow
	for len(b) > 0 {
		kind, value, rest, err := splitAttr(b)
		if err != nil {
			return Subflow{}, fmt.Errorf("parse INET_ULP_INFO_MPTCP: %w", err)
		}
		b = rest
		switch {
		case kind == subflowTokenLocal && len(value) >= 4:
			s.Token = binary.NativeEndian.Uint32(value)
		case kind == subflowFlags && len(value) >= 4:
			s.Flags = SubflowFlags(binary.NativeEndian.Uint32(value))
		case kind == subflowIDRemote && len(value) >= 1:
			s.RemoteID = value[0]
		case kind == subflowIDLocal && len(value) >= 1:
			s.LocalID = value[0]
		}
	}
	return s, nil
}

func milliseconds(b []byte) time.Duration {
	return time.Duration(binary.NativeEndian.Uint32(b)) * time.Millisecond
}
