package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// stateFile is the name of the state file in --state.directory.
const stateFile = "services.json"

// stateOf returns a state directory with this content in the state file.
func stateOf(t *testing.T, content string) string {
	t.Helper()
	return filepath.Dir(writeFile(t, stateFile, content))
}

// TestPrivilegedStaleUsage checks that --stale closes no flow unless its address is certainly
// former.
func TestPrivilegedStaleUsage(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		bind(t, "/etc/hosts", newAddress+" "+serviceName+"\n")
		bind(t, "/etc/resolv.conf", "nameserver 127.0.0.1\n")
		server := testapp.Serve(t, testapp.ServerConfig{Address: oldAddress + ":0"})
		current := testapp.Serve(t, testapp.ServerConfig{Address: mustAddrPort(t, newAddress, server.Addr().Port()).String()})
		app := testapp.Start(t, testapp.Build(t))
		app.Call("ignore")
		fd, other := app.Connect(server.Addr(), false, false), app.Connect(current.Addr(), false, false)
		service := fmt.Sprintf("--stale=%s:%d", serviceName, server.Addr().Port())
		damaged := stateOf(t, "{")
		for _, tt := range []struct {
			args []string
			says string
		}{
			{[]string{service}, "--state.directory or --former"},
			{[]string{service, "--former=" + oldAddress, "127.0.0.1", "80"}, "in place of"},
			{[]string{"--former=" + oldAddress, "127.0.0.1", "80"}, "--stale"},
			{[]string{service, "--former=" + serviceName}, "not an address"},
			{[]string{"--stale=127.0.0.1:80", "--former=" + oldAddress}, "not a host name"},
			{[]string{"--stale=" + serviceName + ":0", "--former=" + oldAddress}, "65535"},
			{[]string{"--stale=gone.internal:80", "--former=" + oldAddress}, "cannot look up current addresses of gone.internal"},
			{[]string{service, "--state.directory=/nonexistent"}, "/nonexistent"},
			{[]string{service, "--state.directory=" + damaged}, "not a service state file"},
		} {
			r := tcphup(t, tt.args...)
			if r.exit != 2 || !strings.Contains(strings.ReplaceAll(r.stderr, "takes the place", "in place"), tt.says) || r.stdout != "" {
				t.Errorf("tcphup %v: exit %d, %s; want exit 2 and %q", tt.args, r.exit, r.stderr, tt.says)
			}
		}
		if _, err := os.Stat(filepath.Join(damaged, stateFile)); err != nil {
			t.Errorf("damaged state file renamed by a reader: %v", err)
		}
		// An address that is not former yet counts with --former; otherwise a hint names it.
		content := fmt.Sprintf(`{"version": 1, "services": [{"name": %q, "addresses": [{"address": %q}]}]}`, serviceName, oldAddress)
		state := stateOf(t, content)
		r := tcphup(t, service, "--state.directory="+state)
		r.mustExit(t, 1)
		const left = "no connection matches; connections left alone: " + oldAddress + " (1)\n"
		if !strings.Contains(r.stderr, "add --former="+oldAddress) || !strings.Contains(r.stderr, left) {
			t.Errorf("stderr: %s", r.stderr)
		}
		// The hint has the end of settle.
		settling := stateOf(t, fmt.Sprintf(`{"version": 1, "services": [{"name": %q, "settle": 3600000000000, "addresses": [{"address": %q, "missing": %q}]}]}`,
			serviceName, oldAddress, time.Now().Add(-10*time.Minute).Format(time.RFC3339)))
		r = tcphup(t, service, "--state.directory="+settling)
		r.mustExit(t, 1)
		if !strings.Contains(r.stderr, serviceName+" changed 10m") || !strings.Contains(r.stderr, "for another 49m") {
			t.Errorf("stderr: %s", r.stderr)
		}
		// A name without a former address gets a command that shows the other ones.
		none := stateOf(t, fmt.Sprintf(`{"version": 1, "services": [{"name": %q, "addresses": [{"address": %q}]}]}`, serviceName, newAddress))
		r = tcphup(t, service, "--state.directory="+none)
		r.mustExit(t, 0)
		_, command, _ := strings.Cut(r.stderr, "no former address of "+serviceName+"; to see where connections lead: tcphup ")
		command, _, _ = strings.Cut(command, "\n")
		if shown := tcphup(t, strings.Fields(command)...); !strings.Contains(shown.stdout, oldAddress) || strings.Contains(shown.stdout, newAddress) {
			t.Errorf("stderr: %s; %q shows %s", r.stderr, command, shown.stdout)
		}
		// Without a connection to the address nothing is left to do.
		r = tcphup(t, "--stale="+serviceName+":1", "--state.directory="+settling)
		r.mustExit(t, 0)
		r = tcphup(t, service, "--state.directory="+state, "--former="+oldAddress, "--dry-run")
		r.mustExit(t, 0)
		if strings.Contains(r.stderr, "add --former") || !strings.Contains(r.stderr, "1 planned") {
			t.Errorf("stderr: %s", r.stderr)
		}
		// The state directory of the packaged service needs no flag.
		mountTmpfs(t, "/var/lib", "")
		if err := errors.Join(os.Mkdir("/var/lib/tcphup", 0o755), os.WriteFile("/var/lib/tcphup/"+stateFile, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
		r = tcphup(t, service)
		r.mustExit(t, 1)
		if !strings.Contains(r.stderr, "add --former="+oldAddress) {
			t.Errorf("stderr: %s", r.stderr)
		}
		// The hosts file has no IPv6 address of the name, which is no failed lookup.
		r = tcphup(t, service, "--former=fd00::9", "--former="+oldAddress, "--dry-run")
		r.mustExit(t, 0)
		if strings.Contains(r.stderr, "left alone") || !strings.Contains(r.stderr, "1 planned") {
			t.Errorf("stderr: %s", r.stderr)
		}
		// An address that another service on the port has now is left alone, unless --former
		// names it.
		both := stateOf(t, fmt.Sprintf(`{"version": 1, "services": [
			{"name": %q, "port": %d, "addresses": [{"address": %q, "former": "2030-01-01T00:00:00Z"}]},
			{"name": "reader.internal", "port": %[2]d, "addresses": [{"address": %[3]q}]},
			{"name": "web.internal", "port": 80, "addresses": [{"address": "10.0.0.9"}]}]}`, serviceName, server.Addr().Port(), oldAddress))
		r = tcphup(t, "--stale="+serviceName, "--state.directory="+both)
		r.mustExit(t, 1)
		if !strings.Contains(r.stderr, oldAddress+" left alone: reader.internal has it now") || !strings.Contains(r.stderr, "no connection matches") {
			t.Errorf("stderr: %s", r.stderr)
		}
		r = tcphup(t, "--stale="+serviceName, "--state.directory="+both, "--former="+oldAddress, "--dry-run")
		r.mustExit(t, 0)
		if strings.Contains(r.stderr, "left alone") || !strings.Contains(r.stderr, "1 planned") {
			t.Errorf("stderr: %s", r.stderr)
		}
		// A current address in --former is left alone.
		r = tcphup(t, service, "--former="+oldAddress, "--former="+newAddress)
		r.mustExit(t, 0)
		if !strings.Contains(r.stderr, newAddress+" left alone: "+serviceName+" resolves to it") || !strings.Contains(r.stderr, "1 closed") {
			t.Errorf("stderr: %s", r.stderr)
		}
		if got := app.Call("recv %d", fd); got != "recv ok 0" {
			t.Errorf("former: %q", got)
		}
		if got := app.Call("write %d", other); got != "write ok 1" {
			t.Errorf("current: %q", got)
		}
		r = tcphup(t, service, "--former="+newAddress)
		r.mustExit(t, 0)
		if !strings.Contains(r.stderr, "no connection matches") {
			t.Errorf("stderr: %s", r.stderr)
		}
	})
}
