// Package sockdiag reads and destroys TCP and Multipath TCP sockets through the
// kernel's sock_diag interface (NETLINK_SOCK_DIAG, linux/inet_diag.h).
//
// A Conn is bound to one network namespace: that of the thread that called Dial, or that
// of DialIn.
// Reading needs no capability. Destroying needs CAP_NET_ADMIN in the user namespace that
// owns the network namespace, and a kernel with CONFIG_INET_DIAG_DESTROY.
package sockdiag

import (
	"net/netip"
	"strconv"
	"time"
)

// Protocol is the transport protocol of a Flow. The zero value is TCP.
type Protocol uint8

const (
	// TCP is a TCP socket, including each subflow of a Multipath TCP connection.
	TCP Protocol = iota
	// MPTCP is a whole Multipath TCP connection (RFC 8684).
	MPTCP
)

// String returns "tcp" or "mptcp".
func (p Protocol) String() string {
	if p == MPTCP {
		return "mptcp"
	}
	return "tcp"
}

// Family is the address family of a socket, with the kernel's value.
type Family uint8

// Address families of inet_diag.
const (
	IPv4 Family = 2  // AF_INET
	IPv6 Family = 10 // AF_INET6
)

// State is a TCP state with the kernel's value (net/tcp_states.h).
type State uint8

const (
	Established State = iota + 1 // TCP_ESTABLISHED
	SynSent                      // TCP_SYN_SENT
	SynRecv                      // TCP_SYN_RECV
	FinWait1                     // TCP_FIN_WAIT1
	FinWait2                     // TCP_FIN_WAIT2
	TimeWait                     // TCP_TIME_WAIT
	Close                        // TCP_CLOSE
	CloseWait                    // TCP_CLOSE_WAIT
	LastAck                      // TCP_LAST_ACK
	Listen                       // TCP_LISTEN
	Closing                      // TCP_CLOSING
	NewSynRecv                   // TCP_NEW_SYN_RECV

	// MaxState is the highest state with a name.
	MaxState = NewSynRecv
)

var stateNames = [MaxState + 1]string{
	Established: "established",
	SynSent:     "syn_sent",
	SynRecv:     "syn_recv",
	FinWait1:    "fin_wait1",
	FinWait2:    "fin_wait2",
	TimeWait:    "time_wait",
	Close:       "close",
	CloseWait:   "close_wait",
	LastAck:     "last_ack",
	Listen:      "listen",
	Closing:     "closing",
	NewSynRecv:  "new_syn_recv",
}

// String returns the state's name in lower case, or "state_N" for an unknown number.
func (s State) String() string {
	if s >= Established && s <= MaxState {
		return stateNames[s]
	}
	return "state_" + strconv.Itoa(int(s))
}

// StateSet is a set of states, one bit each, as in idiag_states.
type StateSet uint32

// States returns a set of states.
func States(states ...State) StateSet {
	var set StateSet
	for _, s := range states {
		set |= 1 << s
	}
	return set
}

// Has reports whether s is in the set.
func (set StateSet) Has(s State) bool { return set&(1<<s) != 0 }

// Open is the set of all states except Listen, Close and TimeWait.
const Open StateSet = 1<<Established | 1<<SynSent | 1<<SynRecv | 1<<FinWait1 |
	1<<FinWait2 | 1<<CloseWait | 1<<LastAck | 1<<Closing | 1<<NewSynRecv

// Handshake is the set of states before the three-way handshake is complete.
const Handshake StateSet = 1<<SynSent | 1<<SynRecv | 1<<NewSynRecv

// Timer is the running timer of a socket (idiag_timer).
type Timer uint8

const (
	TimerNone       Timer = iota // no timer
	TimerRetransmit              // retransmission or loss probe
	TimerKeepalive               // keepalive, or a SYN or FIN_WAIT2 timer
	TimerTimeWait                // end of TIME_WAIT
	TimerZeroWindow              // zero-window probe
)

var timerNames = [...]string{"none", "retransmit", "keepalive", "time_wait", "zero_window"}

// String returns the timer's name, or "timer_N" for an unknown number.
func (t Timer) String() string {
	if int(t) < len(timerNames) {
		return timerNames[t]
	}
	return "timer_" + strconv.Itoa(int(t))
}

