package sockdiag

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// Kernel structures, field by field as in the headers. The compiler lays them out as C
// does, so they check the decoder's offsets independently. tcp_info is unix.TCPInfo.
type (
	// inetDiagMsg is struct inet_diag_msg (linux/inet_diag.h).
	inetDiagMsg struct {
		Family, State, Timer, Retrans       uint8
		ID                                  inetDiagSockID
		Expires, Rqueue, Wqueue, UID, Inode uint32
	}
	// inetDiagSockID is struct inet_diag_sockid (linux/inet_diag.h).
	inetDiagSockID struct {
		Sport, Dport [2]byte // __be16
		Src, Dst     [16]byte
		Device       uint32
		Cookie       [2]uint32
	}
	// inetDiagReqV2 is struct inet_diag_req_v2 (linux/inet_diag.h).
	inetDiagReqV2 struct {
		Family, Protocol, Ext, Pad uint8
		States                     uint32
		ID                         inetDiagSockID
	}
	// inetDiagReq is struct inet_diag_req (linux/inet_diag.h).
	inetDiagReq struct {
		Family, SourceLen, DestLen, Ext uint8
		ID                              inetDiagSockID
		States, DBs                     uint32
	}
	// mptcpInfo is struct mptcp_info (linux/mptcp.h) as of Linux 6.10.
	mptcpInfo struct {
		Subflows, AddAddrSignal, AddAddrAccepted           uint8
		SubflowsMax, AddAddrSignalMax, AddAddrAcceptedMax  uint8
		Flags, Token                                       uint32
		WriteSeq, SndUna, RcvNxt                           uint64
		LocalAddrUsed, LocalAddrMax, CsumEnabled           uint8
		Retransmits                                        uint32
		BytesRetrans, BytesSent, BytesReceived, BytesAcked uint64
		SubflowsTotal                                      uint8
		LastDataSent, LastDataReceived, LastAckReceived    uint32
	}
)

// view decodes a C structure. Fields beyond the end of b are zero.
func view[T any](b []byte) (v T) {
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&v)), unsafe.Sizeof(v)), b)
	return v
}

type attribute struct {
	kind  uint16
	value []byte
}

// attributes splits a list of struct nlattr and reports whether it is well formed.
func attributes(b []byte) (list []attribute, ok bool) {
	for len(b) > 0 {
		header := view[struct{ size, kind uint16 }](b)
		if len(b) < unix.NLA_HDRLEN || header.size < unix.NLA_HDRLEN || int(header.size) > len(b) {
			return list, false
		}
		list = append(list, attribute{
			kind:  header.kind &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER),
			value: b[unix.NLA_HDRLEN:header.size],
		})
		b = b[min((int(header.size)+unix.NLA_ALIGNTO-1)/unix.NLA_ALIGNTO*unix.NLA_ALIGNTO, len(b)):]
	}
	return list, true
}

// appendAttribute encodes a struct nlattr.
func appendAttribute(b []byte, a attribute) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.NLA_HDRLEN+len(a.value)))
	b = binary.NativeEndian.AppendUint16(b, a.kind)
	b = append(b, a.value...)
	return append(b, make([]byte, -len(a.value)&3)...)
}

func ms(n uint32) time.Duration { return time.Duration(n) * time.Millisecond }

