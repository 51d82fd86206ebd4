package e2e

import (
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/pods"
	"tcphup/test/kit/program"
	"tcphup/test/kit/testapp"
)

// nodeCapabilities are the capabilities of the DaemonSet.
var nodeCapabilities = []uint{unix.CAP_SYS_ADMIN, unix.CAP_SYS_PTRACE, unix.CAP_DAC_READ_SEARCH, unix.CAP_NET_ADMIN}

// webUsers is a web configuration with the user and password of getAs.
const webUsers = `basic_auth_users: {user: $2a$04$HVraXRI6kzVGiF28dhYxcexm0xqZOasc/HX1u2WFUgFr/WcTZKtby}` + "\n"

// serveNode runs tcphup in node mode until the test ends, as the DaemonSet does.
func serveNode(t *testing.T, node *pods.Node, args ...string) *process {
	t.Helper()
	args = append([]string{
		"serve", "--node", "--node.pod-logs=" + node.Logs, "--web.listen-address=" + tcphupAddress, "--alerts.listen-address=" + receiverAddress,
	}, args...)
	p := startCommand(t, withCapabilities(nobody, nodeCapabilities, program.Path(t), args...))
	nstest.Eventually(t, "tcphup is ready", func() bool {
		if p.hasExited() {
			t.Fatalf("exited: %v: %s", p.err, p.logged())
		}
		_, status := getAs(t, "/-/ready", true)
		return status == http.StatusOK
	})
	return p
}

// getAs returns the body and status of a page of tcphup, with or without credentials; 0 if
// tcphup does not listen.
func getAs(t *testing.T, path string, credentials bool) (body string, status int) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+tcphupAddress+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if credentials {
		request.SetBasicAuth("user", "secret")
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", 0
	}
	defer response.Body.Close()
	b, err := io.ReadAll(response.Body)
	if err != nil {
		t.Error(err)
	}
	return string(b), response.StatusCode
}

// podSockets matches the sockets of a pod.
var podSockets = regexp.MustCompile(`(?m)^tcphup_sockets\{destination="([^"]*)",namespace="([^"]*)",pod="([^"]*)",port="([^"]*)",state="established"\} (\d+)$`)

// nodeNamespaces matches the number of namespaces by result.
var nodeNamespaces = regexp.MustCompile(`(?m)^tcphup_node_namespaces\{result="([^"]*)"\} (\S+)$`)

// podFlows are the established flows of pods: NAMESPACE/POD to ADDRESS:PORT.
type podFlows map[string]int

// flowsOf returns the flows in the metrics.
func flowsOf(t *testing.T, metrics string) podFlows {
	t.Helper()
	found := make(podFlows)
	for _, m := range podSockets.FindAllStringSubmatch(metrics, -1) {
		n, err := strconv.Atoi(m[5])
		if err != nil {
			t.Fatal(err)
		}
		if n > 0 {
			found[fmt.Sprintf("%s/%s to %s:%s", m[2], m[3], m[1], m[4])] += n
		}
	}
	return found
}

// dump adds the flows that ss(8) shows in the namespace of a pod. The servers listen on ports
// below 6000.
func (f podFlows) dump(t *testing.T, p *pods.Pod, label string) {
	t.Helper()
	var out []byte
	var err error
	p.Do(func() { out, err = exec.Command("ss", "-Htn", "state", "established", "dport", "<", ":6000").Output() })
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		f[label+" to "+fields[3]]++
	}
}

// nodeCounts returns the counts of namespaces and pods in the metrics.
func nodeCounts(t *testing.T) map[string]float64 {
	t.Helper()
	counts := make(map[string]float64)
	metrics, status := getAs(t, "/metrics", true)
	for line := range strings.Lines(metrics) {
		if name, value, ok := strings.Cut(strings.TrimPrefix(line, "tcphup_node_"), " "); ok && strings.HasPrefix(line, "tcphup_node_") {
			n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				t.Fatal(err)
			}
			counts[name] = n
		}
	}
	if status != http.StatusOK || counts["scrape_cpu_seconds_total"] <= 0 {
		t.Errorf("metrics: %d, processor time %v", status, counts["scrape_cpu_seconds_total"])
	}
	delete(counts, "scrape_cpu_seconds_total")
	return counts
}

