package main

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Programs around the failovers.
const (
	monitorAddress = "10.99.0.53"
	firstFailover  = 60_001 // number of the first host
	scrapeInterval = "15s"
)

// names are the names of the services, one for each client, with their addresses.
type names struct {
	lock      sync.Mutex
	addresses map[string]string
	server    *exec.Cmd
}

// site has the programs around the failovers.
type site struct {
	names names
	token string
	next  int // number of the next host
	lock  sync.Mutex
}

// startSite starts the name server, Prometheus and Alertmanager for a number of hosts.
func startSite(hosts int) (*site, error) {
	s := &site{token: rand.Text(), next: firstFailover, names: names{addresses: make(map[string]string)}}
	rules, err := os.ReadFile("../../deploy/rules.yml")
	if err != nil {
		return nil, err
	}
	shipped, err := os.ReadFile(shippedAlertmanager)
	if err != nil {
		return nil, err
	}
	var addresses []string
	for i := range hosts {
		addresses = append(addresses, hostAddress(firstFailover+i))
	}
	alertmanager, err := alertmanagerConfiguration(string(shipped), addresses)
	if err != nil {
		return nil, err
	}
	var targets strings.Builder
	for _, address := range addresses {
		fmt.Fprintf(&targets, "'%s:10471', ", address)
	}
	files := map[string]string{
		"token": s.token + "\n", "rules.yml": string(rules), "names": "", "resolv.conf": "nameserver " + monitorAddress + "\n",
		"prometheus.yml": "global: {scrape_interval: " + scrapeInterval + ", evaluation_interval: " + scrapeInterval + "}\nrule_files: [rules.yml]\n" +
			"scrape_configs: [{job_name: tcphup, static_configs: [{targets: [" + targets.String() + "]}]}]\n" +
			"alerting: {alertmanagers: [{static_configs: [{targets: ['127.0.0.1:9093']}]}]}\n",
		"alertmanager.yml": alertmanager,
	}
	for file, content := range files {
		mode := os.FileMode(0o644)
		if file == "token" {
			mode = 0o600
		}
		if err := os.WriteFile(filepath.Join(dir, file), []byte(content), mode); err != nil {
			return nil, err
		}
	}
	if err := unix.Mount(dir+"/resolv.conf", "/etc/resolv.conf", "", unix.MS_BIND, ""); err != nil {
		return nil, fmt.Errorf("mount over /etc/resolv.conf: %w", err)
	}
	for _, command := range [][]string{
		{"prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=prometheus", "--web.listen-address=127.0.0.1:9090"},
		{"prometheus-alertmanager", "--config.file=alertmanager.yml", "--storage.path=alertmanager", "--cluster.listen-address=", "--web.listen-address=127.0.0.1:9093"},
		{"dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--user=root", "--no-resolv", "--no-hosts", "--listen-address=" + monitorAddress,
			"--bind-interfaces", "--local=/internal/", "--local-ttl=5", "--addn-hosts=" + dir + "/names"},
	} {
		cmd := exec.Command(command[0], command[1:]...)
		log, err := os.Create(filepath.Join(dir, command[0]+".log"))
		if err != nil {
			return nil, err
		}
		cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
		if err := errors.Join(cmd.Start(), log.Close()); err != nil {
			return nil, err
		}
		go func() { progress("%s exited: %v", command[0], cmd.Wait()) }()
		s.names.server = cmd
	}
	return s, nil
}

// shippedAlertmanager is the configuration whose delays the failovers use.
const shippedAlertmanager = "../../deploy/alertmanager-plain.example.yml"

// alertmanagerConfiguration returns a configuration with the delays of the shipped one and a route
// and a receiver for each host.
func alertmanagerConfiguration(shipped string, addresses []string) (string, error) {
	var b strings.Builder
	b.WriteString("route:\n  receiver: people\n  routes:\n    - matchers: ['tcphup=\"hangup\"']\n      receiver: people\n      group_by: [instance]\n")
	for _, key := range []string{"group_wait", "group_interval", "repeat_interval"} {
		lines := regexp.MustCompile(`(?m)^ *`+key+`: \S+$`).FindAllString(shipped, -1)
		if len(lines) != 1 {
			return "", fmt.Errorf("read %s: %d lines with %s, want 1", shippedAlertmanager, len(lines), key)
		}
		fmt.Fprintf(&b, "      %s\n", strings.TrimSpace(lines[0]))
	}
	b.WriteString("      routes:\n")
	for _, address := range addresses {
		fmt.Fprintf(&b, "        - {matchers: ['instance=\"%s:10471\"'], receiver: %q}\n", address, address)
	}
	b.WriteString("receivers:\n  - name: people\n")
	for _, address := range addresses {
		fmt.Fprintf(&b, `  - name: %q
    webhook_configs:
      - url: http://%[1]s:10472/alerts
        send_resolved: false
        max_alerts: 0
        http_config: {authorization: {credentials_file: %[2]s/token}, follow_redirects: false}
`, address, dir)
	}
	return b.String(), nil
}

// set changes the address of a name.
func (n *names) set(name, address string) error {
	n.lock.Lock()
	defer n.lock.Unlock()
	n.addresses[name] = address
	var text bytes.Buffer
	for name, address := range n.addresses {
		fmt.Fprintf(&text, "%s %s\n", address, name)
	}
	if err := os.WriteFile(dir+"/names", text.Bytes(), 0o644); err != nil {
		return err
	}
	return n.server.Process.Signal(syscall.SIGHUP) // dnsmasq rereads the file
}