// reference decodes a message with the kernel structures. It reports false for a truncated
// or inconsistent message and for an unknown family.
func reference(b []byte, protocol Protocol) (Flow, bool) {
	m := view[inetDiagMsg](b)
	if len(b) < int(unsafe.Sizeof(m)) || m.Family != unix.AF_INET && m.Family != unix.AF_INET6 {
		return Flow{}, false
	}
	addr := func(of [16]byte, port [2]byte) netip.AddrPort {
		a := netip.AddrFrom16(of).Unmap()
		if m.Family == unix.AF_INET {
			a, _ = netip.AddrFromSlice(of[:4])
		}
		return netip.AddrPortFrom(a, uint16(port[0])<<8|uint16(port[1]))
	}
	f := Flow{
		Protocol: protocol, Family: Family(m.Family), State: State(m.State), Timer: Timer(m.Timer), Retries: m.Retrans,
		Expires: ms(m.Expires), Local: addr(m.ID.Src, m.ID.Sport), Remote: addr(m.ID.Dst, m.ID.Dport),
		Interface: m.ID.Device, Cookie: uint64(m.ID.Cookie[1])<<32 + uint64(m.ID.Cookie[0]),
		Inode: m.Inode, UID: m.UID, ReceiveQueue: m.Rqueue, SendQueue: m.Wqueue,
	}
	list, ok := attributes(b[unsafe.Sizeof(m):])
	for _, a := range list {
		switch {
		case a.kind == attrInfo && protocol == MPTCP:
			f.MPTCPInfo, f.HasMPTCPInfo = referenceMPTCPInfo(a.value)
		case a.kind == attrInfo && State(m.State) != Listen:
			f.TCPInfo, f.HasInfo = referenceTCPInfo(a.value)
			f.Opener = referenceOpener(a.value, &f)
		case a.kind == attrV6Only && len(a.value) > 0:
			f.V6Only = a.value[0] != 0
		case a.kind == attrShutdown && len(a.value) > 0:
			f.ShutDown = a.value[0]&1 != 0 && a.value[0]&2 != 0
		case a.kind == attrCgroupID && len(a.value) >= 8:
			f.CgroupID = view[uint64](a.value)
		case a.kind == attrULP:
			var nested bool
			f.Subflow, f.IsSubflow, nested = referenceSubflow(a.value)
			ok = ok && nested
		}
	}
	return f, ok
}

// referenceTCPInfo needs the fields of every kernel, up to tcpi_last_ack_recv.
func referenceTCPInfo(b []byte) (TCPInfo, bool) {
	i := view[unix.TCPInfo](b)
	if len(b) < int(unsafe.Offsetof(i.Pmtu)) {
		return TCPInfo{}, false
	}
	info := TCPInfo{
		Retransmits: i.Retransmits, Probes: i.Probes, Backoff: i.Backoff, Unacked: i.Unacked, NotSent: i.Notsent_bytes,
		LastDataSent: ms(i.Last_data_sent), LastDataReceived: ms(i.Last_data_recv), LastAckReceived: ms(i.Last_ack_recv),
	}
	if len(b) < int(unsafe.Offsetof(i.Min_rtt)) { // an incomplete field is ignored
		info.NotSent = 0
	}
	if len(b) >= int(unsafe.Offsetof(i.Bytes_retrans)+unsafe.Sizeof(i.Bytes_retrans)) {
		info.HasBytes = true
		info.BytesAcked, info.BytesReceived = i.Bytes_acked, i.Bytes_received
		info.BytesSent, info.BytesRetransmitted = i.Bytes_sent, i.Bytes_retrans
	}
	return info, true
}

// referenceOpener is OpenedHere if one byte more is acknowledged than sent.
func referenceOpener(b []byte, f *Flow) Opener {
	i := view[unix.TCPInfo](b)
	if len(b) < int(unsafe.Offsetof(i.Bytes_retrans)+unsafe.Sizeof(i.Bytes_retrans)) || !States(Established, CloseWait).Has(f.State) {
		return OpenerUnknown
	}
	onTheirWay := uint64(f.SendQueue) - uint64(i.Notsent_bytes)
	switch sentAndAcked := i.Bytes_sent - i.Bytes_retrans - onTheirWay; {
	case i.Bytes_acked == sentAndAcked && i.Notsent_bytes == 0:
		return OpenedByPeer
	case i.Bytes_acked == sentAndAcked+1 && (f.SendQueue == 0 || i.Retransmits != 0):
		return OpenedHere
	default:
		return OpenerUnknown
	}
}

func referenceMPTCPInfo(b []byte) (MPTCPInfo, bool) {
	i := view[mptcpInfo](b)
	if len(b) < int(unsafe.Offsetof(i.WriteSeq)) {
		return MPTCPInfo{}, false
	}
	info := MPTCPInfo{Token: i.Token, Flags: i.Flags, Subflows: i.Subflows, SubflowsTotal: i.SubflowsTotal}
	const fallback = 1
	if len(b) >= int(unsafe.Sizeof(i)) && i.Flags&fallback == 0 {
		info.HasTimes = true
		info.LastDataSent, info.LastDataReceived = ms(i.LastDataSent), ms(i.LastDataReceived)
		info.LastAckReceived = ms(i.LastAckReceived)
	}
	return info, true
}

