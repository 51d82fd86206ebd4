package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tcphup/test/kit/netns"
)

const (
	metricsAddress = "127.0.0.1:10471"
	alertsAddress  = "127.0.0.1:10472"

	// applications is the number of application processes.
	applications = 3
	// shortest is the shortest run in which every driver acts at least once.
	shortest = 10 * time.Second
	// setUpTimeout is far above the setup time on an idle machine.
	setUpTimeout = 3 * time.Minute
)

// sysctls force early reuse of ports by a small range and few TIME_WAIT sockets, and
// override the machine's settings.
var sysctls = map[string]string{
	"net/ipv4/ip_local_port_range": "40000 40399",
	"net/ipv4/tcp_max_tw_buckets":  "8",
	"net/mptcp/enabled":            "1",
}

// soak is the state of a run.
type soak struct {
	options
	fail     context.CancelCauseFunc // ends the soak
	begun    time.Time
	token    string
	http     *http.Client
	tcphup   *program
	programs []*program
	checker  *checker
	places   []*place
	scrapes  atomic.Int64   // successful scrapes
	waiting  sync.WaitGroup // alerts in flight

	hostsMu sync.Mutex
	service netip.Addr // current address
	swaps   int        // how often swappedNames have exchanged their addresses

	hook      *hook // nil: hookError is why
	hookError error

	mu         sync.Mutex
	counts     counts
	trends     *trends
	faultUntil time.Time
}

// counts are the counters of the report.
type counts struct {
	alerts                                               alertCounts
	responses                                            responses
	scrapes, scrapesFailed                               int
	reloads, broken, pauses, failovers, faults, breakers int
	records, listeners, listenersLost                    int
	cpu                                                  float64 // seconds used by tcphup
}

func (s *soak) count(add func(*counts)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	add(&s.counts)
}

// inside runs the soak in the namespaces created by outside.
func inside(o options) error {
	if err := netns.Prepare(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	places := newPlaces(o.node)
	s := &soak{
		options: o, fail: cancel, token: rand.Text(), places: places, checker: newChecker(places), trends: newTrends(),
		http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 10}},
	}
	s.hook, s.hookError = newHook()
	result := newReport(o)
	err := s.setUp(ctx)
	if err == nil {
		err = s.run(ctx)
	}
	if err == nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		err = s.checkRun()
		err = errors.Join(err, result.write(s, err))
	}
	if err != nil {
		for _, p := range s.programs {
			fmt.Fprintf(os.Stderr, "%s: %s\n", p.name, p.log.String())
		}
	}
	return errors.Join(err, s.removeHook())
}

// removeHook ends the processes of an early return and removes the hook.
func (s *soak) removeHook() error {
	for _, p := range s.programs {
		p.kill()
	}
	return s.hook.close()
}

