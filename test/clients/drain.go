package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// drain is a run of tcphup while many clients wait for an answer that takes two seconds.
type drain struct {
	client   client
	deadline time.Duration // --drain-deadline; 0: none
	expected string

	cut      int
	outcomes map[string]int
	err      error
}

// drainClients is the number of clients of each drain.
const drainClients = 20

// work is the operation that takes two seconds.
const work = "work"

func drains() (all []*drain) {
	for _, c := range clients() {
		method := map[string]string{"psql": "closed by destroy", "mariadb": "closed by shutdown", "redis-cli": "closed by shutdown"}[c.name]
		if method == "" {
			continue
		}
		cut := "20 of 20 cut; 20 " + method
		if c.name == "mariadb" {
			cut = "20 of 20 cut; 20 closed by shutdown" // its queries end before --linger does
		}
		all = append(all, &drain{client: c, deadline: time.Minute, expected: "0 of 20 cut; 20 " + method}, &drain{client: c, expected: cut})
	}
	return all
}

func (d *drain) situation() string {
	if d.deadline > 0 {
		return "drain"
	}
	return "without drain"
}

func (d *drain) name() string { return d.client.name + ", " + d.situation() }

func (d *drain) text() string {
	if d.err != nil {
		return "did not run: " + d.err.Error()
	}
	parts := []string{fmt.Sprintf("%d of %d cut", d.cut, drainClients)}
	var outcomes []string
	for outcome, n := range d.outcomes {
		outcomes = append(outcomes, fmt.Sprintf("%d %s", n, outcome))
	}
	slices.Sort(outcomes)
	return strings.Join(append(parts, outcomes...), "; ")
}

// run starts the clients on one host, and tcphup while all of them wait.
func (d *drain) run(ctx context.Context, o options, number int) (err error) {
	h, err := newHost(ctx, number)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.close(context.WithoutCancel(ctx))) }()
	var all []*process
	for i := range drainClients {
		directory := filepath.Join(dir, "work", strconv.Itoa(number), strconv.Itoa(i))
		if err := os.MkdirAll(directory, 0o777); err != nil {
			return err
		}
		p, err := startClient(h, d.client, o, directory)
		if err != nil {
			return err
		}
		all = append(all, p)
	}
	answers := func(operation string) (errors int, err error) {
		for _, p := range all {
			a, ok, err := p.wait(ctx, time.Now().Add(2*time.Minute))
			if err != nil || !ok {
				return 0, fmt.Errorf("no answer to %s: %w", operation, err)
			}
			if a.err != "" {
				errors++
			}
		}
		return errors, nil
	}
	send := func(operation string) error {
		for i, p := range all {
			if err := p.send(operation, i); err != nil {
				return err
			}
		}
		return nil
	}
	if err := send(request); err != nil {
		return err
	}
	if failed, err := answers(request); err != nil || failed > 0 {
		return fmt.Errorf("%d first requests failed: %w", failed, err)
	}
	port := ports()[d.client.server]
	before, err := h.flows(ctx, port)
	if err != nil {
		return err
	}
	if err := send(work); err != nil {
		return err
	}
	err = until(ctx, "all requests are under way", limit, func() (bool, error) {
		flows, err := h.flows(ctx, port)
		if err != nil {
			return false, err
		}
		busy := 0
		for _, f := range flows {
			i := slices.IndexFunc(before, func(b flow) bool { return b.port == f.port })
			if i >= 0 && f.sent > before[i].sent && f.queue == 0 {
				busy++
			}
		}
		return busy == drainClients, nil
	})
	if err != nil {
		return err
	}
	out, err := h.output(ctx, "", o.tcphup, "--output=json", "--drain-deadline="+d.deadline.String(), serverAddress, strconv.Itoa(port))
	if exit := (*exec.ExitError)(nil); err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) {
		return err
	}
	if d.cut, err = answers(work); err != nil {
		return err
	}
	var report struct {
		Flows []struct{ Method, Outcome string }
	}
	if err := json.Unmarshal(out, &report); err != nil {
		return fmt.Errorf("decode report: %w", err)
	}
	d.outcomes = make(map[string]int)
	for _, f := range report.Flows {
		d.outcomes[f.Outcome+" by "+f.Method]++
	}
	return nil
}
