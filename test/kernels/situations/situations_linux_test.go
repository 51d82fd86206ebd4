package situations

import (
	"fmt"
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"tcphup/test/kernels/plan"
	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// The tests change settings of the whole machine, so that they run in a virtual one only.
func TestMain(m *testing.M) {
	if os.Getenv(plan.VirtualMachine) == "" {
		fmt.Println("these tests run in virtual machines: make kernels")
		return
	}
	os.Exit(m.Run())
}

// Each situation reports a cell: the answer of tcphup, and the result of the system call that
// the application was in or made next.
func TestSituations(t *testing.T) {
	for _, s := range []struct {
		name  string
		mptcp bool // needs MPTCP
		run   func(t *testing.T) string
	}{
		// Without the modules first: other situations load them.
		{"idle, no module tcp_diag", false, withoutModule("tcp_diag")},
		{"idle, no module mptcp_diag", true, withoutModule("mptcp_diag")},
		{"MPTCP idle, no module mptcp_diag", true, mptcpWithoutModule},

		{"idle", false, idle("127.0.0.1:0", false, false)},
		{"idle, IPv6", false, idle("[::1]:0", false, false)},
		{"idle, IPv4-mapped", false, idle("127.0.0.1:0", true, false)},
		{"idle, method destroy", false, idle("127.0.0.1:0", false, false, "--method=destroy")},
		{"idle, SIGPIPE not ignored", false, defaultSIGPIPE},
		{"connecting", false, connecting()},
		{"connecting, method shutdown", false, connecting("--method=shutdown")},
		{"closed by the peer", false, closeWait},
		{"peer keeps its side open", false, keptOpen},
		{"silent peer", false, silentPeer},
		{"silent peer, closed by the application", false, orphan},

		{"MPTCP idle", true, idle("127.0.0.1:0", false, true)},
		{"MPTCP idle, method destroy", true, idle("127.0.0.1:0", false, true, "--method=destroy")},
		{"MPTCP idle, the same user", true, asUser(1000, 1000, "", true)},
		{"MPTCP, by its second path", true, secondPath()},
		{"MPTCP, second path alone", true, secondPath("--mptcp=path")},

		{"accepted", false, accepted(false)},
		{"accepted, listener closed", false, accepted(true)},
		{"accepted, direction inbound", false, accepted(false, "--direction=inbound")},
		{"not accepted yet, direction inbound", false, unaccepted},

		{"another user", false, asUser(0, 65534, "", false)},
		{"the same user", false, asUser(1000, 1000, "", false)},
		{"the same user, ptrace_scope 1", false, asUser(1000, 1000, "1", false)},
		{"root, ptrace_scope 1", false, asUser(1000, 0, "1", false)},
	} {
		t.Run(s.name, func(t *testing.T) {
			nstest.Run(t, func(t *testing.T) {
				cell := "no MPTCP"
				if !s.mptcp || nstest.HasMPTCP() {
					cell = s.run(t)
				}
				fmt.Println(plan.Cell + s.name + ": " + cell)
			})
		})
	}
}

// idle hangs up an established connection without data.
func idle(address string, mapped, mptcp bool, flags ...string) func(*testing.T) string {
	return func(t *testing.T) string {
		peer := listen(t, address, mptcp)
		app := start(t)
		fd := connect(app, peer, mapped, mptcp)
		return hangUpReader(t, app, fd, peer, flags...)
	}
}

func defaultSIGPIPE(t *testing.T) string {
	peer := listen(t, "127.0.0.1:0", false)
	app := testapp.Start(t, testapp.Build(t))
	return hangUpReader(t, app, connect(app, peer, false, false), peer)
}

// connecting hangs up a connection attempt whose packets are lost.
func connecting(flags ...string) func(*testing.T) string {
	return func(t *testing.T) string {
		nstest.NewPeer(t)
		hole := netip.MustParseAddrPort("10.99.0.66:4242")
		nstest.Command(t, "ip", "neigh", "add", hole.Addr().String(), "lladdr", "02:00:00:00:00:66", "dev", "one", "nud", "permanent")
		app := start(t)
		app.Send("connect %s %d tcp", hole.Addr(), hole.Port())
		await(t, hole.Port(), unix.BPF_TCP_SYN_SENT)
		answer := hangUp(t, hole, flags...)
		if connections(t, hole.Port(), unix.BPF_TCP_SYN_SENT) > 0 {
			return answer + "; still connecting"
		}
		return answer + "; " + seen(app.Receive())
	}
}

func closeWait(t *testing.T) string {
	peer := listen(t, "127.0.0.1:0", false)
	app := start(t)
	fd := connect(app, peer, false, false)
	_ = peer.conn.Close()
	await(t, peer.address.Port(), unix.BPF_TCP_CLOSE_WAIT)
	answer := hangUp(t, peer.address)
	// The application has the peer's EOF already, and learns of the hang-up by its next write.
	return answer + "; " + seen(app.Call("write %d", fd))
}

// keptOpen hangs up a connection whose peer does not close after EOF.
func keptOpen(t *testing.T) string {
	peer := listen(t, "127.0.0.1:0", false)
	peer.keepOpen = true
	app := start(t)
	return hangUpReader(t, app, connect(app, peer, false, false), peer)
}

// silentPeer hangs up a connection whose peer does not answer: FIN_WAIT1.
func silentPeer(t *testing.T) string {
	host := nstest.NewPeer(t)
	peer := listenOn(t, host, false)
	app := start(t)
	fd := connect(app, peer, false, false)
	host.Cut("one")
	app.Block("recv", fd, unix.SYS_RECVFROM)
	return hangUp(t, peer.address) + "; " + seen(app.Receive())
}

func orphan(t *testing.T) string {
	host := nstest.NewPeer(t)
	peer := listenOn(t, host, false)
	app := start(t)
	fd := connect(app, peer, false, false)
	host.Cut("one")
	app.Call("close %d", fd)
	return hangUp(t, peer.address)
}

// secondPath hangs up an MPTCP connection that is selected by the address of a path that was
// added to it.
func secondPath(flags ...string) func(*testing.T) string {
	return func(t *testing.T) string {
		peer := listenOn(t, nstest.NewPeer(t), true)
		app := start(t)
		fd := connect(app, peer, false, true)
		app.Call("write %d", fd)
		nstest.Eventually(t, "the connection has two paths", func() bool {
			return connections(t, peer.address.Port(), unix.BPF_TCP_ESTABLISHED) == 2
		})
		peer.selected = netip.AddrPortFrom(netip.MustParseAddr(nstest.Peer4Two), peer.address.Port())
		return hangUpReader(t, app, fd, peer, flags...)
	}
}
