package e2e

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/program"
)

// templatingAlertmanager is the first Alertmanager with templates in webhook URLs; make
// builds it.
const templatingAlertmanager = "bin/alertmanager-v0.31.1"

// TestPrivilegedFanOut checks the routing of the examples in deploy/: with two sidecars and
// applications of the same database, an alert reaches only the sidecar of its instance.
func TestPrivilegedFanOut(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		templating, err := filepath.Abs(filepath.Join("..", "..", templatingAlertmanager))
		if err == nil {
			_, err = os.Stat(templating)
		}
		if err != nil {
			t.Fatalf("no Alertmanager with templates (make %s): %v", templatingAlertmanager, err)
		}
		debians := need(t, "prometheus-alertmanager", "prometheus-alertmanager")
		pods := []*pod{newPod(t, 1), newPod(t, 2)}
		nstest.Command(t, "ip", "addr", "add", databaseAddress+"/32", "dev", "lo")
		for _, tt := range []struct{ name, binary, config string }{
			{"template", templating, "alertmanager.example.yml"},
			{"plain list", debians, "alertmanager-plain.example.yml"},
		} {
			t.Run(tt.name, func(t *testing.T) { fanOut(t, pods, tt.binary, tt.config) })
		}
	})
}

// databaseAddress is an address of the test's namespace that both pods can reach.
const databaseAddress = "10.98.0.1"

// pod is a network namespace with one address and a route to the test's namespace.
type pod struct {
	*nstest.Namespace
	name, address string
}

func newPod(t *testing.T, number int) *pod {
	t.Helper()
	p := &pod{name: fmt.Sprint("pod", number), address: fmt.Sprintf("10.98.%d.2", number)}
	p.Namespace = nstest.NewNamespace(t, p.name)
	gateway := fmt.Sprintf("10.98.%d.1", number)
	for _, command := range [][]string{
		{"ip", "link", "add", p.name, "type", "veth", "peer", "name", "eth0", "netns", p.name},
		{"ip", "addr", "add", gateway + "/24", "dev", p.name},
		{"ip", "link", "set", p.name, "up"},
		{"ip", "-n", p.name, "addr", "add", p.address + "/24", "dev", "eth0"},
		{"ip", "-n", p.name, "link", "set", "eth0", "up"},
		{"ip", "-n", p.name, "route", "add", "default", "via", gateway},
	} {
		nstest.Command(t, command...)
	}
	return p
}

func fanOut(t *testing.T, pods []*pod, binary, example string) {
	const flows = 3 // per pod; threshold of the alert
	database := startBackend(t, databaseAddress+":0")
	var audits, targets []string
	for i, p := range pods {
		// The second pod starts below the threshold.
		p.Do(func() { dial(t, false, flows-i, database.addr()) })
		audits = append(audits, filepath.Join(t.TempDir(), "audit.jsonl"))
		targets = append(targets, p.address+":10471")
		startProcess(t, "ip", "netns", "exec", p.name, program.Path(t), "serve",
			"--web.listen-address="+p.address+":10471", "--alerts.listen-address="+p.address+":10472",
			"--alerts.token-file="+writeFile(t, "token", token), "--audit.log-file="+audits[len(audits)-1])
		awaitPage(t, "http://"+p.address+":10471/-/ready")
	}
	// Changes from the example: token file, short intervals, addresses.
	config := change(t, filepath.Join("..", "..", "deploy", example),
		"/etc/alertmanager/tcphup.token", writeFile(t, "token", token),
		"group_wait: 5s", "group_wait: 0s", "group_interval: 30s", "group_interval: 1s", "repeat_interval: 45s", "repeat_interval: 1s")
	templates, err := filepath.Abs(filepath.Join("..", "..", "deploy", "alertmanager.tmpl"))
	if err != nil {
		t.Fatal(err)
	}
	config = strings.ReplaceAll(config, "[alertmanager.tmpl]", fmt.Sprintf("[%q]", templates))
	for i, p := range pods {
		config = strings.ReplaceAll(config, fmt.Sprintf("192.0.2.1%d", i+1), p.address)
		config = strings.ReplaceAll(config, fmt.Sprintf(`192\\.0\\.2\\.1%d`, i+1), strings.ReplaceAll(p.address, ".", `\\.`))
	}
	am := runAlertmanager(t, binary, alertmanagerAddress, config, "--cluster.listen-address=")
	startPrometheus(t, fmt.Sprintf(`tcphup_sockets{port="%d",state="established"} >= %d`, database.addr().Port(), flows), targets...)

	database.awaitEnded(flows)
	nstest.Eventually(t, "the alert about the first pod resolves", func() bool {
		alerts, err := get(t, am.url+"/api/v2/alerts?active=true")
		return err == nil && strings.TrimSpace(alerts) == "[]"
	})
	database.mustEnd(pods[0].address, flows)
	database.mustEnd(pods[1].address, 0)
	pods[1].Do(func() { dial(t, false, 1, database.addr()) })
	database.awaitEnded(2 * flows)
	database.mustEnd(pods[1].address, flows)
	nstest.Eventually(t, "both audit logs are written", func() bool {
		return len(fingerprints(t, audits[0])) > 0 && len(fingerprints(t, audits[1])) > 0
	})
	first, second := fingerprints(t, audits[0]), fingerprints(t, audits[1])
	if len(first) != 1 || len(second) != 1 || first[0] == second[0] {
		t.Errorf("alerts of the first pod: %v, of the second: %v; want one different alert each", first, second)
	}
}

// change returns the content of a file with strings replaced; each must occur.
func change(t *testing.T, path string, oldNew ...string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	content := string(b)
	for i := 0; i < len(oldNew); i += 2 {
		if !strings.Contains(content, oldNew[i]) {
			t.Fatalf("%s: %q not found", path, oldNew[i])
		}
		content = strings.ReplaceAll(content, oldNew[i], oldNew[i+1])
	}
	return content
}

// mustEnd checks that n connections from the client have ended.
func (b *backend) mustEnd(client string, n int) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	address := netip.MustParseAddr(client)
	got := 0
	for _, end := range b.ends {
		if end.client.Addr() == address {
			got++
		}
	}
	if got != n {
		b.t.Errorf("%d connections of %s ended, want %d", got, client, n)
	}
}

// fingerprints returns the distinct alert fingerprints of an audit log.
func fingerprints(t *testing.T, log string) []string {
	t.Helper()
	content, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for line := range strings.Lines(string(content)) {
		var r record
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		found = append(found, r.Fingerprint)
	}
	slices.Sort(found)
	return slices.Compact(found)
}
