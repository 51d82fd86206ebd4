package actuator

import (
	"fmt"
	"os"
	"testing"
	"time"

	"tcphup/hangup"
	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// Hang-ups of one destination do not affect another while applications open and close
// connections, which reuses descriptors, local ports and addresses.
func TestPrivilegedChurn(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		noLeaks(t)
		const seconds = 60
		// Few ports and little TIME_WAIT force the reuse of ports.
		for name, value := range map[string]string{"ip_local_port_range": "40000 40099", "tcp_max_tw_buckets": "8"} {
			if err := os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		binary := testapp.Build(t)
		server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.2:8080", Echo: true})
		bystander := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.3:8080", Echo: true})
		apps := []*testapp.App{testapp.Start(t, binary), testapp.Start(t, binary)}
		for _, app := range apps {
			app.Send("churn %s %s %d %d", server.Addr().Addr(), bystander.Addr().Addr(), server.Addr().Port(), seconds)
		}

		a := New(Config{})
		outcomes := make(map[hangup.Outcome]int)
		actions := 0
		for start := time.Now(); time.Since(start) < (seconds-1)*time.Second; actions++ {
			request := hangup.Request{Selector: to(server.Addr()), Linger: 20 * time.Millisecond}
			if actions%4 == 3 {
				request.Method = hangup.Destroy
			}
			for _, r := range mustHangUp(t, a, request).Results {
				if r.Flow.Remote != server.Addr() {
					t.Fatalf("acted on %+v", r)
				}
				outcomes[r.Outcome]++
				if r.Outcome == hangup.Failed {
					t.Errorf("failed: %v", r.Err)
				}
			}
		}
		for _, app := range apps {
			var rounds, lost, failed int
			answer := app.Receive()
			if _, err := fmt.Sscanf(answer, "churn %d %d %d", &rounds, &lost, &failed); err != nil {
				t.Fatalf("%s: %v", answer, err)
			}
			t.Logf("%d connections opened, %d of the bystander's lost, %d not opened", rounds, lost, failed)
			if lost != 0 || failed != 0 || rounds < 1000 {
				t.Errorf("application: %q", answer)
			}
		}
		t.Logf("%d actions: %v", actions, outcomes)
		if outcomes[hangup.Closed] == 0 {
			t.Errorf("nothing was hung up: %v", outcomes)
		}
		if !server.Listens() || !bystander.Listens() {
			t.Error("a listener is gone")
		}
	})
}
