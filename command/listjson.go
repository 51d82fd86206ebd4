package command

import (
	"tcphup/hangup"
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

// listedFlowJSON is a flow of the list.
type listedFlowJSON struct {
	hangup.FlowJSON
	Pathless bool `json:"pathless,omitempty"` // an MPTCP connection without a subflow
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
			IdleP50Seconds: hangup.SecondsJSON(d.idleAt(0.5)),
			IdleMaxSeconds: hangup.SecondsJSON(d.idleAt(1)),
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
	j := listedFlowJSON{FlowJSON: hangup.NewFlowJSON(&f.Flow, f.direction), Pathless: f.Protocol == sockdiag.MPTCP}
	j.Subflow = f.path // where the kernel hides the token too
	owner := v.owners.ByInode[f.Inode]
	j.PID, j.Command = owner.PID, owner.Command
	return j
}
