// Package sockdiag reads and destroys TCP and Multipath TCP sockets through the
// kernel's sock_diag interface (NETLINK_SOCK_DIAG, linux/inet_diag.h).
//
// A Conn sees the sockets of one network namespace: the one that the calling
// thread was in when Dial ran. Reading needs no capability; destroying needs
// CAP_NET_ADMIN in the user namespace that owns the network namespace, and a
// kernel built with CONFIG_INET_DIAG_DESTROY.
package sockdiag

import (
	"net/netip"
	"strconv"
	"time"
)

// Protocol says which kind of socket a Flow is. The zero value is TCP.
type Protocol uint8

const (
	// TCP is a TCP socket; a subflow of a Multipath TCP connection is one too.
	TCP Protocol = iota
	// MPTCP is a Multipath TCP connection as a whole (RFC 8684).
	MPTCP
)

// String returns "tcp" or "mptcp".
func (p Protocol) String() string {
	if p == MPTCP {
		return "mptcp"
	}
	return "tcp"
}

// Family is the address family that a socket was opened with.
type Family uint8

// The two families that inet_diag knows. The values are those of the kernel.
const (
	IPv4 Family = 2  // AF_INET
	IPv6 Family = 10 // AF_INET6
)

// State is a TCP state with the kernel's numbers (net/tcp_states.h).
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

	// MaxState is the highest state this package has a name for.
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

// String returns the state's name in lower case, or "state_N" for a number that
// this package does not know.
func (s State) String() string {
	if s >= Established && s <= MaxState {
		return stateNames[s]
	}
	return "state_" + strconv.Itoa(int(s))
}

// StateSet is a set of states, one bit each, as inet_diag takes it.
type StateSet uint32

// States returns the set of the given states.
func States(states ...State) StateSet {
	var set StateSet
	for _, s := range states {
		set |= 1 << s
	}
	return set
}

// Has reports whether the set holds s.
func (set StateSet) Has(s State) bool { return set&(1<<s) != 0 }

// Open is every state of a flow that has not ended: all but Listen, Close and
// TimeWait.
const Open StateSet = 1<<Established | 1<<SynSent | 1<<SynRecv | 1<<FinWait1 |
	1<<FinWait2 | 1<<CloseWait | 1<<LastAck | 1<<Closing | 1<<NewSynRecv

// Handshake is every state before the peer has agreed to the flow.
const Handshake StateSet = 1<<SynSent | 1<<SynRecv | 1<<NewSynRecv

// Opener is the side that has sent the SYN of a flow.
type Opener uint8

const (
	OpenerUnknown Opener = iota // no TCPInfo, another state than established or close_wait, or data on its way
	OpenedHere                  // by this side
	OpenedByPeer                // also said of a socket that CRIU has restored
)

// Timer is the timer that is running for a socket (idiag_timer).
type Timer uint8

