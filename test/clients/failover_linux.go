package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A failover takes the site of a name down and changes the name's address. Prometheus and
// Alertmanager run with the shipped rules and delays.

const (
	newSite        = "10.99.0.2" // the servers' second address
	monitorAddress = "10.99.0.53"
	firstFailover  = 60_001 // number of the first host
	scrapeInterval = "15s"
	failoverBound  = 6 * time.Minute
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
	var targets, routes, receivers strings.Builder
	for i := range hosts {
		address := hostAddress(firstFailover + i)
		fmt.Fprintf(&targets, "'%s:10471', ", address)
		fmt.Fprintf(&routes, "        - {matchers: ['instance=\"%s:10471\"'], receiver: %q}\n", address, address)
		fmt.Fprintf(&receivers, `  - name: %q
    webhook_configs:
      - url: http://%[1]s:10472/alerts
        send_resolved: false
        max_alerts: 0
        http_config: {authorization: {credentials_file: %[2]s/token}, follow_redirects: false}
`, address, dir)
	}
	files := map[string]string{
		"token": s.token + "\n", "rules.yml": string(rules), "names": "", "resolv.conf": "nameserver " + monitorAddress + "\n",
		"prometheus.yml": "global: {scrape_interval: " + scrapeInterval + ", evaluation_interval: " + scrapeInterval + "}\nrule_files: [rules.yml]\n" +
			"scrape_configs: [{job_name: tcphup, static_configs: [{targets: [" + targets.String() + "]}]}]\n" +
			"alerting: {alertmanagers: [{static_configs: [{targets: ['127.0.0.1:9093']}]}]}\n",
		// The delays are those of deploy/alertmanager-plain.example.yml.
		"alertmanager.yml": "route:\n  receiver: people\n  routes:\n    - matchers: ['tcphup=\"hangup\"']\n      receiver: people\n      group_by: [instance]\n" +
			"      group_wait: 5s\n      group_interval: 30s\n      repeat_interval: 5m\n      routes:\n" + routes.String() + "receivers:\n  - name: people\n" + receivers.String(),
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

// failOver lets a client use a name whose site falls silent.
func (s *site) failOver(ctx context.Context, o options, c client, action string, release func()) (r result, err error) {
	s.lock.Lock()
	number := s.next
	s.next++
	s.lock.Unlock()
	h, err := newHost(ctx, number)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, h.close(context.WithoutCancel(ctx))) }()
	if _, err := h.output(ctx, "", "ip", "route", "add", "10.99.0.0/24", "dev", "eth0", "src", h.address); err != nil {
		return r, err
	}
	// Prometheus and Alertmanager do not use the address of the old site.
	if _, err := output(ctx, "", "ip", "route", "change", h.address, "dev", h.link, "src", monitorAddress); err != nil {
		return r, err
	}
	name := fmt.Sprintf("service%d.internal", number)
	if err := s.names.set(name, serverAddress); err != nil {
		return r, err
	}
	work := filepath.Join(dir, "work", fmt.Sprint(number))
	if err := os.MkdirAll(work, 0o777); err != nil {
		return r, err
	}
	err = until(ctx, "the name resolves", limit, func() (bool, error) {
		out, err := h.output(ctx, "", "getent", "ahostsv4", name)
		return err == nil && bytes.HasPrefix(out, []byte(serverAddress)), nil
	})
	if err != nil {
		return r, err
	}
	p, err := startClient(h, c, o, work, "SERVER="+name)
	if err != nil {
		return r, err
	}
	if err := connect(ctx, p); err != nil {
		return r, err
	}
	if action == withTcphup {
		if err := s.serve(ctx, o, h, work, fmt.Sprintf("%s:%d", name, ports()[c.server])); err != nil {
			return r, err
		}
	}
	// A connection that the client does not hold open for that long is opened anew.
	if err := connect(ctx, p); err != nil {
		return r, err
	}
	release()
	start := time.Now()
	if err := errors.Join(h.cut(ctx, serverAddress), s.names.set(name, newSite)); err != nil {
		return r, err
	}
	r.failover = true
	for !r.recovered {
		if err := p.send(request, number); err != nil {
			return r, err
		}
		a, ok, err := p.wait(ctx, start.Add(failoverBound))
		if err != nil {
			return r, err
		}
		if !ok {
			break
		}
		if r.took = a.at.Sub(start); a.err == "" {
			r.recovered = true
			break
		}
		if r.errors = append(r.errors, a.err); a.err == exited {
			break
		}
		select {
		case <-ctx.Done():
			return r, ctx.Err()
		case <-time.After(time.Second):
		}
	}
	r.freed, r.waiting = r.took, !r.recovered
	if action == withTcphup {
		r.hangups, err = hangups(ctx, h)
	}
	return r, err
}

// serve starts tcphup on the host, and waits until it has found the connection.
func (s *site) serve(ctx context.Context, o options, h *host, work, service string) error {
	log, err := os.Create(work + "/tcphup.log")
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(o.tcphup, "serve", "--service="+service, "--alerts.token-file="+dir+"/token", "--alerts.listen-address="+h.address+":10472")
	cmd.Stdout, cmd.Stderr = log, log
	if err := h.ns.Do(cmd.Start); err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }()
	err = until(ctx, "tcphup serves", limit, func() (bool, error) {
		out, err := h.output(ctx, "", "curl", "--silent", "http://127.0.0.1:10471/metrics")
		return err == nil && bytes.Contains(out, []byte("tcphup_service_addresses{address=\"current\"")), nil
	})
	if err != nil {
		text, _ := os.ReadFile(log.Name())
		return fmt.Errorf("%w\n%s", err, text)
	}
	return nil
}

// hangups returns how often tcphup has hung up connections.
func hangups(ctx context.Context, h *host) (int, error) {
	out, err := h.output(ctx, "", "curl", "--silent", "--show-error", "--fail", "http://127.0.0.1:10471/api/v1/hangups")
	if err != nil {
		return 0, err
	}
	var audit struct {
		Records []struct{ Event string }
	}
	if err := json.Unmarshal(out, &audit); err != nil {
		return 0, fmt.Errorf("decode audit: %w", err)
	}
	n := 0
	for _, one := range audit.Records {
		if one.Event == "begin" {
			n++
		}
	}
	return n, nil
}

// failoverClients are those that fail over by name: some cache names, some do not.
func failoverClients() []string {
	return []string{
		"Go net/http", "Go pgx pool", "Go grpc-go", "Python requests", "Python psycopg2", "Python grpcio", "Node undici", "Node pg pool", "Node grpc-js",
		"Java HttpURLConnection", "Java java.net.http", "Java HttpClient 4", "Java OkHttp 3", "Java HikariCP, PostgreSQL", "Java DBCP2, PostgreSQL",
		"psql", "nginx upstream keepalive", "HAProxy http-reuse", "PgBouncer",
	}
}

func (c client) failsOver() bool { return slices.Contains(failoverClients(), c.name) }

// failoverText is the result of a failover in the form that expected.csv has.
func (r result) failoverText() string {
	text := "served"
	if !r.recovered {
		text = "not served"
	}
	switch r.hangups {
	case 0:
		return text
	case 1:
		return text + " after 1 hang-up"
	}
	return fmt.Sprintf("%s after %d hang-ups", text, r.hangups)
}
