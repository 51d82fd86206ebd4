package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"
)

// A failover takes the site of a name down and changes the name's address. Prometheus and
// Alertmanager run with the shipped rules and delays.

const failoverBound = 6 * time.Minute

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