// awaitLocalRoute waits until the kernel has the local route of a new IPv6 address, which
// it adds later. Without the route, connect(2) returns ENETUNREACH.
func awaitLocalRoute(ctx context.Context, address string) error {
	for {
		out, err := exec.CommandContext(ctx, "ip", "-6", "route", "show", "table", "local", address).Output()
		if err != nil {
			return fmt.Errorf("read local route of %s: %w", address, err)
		}
		if len(out) > 0 {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// setUp starts all programs and waits until the applications are connected.
func (s *soak) setUp(ctx context.Context) error {
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("mount %s: %w", dir, err)
	}
	for i, p := range s.places {
		if err := p.prepare(ctx, i); err != nil {
			return err
		}
	}
	// No name server listens there: names are resolved from the hosts file only.
	files := map[string]string{"tcphup.yml": configuration(0, s.places), "tcphup.token": s.token + "\n", "resolv.conf": "nameserver 127.0.0.1\n"}
	for name, content := range files {
		if err := write(name, content); err != nil {
			return err
		}
	}
	if err := s.moveTo(serviceAddresses()[0]); err != nil {
		return err
	}
	for _, name := range []string{"hosts", "resolv.conf"} {
		if err := unix.Mount(filepath.Join(dir, name), "/etc/"+name, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount over /etc/%s: %w", name, err)
		}
	}
	for i := range s.places {
		ready := make(chan struct{})
		if err := s.startIn(i, serverName, func([]byte) { close(ready) }); err != nil {
			return err
		}
		select {
		case <-ready:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if err := s.startHogs(ctx); err != nil {
		return err
	}
	args := []string{
		"serve", "--config.file=tcphup.yml", "--alerts.token-file=tcphup.token", "--audit.log-file=/dev/stdout", "--watch-reconnect=5s",
		"--log.level=warn", "--web.listen-address=" + metricsAddress, "--alerts.listen-address=" + alertsAddress,
	}
	if s.node {
		args = append(args, "--node", "--node.pod-logs="+filepath.Join(dir, podLogs))
	} else {
		args = append(args, "--state.directory=.")
	}
	var err error
	if s.tcphup, err = s.start(s.options.tcphup, "tcphup", s.audit, args...); err != nil {
		return err
	}
	for app, place := range s.checker.placeOf {
		record := func(line []byte) {
			var m message
			if err := json.Unmarshal(line, &m); err != nil {
				s.fail(fmt.Errorf("parse message of application %q: %w", line, err))
				return
			}
			s.checker.record(app, m)
		}
		if err := s.startIn(place, applicationName, record); err != nil {
			return err
		}
	}
	return s.await(ctx, "the applications are connected and tcphup serves metrics", func() bool {
		_, err := s.scrape(ctx)
		return err == nil && s.checker.sum().Opened > 0
	})
}

// audit parses a line of tcphup's audit log. A hung-up bystander is a violation; the other
// checks do not use the audit log.
func (s *soak) audit(line []byte) {
	var record struct {
		Flow *struct{ Remote, Outcome string }
	}
	if err := json.Unmarshal(line, &record); err != nil {
		s.checker.fail("parse audit record %q: %v", line, err)
		return
	}
	s.count(func(c *counts) { c.records++ })
	if record.Flow == nil || slices.Contains([]string{"planned", "refused", "gone"}, record.Flow.Outcome) {
		return
	}
	for i := range destinations {
		if d := &destinations[i]; !d.target() && d.address.String() == record.Flow.Remote {
			s.checker.fail("bystander in audit log: %s", line)
		}
	}
}

// run runs all drivers for the duration and then stops the programs in order. A driver
// starts no new action after busy ends and completes pending ones under ctx.
func (s *soak) run(ctx context.Context) error {
	before, err := s.listeners(ctx)
	if err != nil {
		return err
	}
	s.begun = time.Now()
	busy, cancel := context.WithTimeout(ctx, s.duration)
	defer cancel()
	scraping, stopScraping := context.WithCancel(ctx)
	defer stopScraping()
	var drivers, scraper sync.WaitGroup
	scraper.Go(func() { s.scrapeLoop(scraping) })
	for _, drive := range []func(ctx, busy context.Context){s.alertLoop, s.reloadLoop, s.pauseLoop, s.failoverLoop, s.swapLoop, s.faultLoop} {
		drivers.Go(func() { drive(ctx, busy) })
	}
	drivers.Wait()
	s.waiting.Wait()
	stopScraping()
	scraper.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}

	after, err := s.listeners(ctx)
	if err != nil {
		return err
	}
	s.count(func(c *counts) { c.listeners = len(before) })
	for cookie, address := range before {
		if _, there := after[cookie]; !there {
			s.count(func(c *counts) { c.listenersLost++ })
			s.checker.fail("listener lost: %v", address)
		}
	}
	// Applications first: they would report the exit of the server as a hang-up.
	var errs []error
	for _, name := range []string{applicationName, "tcphup", hogName, serverName} {
		for _, p := range s.programs {
			switch {
			case p.name != name:
			case p == s.tcphup:
				errs = append(errs, p.end(syscall.SIGTERM))
			default:
				errs = append(errs, p.end(nil))
			}
		}
	}
	return errors.Join(errs...)
}

// checkRun checks the totals of the run and returns all violations.
func (s *soak) checkRun() error {
	for _, t := range s.trends.all() {
		if _, err := t.flat(); err != nil {
			s.checker.fail("%v", err)
		}
	}
	sum := s.checker.sum()
	s.checker.mu.Lock()
	defer s.checker.mu.Unlock()
	if sum.Failed > 0 {
		s.checker.add("%d connections could not be opened: %s", sum.Failed, sum.LastError)
	}
	if s.checker.hungUp == 0 || s.counts.alerts.sent == 0 {
		s.checker.add("no connection was hung up: inconclusive run")
	}
	if s.hook != nil && sum.Hooked != sum.Opened {
		s.checker.add("getpeername(2) was rewritten for %d of %d connections", sum.Hooked, sum.Opened)
	}
	if s.counts.breakers > 0 {
		s.checker.add("a breaker tripped, though the limits are unreachable")
	}
	if s.checker.failures == 0 {
		return nil
	}
	return fmt.Errorf("%d violations, first:\n  %s", s.checker.failures, strings.Join(s.checker.messages, "\n  "))
}

// sleep returns false when ctx ends first.
func (s *soak) sleep(ctx context.Context, long time.Duration) bool {
	select {
	case <-time.After(long):
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// await polls until a condition holds, for at most setUpTimeout.
func (s *soak) await(ctx context.Context, what string, condition func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, setUpTimeout)
	defer cancel()
	for !condition() {
		if !s.sleep(ctx, 50*time.Millisecond) {
			return fmt.Errorf("wait until %s: %w", what, context.Cause(ctx))
		}
	}
	return nil
}
