package command

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tcphup/actuator"
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
	pathless := &listedFlow{Flow: sockdiag.Flow{Protocol: sockdiag.MPTCP, State: sockdiag.Established, Remote: netip.MustParseAddrPort("[fd00::1]:443")}}
	syn := &listedFlow{Flow: sockdiag.Flow{State: sockdiag.SynSent, Remote: netip.MustParseAddrPort("10.0.0.9:80")}}
	accepted := &listedFlow{Flow: sockdiag.Flow{State: sockdiag.Established, Local: netip.MustParseAddrPort("10.0.0.1:22"), Remote: netip.MustParseAddrPort("10.9.9.9:1")}, direction: sockdiag.Inbound}
	for _, f := range []*listedFlow{young, old, older, pathless, syn, accepted} {
		all.add(f)
		s.flows = append(s.flows, f)
		s.count++
	}
	s.destinations = all.sorted()
	sortFlows(s.flows)

	want := `DESTINATION SOCKETS IDLE P50 IDLE MAX STALLED KEEPALIVE SUBFLOWS
10.0.0.5:5432 2 11m0s 3h0m 1 1/2 0
10.0.0.9:80 2 1.0s 1.0s 0 0/2 0
inbound at 10.0.0.1:22 1 - - 0 0/1 0
[fd00::1]:443 0 - - 0 0/0 0, 1 pathless
`
	got := strings.Join(s.table(false).lines(false), "\n") + "\n"
	if diff := cmp.Diff(want, squeeze(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	want = `LOCAL REMOTE PROTOCOL STATE IDLE TIMER RETRIES RECV-Q SEND-Q OWNER
10.0.0.1:40000 10.0.0.5:5432 tcp established 3h0m retransmit in 0.0s 3 0 12 -
10.0.0.1:40000 10.0.0.5:5432 tcp established 11m0s keepalive in 1m30s 0 0 0 42/java\x1b
10.0.0.1:40000 10.0.0.9:80 tcp established 1.0s - 0 0 0 -
invalid AddrPort 10.0.0.9:80 tcp syn_sent - - 0 0 0 -
10.0.0.1:22 10.9.9.9:1 tcp established - - 0 0 0 -
invalid AddrPort [fd00::1]:443 mptcp established, pathless - - 0 0 0 -
`
	got = strings.Join(s.table(true).lines(false), "\n") + "\n"
	if diff := cmp.Diff(want, squeeze(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got, want := s.summary(), "6 connections, 4 destinations; 2 in the other direction left alone (--direction)"; got != want {
		t.Errorf("summary %q, want %q", got, want)
	}
}

// squeeze replaces runs of spaces by one.
func squeeze(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString(strings.Join(strings.Fields(line), " ") + "\n")
	}
	return b.String()
}
