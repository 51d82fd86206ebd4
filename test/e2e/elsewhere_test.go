package e2e

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// After a failover a name has the new address: the report of a hang-up by name also has the
// connections that lead elsewhere, with the command for them. With the name in --except,
// only those are hung up.
func TestPrivilegedNameTrap(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		bind(t, "/etc/hosts", newAddress+" "+serviceName+"\n127.0.0.1 localhost\n")
		server := testapp.Serve(t, testapp.ServerConfig{Address: newAddress + ":0"})
		port := strconv.Itoa(int(server.Addr().Port()))
		former := testapp.Serve(t, testapp.ServerConfig{Address: oldAddress + ":" + port})
		app := testapp.Start(t, testapp.Build(t))
		app.Call("ignore")
		stale := app.Connect(former.Addr(), false, false)
		current := app.Connect(server.Addr(), false, false)

		note := fmt.Sprintf("tcphup: 1 connection to port %s leads elsewhere: %s (1); to hang up: tcphup %s %s\n", port, oldAddress, oldAddress, port)
		r := tcphup(t, "--dry-run", serviceName, port)
		r.mustExit(t, 0)
		if n := strings.Count(r.stderr, note); n != 2 || !strings.HasSuffix(r.stderr, note) {
			t.Errorf("the note is printed %d times, want before and after the report: %s", n, r.stderr)
		}
		r = tcphup(t, "--dry-run", serviceName, port, "--except="+newAddress)
		r.mustExit(t, 0)
		if n := strings.Count(r.stderr, note); n != 1 || !strings.Contains(r.stderr, "no connection matches") {
			t.Errorf("no match: the note is printed %d times: %s", n, r.stderr)
		}
		// The command in the note is the one to type: it has the ports and filters as given.
		pid := fmt.Sprintf("--pid=%d", app.PID())
		for _, tt := range []struct{ args, command []string }{
			{[]string{serviceName + ":" + port}, []string{port}},
			{[]string{serviceName, port + "-65535"}, []string{port + "-65535"}},
			{[]string{serviceName, port, pid}, []string{port, pid}},
			{[]string{serviceName, port, "--command=app", "--source=127.0.0.0/8"}, []string{port, "--source=127.0.0.0/8", "--command=app"}},
		} {
			r := tcphup(t, append([]string{"--dry-run"}, tt.args...)...)
			r.mustExit(t, 0)
			if command := "; to hang up: tcphup " + oldAddress + " " + strings.Join(tt.command, " ") + "\n"; !strings.HasSuffix(r.stderr, command) {
				t.Errorf("%q: %s, want %s", tt.args, r.stderr, command)
			}
			r = tcphup(t, append([]string{"--dry-run", oldAddress}, tt.command...)...)
			r.mustExit(t, 0)
			if !strings.Contains(r.stderr, "1 planned") {
				t.Errorf("%q: %s", tt.command, r.stderr)
			}
		}
		for _, args := range [][]string{{"--dry-run", newAddress, port}, {"--dry-run", serviceName, "0"}, {"--dry-run", serviceName, port, "--except", oldAddress}, {"--dry-run", serviceName, port, "--pid=1"}, {"--dry-run", serviceName, port, "--direction=inbound"}} {
			if r := tcphup(t, args...); r.exit != 0 || strings.Contains(r.stderr, "elsewhere") {
				t.Errorf("%q: exit %d, %s", args, r.exit, r.stderr)
			}
		}

		r = tcphup(t, "--except", "unknown.invalid", "127.0.1.0/24", port)
		if r.exit != 2 || !strings.Contains(r.stderr, "--except") {
			t.Errorf("unknown name: exit %d, %s", r.exit, r.stderr)
		}
		r = tcphup(t, "127.0.1.0/24", port, "--except", serviceName)
		r.mustExit(t, 0)
		if !strings.Contains(r.stderr, "1 closed") || strings.Contains(r.stderr, "refused") {
			t.Errorf("except: %s", r.stderr)
		}
		if got := app.Call("recv %d", stale); got != "recv ok 0" {
			t.Errorf("stale connection: %q", got)
		}
		if got := app.Call("write %d", current); got != "write ok 1" {
			t.Errorf("current connection: %q", got)
		}
	})
}
