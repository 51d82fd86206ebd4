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
	t := &table{columns: []column{
		{name: "DESTINATION"},
		{name: "SOCKETS", right: true},
		{name: "IDLE P50", right: true},
		{name: "IDLE MAX", right: true},
		{name: "STALLED", right: true, shared: 1, none: "none stalled"},
		{name: "KEEPALIVE", right: true, shared: 1, optional: true},
		{name: "SUBFLOWS", right: true, shared: 1, none: "no MPTCP", optional: true},
	}}
	netns := make([]string, len(s.destinations))
	for i, d := range s.destinations {
		netns[i] = d.netns
		name := d.address.String()
		if d.direction == sockdiag.Inbound {
			name = "inbound at " + name
		}
		sockets := cell{text: strconv.Itoa(d.sockets)}
		if d.closing > 0 {
			sockets = cell{fmt.Sprintf("%d, closing %d", d.sockets, d.closing), yellow}
		}
		subflows := count(d.subflows, "")
		if d.pathless > 0 {
			subflows = cell{fmt.Sprintf("%d, %d pathless", d.subflows, d.pathless), red}
		}
		t.add(cell{text: name}, sockets, idleCell(d.idleAt(0.5)), idleCell(d.idleAt(1)),
			count(d.stalled, red), keepaliveCell(d), subflows)
	}
	return t.addNetns(netns)
}

// keepaliveCell has the sockets with a keepalive timer, of those that may have one.
func keepaliveCell(d *destinationSummary) cell {
	switch d.keepalive {
	case 0:
		return cell{text: "off"}
	case d.sockets:
		return cell{text: "on"}
	default:
		return cell{text: fmt.Sprintf("%d of %d", d.keepalive, d.sockets)}
	}
}

func (s *snapshot) flowTable() *table {
	t := &table{columns: []column{
		{name: "LOCAL", port: true},
		{name: "REMOTE", shared: 2},
		{name: "OWNER", shared: 2, none: "owner unknown"},
		{name: "IDLE", right: true},
		{name: "RETRIES", right: true, shared: 1, none: "no retries", optional: true},
		{name: "SEND-Q", right: true, shared: 1, none: "nothing to send", optional: true},
		{name: "STATE", shared: 1, optional: true},
		{name: "TIMER", shared: 1, none: "no timer", optional: true},
		{name: "RECV-Q", right: true, shared: 1, none: "nothing unread", optional: true},
		{name: "PROTOCOL", shared: 1, optional: true},
	}}
	netns := make([]string, len(s.flows))
	for i, f := range s.flows {
		netns[i] = f.netns
		owner := s.owners.ByInode[f.Inode]
		state := cell{text: f.State.String()}
		switch {
		case f.Protocol == sockdiag.MPTCP:
			state = cell{state.text + ", pathless", red}
		case f.ClosedHere():
			state.style = yellow
		}
		t.add(cell{text: f.Local.String()}, cell{text: f.Remote.String()}, dash(ownerText(owner.PID, owner.Command)), idleCell(f.Idle()),
			count(int(f.Retries), red), count(int(f.SendQueue), ""), state, timerCell(f), count(int(f.ReceiveQueue), ""), cell{text: protocolText(f)})
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
		return cell{text.Duration(idle), red}
	case idle >= text.LongIdle:
		return cell{text.Duration(idle), yellow}
	default:
		return cell{text: text.Duration(idle)}
	}
}

func timerCell(f *listedFlow) cell {
	if f.Timer == sockdiag.TimerNone {
		return dash("-")
	}
	c := cell{text: f.Timer.String() + " in " + text.Duration(f.Expires)}
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