const (
	TimerNone       Timer = iota // no timer is running
	TimerRetransmit              // retransmission or loss probe
	TimerKeepalive               // keepalive, or a SYN or FIN_WAIT2 timer
	TimerTimeWait                // the end of TIME_WAIT
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

// Flow is one socket as inet_diag shows it. It holds no reference to kernel or
// buffer memory and may be kept.
type Flow struct {
	// Protocol is MPTCP for a whole connection, else TCP.
	Protocol Protocol
	// Family is the family of the socket, not of its addresses: an IPv6 socket
	// that talks IPv4 has IPv6 here and IPv4 addresses in Local and Remote.
	Family Family
	State  State
	// Timer is what runs now, Retries how often it has fired without an answer
	// and Expires the time until it fires next (0 when nothing runs).
	Timer   Timer
	Retries uint8
	Expires time.Duration
	// Local and Remote are never IPv4-mapped and have no zone.
	Local, Remote netip.AddrPort
	// Interface is the index of the device the socket is bound to; 0 means none.
	Interface uint32
	// Cookie names the socket for its whole life and is never reused until the
	// machine boots anew: the same 64 bits as the socket option SO_COOKIE.
	Cookie uint64
	// Inode is that of the socket file; 0 means that no process holds it
	// (TIME_WAIT, SYN_RECV, orphans). A subflow has its connection's inode.
	Inode uint32
	UID   uint32
	// ReceiveQueue and SendQueue are in bytes: received and not yet read by the
	// application, written and not yet acknowledged by the peer. A listener has
	// here the length and the limit of its accept queue, and an MPTCP connection
	// has the memory that the queued packets take, which is more than their data.
	ReceiveQueue, SendQueue uint32
	// CgroupID is the inode of the cgroup v2 directory of the socket's creator;
	// 0 where the kernel does not say (before 5.8, or built without).
	CgroupID uint64

	// ShutDown says that both directions have been shut down on this side: the
	// application can neither read nor write any more.
	ShutDown bool

	// V6Only says of an IPv6 listener that it takes no IPv4 (IPV6_V6ONLY).
	V6Only bool

	// HasInfo says that TCPInfo was asked for and delivered.
	HasInfo bool
	TCPInfo TCPInfo
	// Opener says which side opened the flow, where TCPInfo tells.
	Opener Opener
	// IsSubflow says that Subflow was asked for, by Query.Info, and delivered.
	// Older kernels show it only to CAP_NET_ADMIN: join a subflow to its connection
	// by Inode where that matters.
	IsSubflow bool
	Subflow   Subflow
	// HasMPTCPInfo says that MPTCPInfo was asked for and delivered.
	HasMPTCPInfo bool
	MPTCPInfo    MPTCPInfo
}

// Mapped reports whether this is an IPv6 socket with an IPv4 peer.
func (f *Flow) Mapped() bool { return f.Family == IPv6 && f.Remote.Addr().Is4() }

// Idle returns the time since data last went in either direction, from tcp_info
// or mptcp_info. Keepalive probes do not count as data. It reports false when
// the kernel did not say: without HasInfo, for TIME_WAIT, during the handshake,
// before which the kernel's clocks do not run and read as the time since boot,
// and for an MPTCP connection before Linux 6.10 or after a fallback to TCP.
func (f *Flow) Idle() (time.Duration, bool) {
	switch {
	case Handshake.Has(f.State):
		return 0, false
	case f.HasInfo:
		return min(f.TCPInfo.LastDataSent, f.TCPInfo.LastDataReceived), true
	case f.HasMPTCPInfo && f.MPTCPInfo.HasTimes:
		return min(f.MPTCPInfo.LastDataSent, f.MPTCPInfo.LastDataReceived), true
	default:
		return 0, false
	}
}

// PeerSilence returns the time since the peer last acknowledged anything. It
// reports false when the kernel did not say, as Idle does.
func (f *Flow) PeerSilence() (time.Duration, bool) {
	switch {
	case Handshake.Has(f.State):
		return 0, false
	case f.HasInfo:
		return f.TCPInfo.LastAckReceived, true
	case f.HasMPTCPInfo && f.MPTCPInfo.HasTimes:
		return f.MPTCPInfo.LastAckReceived, true
	default:
		return 0, false
	}
}

// Stalled reports whether a timer of the flow has fired without an answer: a
// keepalive probe, a retransmission or a zero-window probe, as Timer says.
func (f *Flow) Stalled() bool {
	return f.Retries > 0 &&
		(f.Timer == TimerKeepalive || f.Timer == TimerRetransmit || f.Timer == TimerZeroWindow)
}

// TCPInfo is the part of the kernel's struct tcp_info that tcphup uses.
type TCPInfo struct {
	Retransmits uint8  // unanswered retransmissions in a row
	Probes      uint8  // unanswered zero-window or keepalive probes
	Backoff     uint8  // doublings of the retransmission timeout
	Unacked     uint32 // segments sent and not acknowledged
	NotSent     uint32 // bytes written and not yet sent
	// Times since the last segment with data was sent or received and since the
	// last acknowledgement came. They start at the handshake.
	LastDataSent, LastDataReceived, LastAckReceived time.Duration
}

// Subflow is what the kernel tells of a TCP socket that is a path of an MPTCP
// connection (linux/mptcp.h, MPTCP_SUBFLOW_ATTR_*).
type Subflow struct {
	// Token is the local token of the connection, as in MPTCPInfo.
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

// Join reports whether the subflow was added to a connection that already had
// one; the other role is initial.
func (s Subflow) Join() bool { return s.Flags&(SubflowJoinRemote|SubflowJoinLocal) != 0 }

// Backup reports whether either side has marked the path as a backup.
func (s Subflow) Backup() bool {
	return s.Flags&(SubflowBackupRemote|SubflowBackupLocal) != 0
}

// MPTCPInfo is the part of the kernel's struct mptcp_info that tcphup uses.
type MPTCPInfo struct {
	// Token is the local token, unique in a network namespace while it lives.
	Token uint32
	Flags uint32
	// Subflows counts the subflows beyond the initial one.
	Subflows uint8
	// SubflowsTotal counts all of them; 0 when the kernel (before 6.4) does not say.
	SubflowsTotal uint8
	// HasTimes says that the kernel (6.10 and later) delivered the three times.
	HasTimes                                        bool
	LastDataSent, LastDataReceived, LastAckReceived time.Duration
}

const mptcpFlagFallback = 1 << 0 // MPTCP_INFO_FLAG_FALLBACK (linux/mptcp.h)

// Fallback reports whether the connection goes on as plain TCP because the peer
// or a middlebox does not speak MPTCP.
func (m MPTCPInfo) Fallback() bool { return m.Flags&mptcpFlagFallback != 0 }
