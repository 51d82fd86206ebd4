package command

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tcphup/actuator"
	"tcphup/hangup"
	"tcphup/sockdiag"
)

func idleFlow(remote string, idle time.Duration) *listedFlow {
	f := sockdiag.Flow{State: sockdiag.Established, Remote: netip.MustParseAddrPort(remote), Local: netip.MustParseAddrPort("10.0.0.1:40000"), HasInfo: true}
	f.TCPInfo.LastDataSent, f.TCPInfo.LastDataReceived = idle, idle+time.Second
	return &listedFlow{Flow: f}
}

func TestListTable(t *testing.T) {
	all := make(summaries)
	s := &snapshot{leftAlone: 2, owners: actuator.Owners{ByInode: map[uint32]actuator.Owner{7: {PID: 42, Command: "java\x1b"}}}}
	young, old, older := idleFlow("10.0.0.9:80", time.Second), idleFlow("10.0.0.5:5432", 11*time.Minute), idleFlow("10.0.0.5:5432", 3*time.Hour)
	old.Timer, old.Expires, old.Inode = sockdiag.TimerKeepalive, 90*time.Second, 7
	older.Timer, older.Retries, older.SendQueue = sockdiag.TimerRetransmit, 3, 12
	pathless := &listedFlow{Flow: sockdiag.Flow{Protocol: sockdiag.MPTCP, State: sockdiag.Established, Local: netip.MustParseAddrPort("[fd00::2]:1"), Remote: netip.MustParseAddrPort("[fd00::1]:443")}}
	syn := &listedFlow{Flow: sockdiag.Flow{State: sockdiag.SynSent, Local: netip.MustParseAddrPort("10.0.0.1:40001"), Remote: netip.MustParseAddrPort("10.0.0.9:80")}}
	closing := idleFlow("10.0.0.9:80", time.Second)
	closing.State = sockdiag.FinWait2
	accepted := &listedFlow{Flow: sockdiag.Flow{State: sockdiag.Established, Local: netip.MustParseAddrPort("10.0.0.1:22"), Remote: netip.MustParseAddrPort("10.9.9.9:1")}, direction: sockdiag.Inbound}
	for _, f := range []*listedFlow{young, closing, old, older, pathless, syn, accepted} {
		s.add(f, all)
		s.flows = append(s.flows, f)
	}
	s.destinations = all.sorted(sortIdle)
	s.sortFlows(sortIdle)

	want := `DESTINATION SOCKETS IDLE P50 IDLE MAX STALLED KEEPALIVE SUBFLOWS
10.0.0.5:5432 2 11m 3h 1 1 of 2 0
10.0.0.9:80 3, closing 1 1s 1s 0 off 0
inbound at 10.0.0.1:22 1 - - 0 off 0
[fd00::1]:443 0 - - 0 off 0, 1 pathless
`
	if diff := cmp.Diff(want, squeeze(s.table(false), 0)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	want = `LOCAL REMOTE OWNER IDLE RETRIES SEND-Q STATE TIMER PROTOCOL
10.0.0.1:40000 10.0.0.5:5432 - 3h 3 12 established retransmit in 0s tcp
10.0.0.1:40000 10.0.0.5:5432 42/java\x1b 11m 0 0 established keepalive in 1m30s tcp
10.0.0.1:40000 10.0.0.9:80 - 1s 0 0 established - tcp
10.0.0.1:40000 10.0.0.9:80 - 1s 0 0 fin_wait2 - tcp
10.0.0.1:40001 10.0.0.9:80 - - 0 0 syn_sent - tcp
10.0.0.1:22 10.9.9.9:1 - - 0 0 established - tcp
[fd00::2]:1 [fd00::1]:443 - - 0 0 established, pathless - mptcp
all 7: nothing unread
`
	if diff := cmp.Diff(want, squeeze(s.table(true), 0)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got, want := s.summary(), "7 connections, 4 destinations; 1 is closed on this side already and waits for its peer; 2 inbound left alone (--direction=inbound or either)"; got != want {
		t.Errorf("summary %q, want %q", got, want)
	}
}

// The orders of --sort. Equal rows have the longest idle first.
func TestListSort(t *testing.T) {
	all := make(summaries)
	s := &snapshot{owners: actuator.Owners{ByInode: map[uint32]actuator.Owner{1: {PID: 9, Command: "java"}, 2: {PID: 10, Command: "java"}, 3: {PID: 1, Command: "psql"}}}}
	for i, f := range []*listedFlow{
		idleFlow("10.0.0.7:80", time.Hour), idleFlow("10.0.0.5:80", time.Minute), idleFlow("10.0.0.9:80", time.Second), idleFlow("10.0.0.9:80", time.Minute),
	} {
		f.Inode = uint32(4 - i)
		all.add(f)
		s.flows = append(s.flows, f)
	}
	for by, want := range map[string][2]string{
		sortIdle:        {"7 9 5", "7/4 5/3 9/1 9/2"},
		sortSockets:     {"9 7 5", "9/1 9/2 5/3 7/4"},
		sortDestination: {"5 7 9", "5/3 7/4 9/1 9/2"},
		sortOwner:       {"7 9 5", "9/1 9/2 5/3 7/4"},
	} {
		var destinations, flows []string
		s.destinations = all.sorted(by)
		for _, d := range s.destinations {
			destinations = append(destinations, fmt.Sprint(d.address.Addr().As4()[3]))
		}
		s.sortFlows(by)
		for _, f := range s.flows {
			flows = append(flows, fmt.Sprintf("%d/%d", f.Remote.Addr().As4()[3], f.Inode))
		}
		if got := [2]string{strings.Join(destinations, " "), strings.Join(flows, " ")}; got != want {
			t.Errorf("by %s: %q, want %q", by, got, want)
		}
	}
}

// Nothing matches but connections of the other direction: the summary has the flag for them.
func TestOtherDirection(t *testing.T) {
	for selected, want := range map[sockdiag.Direction]string{
		sockdiag.Outbound: "no connection matches; 2 connections that this host accepted would match with --direction=inbound",
		sockdiag.Inbound:  "no connection matches; 2 connections that this host opened would match with --direction=outbound",
	} {
		if got := (&snapshot{direction: selected, leftAlone: 2}).summary(); got != want {
			t.Errorf("list: %q, want %q", got, want)
		}
		if got := summary(&hangup.Report{LeftAlone: 2}, selected); got != want {
			t.Errorf("report: %q, want %q", got, want)
		}
	}
}

// squeeze returns the table without runs of spaces.
func squeeze(t *table, width int) string {
	l := t.layout(width, false)
	var b strings.Builder
	for _, line := range slices.Concat(l.header, l.rows, l.below) {
		b.WriteString(strings.Join(strings.Fields(line), " ") + "\n")
	}
	return b.String()
}