func referenceSubflow(b []byte) (s Subflow, is, ok bool) {
	list, ok := attributes(b)
	for _, a := range list {
		if a.kind != ulpMPTCP {
			continue
		}
		fields, whole := attributes(a.value)
		for _, field := range fields {
			switch {
			case field.kind == subflowTokenLocal && len(field.value) >= 4:
				s.Token = view[uint32](field.value)
			case field.kind == subflowFlags && len(field.value) >= 4:
				s.Flags = SubflowFlags(view[uint32](field.value))
			case field.kind == subflowIDRemote && len(field.value) >= 1:
				s.RemoteID = field.value[0]
			case field.kind == subflowIDLocal && len(field.value) >= 1:
				s.LocalID = field.value[0]
			}
		}
		return s, whole, whole
	}
	return s, false, ok
}

// padded returns b within a larger array of other bytes, which a decoder must not read.
func padded(b []byte, other byte) []byte {
	around := bytes.Repeat([]byte{other}, 256)
	all := bytes.Join([][]byte{around, b, around}, nil)
	return all[len(around) : len(around)+len(b)]
}

// checkFlow compares the decoder with the reference. A request for the decoded flow must
// have the socket id of the message.
func checkFlow(t *testing.T, message []byte, protocol Protocol) {
	t.Helper()
	got, err := parseFlow(padded(message, 0), protocol)
	other, otherErr := parseFlow(padded(message, 0xff), protocol)
	if got != other || (err == nil) != (otherErr == nil) {
		t.Errorf("result depends on bytes outside of the message: %+v, %v and %+v, %v", got, err, other, otherErr)
	}
	want, ok := reference(message, protocol)
	if ok != (err == nil) {
		t.Fatalf("error %v for a well-formed message: %t\n% x", err, ok, message)
	}
	if err != nil {
		if got != (Flow{}) {
			t.Errorf("%+v with error %v", got, err)
		}
		if !errors.Is(err, errShort) && !strings.Contains(err.Error(), "address family") {
			t.Errorf("error %v does not name the cause", err)
		}
		return
	}
	if got != want {
		t.Errorf("(-want +got):\n%s\n% x", cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })), message)
	}

	id := view[inetDiagMsg](message).ID
	if got.Family == IPv4 { // bytes after an IPv4 address are undefined
		clear(id.Src[4:])
		clear(id.Dst[4:])
	}
	if protocol == MPTCP {
		id.Cookie = [2]uint32{want.MPTCPInfo.Token, 0}
	}
	request := view[inetDiagReqV2](request{family: got.Family, protocol: protocol, flow: &got}.bytes())
	if request.ID != id || request.Family != message[0] {
		t.Errorf("socket id %+v, want %+v", request.ID, id)
	}
}

// FuzzFlow decodes a message as it is, truncated, with an info of another length, and with
// unknown attributes.
func FuzzFlow(f *testing.F) {
	for _, c := range captures {
		for _, payload := range c.payloads(f) {
			// Sizes around the ends of struct versions.
			for _, size := range []uint16{0, 15, 16, 59, 60, 80, 81, 95, 96, 147, 148, 400} {
				f.Add(payload, c.protocol == MPTCP, size, []byte("unknown"))
			}
		}
	}
	f.Fuzz(func(t *testing.T, message []byte, mptcp bool, size uint16, unknown []byte) {
		protocol := TCP
		if mptcp {
			protocol = MPTCP
		}
		checkFlow(t, message, protocol)
		checkFlow(t, message[:min(int(size), len(message))], protocol)

		list, ok := attributes(message[min(messageLen, len(message)):])
		if !ok || len(message) < messageLen || len(unknown) > 1024 {
			return
		}
		varied := bytes.Clone(message[:messageLen])
		for _, a := range list {
			if a.kind == attrInfo {
				resized := make([]byte, size%512)
				copy(resized[copy(resized, a.value):], unknown)
				a.value = resized
			}
			varied = appendAttribute(appendAttribute(varied, attribute{kind: 0x3000, value: unknown}), a)
		}
		checkFlow(t, varied, protocol)
	})
}

