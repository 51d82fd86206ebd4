package kubernetes

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// alertmanagerVariable is the environment variable for the path of Alertmanager.
const alertmanagerVariable = "TCPHUP_KUBERNETES_ALERTMANAGER"

// prometheusConfig has the scrape of a PodMonitor: its job and more settings of the job. Debian's
// Prometheus has no service discovery of Kubernetes; the test reads the targets from the API
// server instead.
const prometheusConfig = `
global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}
rule_files: [rules.yml]
alerting: {alertmanagers: [{static_configs: [{targets: ["127.0.0.1:9093"]}]}]}
scrape_configs: [{job_name: %s, file_sd_configs: [{files: [targets.json]}]%s}]
`

// podTargets returns the targets of a PodMonitor with this selector, with the labels that the
// operator sets: the port tcphup of the pods.
func (n *namespace) podTargets(selector string) []byte {
	n.t.Helper()
	type containers []struct {
		Name  string
		Ports []struct {
			Name          string
			ContainerPort int
		}
	}
	var pods struct {
		Items []struct {
			Metadata struct{ Name string }
			Status   struct{ PodIP string }
			Spec     struct{ InitContainers, Containers containers }
		}
	}
	if err := json.Unmarshal([]byte(n.kubectl("get", "pods", "--selector="+selector, "--output=json")), &pods); err != nil {
		n.t.Fatal(err)
	}
	type target struct {
		Targets []string          `json:"targets"`
		Labels  map[string]string `json:"labels"`
	}
	var targets []target
	for _, pod := range pods.Items {
		for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
			for _, p := range c.Ports {
				if p.Name == "tcphup" {
					targets = append(targets, target{
						[]string{fmt.Sprintf("%s:%d", pod.Status.PodIP, p.ContainerPort)},
						map[string]string{"namespace": n.name, "pod": pod.Metadata.Name, "container": c.Name},
					})
				}
			}
		}
	}
	out, err := json.Marshal(targets)
	if err != nil {
		n.t.Fatal(err)
	}
	return out
}

const prometheusURL = "http://127.0.0.1:9090"

// query returns the response of Prometheus to a query.
func query(expr string) string {
	return get(prometheusURL + "/api/v1/query?query=" + url.QueryEscape(expr))
}

// startMonitoring starts Prometheus with a job and its targets, and Alertmanager with these
// credentials. Rules and configuration are the shipped ones with shorter times.
func startMonitoring(t *testing.T, job, settings string, targets []byte, credentials string) {
	t.Helper()
	dir := t.TempDir()
	copyFile(t, dir, "rules.yml", "for: 1m", "for: 1s")
	copyFile(t, dir, "alertmanager.tmpl")
	config := copyFile(t, dir, "alertmanager.example.yml", "group_wait: 5s", "group_wait: 1s", "group_interval: 30s", "group_interval: 5s",
		"authorization: {credentials_file: /etc/alertmanager/tcphup.token}", credentials)
	start(t, os.Getenv(alertmanagerVariable), "--config.file="+config, "--storage.path="+filepath.Join(dir, "alertmanager"),
		"--web.listen-address=127.0.0.1:9093", "--cluster.listen-address=")
	scrape := filepath.Join(dir, "prometheus.yml")
	for file, content := range map[string][]byte{scrape: fmt.Appendf(nil, prometheusConfig, job, settings), filepath.Join(dir, "targets.json"): targets} {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	start(t, "prometheus", "--config.file="+scrape, "--storage.tsdb.path="+filepath.Join(dir, "prometheus"),
		"--web.listen-address="+strings.TrimPrefix(prometheusURL, "http://"), "--log.level=warn")
	eventually(t, "Prometheus is ready", func() bool { return get(prometheusURL+"/-/ready") != "" })
}

// activeAlerts returns the alerts that Alertmanager has, as JSON.
func activeAlerts() string {
	return strings.TrimSpace(get("http://127.0.0.1:9093/api/v2/alerts?active=true"))
}

// start runs a program until the test ends. A failed test logs its output.
func start(t *testing.T, program string, args ...string) *exec.Cmd {
	t.Helper()
	var log strings.Builder
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s:\n%s", cmd.Path, log.String())
		}
	})
	return cmd
}

