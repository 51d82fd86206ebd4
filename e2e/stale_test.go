package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"tcphup/internal/nstest"
	"tcphup/internal/testapp"
)

const (
	oldAddress, newAddress = "127.0.1.1", "127.0.1.2"
	serviceName            = "db.internal"
)

// failoverSettle is the shortest that the configuration takes.
const failoverSettle = time.Second

// startHTTPOn runs a server that names itself and the connection in its answer.
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

// The failover of a name, from the DNS to the application: metrics go from current
// to former, the shipped alert fires, Alertmanager posts, the flows to the former
// address are hung up, the application reconnects to the new one, the alert
// resolves. The only thing that is not as shipped is how long the alert waits.
func TestPrivilegedFailover(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		dns := startNameServer(t)
		dns.set(serviceName + " " + oldAddress)
		port := startHTTPOn(t, oldAddress+":0")
		startHTTPOn(t, net.JoinHostPort(newAddress, port))

		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), goClientVariable+"=http://"+net.JoinHostPort(serviceName, port))
		ask := startClient(t, cmd)
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
services: [{name: %[1]s, port: %[2]s, settle: %[3]s}]
`, serviceName, port, failoverSettle))
		serveServices(t, "--config.file="+config)
		becomes(t, addressesOf(serviceName, "current"), 1)
		becomes(t, socketsOf(serviceName, "current"), 1)
		becomes(t, socketsOf(serviceName, "former"), 0)
		startAlertmanager(t, token)
		startPrometheusWithShippedRules(t)

		changed := time.Now()
		dns.set(serviceName + " " + newAddress)
		since := func() time.Duration { return time.Since(changed).Round(10 * time.Millisecond) }
		// Once: the flow is hung up soon after.
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
		becomes(t, socketsOf(serviceName, "former"), 0)
		becomes(t, socketsOf(serviceName, "current"), 1)
		nstest.Eventually(t, "the alert resolves", func() bool {
			alerts, err := get(t, "http://"+alertmanagerAddress+"/api/v2/alerts?active=true")
			return err == nil && strings.TrimSpace(alerts) == "[]"
		})
		if again := ask(); again != next {
			t.Errorf("the new connection was not kept: %q, then %q", next, again)
		}
		if n, _ := sample(t, closed); n != 1 {
			t.Errorf("%v flows were hung up", n)
		}
		t.Logf("after the change of the DNS (settle %s): former in %s, hung up in %s, RECONNECTED IN %s, alert resolved in %s",
			failoverSettle, former, hungUp, reconnected, since())
	})
}

// startPrometheusWithShippedRules runs it with the alerts of deploy/, which fire
// at once.
func startPrometheusWithShippedRules(t *testing.T) {
	t.Helper()
	shipped, err := os.ReadFile("../deploy/rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	const waits = "for: 1m"
	if strings.Count(string(shipped), waits) != 1 {
		t.Fatalf("the shipped rules have not one %q", waits)
	}
	rules := writeFile(t, "rules.yml", strings.Replace(string(shipped), waits, "for: 0s", 1))
	config := writeFile(t, "prometheus.yml", fmt.Sprintf(`
