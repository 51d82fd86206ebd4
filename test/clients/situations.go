package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Actions.
const (
	withTcphup = "tcphup"
	withSS     = "ss -K"
	byServer   = "server closes"
	nothing    = "nothing"
)

// situation is the state of a connection and what then happens to it.
type situation struct {
	name      string
	operation string // under way; idle: none
	silent    bool   // packets of the connection are lost in both directions
	action    string
}

func situations() []situation {
	return []situation{
		{"idle, tcphup", idle, false, withTcphup},
		{"idle, server closes", idle, false, byServer},
		{"request, tcphup", slow, false, withTcphup},
		{"request, server closes", slow, false, byServer},
		{"mid-body, tcphup", half, false, withTcphup},
		{"mid-body, server closes", half, false, byServer},
		{"silent idle, tcphup", idle, true, withTcphup},
		{"silent idle, ss -K", idle, true, withSS},
		{"silent request, tcphup", request, true, withTcphup},
		{"silent request, ss -K", request, true, withSS},
		{"silent request, nothing", request, true, nothing},
		{"failover, tcphup", failover, true, withTcphup},
		{"failover, nothing", failover, true, nothing},
		{"demoted, tcphup", demoted, false, withTcphup},
		{"demoted, nothing", demoted, false, nothing},
	}
}

// failsOver reports whether the name gets the address of another site.
func (s situation) failsOver() bool { return s.operation == failover || s.operation == demoted }

// result is what became of a client in a situation.
type result struct {
	outcomes  []string // of tcphup, each once
	untrue    bool     // ss does not confirm an outcome
	unused    bool     // the client opened a new connection for the request
	own       bool     // the client gave up before the action
	waiting   bool     // no answer until the bound
	freed     time.Duration
	errors    []string
	repeated  bool // the answer is that of a second request
	truncated bool // a part of the body was taken for the whole
	recovered bool
	took      time.Duration // until the client has a whole answer
	dead      bool          // a process that held a connection has ended

	// Of a failover.
	failover string // the operation; empty: another situation
	hangups  int
	stays    bool // connected to the old site
}

// text is the form of the result that expected.csv has.
func (r result) text() string {
	if r.failover != "" {
		return r.failoverText()
	}
	var parts []string
	if len(r.outcomes) > 0 {
		parts = append(parts, strings.Join(r.outcomes, " and "))
	}
	add := func(condition bool, part string) {
		if condition {
			parts = append(parts, part)
		}
	}
	add(r.untrue, "outcome not confirmed")
	add(r.unused, "idle connection not used")
	add(r.own, "own timeout")
	add(r.waiting, "still waiting")
	add(r.repeated, "repeated")
	add(r.truncated, "part taken for the whole")
	add(!r.waiting, count(len(r.errors), "error"))
	add(!r.waiting && !r.recovered, "not recovered")
	add(r.dead, "process ended")
	return strings.Join(parts, "; ")
}

const attempts = 5

// run brings a client into the situation. Some clients do not use a connection that has been
// idle for some seconds, which a busy machine takes: then it starts again.
func (s situation) run(ctx context.Context, o options, c client, around *site, number func() int, release func()) (r result, err error) {
	if s.failsOver() {
		return around.failOver(ctx, o, c, s, release)
	}
	for range attempts {
		if r, err = s.once(ctx, o, c, number(), release); err != nil || !r.unused {
			break
		}
	}
	return r, err
}

// once brings a client into the situation on a host of its own.
func (s situation) once(ctx context.Context, o options, c client, number int, release func()) (r result, err error) {
	h, err := newHost(ctx, number)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, h.close(context.WithoutCancel(ctx))) }()
	work := filepath.Join(dir, "work", strconv.Itoa(number))
	if err := os.MkdirAll(work, 0o777); err != nil {
		return r, err
	}
	p, err := startClient(h, c, o, work)
	if err != nil {
		return r, err
	}
	port := ports()[c.server]
	sent, err := s.setUp(ctx, h, p, c, number)
	if err != nil {
		log, _ := os.ReadFile(work + "/log")
		return r, fmt.Errorf("%w\n%.1000s", err, log)
	}
	before, err := h.flows(ctx, port)
	if err != nil {
		return r, err
	}
	if s.action == nothing {
		release()
	}
	releasing, stop := context.WithCancel(ctx)
	released := make(chan error, 1)
	defer func() {
		stop()
		err = errors.Join(err, <-released)
	}()
	go func() { released <- s.answerSecond(releasing, h, c, number, before) }()

	start := time.Now()
	if s.action == nothing {
		start = sent
	}
	if len(p.answers) > 0 { // the client goes on without an action
		a := <-p.answers
		p.answers <- a
		r.own, r.unused = a.err != "", a.err == ""
	}
	acted := make(chan error, 1)
	var outcomes result
	go func() { acted <- s.act(ctx, o, h, port, &outcomes) }()
	defer func() {
		err = errors.Join(err, <-acted)
		r.outcomes, r.untrue = outcomes.outcomes, outcomes.untrue
	}()
	operation := s.operation
	if operation == idle {
		acted <- <-acted // the next request comes after the action
		if err := settled(ctx, h, port); err != nil {
			return r, err
		}
		start, operation = time.Now(), request
		if err := p.send(operation, number); err != nil && !errors.Is(err, os.ErrClosed) {
			return r, err
		}
	}
	for try := range attempts {
		a, ok, err := p.wait(ctx, start.Add(o.bound+r.took))
		if err != nil {
			return r, err
		}
		if !ok {
			r.waiting = try == 0
			break
		}
		if try == 0 {
			r.freed = max(0, a.at.Sub(start))
		}
		r.took = max(0, a.at.Sub(start))
		if a.err == "" {
			r.truncated = operation == half && a.size < wholeSize(c.server)
			r.repeated = try == 0 && !r.truncated && (operation == slow || operation == half)
			r.recovered = true
			break
		}
		r.errors = append(r.errors, a.err)
		operation = request
		if p.send(operation, number) != nil {
			break // the program has exited
		}
	}
	var pids []int
	for _, f := range before {
		pids = append(pids, f.pids...)
	}
	r.dead = c.name != "curl" && !alive(pids)
	return r, nil
}