// get returns the body of a page, or "" if there is none.
func get(url string) string {
	response, err := http.Get(url)
	if err != nil {
		return ""
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		return ""
	}
	return string(body)
}

// copyFile writes a file of deploy into the directory, with replacements, each of which must
// occur.
func copyFile(t *testing.T, dir, name string, replacements ...string) string {
	t.Helper()
	content, err := os.ReadFile("../../deploy/" + name)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(replacements); i += 2 {
		if !strings.Contains(string(content), replacements[i]) {
			t.Fatalf("%s has no %q", name, replacements[i])
		}
	}
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(strings.NewReplacer(replacements...).Replace(string(content))), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// nameServer resolves names for pods.
type nameServer struct {
	t   *testing.T
	cmd *exec.Cmd
}

// set changes the address of db.internal.
func (s *nameServer) set(address string) {
	s.t.Helper()
	if s.cmd != nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
	}
	s.cmd = start(s.t, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--user=root", "--no-resolv", "--no-hosts",
		"--listen-address="+nodeAddress, "--bind-interfaces", "--local=/internal/", "--local-ttl=1", "--address=/db.internal/"+address)
	eventually(s.t, "dnsmasq answers", func() bool {
		conn, err := net.Dial("tcp", nodeAddress+":53")
		return err == nil && conn.Close() == nil
	})
}

// TestChain covers the whole chain at the level restricted, with the shipped rules and
// Alertmanager's configuration: a name fails over, Prometheus finds stale connections of each
// pod, Alertmanager posts to the pod's own sidecar, the application reconnects and the alert
// resolves. No alert about the self-test fires.
func TestChain(t *testing.T) {
	installProfile(t)
	n := newNamespace(t, "chain", "restricted")
	const port, replicas = 5432, 2
	var databases []*database
	for _, address := range []string{"10.250.0.2", "10.250.0.3"} {
		if out, err := exec.Command("ip", "addr", "add", address+"/24", "dev", "node0").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		databases = append(databases, startDatabase(t, address, port))
	}
	names := &nameServer{t: t}
	names.set(databases[0].host)
	n.kubectl("patch", "configmap", "tcphup", "--type=merge",
		`--patch={"data": {"tcphup.yml": "services: [{name: db.internal, port: 5432, settle: 2s, interval: 1s}]"}}`)
	w := deployment(fmt.Sprintf("db.internal:%d", port), strconv.Itoa(connections))
	w.pod = "      dnsPolicy: None\n      dnsConfig: {nameservers: [" + nodeAddress + "]}\n"
	n.applyWith("acting-restricted", w, fmt.Sprintf(`
- {op: replace, path: /spec/replicas, value: %d}
- {op: add, path: /spec/template/spec/initContainers/0/args/-, value: --config.file=/etc/tcphup/tcphup.yml}
`, replicas))
	var addresses []string
	eventually(t, "all pods run", func() bool {
		addresses = strings.Fields(n.kubectl("get", "pods", `--output=jsonpath={.items[?(@.status.phase=="Running")].status.podIP}`))
		return len(addresses) == replicas
	})
	databases[0].await(replicas*connections, 0)

	startMonitoring(t, "podMonitor/tcphup", "", n.podTargets("tcphup in (reading, acting)"), fmt.Sprintf("basic_auth: {username: %s, password: %s}", user, password))
	eventually(t, "Prometheus has the connections of each pod", func() bool {
		return strings.Contains(query(`count(tcphup_service_sockets{address="current"}==`+strconv.Itoa(connections)+`)`), fmt.Sprintf(`"%d"`, replicas))
	})

	names.set(databases[1].host)
	databases[0].await(replicas*connections, replicas*connections)
	databases[1].await(replicas*connections, 0)
	for _, address := range addresses {
		eventually(t, "the sidecar of "+address+" has hung up its connections", func() bool {
			closed, _ := sample(t, address, `tcphup_hangups_total{method="shutdown",outcome="closed",policy="stale"}`)
			return closed == connections
		})
	}
	eventually(t, "the alert resolves", func() bool { return activeAlerts() == "[]" })
	if fired := query(`count_over_time(ALERTS{alertname="TcphupNoMethodUsable"}[1h])`); !strings.Contains(fired, `"result":[]`) {
		t.Errorf("TcphupNoMethodUsable was pending or fired: %s", fired)
	}
}