global: {scrape_interval: 250ms, scrape_timeout: 250ms, evaluation_interval: 250ms}
rule_files: [%q]
scrape_configs: [{job_name: tcphup, static_configs: [{targets: [%q]}]}]
alerting: {alertmanagers: [{static_configs: [{targets: [%q]}]}]}
`, rules, tcphupAddress, alertmanagerAddress))
	startProcess(t, need(t, "prometheus", "prometheus"), "--config.file="+config, "--storage.tsdb.path="+t.TempDir(),
		"--web.listen-address="+prometheusAddress, "--log.level=warn")
	// Prometheus learns of its Alertmanager some seconds after its start.
	nstest.Eventually(t, "Prometheus knows Alertmanager", func() bool {
		page, err := get(t, "http://"+prometheusAddress+"/api/v1/alertmanagers")
		return err == nil && strings.Contains(page, alertmanagerAddress)
	})
}

// postStale sends an alert about the service and returns the answer.
func postStale(t *testing.T) string {
	t.Helper()
	body := fmt.Sprintf(`{"version":"4","status":"firing","alerts":[{"status":"firing","fingerprint":"c0ffee","startsAt":%q,
		"labels":{"alertname":"TcphupStaleSockets","tcphup":"hangup","service":%q}}]}`, time.Now().UTC().Format(time.RFC3339Nano), serviceName)
	answer, err := post(t, body)
	if err != nil || !strings.HasPrefix(answer, "200 ") {
		t.Fatalf("%s, %v", answer, err)
	}
	return answer
}

func post(t *testing.T, body string) (string, error) {
	t.Helper()
	r := runProgram(t, nil, need(t, "curl", "curl"), "--silent", "--show-error", "--write-out", "\n%{http_code}",
		"--header", "Authorization: Bearer "+token, "--json", body, "http://"+receiverAddress+"/alerts")
	if r.exit != 0 {
		return "", fmt.Errorf("curl: %s", r.stderr)
	}
	at := strings.LastIndex(r.stdout, "\n")
	return r.stdout[at+1:] + " " + r.stdout[:at], nil
}

// Both families of one name, an IPv4-mapped socket and an MPTCP connection one of
// whose paths leads to a former address are hung up, by the policy that applies
// without a configuration; what leads to current addresses is not, not even when
// the name goes back.
func TestPrivilegedStaleFlows(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		peer := nstest.NewPeer(t)
		dns := startNameServer(t)
		var server *testapp.Server
		peer.Do(func() { server = testapp.Serve(t, testapp.ServerConfig{Address: ":0", MPTCP: true}) })
		port := server.Addr().Port()
		// The peer's first addresses and its second are two hosts of the service.
		former := nstest.Peer4Two + " " + nstest.Peer6
		dns.set(serviceName + " " + nstest.Peer4Two + " " + nstest.Peer6)

		app := testapp.Start(t, testapp.Build(t))
		app.Ask("ignore")
		connect := func(host string, mapped, mptcp bool) int {
			return app.Connect(mustAddrPort(t, host, port), mapped, mptcp)
		}
		stale := map[string]int{
			"ipv4":   connect(nstest.Peer4Two, false, false),
			"mapped": connect(nstest.Peer4Two, true, false),
			"ipv6":   connect(nstest.Peer6, false, false),
			"mptcp":  connect(nstest.Peer4, false, true), // its second path leads to Peer4Two
		}
		app.Ask("write %d", stale["mptcp"])
		awaitPaths(t, port, 5)
		kept := map[string]int{"ipv4": connect(nstest.Peer4, false, false), "mapped": connect(nstest.Peer4, true, false)}

		state := filepath.Join(t.TempDir(), "state.json")
		args := []string{fmt.Sprintf("--service=%s:%d", serviceName, port), "--endpoints.state-file=" + state}
		config := writeFile(t, "tcphup.yml", fmt.Sprintf("services: [{name: %s, port: %d, settle: 1s}]\n", serviceName, port))
		args[0] = "--config.file=" + config
		served := serveServices(t, args...)
		becomes(t, addressesOf(serviceName, "current"), 2)
		becomes(t, socketsOf(serviceName, "current"), 4)

		// There and back: nothing current is ever hung up.
		dns.set(serviceName + " " + nstest.Peer4)
		becomes(t, addressesOf(serviceName, "former"), 2)
		becomes(t, socketsOf(serviceName, "former"), 4)
		dns.set(serviceName + " " + former)
		becomes(t, socketsOf(serviceName, "former"), 0)
		if answer := postStale(t); strings.Contains(answer, `"closed":`) {
			t.Errorf("after the name went back: %s", answer)
		}
		becomes(t, socketsOf(serviceName, "former"), 3) // to Peer4, two and a path
		dns.set(serviceName + " " + nstest.Peer4)
		becomes(t, socketsOf(serviceName, "former"), 4)
		if idle, ok := sample(t, fmt.Sprintf(`tcphup_service_former_idle_max_seconds{service=%q}`, serviceName)); !ok || idle <= 0 {
			t.Errorf("longest idle: %v %t", idle, ok)
		}

		// One shot, from the state file: what is former, and what would be done.
		nstest.Eventually(t, "the state file is written", func() bool {
			b, err := os.ReadFile(state)
			return err == nil && strings.Count(string(b), `"former"`) == 2
		})
		r := tcphup(t, "--stale="+serviceName, "--endpoints.state-file="+state, "--dry-run", "--output=json")
		r.mustExit(t, 0)
		var report struct{ Outcomes map[string]int }
		if err := json.Unmarshal([]byte(r.stdout), &report); err != nil || report.Outcomes["planned"] != len(stale) {
			t.Errorf("dry run: %v: %s", err, r.stdout)
		}
		if got := app.Ask("write %d", stale["ipv6"]); got != "write ok 1" {
			t.Errorf("after a dry run: %s", got)
		}

		// What is former survives a restart.
		if err := served.stop(); err != nil {
			t.Fatal(err)
		}
		served = serveServices(t, args...)
		becomes(t, socketsOf(serviceName, "former"), 4)
		if answer := postStale(t); !strings.Contains(answer, `"closed":4`) {
			t.Errorf("answer: %s", answer)
		}
		for name, fd := range stale {
			if got := app.Ask("recv %d", fd); got != "recv ok 0" {
				t.Errorf("%s: %q, want end of file", name, got)
			}
		}
		for name, fd := range kept {
			if got := app.Ask("write %d", fd); got != "write ok 1" {
				t.Errorf("to a current address, %s: %q", name, got)
			}
		}
		becomes(t, socketsOf(serviceName, "former"), 0)
		becomes(t, socketsOf(serviceName, "current"), 2)
		if err := served.stop(); err != nil {
			t.Error(err)
		}
	})
}

// What the DNS does when it fails changes nothing, whatever it is; /etc/hosts and
// resolv.conf are followed.
func TestPrivilegedLookupFailures(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		dns := startNameServer(t, "--txt-record=empty.internal,nothing else", "--srv-host=_pg._tcp.internal,db.internal,5432")
		var many []string
		for i := range 100 {
			many = append(many, fmt.Sprintf("10.0.%d.1 fd00::%d", i, i))
		}
		names := []string{serviceName + " 127.0.1.1", "many.internal " + strings.Join(many, " ")}
		dns.set(names...)
		serveServices(t, "--config.file="+writeFile(t, "tcphup.yml", `
