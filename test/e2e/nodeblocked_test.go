package e2e

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"tcphup/test/kit/heldlock"
	"tcphup/test/kit/nstest"
	"tcphup/test/kit/pods"
	"tcphup/test/kit/testapp"
)

// blockedPolicies are policies for both tenants.
const blockedPolicies = `
defaults: {limits: {cooldown: 0s, breaker: {actions: 1000}}, linger: 100ms}
policies:
- {name: evil, match: ['namespace="evil"'], namespaces: [evil], allow: [10.20.0.0/24]}
- {name: shop, match: ['namespace="shop"'], namespaces: [shop], allow: [10.20.0.0/24]}
`

// A process that holds the lock of its socket stops neither the scrapes nor the hang-ups of the
// other pods, and at most one thread waits for a read of its namespace.
func TestPrivilegedNodeBlockedSocket(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		node := pods.NewNode(t, testapp.Build(t))
		to := netip.MustParseAddrPort("10.20.0.5:5432")
		evil, shop := node.Start(pods.Spec{Namespace: "evil", Name: "web-0"}), node.Start(pods.Spec{Namespace: "shop", Name: "web-0"})
		shop.Load(to, 3)
		var held *os.File
		evil.Do(func() {
			server := testapp.Serve(t, testapp.ServerConfig{Address: to.String()})
			conn, err := net.Dial("tcp", server.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if held, err = conn.(*net.TCPConn).File(); err != nil {
				t.Fatal(err)
			}
		})
		defer held.Close()
		p := serveNode(t, node, "--alerts.token-file="+nodeFile(t, "token", token), "--config.file="+nodeFile(t, "tcphup.yml", blockedPolicies))
		// No alert is older than the pods.
		started := time.Now()
		nstest.Eventually(t, "the pods are older than a new alert", func() bool { return time.Since(started) > 1100*time.Millisecond })
		alert := func(tenant string) string {
			t.Helper()
			labels := fmt.Sprintf(`"destination":%q,"port":"%d","namespace":%q`, to.Addr(), to.Port(), tenant)
			response, err := sendWithToken(notificationRequest(t, "http://"+receiverAddress+"/alerts", labels))
			if err != nil {
				t.Errorf("alert for %s: %v", tenant, err)
			}
			return response
		}
		mustRead := func(namespaces ...string) {
			t.Helper()
			metrics, status := getAs(t, "/metrics", false)
			flows := flowsOf(t, metrics)
			for _, namespace := range []string{"evil", "shop"} {
				n := 0
				for flow, count := range flows {
					if strings.HasPrefix(flow, namespace+"/") {
						n += count
					}
				}
				if want := strings.Contains(strings.Join(namespaces, " "), namespace); (n > 0) != want || status != http.StatusOK {
					t.Errorf("status %d, %d flows of %s, want some: %v", status, n, namespace, want)
				}
			}
		}
		mustRead("evil", "shop")
		release := heldlock.Hold(t, int(held.Fd()))
		for range 3 {
			mustRead("shop")
			if counts := nodeCounts(t); counts[`namespaces{result="failed"}`] != 1 || counts[`namespaces{result="read"}`] != 1 {
				t.Errorf("counts %v", counts)
			}
		}
		for range 6 {
			if got := alert("evil"); !strings.HasPrefix(got, "503 ") {
				t.Errorf("blocked pod: %s", got)
			}
		}
		if got := alert("shop"); !strings.HasPrefix(got, "200 ") || !strings.Contains(got, `"alerts":{"done":1}`) || !strings.Contains(got, `"half_closed":3`) {
			t.Errorf("another pod: %s", got)
		}
		if n := blockedThreads(t, p.cmd.Process.Pid); n == 0 || n > 2 {
			t.Errorf("%d threads wait in the kernel, want one of the scrapes and one of the hang-ups", n)
		}
		release()
		nstest.Eventually(t, "no thread waits", func() bool { return blockedThreads(t, p.cmd.Process.Pid) == 0 })
		// A thread that returned from the kernel has to run before its namespace is read again.
		nstest.Eventually(t, "the pod is read again", func() bool { return nodeCounts(t)[`namespaces{result="failed"}`] == 0 })
		mustRead("evil")
		var got string
		nstest.Eventually(t, "an alert is handled again", func() bool {
			got = alert("evil")
			return !strings.HasPrefix(got, "503 ")
		})
		if !strings.Contains(got, `"refused":1`) {
			t.Errorf("the socket belongs to the test: %s", got)
		}
	})
}

// blockedThreads counts the threads of a process in uninterruptible sleep.
func blockedThreads(t *testing.T, pid int) int {
	t.Helper()
	directory := fmt.Sprintf("/proc/%d/task", pid)
	threads, err := os.ReadDir(directory)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, thread := range threads {
		if stat, err := os.ReadFile(directory + "/" + thread.Name() + "/stat"); err == nil && strings.Contains(string(stat), ") D ") {
			n++
		}
	}
	return n
}

// While a process of another pod visits the network namespace of a pod, its connections stay
// open, and its alert is not done.
func TestPrivilegedNodeVisitedPod(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		node := pods.NewNode(t, testapp.Build(t))
		to := netip.MustParseAddrPort("10.20.0.5:5432")
		shop, debug := node.Start(pods.Spec{Namespace: "shop", Name: "web-0"}), node.Start(pods.Spec{HostNetwork: true})
		shop.Load(to, 3)
		var visitor *testapp.App
		shop.Do(func() { visitor = testapp.Start(t, testapp.Build(t)) })
		debug.Adopt(visitor.PID())
		serveNode(t, node, "--alerts.token-file="+nodeFile(t, "token", token), "--config.file="+nodeFile(t, "tcphup.yml", blockedPolicies))
		started := time.Now()
		nstest.Eventually(t, "the pods are older than a new alert", func() bool { return time.Since(started) > 1100*time.Millisecond })
		labels := fmt.Sprintf(`"destination":%q,"port":"%d","namespace":"shop"`, to.Addr(), to.Port())
		mustRespond := func(want string) {
			t.Helper()
			response, err := sendWithToken(notificationRequest(t, "http://"+receiverAddress+"/alerts", labels))
			if err != nil || !strings.HasPrefix(response, "200 ") || !strings.Contains(response, want) {
				t.Errorf("%s, %v; want %s", response, err, want)
			}
		}
		mustRespond(`{"alerts":{"failed":1}}`)
		visitor.Kill()
		mustRespond(`{"alerts":{"done":1},"flows":{"half_closed":3}}`)
	})
}
