package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// TestPrivilegedRestartKeepsAges checks that an alert right after a restart hangs up the flows
// established before it, and after a loss of their ages none.
func TestPrivilegedRestartKeepsAges(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
		app := testapp.Start(t, testapp.Build(t))
		app.Call("ignore")
		state := t.TempDir()
		args := []string{withAges, "--state.directory=" + state, "--config.file=" + policyFile(t, "    evidence: {established_before_alert: true}\n    limits: {cooldown: 0s}")}
		post := func() string {
			t.Helper()
			labels := fmt.Sprintf(`"destination":"127.0.0.1","port":"%d"`, server.Addr().Port())
			answer, err := sendWithToken(notificationRequest(t, "http://"+receiverAddress+"/alerts", labels))
			if err != nil || !strings.HasPrefix(answer, "200 ") {
				t.Fatalf("response: %s, %v", answer, err)
			}
			return answer
		}
		for _, lost := range []bool{true, false} {
			fd := app.Connect(server.Addr(), false, false)
			served := serveArmed(t, args...)
			// Ages have a resolution of 0.1 s.
			age := fmt.Sprintf(`tcphup_socket_age_seconds_sum{destination="127.0.0.1",port="%d"}`, server.Addr().Port())
			nstest.Eventually(t, "the flow has an age", func() bool {
				sum, _ := sample(t, age)
				return sum >= 0.3
			})
			if err := served.stop(); err != nil {
				t.Fatal(err)
			}
			if lost {
				if err := os.Remove(filepath.Join(state, "firstseen.json")); err != nil {
					t.Fatal(err)
				}
			}
			served = serveArmed(t, args...)
			if answer := post(); strings.Contains(answer, `"closed":1`) == lost {
				t.Errorf("ages lost: %t; response: %s", lost, answer)
			}
			call, want := "recv %d", "recv ok 0"
			if lost {
				call, want = "write %d", "write ok 1"
			}
			if got := app.Call(call, fd); got != want {
				t.Errorf("ages lost: %t; application: %q, want %q", lost, got, want)
			}
			app.Call("close %d", fd)
			if err := served.stop(); err != nil {
				t.Fatal(err)
			}
		}
	})
}
