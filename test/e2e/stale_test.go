package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

const (
	oldAddress, newAddress = "127.0.1.1", "127.0.1.2"
	serviceName            = "db.internal"
)

// failoverSettle is the shortest settle time that the configuration accepts.
const failoverSettle = time.Second

// startHTTPOn starts a server whose response names its address and the connection.
func startHTTPOn(t *testing.T, address string) (port string) {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, listener.Addr(), " ", r.RemoteAddr)
	})}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	_, port, err = net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// TestPrivilegedFailover covers a failover from the DNS to the application: the address becomes
// former, the shipped alert fires, Alertmanager posts, tcphup hangs up, the application
// reconnects and the alert resolves. Only the alert's for is changed.
func TestPrivilegedFailover(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		dns := startNameServer(t)
		dns.set(serviceName + " " + oldAddress)
		port := startHTTPOn(t, oldAddress+":0")
		startHTTPOn(t, net.JoinHostPort(newAddress, port))

		ask := startClient(t, goClientCommand(serviceName, port))
		var first string
		nstest.Eventually(t, "the name resolves", func() bool {
			first = ask()
			return strings.HasPrefix(first, "200 "+oldAddress)
		})
		config := writeFile(t, "tcphup.yml", fmt.Sprintf(`
policies:
  - name: failover
    match: ['alertname="TcphupStaleSockets"']
    allow: [%[1]s]
    labels: {service: service}
services: [{name: %[1]s, port: %[2]s, settle: %[3]s, interval: 1s}]
`, serviceName, port, failoverSettle))
		serveArmed(t, "--config.file="+config)
		becomes(t, addressesOf(serviceName, "current"), 1)
		becomes(t, socketsOf("current"), 1)
		becomes(t, socketsOf("former"), 0)
		startAlertmanager(t, alertmanagerConfig{groupBy: "alertname, service", token: token})
		startPrometheusWithShippedRules(t)

		changed := time.Now()
		dns.set(serviceName + " " + newAddress)
		since := func() time.Duration { return time.Since(changed).Round(10 * time.Millisecond) }
		// The flow is hung up soon after, so the socket series may never be sampled.
		nstest.Eventually(t, "the address becomes former", func() bool {
			former, _ := sample(t, addressesOf(serviceName, "former"))
			return former == 1
		})
		former := since()
		closed := `tcphup_hangups_total{method="shutdown",outcome="closed",policy="failover"}`
		nstest.Eventually(t, "a hang-up", func() bool {
			n, ok := sample(t, closed)
			return ok && n > 0
		})
		hungUp := since()
		next := ask()
		reconnected := since()
		if !strings.HasPrefix(next, "200 "+newAddress) {
			t.Fatalf("after the hang-up: %q; before: %q", next, first)
		}
		becomes(t, socketsOf("former"), 0)
		becomes(t, socketsOf("current"), 1)
		nstest.Eventually(t, "the alert resolves", func() bool {
			alerts, err := get(t, "http://"+alertmanagerAddress+"/api/v2/alerts?active=true")
			return err == nil && strings.TrimSpace(alerts) == "[]"
		})
		if again := ask(); again != next {
			t.Errorf("new connection not kept: %q, then %q", next, again)
		}
		if n, _ := sample(t, closed); n != 1 {
			t.Errorf("%v flows hung up, want 1", n)
		}
		t.Logf("after the DNS change (settle %s): former in %s, hung up in %s, RECONNECTED IN %s, alert resolved in %s",
			failoverSettle, former, hungUp, reconnected, since())
	})
}