// referenceReply splits a datagram. The error is nil if the reply continues, and errFault
// if a message is not part of a reply.
func referenceReply(b []byte, sequence, portID uint32) (payloads [][]byte, end error) {
	interrupted := false
	for len(b) > 0 {
		h := view[unix.NlMsghdr](b)
		if len(b) < unix.NLMSG_HDRLEN || h.Len < unix.NLMSG_HDRLEN || int(h.Len) > len(b) {
			return payloads, errShort
		}
		payload := b[unix.NLMSG_HDRLEN:h.Len]
		b = b[min(int(h.Len+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1), len(b)):]
		if h.Pid != portID {
			return payloads, errFault
		}
		if h.Seq != sequence {
			continue
		}
		interrupted = interrupted || h.Flags&unix.NLM_F_DUMP_INTR != 0
		switch h.Type {
		case unix.NLMSG_NOOP:
		case unix.SOCK_DIAG_BY_FAMILY:
			payloads = append(payloads, payload)
		case unix.NLMSG_DONE, unix.NLMSG_ERROR:
			switch n := view[int32](payload); {
			case len(payload) < 4:
				return payloads, errShort
			case n != 0:
				return payloads, unix.Errno(-n)
			case interrupted:
				return payloads, ErrInterrupted
			}
			return payloads, errDone
		default:
			return payloads, errFault
		}
	}
	return payloads, nil
}

var errFault = errors.New("not part of a reply")

// FuzzReply splits a datagram as the reply to a request with a sequence number and port id.
func FuzzReply(f *testing.F) {
	for _, c := range captures {
		datagrams := c.read(f)
		h := view[unix.NlMsghdr](datagrams)
		f.Add(datagrams, h.Seq, h.Pid)
		f.Add(datagrams, h.Seq+1, h.Pid)
		f.Add(datagrams[:len(datagrams)-1], h.Seq, h.Pid)
		for _, change := range []func(first, last []byte){
			func(first, _ []byte) { first[6] |= unix.NLM_F_DUMP_INTR },
			func(first, _ []byte) { first[12]++ }, // the port id
			func(first, _ []byte) { first[4] = unix.NLMSG_OVERRUN },
			func(_, last []byte) { binary.NativeEndian.PutUint32(last[unix.NLMSG_HDRLEN:], ^uint32(unix.EPERM)+1) },
		} {
			changed := bytes.Clone(datagrams)
			change(changed, changed[len(changed)-unix.NLMSG_HDRLEN-4:])
			f.Add(changed, h.Seq, h.Pid)
		}
	}
	f.Fuzz(func(t *testing.T, datagram []byte, sequence, portID uint32) {
		var payloads [][]byte
		var end error
		r := reply{sequence: sequence, portID: portID}
		for payload, err := range r.messages(padded(datagram, 0xff)) {
			if end != nil {
				t.Fatalf("message after %v", end)
			}
			if end = err; err == nil {
				payloads = append(payloads, payload)
			}
		}
		want, wantEnd := referenceReply(datagram, sequence, portID)
		if diff := cmp.Diff(want, payloads); diff != "" {
			t.Errorf("payloads (-want +got):\n%s", diff)
		}
		known := func(err error) bool {
			return errors.Is(err, errDone) || errors.Is(err, ErrInterrupted) || errors.Is(err, errShort) || errors.As(err, new(unix.Errno))
		}
		switch {
		case errors.Is(wantEnd, errFault) && (end == nil || known(end)),
			!errors.Is(wantEnd, errFault) && !errors.Is(end, wantEnd):
			t.Errorf("ends with %v, want %v", end, wantEnd)
		}
		if !errors.Is(end, errShort) && r.ended != known(end) {
			t.Errorf("after %v reply has ended: %t", end, r.ended)
		}
	})
}