// Flow is one socket of an inet_diag dump (struct inet_diag_msg and its attributes). It
// has no reference to receive buffers.
type Flow struct {
	// Protocol is MPTCP for a whole connection, else TCP.
	Protocol Protocol
	// Family is the family of the socket, not of its addresses. An IPv6 socket with an
	// IPv4 peer has IPv4 addresses in Local and Remote.
	Family Family
	State  State
	// Retries counts the unanswered expirations of Timer. Expires is the time until its
	// next expiration; 0 means no timer.
	Timer   Timer
	Retries uint8
	Expires time.Duration
	// Local and Remote are never IPv4-mapped and have no zone.
	Local, Remote netip.AddrPort
	// Interface is the index of the device that the socket is bound to; 0 means unbound.
	Interface uint32
	// Netns is the inode of the network namespace (/proc/PID/ns/net), as passed to DialIn; 0
	// means that of Dial.
	Netns uint64
	// Cookie identifies the socket in its network namespace until reboot, as SO_COOKIE does. It
	// is not reused.
	Cookie uint64
	// Inode is the inode of the socket file; 0 means that no process has the socket open
	// (TIME_WAIT, SYN_RECV, orphans). A subflow has the inode of its connection.
	Inode uint32
	UID   uint32
	// ReceiveQueue is the unread and SendQueue the unacknowledged data, in bytes. For a
	// listener they are the length and the limit of the accept queue. For an MPTCP
	// connection they include the memory overhead of queued packets.
	ReceiveQueue, SendQueue uint32
	// CgroupID is the inode of the cgroup v2 directory of the socket's creator. It is 0
	// before Linux 5.8 and without CONFIG_SOCK_CGROUP_DATA.
	CgroupID uint64

	// ShutDown means that the local side has shut down both directions.
	ShutDown bool

	// V6Only means that an IPv6 listener accepts no IPv4 (IPV6_V6ONLY).
	V6Only bool

	// HasInfo means that TCPInfo is valid; see Query.Info.
	HasInfo bool
	TCPInfo TCPInfo
	// Opener is derived from SendQueue and TCPInfo.
	Opener Opener
	// IsSubflow means that Subflow is valid; see Query.Info. Older kernels report it only
	// to CAP_NET_ADMIN; Inode then relates a subflow to its connection.
	IsSubflow bool
	Subflow   Subflow
	// HasMPTCPInfo means that MPTCPInfo is valid; see Query.Info.
	HasMPTCPInfo bool
	MPTCPInfo    MPTCPInfo
}

// Mapped reports whether this is an IPv6 socket with an IPv4 peer.
func (f *Flow) Mapped() bool { return f.Family == IPv6 && f.Remote.Addr().Is4() }

// Idle returns the time since data was last sent or received, from tcp_info or mptcp_info.
// Keepalive probes do not count as data. It reports false if the time is unknown: without
// HasInfo or MPTCPInfo.HasTimes, and during the handshake.
func (f *Flow) Idle() (time.Duration, bool) {
	sent, received, _, known := f.LastTimes()
	return min(sent, received), known
}

// PeerSilence returns the time since the peer's last acknowledgement. It reports false if
// the time is unknown, as Idle does.
func (f *Flow) PeerSilence() (time.Duration, bool) {
	_, _, acked, known := f.LastTimes()
	return acked, known
}

// LastTimes returns the times since data was sent and received and since the last
// acknowledgement, from tcp_info or mptcp_info. They are unknown without HasInfo or
// MPTCPInfo.HasTimes, and during the handshake: the kernel reports the time since boot then.
func (f *Flow) LastTimes() (sent, received, acked time.Duration, known bool) {
	switch {
	case Handshake.Has(f.State):
		return 0, 0, 0, false
	case f.HasInfo:
		return f.TCPInfo.LastDataSent, f.TCPInfo.LastDataReceived, f.TCPInfo.LastAckReceived, true
	case f.HasMPTCPInfo && f.MPTCPInfo.HasTimes:
		return f.MPTCPInfo.LastDataSent, f.MPTCPInfo.LastDataReceived, f.MPTCPInfo.LastAckReceived, true
	default:
		return 0, 0, 0, false
	}
}

