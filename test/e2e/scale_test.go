package e2e

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// TestPrivilegedBigHost hangs up 100 flows on a host with 25,000 connections.
func TestPrivilegedBigHost(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		const targets, loads, perLoad = 100, 2, 12450
		binary := testapp.Build(t)
		for i := range loads {
			testapp.Load(t, binary, netip.AddrFrom4([4]byte{127, 0, 1, byte(i + 1)}), perLoad)
		}
		server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.2.1:0"})
		to := server.Addr()
		app := testapp.Start(t, binary)
		app.Call("ignore")
		if got := app.Call("many %s %d %d", to.Addr(), to.Port(), targets); got != fmt.Sprintf("many ok %d", targets) {
			t.Fatal(got)
		}

		port := strconv.Itoa(int(to.Port()))
		ss := runProgram(t, nil, need(t, "ss", "iproute2"), "-Htnp", "dst", to.Addr().String(), "dport", "=", port)
		ss.mustExit(t, 0)
		if n := strings.Count(ss.stdout, "\n"); n != targets {
			t.Fatalf("ss shows %d flows, want %d", n, targets)
		}
		hungup := tcphup(t, to.Addr().String(), port)
		hungup.mustExit(t, 0)
		if !strings.Contains(hungup.stderr, fmt.Sprintf("%d closed", targets)) {
			t.Errorf("stderr: %s", hungup.stderr)
		}
		rest := nstest.Command(t, "ss", "-Htn", "state", "established", "dst", "127.0.1.0/24")
		if n := strings.Count(rest, "\n"); n < loads*perLoad {
			t.Errorf("%d of %d bystanders left", n, loads*perLoad)
		}
	})
}
