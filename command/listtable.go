package command

import (
	"fmt"
	"strconv"
	"time"

	"tcphup/internal/text"
	"tcphup/sockdiag"
)

// table returns the table of the destinations, or of the flows.
func (s *snapshot) table(flows bool) *table {
	if flows {
		return s.flowTable()
	}
	t := &table{header: []string{"DESTINATION", ">SOCKETS", ">IDLE P50", ">IDLE MAX", ">STALLED", ">KEEPALIVE", ">SUBFLOWS"}}
	netns := make([]string, len(s.destinations))
	for i, d := range s.destinations {
		netns[i] = d.netns
		name := d.address.String()
		if d.direction == sockdiag.Inbound {
			name = "inbound at " + name
		}
		subflows := count(d.subflows, "")
		if d.pathless > 0 {
			subflows = cell{fmt.Sprintf("%d, %d pathless", d.subflows, d.pathless), red}
		}
		t.add(cell{text: name}, cell{text: strconv.Itoa(d.sockets)}, idleCell(d.idleAt(0.5)), idleCell(d.idleAt(1)),
			count(d.stalled, red), cell{text: fmt.Sprintf("%d/%d", d.keepalive, d.sockets)}, subflows)
	}
	return t.addNetns(netns)
}

func (s *snapshot) flowTable() *table {
	t := &table{header: []string{"LOCAL", "REMOTE", "PROTOCOL", "STATE", ">IDLE", "TIMER", ">RETRIES", ">RECV-Q", ">SEND-Q", "OWNER"}}
	netns := make([]string, len(s.flows))
	for i, f := range s.flows {
		netns[i] = f.netns
		owner := s.owners.ByInode[f.Inode]
		state := cell{text: f.State.String()}
		if f.Protocol == sockdiag.MPTCP {
			state = cell{state.text + ", pathless", red}
		}
		t.add(cell{text: f.Local.String()}, cell{text: f.Remote.String()}, cell{text: protocolText(f)}, state, idleCell(f.Idle()),
			timerCell(f), count(int(f.Retries), red), count(int(f.ReceiveQueue), ""), count(int(f.SendQueue), ""), dash(ownerText(owner.PID, owner.Command)))
	}
	return t.addNetns(netns)
}

// protocolText returns mptcp for subflows: the protocol of the application's socket.
func protocolText(f *listedFlow) string {
	if f.subflow {
		return sockdiag.MPTCP.String()
	}
	return f.Protocol.String()
}

func idleCell(idle time.Duration, known bool) cell {
	switch {
	case !known:
		return dash("-")
	case idle >= text.VeryLongIdle:
		return cell{shortDuration(idle), red}
	case idle >= text.LongIdle:
		return cell{shortDuration(idle), yellow}
	default:
		return cell{text: shortDuration(idle)}
	}
}

func timerCell(f *listedFlow) cell {
	if f.Timer == sockdiag.TimerNone {
		return dash("-")
	}
	c := cell{text: f.Timer.String() + " in " + shortDuration(f.Expires)}
	if f.Stalled() {
		c.style = red
	}
	return c
}

// count returns a cell for n, dim if n is 0.
func count(n int, s style) cell {
	if n == 0 {
		return cell{"0", dim}
	}
	return cell{strconv.Itoa(n), s}
}

// dash returns a cell for text, dim if text is "-".
func dash(text string) cell {
	if text == "-" {
		return cell{"-", dim}
	}
	return cell{text: text}
}

// shortDuration formats d with at most two units: 0.4s, 41s, 12m3s, 5h9m, 3d4h.
func shortDuration(d time.Duration) string {
	days := d / (24 * time.Hour)
	switch {
	case d < 10*time.Second:
		return strconv.FormatFloat(d.Truncate(100*time.Millisecond).Seconds(), 'f', 1, 64) + "s"
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm%ds", d/time.Minute, d%time.Minute/time.Second)
	case days == 0:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	default:
		return fmt.Sprintf("%dd%dh", days, (d-days*24*time.Hour)/time.Hour)
	}
}