// ClosedHere reports whether the local side has closed or shut down both directions of the
// flow, which waits for its peer.
func (f *Flow) ClosedHere() bool {
	return States(FinWait1, FinWait2, Closing, LastAck).Has(f.State) && (f.Inode == 0 || f.ShutDown)
}

// Stalled reports whether the flow has an unanswered keepalive probe, retransmission or
// zero-window probe.
func (f *Flow) Stalled() bool {
	return f.Retries > 0 &&
		(f.Timer == TimerKeepalive || f.Timer == TimerRetransmit || f.Timer == TimerZeroWindow)
}

// TCPInfo has the fields of struct tcp_info (linux/tcp.h) that tcphup uses.
type TCPInfo struct {
	Retransmits uint8  // unanswered retransmissions in a row
	Probes      uint8  // unanswered zero-window or keepalive probes
	Backoff     uint8  // doublings of the retransmission timeout
	Unacked     uint32 // unacknowledged segments
	NotSent     uint32 // unsent bytes in the send queue
	// Times since the last data segment was sent or received, and since the last
	// acknowledgement was received. They start at the handshake.
	LastDataSent, LastDataReceived, LastAckReceived time.Duration
	// HasBytes means that the counters are valid: Linux 4.19 or later. BytesAcked counts the
	// SYN and the FIN too, as a byte each; BytesSent includes BytesRetransmitted.
	HasBytes                                                 bool
	BytesAcked, BytesReceived, BytesSent, BytesRetransmitted uint64
}

// Subflow has the MPTCP attributes of a subflow (linux/mptcp.h, MPTCP_SUBFLOW_ATTR_*).
type Subflow struct {
	// Token is the local token of the MPTCP connection, as in MPTCPInfo.
	Token             uint32
	Flags             SubflowFlags
	LocalID, RemoteID uint8
}

// SubflowFlags are the kernel's MPTCP_SUBFLOW_FLAG_* bits.
type SubflowFlags uint32

const (
	SubflowCapableRemote    SubflowFlags = 1 << iota // MPTCP_SUBFLOW_FLAG_MCAP_REM
	SubflowCapableLocal                              // MPTCP_SUBFLOW_FLAG_MCAP_LOC
	SubflowJoinRemote                                // MPTCP_SUBFLOW_FLAG_JOIN_REM
	SubflowJoinLocal                                 // MPTCP_SUBFLOW_FLAG_JOIN_LOC
	SubflowBackupRemote                              // MPTCP_SUBFLOW_FLAG_BKUP_REM
	SubflowBackupLocal                               // MPTCP_SUBFLOW_FLAG_BKUP_LOC
	SubflowFullyEstablished                          // MPTCP_SUBFLOW_FLAG_FULLY_ESTABLISHED
	SubflowConnected                                 // MPTCP_SUBFLOW_FLAG_CONNECTED
	SubflowMapValid                                  // MPTCP_SUBFLOW_FLAG_MAPVALID
)

// Join reports whether the subflow joined an existing connection. Otherwise it is the
// initial subflow.
func (s Subflow) Join() bool { return s.Flags&(SubflowJoinRemote|SubflowJoinLocal) != 0 }

// Backup reports whether either side has marked the subflow as a backup.
func (s Subflow) Backup() bool {
	return s.Flags&(SubflowBackupRemote|SubflowBackupLocal) != 0
}

// MPTCPInfo has the fields of struct mptcp_info (linux/mptcp.h) that tcphup uses.
type MPTCPInfo struct {
	// Token is the local token, unique among the open connections of a network namespace.
	Token uint32
	Flags uint32
	// Subflows counts subflows without the initial subflow.
	Subflows uint8
	// SubflowsTotal counts all subflows; 0 before Linux 6.4.
	SubflowsTotal uint8
	// HasTimes means that the three times are valid: Linux 6.10 or later, no fallback.
	HasTimes                                        bool
	LastDataSent, LastDataReceived, LastAckReceived time.Duration
}

const mptcpFlagFallback = 1 << 0 // MPTCP_INFO_FLAG_FALLBACK (linux/mptcp.h)

// Fallback reports whether the connection fell back to plain TCP because the peer or a
// middlebox does not support MPTCP.
func (m MPTCPInfo) Fallback() bool { return m.Flags&mptcpFlagFallback != 0 }