// TestPrivilegedNode reads 50 pods with the same addresses.
func TestPrivilegedNode(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		const number = 50
		node := pods.NewNode(t, testapp.Build(t))
		need(t, "ss", "iproute2")
		all := make(map[*pods.Pod]string)
		for i := range number {
			s := pods.Spec{Namespace: "team-" + strconv.Itoa(i%3), Name: "web-" + strconv.Itoa(i/3), Static: i%7 == 0}
			label := s.Namespace + "/" + s.Name
			if i == number-1 {
				s = pods.Spec{Unnamed: true}
			}
			p := node.Start(s)
			if s.Unnamed {
				label = "_unknown/" + p.UID
			}
			p.Load(netip.MustParseAddrPort("10.20.0.5:5432"), 1+i%4)
			if i%2 == 0 {
				p.Load(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 20, 1, byte(i)}), 5433), 2)
			}
			all[p] = label
		}
		host := node.Start(pods.Spec{HostNetwork: true})
		host.Load(netip.MustParseAddrPort("127.0.0.9:5432"), 3)
		node.Start(pods.Spec{In: node.Start(pods.Spec{})})

		p := serveNode(t, node, "--web.config.file="+nodeFile(t, "web.yml", webUsers))
		want := make(podFlows)
		for p, label := range all {
			want.dump(t, p, label)
		}
		metrics, _ := getAs(t, "/metrics", true)
		if diff := cmp.Diff(want, flowsOf(t, metrics)); diff != "" || len(want) != number+number/2 {
			t.Errorf("%d destinations, (-ss +metrics):\n%s", len(want), diff)
		}
		if strings.Contains(metrics, "127.0.0.9") || strings.Contains(metrics, tcphupAddress) {
			t.Error("metrics of the network of the node")
		}
		wantCounts := map[string]float64{
			`namespaces{result="read"}`: number, `namespaces{result="skipped"}`: 0, `namespaces{result="failed"}`: 0, `namespaces{result="ended"}`: 0,
			`namespaces{result="node"}`: 1, `namespaces{result="other"}`: 1, "host_network_pods": 1, "unnamed_pods": 1,
		}
		if diff := cmp.Diff(wantCounts, nodeCounts(t)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		mustHave(t, p.cmd.Process.Pid, map[string]uint64{
			"CapEff": mask(nodeCapabilities) &^ (1 << unix.CAP_SYS_ADMIN), "CapPrm": mask(nodeCapabilities), "CapInh": 0, "CapAmb": 0, "NoNewPrivs": 1,
		})
		t.Run("credentials", func(t *testing.T) { mustNeedCredentials(t) })
		t.Run("end", func(t *testing.T) { mustEnd(t, node) })
	})
}

// mustNeedCredentials checks that no client without credentials sees peers.
func mustNeedCredentials(t *testing.T) {
	t.Helper()
	for _, path := range []string{"/api/v1/flows", "/api/v1/hangups", "/metrics", "/"} {
		body, status := getAs(t, path, false)
		if status != http.StatusUnauthorized || strings.Contains(body, "10.20.0.5") {
			t.Errorf("%s without credentials: %d", path, status)
		}
		if _, status := getAs(t, path, true); status != http.StatusOK {
			t.Errorf("%s with credentials: %d", path, status)
		}
	}
}

// mustEnd checks that the kernel removes the namespace of a pod within 2 s after its end,
// although scrapes go on.
func mustEnd(t *testing.T, node *pods.Node) {
	t.Helper()
	p := node.Start(pods.Spec{Name: "short"})
	p.Load(netip.MustParseAddrPort("10.20.0.5:5432"), 3)
	nstest.Command(t, "ip", "link", "add", "outside", "type", "veth", "peer", "name", "inside", "netns", strconv.Itoa(p.Apps[0].PID()))
	scraped := func() bool {
		metrics, _ := getAs(t, "/metrics", true)
		return strings.Contains(metrics, `pod="short"`)
	}
	if !scraped() {
		t.Fatal("the pod has no metrics")
	}
	p.End()
	ended := time.Now()
	nstest.Eventually(t, "the kernel removes the namespace with its device", func() bool {
		if scraped() {
			t.Error("metrics of a pod that has ended")
		}
		return exec.Command("ip", "link", "show", "outside").Run() != nil
	})
	if took := time.Since(ended); took > 2*time.Second {
		t.Errorf("removed after %v", took)
	}
}

// TestPrivilegedNodePeers checks a node without credentials: a client on loopback does not see
// peers.
func TestPrivilegedNodePeers(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		node := pods.NewNode(t, testapp.Build(t))
		node.Start(pods.Spec{Namespace: "shop"}).Load(netip.MustParseAddrPort("10.20.0.5:5432"), 3)
		serveNode(t, node)
		for _, path := range []string{"/api/v1/flows", "/api/v1/hangups"} {
			if body, status := getAs(t, path, false); status != http.StatusForbidden || !strings.Contains(body, "--web.config.file") {
				t.Errorf("%s: %d, %s", path, status, body)
			}
		}
		if body, status := getAs(t, "/", false); status != http.StatusOK || !strings.Contains(body, "/metrics") || strings.Contains(body, "/api/v1/flows") {
			t.Errorf("page: %d, %s", status, body)
		}
		if metrics, status := getAs(t, "/metrics", false); status != http.StatusOK || !strings.Contains(metrics, "10.20.0.5") {
			t.Errorf("metrics: %d", status)
		}
	})
}

