package actuator

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"tcphup/hangup"
	"tcphup/sockdiag"
	"tcphup/test/kit/nodiag"
	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// Where shutdown(2) of an MPTCP test connection gives no EOF, MPTCP connections are refused
// and stay open. Before Linux 6.1 an action tests it once, later only after a failed
// self-test.
func TestPrivilegedMPTCPWithoutEOF(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NeedMPTCP(t)
		const enabled = "/proc/sys/net/mptcp/enabled"
		binary := testapp.Build(t)
		for _, tt := range []struct {
			name     string
			old      bool // before Linux 6.1
			selfTest bool // ran before the action
			noEOF    bool // shutdown(2) does nothing
			disabled bool // MPTCP, for new sockets
			err      error
			tests    int // by the action
			outcome  hangup.Outcome
			reason   hangup.Reason
		}{
			{name: "without self-test", noEOF: true, outcome: hangup.Closed},
			{name: "after self-test", selfTest: true, noEOF: true, tests: 1, outcome: hangup.Refused, reason: hangup.ReasonPermission},
			{name: "other error of self-test", selfTest: true, err: unix.EMFILE, outcome: hangup.Closed},
			{name: "old kernel", old: true, noEOF: true, tests: 1, outcome: hangup.Refused, reason: hangup.ReasonPermission},
			{name: "old kernel, MPTCP disabled", old: true, disabled: true, outcome: hangup.Refused, reason: hangup.ReasonPermission},
			{name: "old kernel, other error", old: true, err: unix.EMFILE, tests: 1, outcome: hangup.Failed},
			{name: "old kernel with EOF", old: true, tests: 1, outcome: hangup.Closed},
		} {
			t.Run(tt.name, func(t *testing.T) {
				server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0", MPTCP: true, Echo: true})
				app := testapp.Start(t, binary)
				app.Call("ignore")
				fds := []int{app.Connect(server.Addr(), false, true), app.Connect(server.Addr(), false, true)}
				if tt.disabled {
					if err := os.WriteFile(enabled, []byte("0"), 0o644); err != nil {
						t.Fatal(err)
					}
					defer func() {
						if err := os.WriteFile(enabled, []byte("1"), 0o644); err != nil {
							t.Fatal(err)
						}
					}()
				}
				a := New(Config{})
				tests, shutdown := 0, a.shutdown
				a.shutdown = func(fd int) error {
					protocol, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
					if err != nil {
						t.Fatal(err)
					}
					if protocol != unix.IPPROTO_MPTCP || readAddresses(fd).remote == server.Addr() {
						return shutdown(fd)
					}
					tests++
					if tt.noEOF || tt.err != nil {
						return tt.err
					}
					return shutdown(fd)
				}
				if tt.selfTest {
					a.Probe(t.Context(), hangup.Namespace{})
					tests = 0
				}
				run := func(f func()) { f() }
				if tt.old {
					run = func(f func()) { asLinux26(t, f) }
				}
				var report *hangup.Report
				run(func() { report = mustHangUp(t, a, hangup.Request{Selector: to(server.Addr())}) })
				if len(report.Results) != len(fds) || report.Count(tt.outcome) != len(fds) || tests != tt.tests {
					t.Errorf("%d tests, want %d; got %+v, want %s", tests, tt.tests, report.Results, tt.outcome)
				}
				for i := range report.Results {
					r := &report.Results[i]
					if r.Reason != tt.reason || r.Reason != "" && !strings.Contains(r.Detail, "Linux 6.1") {
						t.Errorf("reason %q, detail %q, want %q and Linux 6.1", r.Reason, r.Detail, tt.reason)
					}
					if tt.outcome == hangup.Failed && !errors.Is(r.Err, tt.err) {
						t.Errorf("got %v, want %v", r.Err, tt.err)
					}
				}
				for _, fd := range fds {
					if got := app.Call("write %d", fd); (got == "write ok 1") == (tt.outcome == hangup.Closed) {
						t.Errorf("application: %q after %s", got, tt.outcome)
					}
				}
			})
		}
	})
}

// The errors of the self-test name the missing module, and no other cause.
func TestPrivilegedProbeNoMPTCPDiag(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NeedMPTCP(t)
		l, err := openLoopback(t.Context(), hangup.Namespace{}, "127.0.0.1:0", sockdiag.MPTCP)
		if err != nil {
			t.Fatal(err)
		}
		defer l.close()
		_, err = l.find(t.Context(), nodiag.Conn{Conn: l.conn}, sockdiag.MPTCP)
		if c := destroyCheck("destroy_mptcp_path", err); c.Usable || c.Fix != "" || !strings.Contains(c.Detail, "modprobe mptcp_diag") {
			t.Errorf("got %+v", c)
		}
	})
}
