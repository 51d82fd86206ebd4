package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// TestPrivilegedStaleElsewhere checks --stale for a name whose former addresses are unknown:
// it prints a command for each other address on the port, with the most connections first,
// and closes none.
func TestPrivilegedStaleElsewhere(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		bind(t, "/etc/hosts", "0.0.0.0 unusable.internal\n")
		bind(t, "/etc/resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
		serveA(t, netip.MustParseAddr(newAddress).As4(), dnsmessage.RCodeServerFailure)
		const otherAddress = "127.0.3.1"
		current := testapp.Serve(t, testapp.ServerConfig{Address: newAddress + ":0"})
		port := current.Addr().Port()
		app := testapp.Start(t, testapp.Build(t))
		app.Call("ignore")
		var fds []int
		connect := func(address string, count int) {
			t.Helper()
			server := current
			if address != newAddress {
				server = testapp.Serve(t, testapp.ServerConfig{Address: mustAddrPort(t, address, port).String()})
			}
			for range count {
				fds = append(fds, app.Connect(server.Addr(), false, false))
			}
		}
		connect(otherAddress, 1)
		connect(oldAddress, 2)
		connect(newAddress, 3)
		// The lookup of IPv6 addresses fails: the name may have this one now.
		connect("::1", 1)
		unrelated := testapp.Serve(t, testapp.ServerConfig{Address: oldAddress + ":0"})
		fds = append(fds, app.Connect(unrelated.Addr(), false, false))

		service := fmt.Sprintf("--stale=%s:%d", serviceName, port)
		without := stateOf(t, `{"version": 1, "services": []}`)
		wantLines := []string{
			fmt.Sprintf("tcphup: 2 connections to port %d lead to %s; to hang up: tcphup %[2]s %[1]d", port, oldAddress),
			fmt.Sprintf("tcphup: 1 connection to port %d leads to %s; to hang up: tcphup %[2]s %[1]d", port, otherAddress),
		}
		for _, tt := range []struct {
			args  []string
			cause string
		}{
			{[]string{service}, "/var/lib/tcphup/services.json: no such file"},
			{[]string{"list", service}, "/var/lib/tcphup/services.json: no such file"},
			{[]string{service, "--state.directory=/nonexistent"}, "/nonexistent/services.json: no such file"},
			{[]string{service, "--state.directory=" + without}, "name is not in the state file: " + serviceName},
		} {
			r := tcphup(t, tt.args...)
			lines := strings.Split(strings.TrimSpace(r.stderr), "\n")
			last := len(lines) - 1
			if r.exit != 2 || r.stdout != "" || !slices.Equal(lines[:last], wantLines) ||
				!strings.HasPrefix(lines[last], "tcphup: --stale: no former addresses of "+serviceName) || !strings.Contains(lines[last], tt.cause) ||
				!strings.HasSuffix(lines[last], "run one of the commands above, or add --state.directory or --former ADDRESS") {
				t.Errorf("tcphup %q: exit %d, %s\n%s", tt.args, r.exit, r.stdout, r.stderr)
			}
		}
		if r := tcphup(t, service, "--except="+otherAddress); r.exit != 2 || !strings.HasPrefix(r.stderr, wantLines[0]) || strings.Contains(r.stderr, otherAddress) {
			t.Errorf("--except: exit %d, %s", r.exit, r.stderr)
		}
		// Without a port, or without connections to other addresses, there is no command.
		for args, want := range map[string]string{
			"--stale=" + serviceName:                               "write NAME:PORT",
			"--stale=" + serviceName + ":1":                        "no connection to port 1 leads elsewhere",
			"--stale=unusable.internal:" + strconv.Itoa(int(port)): "cannot look up current addresses of unusable.internal",
		} {
			if r := tcphup(t, args); r.exit != 2 || strings.Count(r.stderr, "\n") != 1 || !strings.Contains(r.stderr, want) {
				t.Errorf("%s: exit %d, %s", args, r.exit, r.stderr)
			}
		}
		for _, fd := range fds {
			if got := app.Call("write %d", fd); got != "write ok 1" {
				t.Errorf("connection %d: %q", fd, got)
			}
		}
		// The printed command works.
		_, command, _ := strings.Cut(wantLines[0], "to hang up: tcphup ")
		r := tcphup(t, strings.Fields(command)...)
		r.mustExit(t, 0)
		if !strings.Contains(r.stderr, "2 closed") {
			t.Errorf("%s: %s", command, r.stderr)
		}
	})
}
