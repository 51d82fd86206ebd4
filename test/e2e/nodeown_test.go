package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/pods"
	"tcphup/test/kit/program"
	"tcphup/test/kit/testapp"
)

// TestPrivilegedNodeOwnPod checks that an alert that names the pod of tcphup itself is refused,
// and closes nothing in it. tcphup runs in the network namespace of a pod.
func TestPrivilegedNodeOwnPod(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		node := pods.NewNode(t, testapp.Build(t))
		to := netip.MustParseAddrPort("10.20.0.5:5432")
		own := node.Start(pods.Spec{Namespace: "monitoring", Name: "tcphup-x"})
		own.Load(to, 3)
		started := time.Now()
		policies := nodeFile(t, "tcphup.yml", "policies: [{name: own, match: ['tcphup=\"hangup\"'], allow: [10.20.0.0/24], namespaces: [monitoring]}]\n")
		var p *process
		own.Do(func() {
			p = startCommand(t, withCapabilities(nobody, nodeCapabilities, program.Path(t), "serve", "--node", "--node.pod-logs="+node.Logs,
				"--web.listen-address="+tcphupAddress, "--alerts.listen-address="+receiverAddress,
				"--alerts.token-file="+nodeFile(t, "token", token), "--config.file="+policies))
		})
		inPod := &http.Client{Transport: &http.Transport{DialContext: func(_ context.Context, network, address string) (conn net.Conn, err error) {
			own.Do(func() { conn, err = net.Dial(network, address) })
			return conn, err
		}}}
		body := func(request *http.Request) string {
			request.Header.Set("Authorization", "Bearer "+token)
			response, err := inPod.Do(request)
			if err != nil {
				return err.Error()
			}
			defer response.Body.Close()
			b, err := io.ReadAll(response.Body)
			if err != nil {
				return err.Error()
			}
			return response.Status + " " + string(b)
		}
		metrics := func() string {
			request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+tcphupAddress+"/metrics", nil)
			if err != nil {
				t.Fatal(err)
			}
			return body(request)
		}
		nstest.Eventually(t, "tcphup is ready and older than a new alert", func() bool {
			if p.hasExited() {
				t.Fatalf("exited: %v: %s", p.err, p.logged())
			}
			return strings.HasPrefix(metrics(), "200 ") && time.Since(started) > 1100*time.Millisecond
		})
		for _, pod := range []string{`,"pod":"tcphup-x"`, ""} {
			labels := fmt.Sprintf(`"destination":%q,"port":"%d","namespace":"monitoring"`, to.Addr(), to.Port())
			answer := body(notificationRequest(t, "http://"+receiverAddress+"/alerts", labels+pod))
			if !strings.HasPrefix(answer, `200 OK {"alerts":{"refused":1}`) {
				t.Errorf("pod %q: %s", pod, answer)
			}
		}
		awaitLog(t, p, "the pod is that of tcphup itself")
		after := metrics()
		if !strings.Contains(after, `tcphup_alerts_total{result="refused"} 2`) || flowsOf(t, after)["monitoring/tcphup-x to 10.20.0.5:5432"] != 3 {
			t.Errorf("metrics: %s", after)
		}
	})
}
