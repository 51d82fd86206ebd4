package command

import (
	"tcphup/hangup"
	"tcphup/sockdiag"
)

// listJSON is the output of list --output=json. It has Flows with --flows, otherwise
// Destinations.
type listJSON struct {
	Destinations []destinationJSON `json:"destinations,omitzero"`
	Flows        []flowJSON        `json:"flows,omitzero"`
	LeftAlone    int               `json:"other_direction_left_alone"`
	// UnknownOwner counts flows that match except for the owner filter.
	UnknownOwner int              `json:"unknown_owner_left_alone,omitempty"`
	Unread       []netnsErrorJSON `json:"netns_errors,omitempty"`
}

// destinationJSON omits unknown idle times.
type destinationJSON struct {
	Direction      string   `json:"direction"`
	Address        string   `json:"address"` // the local address of inbound flows
	Port           uint16   `json:"port"`
	Sockets        int      `json:"sockets"`
	Closing        int      `json:"closing"` // closed by the local side already
	IdleP50Seconds *float64 `json:"idle_p50_seconds,omitempty"`
	IdleMaxSeconds *float64 `json:"idle_max_seconds,omitempty"`
	Stalled        int      `json:"stalled"`
	KeepaliveArmed int      `json:"keepalive_armed"`
	MPTCPSubflows  int      `json:"mptcp_paths"`
	MPTCPPathless  int      `json:"mptcp_pathless"`
	Netns          string   `json:"netns,omitempty"`
}

type flowJSON struct {
	hangup.FlowJSON
	Pathless bool `json:"pathless,omitempty"` // an MPTCP connection without subflows
}

func (s *snapshot) json(flows bool) listJSON {
	out := listJSON{LeftAlone: s.leftAlone, UnknownOwner: s.unknownOwner, Unread: netnsErrorsJSON(s.scope.unread)}
	if flows {
		out.Flows = make([]flowJSON, len(s.flows))
		for i, f := range s.flows {
			out.Flows[i] = s.flowJSON(f)
		}
		return out
	}
	out.Destinations = make([]destinationJSON, len(s.destinations))
	for i, d := range s.destinations {
		out.Destinations[i] = destinationJSON{
			Direction:      d.direction.String(),
			Address:        d.address.Addr().String(),
			Port:           d.address.Port(),
			Sockets:        d.sockets,
			Closing:        d.closing,
			IdleP50Seconds: hangup.SecondsJSON(d.idleAt(0.5)),
			IdleMaxSeconds: hangup.SecondsJSON(d.idleAt(1)),
			Stalled:        d.stalled,
			KeepaliveArmed: d.keepalive,
			MPTCPSubflows:  d.subflows,
			MPTCPPathless:  d.pathless,
			Netns:          d.netns,
		}
	}
	return out
}

func (s *snapshot) flowJSON(f *listedFlow) flowJSON {
	j := flowJSON{FlowJSON: hangup.NewFlowJSON(&f.Flow, f.direction), Pathless: f.Protocol == sockdiag.MPTCP}
	// The table of connections identifies subflows whose token the kernel hides.
	j.Subflow = f.subflow
	owner := s.owners.ByInode[f.Inode]
	j.PID, j.Command, j.Netns = owner.PID, owner.Command, f.netns
	return j
}