// TestPrivilegedNodeHangUp closes the connections of one pod, and no others with the same
// addresses and ports.
func TestPrivilegedNodeHangUp(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		node := pods.NewNode(t, testapp.Build(t))
		to := netip.MustParseAddrPort("10.20.0.5:5432")
		connect := func(s pods.Spec) (app *testapp.App, fd int) {
			server := node.Start(s)
			app = server.Add()
			app.Call("ignore")
			server.Apps[0].Call("listen %s %d", to.Addr(), to.Port())
			answer := app.Call("bound %s %d 41001", to.Addr(), to.Port())
			if _, err := fmt.Sscanf(answer, "bound ok %d", &fd); err != nil {
				t.Fatal(answer)
			}
			return app, fd
		}
		web, webFD := connect(pods.Spec{Namespace: "shop", Name: "web-0", User: other})
		twin, twinFD := connect(pods.Spec{Namespace: "shop", Name: "web-1"})
		foreign, foreignFD := connect(pods.Spec{Namespace: "bank", Name: "web-0"})
		started := time.Now()
		tokenFile, policies := nodeFile(t, "token", token), nodeFile(t, "tcphup.yml", `policies:
- {name: shop, match: ['tcphup="hangup"'], allow: [10.20.0.0/24], namespaces: [shop], linger: 100ms, limits: {cooldown: 0s}}
`)
		serveNode(t, node, "--alerts.token-file="+tokenFile, "--config.file="+policies)
		nstest.Eventually(t, "the self-test has passed", func() bool {
			n, ok := sample(t, `tcphup_method_usable{method="shutdown"}`)
			return ok && n == 1
		})

		nstest.Eventually(t, "the pods are older than a new alert", func() bool { return time.Since(started) > 1100*time.Millisecond })
		alert := func(labels, want string) {
			t.Helper()
			response, err := sendWithToken(notificationRequest(t, "http://"+receiverAddress+"/alerts", labels))
			if err != nil || !strings.HasPrefix(response, "200 ") || !strings.Contains(response, want) {
				t.Errorf("%s: %s, %v; want %s", labels, response, err, want)
			}
		}
		destination := fmt.Sprintf(`"destination":%q,"port":"%d"`, to.Addr(), to.Port())
		alert(destination, `"no_namespace"`)
		alert(destination+`,"namespace":"bank","pod":"web-0"`, `"not_allowed"`)
		for _, p := range []struct {
			app *testapp.App
			fd  int
		}{{web, webFD}, {twin, twinFD}, {foreign, foreignFD}} {
			if got := p.app.Call("write %d", p.fd); got != "write ok 1" {
				t.Errorf("before: %s", got)
			}
		}
		alert(destination+`,"namespace":"shop","pod":"web-0"`, `"alerts":{"done":1}`)
		if got := web.Call("recv %d", webFD); got != "recv ok 0" {
			t.Errorf("the pod of the alert: %s", got)
		}
		if got := twin.Call("write %d", twinFD); got != "write ok 1" {
			t.Errorf("another pod of the namespace: %s", got)
		}
		alert(destination+`,"namespace":"shop"`, `"alerts":{"done":1}`)
		if got := twin.Call("recv %d", twinFD); got != "recv ok 0" {
			t.Errorf("the namespace of the alert: %s", got)
		}
		if got := foreign.Call("write %d", foreignFD); got != "write ok 1" {
			t.Errorf("a pod of another namespace: %s", got)
		}
	})
}

// TestPrivilegedNodeSelfTest checks that the self-test waits for a pod, and tries its processes.
func TestPrivilegedNodeSelfTest(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		node := pods.NewNode(t, testapp.Build(t))
		// Processes outside of pods, and those of the node's network, are not tried.
		testapp.StartAs(t, testapp.Build(t), other)
		node.Start(pods.Spec{HostNetwork: true})
		p := serveNode(t, node)
		usable := func(method string) (float64, bool) {
			return sample(t, fmt.Sprintf("tcphup_method_usable{method=%q}", method))
		}
		awaitLog(t, p, errNoPodText)
		for line := range strings.Lines(p.logged()) {
			if strings.Contains(line, errNoPodText) && !strings.Contains(line, "level=INFO") {
				t.Errorf("a node without pods is a problem: %s", line)
			}
		}
		if n, ok := usable("shutdown"); ok {
			t.Errorf("without a pod: %v", n)
		}
		node.Start(pods.Spec{User: other, Containers: 2})
		for _, method := range []string{"shutdown", "destroy"} {
			nstest.Eventually(t, method+" is usable", func() bool {
				n, ok := usable(method)
				return ok && n == 1
			})
		}
		awaitLog(t, p, "2 of 2 other processes are accessible")
	})
}

// errNoPodText is the detail of the self-test without a pod.
const errNoPodText = "no pod with a network namespace of its own is on this node"

// nodeFile writes a file that the user of serveNode may read.
func nodeFile(t *testing.T, name, content string) string {
	t.Helper()
	path := writeFile(t, name, content)
	mustGive(t, path, nobody)
	return path
}
