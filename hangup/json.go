package hangup

import (
	"net/netip"
	"time"

	"tcphup/sockdiag"
)

// FlowJSON is the JSON form of a flow on the command line, in the HTTP API and in the
// audit log. Keys of unknown values are absent; numbers that may exceed 2^53 are strings.
type FlowJSON struct {
	Local  netip.AddrPort `json:"local"`
	Remote netip.AddrPort `json:"remote"`
	// Protocol is "mptcp" for an MPTCP connection as a whole, else "tcp".
	Protocol string `json:"protocol"`
	// Subflow is true for a subflow of an MPTCP connection.
	Subflow   bool   `json:"subflow,omitempty"`
	Direction string `json:"direction"`
	State     string `json:"state"`
	Cookie    uint64 `json:"cookie,string"`
	Inode     uint32 `json:"inode,omitempty"` // 0: the socket has no owner
	UID       uint32 `json:"uid"`

	// Evidence of a stale flow.
	IdleSeconds        *float64 `json:"idle_seconds,omitempty"`
	PeerSilenceSeconds *float64 `json:"peer_silence_seconds,omitempty"`
	Stalled            bool     `json:"stalled"`

	Timer        string  `json:"timer"`
	TimerSeconds float64 `json:"timer_seconds"` // until it fires
	Retries      uint8   `json:"retries"`
	// ReceiveQueueBytes is absent for an MPTCP connection: the kernel reports memory, not
	// data.
	ReceiveQueueBytes *uint32 `json:"receive_queue_bytes,omitempty"`
	SendQueueBytes    uint32  `json:"send_queue_bytes"`

	// MPTCPToken is the same for an MPTCP connection and its subflows. It may need
	// CAP_NET_ADMIN.
	MPTCPToken *uint32 `json:"mptcp_token,omitempty"`
	// SubflowCount is the kernel's count for an MPTCP connection (Linux 6.4); Subflows are
	// the subflows of the dump.
	SubflowCount *uint8        `json:"subflow_count,omitempty"`
	Subflows     []SubflowJSON `json:"subflows,omitempty"`

	PID     int    `json:"pid,omitempty"` // 0: no owner found
	Command string `json:"command,omitempty"`
	Netns   string `json:"netns,omitempty"` // name of the network namespace, if one was selected
}

// SubflowJSON is one subflow of an MPTCP connection.
type SubflowJSON struct {
	Local  netip.AddrPort `json:"local"`
	Remote netip.AddrPort `json:"remote"`
}

// NewFlowJSON returns the JSON form of a flow, without its owner and subflows.
func NewFlowJSON(f *sockdiag.Flow, direction sockdiag.Direction) FlowJSON {
	j := FlowJSON{
		Local:              f.Local,
		Remote:             f.Remote,
		Protocol:           f.Protocol.String(),
		Subflow:            f.IsSubflow,
		Direction:          direction.String(),
		State:              f.State.String(),
		Cookie:             f.Cookie,
		Inode:              f.Inode,
		UID:                f.UID,
		IdleSeconds:        SecondsJSON(f.Idle()),
		PeerSilenceSeconds: SecondsJSON(f.PeerSilence()),
		Stalled:            f.Stalled(),
		Timer:              f.Timer.String(),
		TimerSeconds:       f.Expires.Seconds(),
		Retries:            f.Retries,
		SendQueueBytes:     f.SendQueue,
	}
	if f.Protocol != sockdiag.MPTCP {
		j.ReceiveQueueBytes = new(f.ReceiveQueue)
	}
	if f.IsSubflow {
		j.MPTCPToken = new(f.Subflow.Token)
	}
	if f.HasMPTCPInfo {
		j.MPTCPToken = new(f.MPTCPInfo.Token)
		if n := f.MPTCPInfo.SubflowsTotal; n > 0 {
			j.SubflowCount = &n
		}
	}
	return j
}

// SecondsJSON returns d in seconds, or nil if d is unknown.
func SecondsJSON(d time.Duration, known bool) *float64 {
	if !known {
		return nil
	}
	return new(d.Seconds())
}

// ResultJSON is the JSON form of a Result.
type ResultJSON struct {
	FlowJSON
	Method      Method         `json:"method"`
	Outcome     Outcome        `json:"outcome"`
	Reason      Reason         `json:"reason,omitempty"`
	Detail      string         `json:"detail,omitempty"`
	Error       string         `json:"error,omitempty"`
	TookSeconds float64        `json:"took_seconds,omitempty"`
	Reconnect   *ReconnectJSON `json:"reconnect,omitempty"`
}

// ReconnectJSON is the JSON form of a Reconnect. Without a new flow, remote is absent and
// after_seconds is the duration of the watch.
type ReconnectJSON struct {
	Remote       string  `json:"remote,omitempty"`
	SameAddress  bool    `json:"same_address"`
	AfterSeconds float64 `json:"after_seconds"`
}

// JSON returns the JSON form of the result.
func (r *Result) JSON() ResultJSON {
	j := ResultJSON{
		FlowJSON:    NewFlowJSON(&r.Flow, r.Direction),
		Method:      r.Method,
		Outcome:     r.Outcome,
		Reason:      r.Reason,
		Detail:      r.Detail,
		TookSeconds: r.Took.Seconds(),
	}
	j.PID, j.Command, j.Netns = r.PID, r.Command, r.Namespace
	for i := range r.Subflows {
		j.Subflows = append(j.Subflows, SubflowJSON{Local: r.Subflows[i].Local, Remote: r.Subflows[i].Remote})
	}
	if r.Err != nil {
		j.Error = r.Err.Error()
	}
	if r.Reconnect != nil {
		j.Reconnect = &ReconnectJSON{AfterSeconds: r.Reconnect.After.Seconds()}
		if r.Reconnect.Remote.IsValid() {
			j.Reconnect.Remote = r.Reconnect.Remote.String()
			j.Reconnect.SameAddress = r.Reconnect.SameAddress(&r.Flow)
		}
	}
	return j
}
