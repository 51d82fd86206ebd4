package sockdiag

import (
	"testing"

	"tcphup/test/kit/nstest"
)

// An MPTCP connection from a fixed port to an ephemeral port is outbound. Only the counters
// of its initial subflow show that.
func TestPrivilegedTable(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NeedMPTCP(t)
		const fixed, service = "127.0.0.1:1000", "127.0.0.1:45000"
		ln := listen(t, service, true)
		connect(t, ln, fixed, service, true)

		c := mustDial(t)
		table, err := ReadTable(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		if n := len(table.Connections()); n != 2 {
			t.Fatalf("%d MPTCP connections, want client and server of one connection", n)
		}
		want := map[string]Direction{fixed: Outbound, service: Inbound}
		for _, protocol := range []Protocol{TCP, MPTCP} {
			for _, f := range collect(t, c, Query{Protocol: protocol, States: Open, Info: true}) {
				if got := table.Direction(&f); got != want[f.Local.String()] {
					t.Errorf("%s from %s to %s is %v", protocol, f.Local, f.Remote, got)
				}
				if _, ok := table.Connection(&f); !ok {
					t.Errorf("%s from %s to %s has no MPTCP connection", protocol, f.Local, f.Remote)
				}
			}
		}
	})
}