// setUp connects the client and starts the operation. It returns when that was sent.
func (s situation) setUp(ctx context.Context, h *host, p *process, c client, number int) (sent time.Time, err error) {
	port := ports()[c.server]
	var before flow // sums
	if c.has(idle) {
		// Some clients close an idle connection after a few seconds, which a busy machine takes.
		for range attempts {
			if err := connect(ctx, p); err != nil {
				return sent, err
			}
			before, err = s.quiet(ctx, h, port, idleLimit, func(sum flow) bool { return sum.port > 0 && sum.queue == 0 })
			if err == nil {
				break
			}
		}
		if err != nil {
			return sent, fmt.Errorf("no idle connection: %w", err)
		}
	}
	if s.silent {
		flows, err := h.flows(ctx, port)
		if err != nil {
			return sent, err
		}
		if err := h.silence(ctx, flows); err != nil {
			return sent, err
		}
	}
	if s.operation == idle {
		return sent, nil
	}
	sent = time.Now()
	if err := p.send(s.operation, number); err != nil {
		return sent, err
	}
	_, err = s.quiet(ctx, h, port, limit, func(sum flow) bool {
		switch {
		case len(p.answers) > 0: // without a wait
			return true
		case s.silent:
			return sum.queue > 0
		case s.operation == half:
			return sum.queue == 0 && sum.received > before.received+50_000
		}
		return sum.queue == 0 && sum.sent > before.sent
	})
	if err != nil {
		return sent, fmt.Errorf("%s is not under way: %w", s.operation, err)
	}
	return sent, nil
}

// connect sends requests until one is answered. Short limits of some clients expire while the
// machine is busy.
func connect(ctx context.Context, p *process) error {
	return until(ctx, "first request", limit, func() (bool, error) {
		if err := p.send(request, 0); err != nil {
			return false, err
		}
		a, ok, err := p.wait(ctx, time.Now().Add(time.Minute))
		if !ok || err != nil {
			return false, errors.Join(errors.New("no answer"), err)
		}
		if a.err == exited {
			return false, errors.New(a.err)
		}
		return a.err == "", nil
	})
}

// quiet waits until the condition is true of the sums over all connections, and they have not
// changed for 300 ms unless the peer is to fall silent. The port of a sum is the number of connections.
func (s situation) quiet(ctx context.Context, h *host, port int, within time.Duration, condition func(flow) bool) (last flow, err error) {
	var since time.Time
	err = until(ctx, "connections become quiet", within, func() (bool, error) {
		flows, err := h.flows(ctx, port)
		if err != nil {
			return false, err
		}
		var sum flow
		for _, f := range flows {
			if f.state == "ESTAB" {
				sum.port++
				sum.queue += f.queue
				sum.sent += f.sent
				sum.acked += f.acked
				sum.received += f.received
			}
		}
		same := sum.port == last.port && sum.acked == last.acked && sum.received == last.received && (s.silent || sum.sent == last.sent)
		if !same || since.IsZero() {
			last, since = sum, time.Now()
		}
		last.queue = sum.queue
		return condition(sum) && (s.silent || time.Since(since) > 300*time.Millisecond), nil
	})
	return last, err
}

// answerSecond answers a second slow operation, until ctx is done. It starts when the
// connections of the first one have ended: an answer over them is no repetition.
func (s situation) answerSecond(ctx context.Context, h *host, c client, number int, before []flow) error {
	if s.operation != slow {
		return nil
	}
	err := until(ctx, "connections end", 2*limit, func() (bool, error) { return ended(ctx, h, ports()[c.server], before) })
	if err == nil {
		err = answerSlow(ctx, c.server, number)
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// ended reports whether none of these connections is established any more.
func ended(ctx context.Context, h *host, port int, before []flow) (bool, error) {
	flows, err := h.flows(ctx, port)
	return !slices.ContainsFunc(flows, func(f flow) bool {
		return f.state == "ESTAB" && slices.ContainsFunc(before, func(b flow) bool { return b.port == f.port })
	}), err
}

// settled waits until the states of all connections have been the same for 300 ms.
func settled(ctx context.Context, h *host, port int) error {
	var (
		last  []string
		since time.Time
	)
	return until(ctx, "connections settle", limit, func() (bool, error) {
		flows, err := h.flows(ctx, port)
		if err != nil {
			return false, err
		}
		var states []string
		for _, f := range flows {
			states = append(states, fmt.Sprint(f.port, f.state))
		}
		if since.IsZero() || !slices.Equal(states, last) {
			last, since = states, time.Now()
		}
		return time.Since(since) > 300*time.Millisecond, nil
	})
}

// act applies the situation to the connections.
func (s situation) act(ctx context.Context, o options, h *host, port int, r *result) error {
	switch s.action {
	case withTcphup:
		return hangUp(ctx, o, h, port, r)
	case withSS:
		_, err := h.output(ctx, "", "ss", "-tK", "dst", serverAddress, "and", "dport", "=", strconv.Itoa(port))
		return err
	case byServer:
		return h.closeByServer(ctx, port)
	}
	return nil
}