services:
  - {name: db, port: 5432, settle: 1s}
  - {name: db.internal, port: 5432, settle: 1s}
  - {name: _pg._tcp.internal, port: 5432, settle: 1s}
  - {name: many.internal, port: 80, settle: 1s}
  - {name: empty.internal, port: 80, settle: 1s}
  - {name: gone.internal, port: 80, settle: 1s}
  - {name: hosted.internal, port: 80, settle: 1s}
`))
		watched := []string{"db", serviceName, "_pg._tcp.internal"}
		for _, name := range watched {
			becomes(t, addressesOf(name, "current"), 1)
		}
		becomes(t, addressesOf("many.internal", "current"), 200) // too many for UDP
		failures := func(name string) float64 {
			n, _ := sample(t, fmt.Sprintf("tcphup_service_lookup_failures_total{service=%q}", name))
			return n
		}
		fails := func(why string, names ...string) {
			t.Helper()
			before := make(map[string]float64)
			for _, name := range names {
				before[name] = failures(name)
			}
			for _, name := range names {
				nstest.Eventually(t, why+" is counted for "+name, func() bool { return failures(name) > before[name] })
			}
		}
		unchanged := func(when string) {
			t.Helper()
			for _, name := range watched {
				current, _ := sample(t, addressesOf(name, "current"))
				former, _ := sample(t, addressesOf(name, "former"))
				if current != 1 || former != 0 {
					t.Errorf("%s: %s has %v current and %v former addresses", when, name, current, former)
				}
			}
		}
		// Names of this kind were never found, so nothing is said about their addresses.
		for _, name := range []string{"empty.internal", "gone.internal"} {
			nstest.Eventually(t, "a failure of "+name, func() bool { return failures(name) > 0 })
			if _, ok := sample(t, addressesOf(name, "current")); ok {
				t.Errorf("%s has addresses", name)
			}
		}
		dns.set(names[1]) // NXDOMAIN
		fails("NXDOMAIN", watched...)
		unchanged("NXDOMAIN")
		dns.set(names...)
		dns.signal(syscall.SIGSTOP)
		hosts, err := os.OpenFile("/etc/hosts", os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer hosts.Close()
		// A change of the file makes every name due at once.
		if _, err := hosts.WriteString("127.0.3.1 hosted.internal\n::1 hosted.internal\n"); err != nil {
			t.Fatal(err)
		}
		becomes(t, addressesOf("hosted.internal", "current"), 2)
		fails("a timeout", watched...)
		unchanged("timeout")
		dns.signal(syscall.SIGCONT)
		if err := os.WriteFile("/etc/resolv.conf", []byte("nameserver 127.0.0.2\nsearch internal\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		fails("a server that is not there", watched...)
		unchanged("no server")
		if err := os.WriteFile("/etc/resolv.conf", []byte("nameserver 127.0.0.2\nnameserver 127.0.0.1\nsearch internal\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		dns.set(serviceName+" 127.0.1.2", names[1])
		for _, name := range watched {
			becomes(t, addressesOf(name, "former"), 1)
		}
	})
}

// What --stale cannot be sure of touches nothing.
func TestPrivilegedStaleUsage(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		bind(t, "/etc/hosts", newAddress+" "+serviceName+"\n")
		bind(t, "/etc/resolv.conf", "nameserver 127.0.0.1\n")
		server := testapp.Serve(t, testapp.ServerConfig{Address: oldAddress + ":0"})
		current := testapp.Serve(t, testapp.ServerConfig{Address: mustAddrPort(t, newAddress, server.Addr().Port()).String()})
		app := testapp.Start(t, testapp.Build(t))
		app.Ask("ignore")
		fd, other := app.Connect(server.Addr(), false, false), app.Connect(current.Addr(), false, false)
		service := fmt.Sprintf("--stale=%s:%d", serviceName, server.Addr().Port())
		damaged := writeFile(t, "damaged", "{")
		for _, tt := range []struct {
			args []string
			says string
		}{
			{[]string{service}, "--endpoints.state-file or --former"},
			{[]string{service, "--former=" + oldAddress, "127.0.0.1", "80"}, "in place of"},
			{[]string{"--former=" + oldAddress, "127.0.0.1", "80"}, "--stale"},
			{[]string{service, "--former=" + serviceName}, "not an address"},
			{[]string{"--stale=127.0.0.1:80", "--former=" + oldAddress}, "not a host name"},
			{[]string{"--stale=" + serviceName + ":0", "--former=" + oldAddress}, "65535"},
			{[]string{"--stale=gone.internal:80", "--former=" + oldAddress}, "where gone.internal is now is not known"},
			{[]string{service, "--endpoints.state-file=/nonexistent"}, "/nonexistent"},
			{[]string{service, "--endpoints.state-file=" + damaged}, "not the state of services"},
		} {
			r := tcphup(t, tt.args...)
			if r.exit != 2 || !strings.Contains(strings.ReplaceAll(r.stderr, "takes the place", "in place"), tt.says) || r.stdout != "" {
				t.Errorf("tcphup %v: exit %d, %s; want exit 2 and %q", tt.args, r.exit, r.stderr, tt.says)
			}
		}
		if _, err := os.Stat(damaged); err != nil {
			t.Errorf("a file that was only read was set aside: %v", err)
		}
		// A current address that is named as a former one is left alone.
		r := tcphup(t, service, "--former="+oldAddress, "--former="+newAddress)
		r.mustExit(t, 0)
		if !strings.Contains(r.stderr, newAddress+" is an address of "+serviceName+" now") || !strings.Contains(r.stderr, "1 closed") {
			t.Errorf("stderr: %s", r.stderr)
		}
		if got := app.Ask("recv %d", fd); got != "recv ok 0" {
			t.Errorf("former: %q", got)
		}
		if got := app.Ask("write %d", other); got != "write ok 1" {
			t.Errorf("current: %q", got)
		}
		r = tcphup(t, service, "--former="+newAddress)
		r.mustExit(t, 0)
		if !strings.Contains(r.stderr, "no flow matches") {
			t.Errorf("stderr: %s", r.stderr)
		}
	})
}
