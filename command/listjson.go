package command

import (
	"strconv"
	"time"

	"tcphup/sockdiag"
)

// listJSON is the answer of list with --output=json; with --flows it has Flows,
// else Destinations.
type listJSON struct {
	Destinations *[]destinationJSON `json:"destinations,omitempty"`
	Flows        *[]listedFlowJSON  `json:"flows,omitempty"`
	LeftAlone    int                `json:"other_direction_left_alone"`
}

// destinationJSON leaves out what is not known.
type destinationJSON struct {
	Direction      string   `json:"direction"`
	Address        string   `json:"address"` // the local one of inbound flows
	Port           uint16   `json:"port"`
	Sockets        int      `json:"sockets"`
	IdleP50Seconds *float64 `json:"idle_p50_seconds,omitempty"`
	IdleMaxSeconds *float64 `json:"idle_max_seconds,omitempty"`
	Stalled        int      `json:"stalled"`
	KeepaliveArmed int      `json:"keepalive_armed"`
	MPTCPPaths     int      `json:"mptcp_paths"`
	MPTCPPathless  int      `json:"mptcp_pathless"`
}

// listedFlowJSON leaves out what is not known. Numbers that may exceed 2^53 are
// strings.
type listedFlowJSON struct {
	Local        string   `json:"local"`
	Remote       string   `json:"remote"`
	Protocol     string   `json:"protocol"` // mptcp also for one of its paths
	Pathless     bool     `json:"pathless,omitempty"`
	Direction    string   `json:"direction"`
	State        string   `json:"state"`
	Cookie       string   `json:"cookie"`
	Inode        uint32   `json:"inode"`
	IdleSeconds  *float64 `json:"idle_seconds,omitempty"`
	Timer        string   `json:"timer"`
	TimerSeconds float64  `json:"timer_seconds"` // until it fires
	Retries      uint8    `json:"retries"`
	Stalled      bool     `json:"stalled"`
	ReceiveQueue uint32   `json:"receive_queue_bytes"`
	SendQueue    uint32   `json:"send_queue_bytes"`
	PID          int      `json:"pid,omitempty"`
	Command      string   `json:"command,omitempty"`
}

func (v *view) json(flows bool) listJSON {
	out := listJSON{LeftAlone: v.leftAlone}
	if flows {
		list := make([]listedFlowJSON, len(v.flows))
		for i, f := range v.flows {
			list[i] = v.flowJSON(f)
		}
		out.Flows = &list
		return out
	}
	list := make([]destinationJSON, len(v.destinations))
	for i, d := range v.destinations {
		list[i] = destinationJSON{
			Direction:      d.direction.String(),
			Address:        d.address.Addr().String(),
			Port:           d.address.Port(),
			Sockets:        d.sockets,
			IdleP50Seconds: secondsIf(d.idleAt(0.5)),
			IdleMaxSeconds: secondsIf(d.idleAt(1)),
			Stalled:        d.stalled,
			KeepaliveArmed: d.armed,
			MPTCPPaths:     d.paths,
			MPTCPPathless:  d.pathless,
		}
	}
	out.Destinations = &list
	return out
}

func (v *view) flowJSON(f *seen) listedFlowJSON {
	owner := v.owners.ByInode[f.Inode]
	return listedFlowJSON{
		Local:        f.Local.String(),
		Remote:       f.Remote.String(),
		Protocol:     protocolText(f),
		Pathless:     f.Protocol == sockdiag.MPTCP,
		Direction:    f.direction.String(),
		State:        f.State.String(),
		Cookie:       strconv.FormatUint(f.Cookie, 10),
		Inode:        f.Inode,
		IdleSeconds:  secondsIf(f.Idle()),
		Timer:        f.Timer.String(),
		TimerSeconds: f.Expires.Seconds(),
		Retries:      f.Retries,
		Stalled:      f.Stalled(),
		ReceiveQueue: f.ReceiveQueue,
		SendQueue:    f.SendQueue,
		PID:          owner.PID,
		Command:      owner.Command,
	}
}

func secondsIf(d time.Duration, known bool) *float64 {
	if !known {
		return nil
	}
	seconds := d.Seconds()
	return &seconds
}