// startPrometheusWithShippedRules starts Prometheus with the rules of deploy/, with `for: 0s`
// for the alert about stale sockets.
func startPrometheusWithShippedRules(t *testing.T) {
	t.Helper()
	shipped, err := os.ReadFile("../../deploy/rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	const waits = "for: 1m"
	if strings.Count(string(shipped), waits) != 1 {
		t.Fatalf("want one %q in the shipped rules", waits)
	}
	prometheusConfig{rules: strings.Replace(string(shipped), waits, "for: 0s", 1), targets: []string{tcphupAddress}}.start(t)
	// Prometheus discovers its Alertmanager some seconds after its start.
	nstest.Eventually(t, "Prometheus has discovered Alertmanager", func() bool {
		page, err := get(t, "http://"+prometheusAddress+"/api/v1/alertmanagers")
		return err == nil && strings.Contains(page, alertmanagerAddress)
	})
}

// postStale posts an alert about the service and returns the response.
func postStale(t *testing.T) string {
	t.Helper()
	labels := fmt.Sprintf(`"alertname":"TcphupStaleSockets","service":%q`, serviceName)
	response, err := sendWithToken(notificationRequest(t, "http://"+receiverAddress+"/alerts", labels))
	if err != nil || !strings.HasPrefix(response, "200 ") {
		t.Fatalf("response: %s, %v", response, err)
	}
	return response
}

// TestPrivilegedStaleFlows checks that the embedded policy hangs up flows to former addresses:
// IPv4, IPv6, IPv4-mapped, and MPTCP with one subflow to a former address. Flows to current
// addresses stay open, also after the name has changed back.
func TestPrivilegedStaleFlows(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		peer := nstest.NewPeer(t)
		dns := startNameServer(t)
		var server *testapp.Server
		peer.Do(func() { server = testapp.Serve(t, testapp.ServerConfig{Address: ":0", MPTCP: true}) })
		port := server.Addr().Port()
		// The peer's two addresses stand for two hosts of the service.
		former := nstest.Peer4Two + " " + nstest.Peer6
		dns.set(serviceName + " " + nstest.Peer4Two + " " + nstest.Peer6)

		app := testapp.Start(t, testapp.Build(t))
		app.Call("ignore")
		connect := func(host string, mapped, mptcp bool) int {
			return app.Connect(mustAddrPort(t, host, port), mapped, mptcp)
		}
		stale := map[string]int{
			"ipv4":   connect(nstest.Peer4Two, false, false),
			"mapped": connect(nstest.Peer4Two, true, false),
			"ipv6":   connect(nstest.Peer6, false, false),
		}
		subflows := 0.0 // to each of the peer's addresses
		if nstest.HasMPTCP() {
			stale["mptcp"] = connect(nstest.Peer4, false, true) // second subflow to Peer4Two
			app.Call("write %d", stale["mptcp"])
			subflows = 1
		}
		awaitSubflows(t, port, 3+2*int(subflows))
		kept := map[string]int{"ipv4": connect(nstest.Peer4, false, false), "mapped": connect(nstest.Peer4, true, false)}

		state := t.TempDir()
		services := fmt.Sprintf("services:\n- {name: %s, port: %d, settle: 1s, interval: 1s}\n", serviceName, port)
		config := writeFile(t, "tcphup.yml", services)
		args := []string{"--config.file=" + config, "--state.directory=" + state}
		served := serveArmed(t, args...)
		becomes(t, addressesOf(serviceName, "current"), 2)
		becomes(t, socketsOf("current"), 3+subflows)

		// Change the name and back: no flow to a current address is hung up.
		dns.set(serviceName + " " + nstest.Peer4)
		becomes(t, addressesOf(serviceName, "former"), 2)
		becomes(t, socketsOf("former"), 3+subflows)
		dns.set(serviceName + " " + former + " " + nstest.Peer4)
		becomes(t, socketsOf("former"), 0)
		if answer := postStale(t); strings.Contains(answer, `"closed":`) {
			t.Errorf("after the name went back: %s", answer)
		}
		dns.set(serviceName + " " + former)
		becomes(t, socketsOf("former"), 2+subflows) // to Peer4
		dns.set(serviceName + " " + nstest.Peer4)
		becomes(t, socketsOf("former"), 3+subflows)
		if idle, ok := sample(t, fmt.Sprintf(`tcphup_service_former_idle_max_seconds{service=%q}`, serviceName)); !ok || idle <= 0 {
			t.Errorf("longest idle: %v %t", idle, ok)
		}

		// The command reads former addresses from the state file.
		nstest.Eventually(t, "the state file is written", func() bool {
			b, err := os.ReadFile(filepath.Join(state, stateFile))
			return err == nil && strings.Count(string(b), `"former"`) == 2
		})
		r := tcphup(t, "--stale="+serviceName, "--state.directory="+state, "--dry-run", "--output=json")
		r.mustExit(t, 0)
		var report struct{ Outcomes map[string]int }
		if err := json.Unmarshal([]byte(r.stdout), &report); err != nil || report.Outcomes["planned"] != len(stale) {
			t.Errorf("dry run: %v: %s", err, r.stdout)
		}
		if got := app.Call("write %d", stale["ipv6"]); got != "write ok 1" {
			t.Errorf("after a dry run: %s", got)
		}
		r = tcphup(t, "list", "--stale="+serviceName, "--state.directory="+state)
		r.mustExit(t, 0)
		if !strings.Contains(r.stdout, nstest.Peer4Two+":") || strings.Contains(r.stdout, nstest.Peer4+":") {
			t.Errorf("list: %s", r.stdout)
		}

		// Former addresses survive a reload and a restart.
		if err := os.WriteFile(config, []byte(services+"- {name: more.internal, port: 80}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := served.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		nstest.Eventually(t, "the new service is watched", func() bool {
			n, _ := sample(t, `tcphup_service_lookups_total{service="more.internal"}`)
			return n > 0
		})
		becomes(t, socketsOf("former"), 3+subflows)
		if err := served.stop(); err != nil {
			t.Fatal(err)
		}
		served = serveArmed(t, args...)
		becomes(t, socketsOf("former"), 3+subflows)
		nstest.Eventually(t, "the first lookup succeeds; alerts before get 503", func() bool {
			lookups, _ := sample(t, fmt.Sprintf(`tcphup_service_lookups_total{service=%q}`, serviceName))
			failures, _ := sample(t, fmt.Sprintf(`tcphup_service_lookup_failures_total{service=%q}`, serviceName))
			return lookups >= 2 && failures == 0 // both families
		})
		if answer := postStale(t); !strings.Contains(answer, fmt.Sprintf(`"closed":%d`, len(stale))) {
			t.Errorf("response: %s", answer)
		}
		for name, fd := range stale {
			if got := app.Call("recv %d", fd); got != "recv ok 0" {
				t.Errorf("%s: %q, want EOF", name, got)
			}
		}
		for name, fd := range kept {
			if got := app.Call("write %d", fd); got != "write ok 1" {
				t.Errorf("to a current address, %s: %q", name, got)
			}
		}
		becomes(t, socketsOf("former"), 0)
		becomes(t, socketsOf("current"), 2)
		if err := served.stop(); err != nil {
			t.Error(err)
		}
	})
}
