package main

import (
	"fmt"
	"strconv"
	"time"

	"tcphup/internal/text"
	"tcphup/sockdiag"
)

// table shows the destinations, or each flow.
func (v *view) table(flows bool) *table {
	if flows {
		return v.flowTable()
	}
	t := &table{header: []string{"DESTINATION", ">SOCKETS", ">IDLE P50", ">IDLE MAX", ">STALLED", ">KEEPALIVE", ">MPTCP PATHS"}}
	for _, d := range v.destinations {
		name := d.address.String()
		if d.direction == sockdiag.Inbound {
			name = "inbound at " + name
		}
		stalled, paths := count(d.stalled, red), count(d.paths, "")
		if d.pathless > 0 {
			paths = cell{fmt.Sprintf("%d, %d pathless", d.paths, d.pathless), red}
		}
		t.add(cell{text: name}, cell{text: strconv.Itoa(d.sockets)}, idleCell(d.idleAt(0.5)), idleCell(d.idleAt(1)),
			stalled, cell{text: fmt.Sprintf("%d/%d", d.armed, d.sockets)}, paths)
	}
	return t
}

func (v *view) flowTable() *table {
	t := &table{header: []string{"LOCAL", "REMOTE", "PROTOCOL", "STATE", ">IDLE", "TIMER", ">RETRIES", ">RECV-Q", ">SEND-Q", "OWNER"}}
	for _, f := range v.flows {
		name := ""
		if o, known := v.owners.ByInode[f.Inode]; known {
			name = strconv.Itoa(o.PID) + "/" + text.Printable(o.Command)
		}
		state := cell{text: f.State.String()}
		if f.Protocol == sockdiag.MPTCP {
			state = cell{state.text + ", pathless", red}
		}
		t.add(cell{text: f.Local.String()}, cell{text: f.Remote.String()}, cell{text: protocolText(f)}, state, idleCell(f.Idle()),
			timerCell(f), count(int(f.Retries), red), count(int(f.ReceiveQueue), ""), count(int(f.SendQueue), ""), dash(name))
	}
	return t
}

// protocolText calls a path of an MPTCP connection what its application opened.
func protocolText(f *seen) string {
	if f.path {
		return sockdiag.MPTCP.String()
	}
	return f.Protocol.String()
}

func idleCell(idle time.Duration, known bool) cell {
	switch {
	case !known:
		return dash("")
	case idle >= text.VeryLongIdle:
		return cell{shortDuration(idle), red}
	case idle >= text.LongIdle:
		return cell{shortDuration(idle), yellow}
	default:
		return cell{text: shortDuration(idle)}
	}
}

func timerCell(f *seen) cell {
	if f.Timer == sockdiag.TimerNone {
		return dash("")
	}
	c := cell{text: f.Timer.String() + " in " + shortDuration(f.Expires)}
	if f.Stalled() {
		c.style = red
	}
	return c
}

// count shows a number that is of interest when it is not 0.
func count(n int, s style) cell {
	if n == 0 {
		return cell{"0", dim}
	}
	return cell{strconv.Itoa(n), s}
}

func dash(text string) cell {
	if text == "" {
		return cell{"-", dim}
	}
	return cell{text: text}
}

// shortDuration shows the two units that matter: 0.4s, 41s, 12m3s, 5h9m, 3d4h.
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
