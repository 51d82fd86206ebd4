package command

import (
	"strings"
	"testing"

	"tcphup/sockdiag"
	"tcphup/test/kit/nodiag"
	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// Without mptcp_diag the list has the subflows, and its summary names the module.
func TestPrivilegedListNoMPTCPDiag(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NeedMPTCP(t)
		server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0", MPTCP: true})
		testapp.Start(t, testapp.Build(t)).Connect(server.Addr(), false, true)
		conn, err := sockdiag.Dial()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		selector := &sockdiag.Selector{Destinations: sockdiag.Everywhere()}
		for _, tt := range []struct {
			from  sockdiag.NamespaceReader
			names bool
		}{{conn, false}, {nodiag.Conn{Conn: conn}, true}} {
			s, all := new(snapshot), make(summaries)
			if s.leftAlone, err = scanFrom(t.Context(), tt.from, selector, func(f *listedFlow) { s.add(f, all) }); err != nil {
				t.Fatal(err)
			}
			if s.count != 1 {
				t.Errorf("%d flows, want 1 subflow", s.count)
			}
			if summary := s.summary(); strings.Contains(summary, "modprobe mptcp_diag") != tt.names {
				t.Errorf("summary is %q, want the module: %t", summary, tt.names)
			}
		}
	})
}
