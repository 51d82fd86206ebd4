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

// A failover changes the address of a name. The old site falls silent (failover), or stays up and
// accepts connections (demoted). Prometheus and Alertmanager run with the shipped rules and delays.

// failoverBound is how long a client has to reach the new site.
const failoverBound = 6 * time.Minute

// requestPause is the time between two requests, shorter than any client keeps an idle connection.
const requestPause = 2 * time.Second

// failOver lets a client use a name whose address changes.
func (s *site) failOver(ctx context.Context, o options, c client, on situation, release func()) (r result, err error) {
	s.lock.Lock()
	number := s.next
	s.next++
	s.lock.Unlock()
	h, err := newHost(ctx, number)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, h.close(context.WithoutCancel(ctx))) }()
	if _, err := h.output(ctx, "", "ip", "route", "add", sites, "dev", "eth0", "src", h.address); err != nil {
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
	if on.action == withTcphup {
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
	if on.silent {
		err = h.cut(ctx, serverAddress)
	}
	if err := errors.Join(err, s.names.set(name, newSite)); err != nil {
		return r, err
	}
	r.failover = on.operation
	if err := r.follow(ctx, h, p, ports()[c.server], number, start); err != nil {
		return r, err
	}
	if on.action == withTcphup {
		r.hangups, err = hangups(ctx, h)
	}
	return r, err
}

// follow sends requests until the new site serves the client, or until the bound.
func (r *result) follow(ctx context.Context, h *host, p *process, port, number int, start time.Time) error {
	end := start.Add(failoverBound)
	for time.Now().Before(end) {
		if err := p.send(request, number); err != nil {
			return err
		}
		a, ok, err := p.wait(ctx, end)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		r.took, r.stays = a.at.Sub(start), false
		switch {
		case a.err != "":
			r.errors = append(r.errors, a.err)
		case r.failover == failover:
			r.recovered = true // the old site is silent
		default:
			flows, err := h.flows(ctx, port)
			if err != nil {
				return err
			}
			r.place(flows)
		}
		if r.recovered || a.err == exited {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(requestPause):
		}
	}
	r.freed, r.waiting = r.took, !r.recovered
	return nil
}

// place records at which site the client's connections are.
func (r *result) place(flows []flow) {
	r.stays = established(flows, serverAddress)
	r.recovered = !r.stays && established(flows, newSite)
}

// established reports whether a connection to the address is established.
func established(flows []flow, address string) bool {
	return slices.ContainsFunc(flows, func(f flow) bool { return f.state == "ESTAB" && f.peer == address })
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

// nameCache is how long the clients named "name cache" cache a name: longer than the first hang-up
// takes, 140 to 175 s, and about as long as the second one takes.
const nameCache = 200 * time.Second

// lookupClients have a setting for lookups of names, and run in the situation demoted alone. Their
// other settings are those of the client with the beginning of the name.
func lookupClients() []string {
	return []string{"Java HttpURLConnection, name cache", "Java HikariCP, PostgreSQL, name cache", "HAProxy http-reuse, resolvers", "HAProxy http-reuse, name cache"}
}

func (c client) setsLookups() bool { return slices.Contains(lookupClients(), c.name) }

// failoverText is the result of a failover in the form that expected.csv has.
func (r result) failoverText() string {
	text := "served"
	switch {
	case r.stays:
		text = "still on the old site"
	case !r.recovered:
		text = "not served"
	}
	if r.hangups > 0 {
		text += " after " + count(r.hangups, "hang-up")
	}
	if r.failover == demoted {
		text += "; " + count(len(r.errors), "error")
	}
	return text
}

// count returns a number with its noun.
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
