package e2e

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/program"
)

// TestPrivilegedStartLeavesNoDestination checks that the sockets of the startup probe never
// become destinations.
func TestPrivilegedStartLeavesNoDestination(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		startProcess(t, program.Path(t), "serve", "--web.listen-address="+tcphupAddress, "--alerts.listen-address=")
		awaitPage(t, "http://"+tcphupAddress+"/-/ready")
		page, err := get(t, "http://"+tcphupAddress+"/metrics")
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(page) {
			ours := strings.Contains(line, `port="10471"`) // connection of this test
			if strings.HasPrefix(line, "tcphup_sockets{") && !ours && !strings.HasSuffix(line, " 0\n") {
				t.Errorf("after the start: %s", line)
			}
		}
		// Without a receiver, the policy is in shadow mode.
		mustSample(t, `tcphup_policy_shadow{policy="labelled"}`, 1)
	})
}

// TestPrivilegedPoliciesPinDestinations checks that destinations named by a policy take
// precedence over larger ones, also after a reload.
func TestPrivilegedPoliciesPinDestinations(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		few, many := startBackend(t, "127.0.0.5:0"), startBackend(t, "127.0.0.6:0")
		for server, n := range map[*backend]int{few: 1, many: 3} {
			dial(t, false, n, server.addr())
			server.awaitOpen(n)
		}
		policy := func(address string, port uint16) string {
			return strings.Replace(policyText(fmt.Sprintf("    ports: [%d]", port)), "127.0.0.0/8", address, 1)
		}
		file := writeFile(t, "tcphup.yml", policy("127.0.0.5", few.addr().Port()))
		serveArmed(t, "--config.file="+file, "--collector.max-destinations=1")
		sockets := func(server *backend) string {
			return fmt.Sprintf(`tcphup_sockets{destination="%s",port="%d",state="established"}`, server.addr().Addr(), server.addr().Port())
		}
		mustSample(t, sockets(few), 1)
		if _, ok := sample(t, sockets(many)); ok {
			t.Error("destination limit exceeded")
		}
		if err := os.WriteFile(file, []byte(policy("127.0.0.6", many.addr().Port())), 0o600); err != nil {
			t.Fatal(err)
		}
		mustCommand(t, "/-/reload", http.StatusOK)
		mustSample(t, sockets(many), 3)
		if _, ok := sample(t, sockets(few)); ok {
			t.Error("destination of the previous configuration still exported")
		}
	})
}
