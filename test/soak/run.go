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

	// applications is how many processes open connections.
	applications = 3
	// shortest is the least in which everything happens once.
	shortest = 10 * time.Second
	// setUpTimeout is many times what it takes on an idle machine.
	setUpTimeout = 3 * time.Minute
)

// settings make ports come back soon: there are few, and no TIME_WAIT to speak of.
// The others let what a machine has set not decide.
var settings = map[string]string{
	"net/ipv4/ip_local_port_range": "40000 40399",
	"net/ipv4/tcp_max_tw_buckets":  "8",
	"net/mptcp/enabled":            "1",
}

// soak is a run.
type soak struct {
	options
	fail     context.CancelCauseFunc // ends the soak
	begun    time.Time
	token    string
	http     *http.Client
	tcphup   *program
	programs []*program
	judge    *judge
	scrapes  atomic.Int64   // that succeeded
	waiting  sync.WaitGroup // alerts under way

	hostsMu sync.Mutex
	service netip.Addr // where it is

	mu         sync.Mutex
	counts     counts
	trends     *trends
	faultUntil time.Time
}

// counts are what the report has.
type counts struct {
	alerts                                               alertCounts
	scrapes, scrapesFailed                               int
	reloads, broken, pauses, failovers, faults, breakers int
	records, listeners, listenersLost                    int
	cpu                                                  float64 // seconds that tcphup has used
}

func (s *soak) count(add func(*counts)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	add(&s.counts)
}

// inside soaks in the namespaces that outside has made.
func inside(o options) error {
	if err := netns.Prepare(); err != nil {
		return err
	}
	for name, value := range settings {
		if err := os.WriteFile("/proc/sys/"+name, []byte(value), 0o644); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	s := &soak{
		options: o, fail: cancel, token: rand.Text(), judge: newJudge(), trends: newTrends(),
		http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 10}},
	}
	s.judge.apps = make([]totals, applications)
	result := newReport(o)
	err := s.setUp(ctx)
	if err == nil {
		err = s.run(ctx)
	}
	if err == nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		err = s.judgeRun()
		err = errors.Join(err, result.write(s, err))
	}
	if err != nil {
		for _, p := range s.programs {
			fmt.Fprintf(os.Stderr, "%s: %s\n", p.name, p.log.String())
		}
	}
	return err
}

// setUp starts everything, and returns when the applications are connected.
func (s *soak) setUp(ctx context.Context) error {
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("mount %s: %w", dir, err)
	}
	for _, a := range addresses6() {
		if out, err := exec.Command("ip", "address", "add", a+"/128", "dev", "lo", "nodad").CombinedOutput(); err != nil {
			return fmt.Errorf("add address %s: %w: %s", a, err, out)
		}
	}
	// A name server that is not there: names are in the hosts file alone.
	files := map[string]string{"tcphup.yml": configuration(0), "tcphup.token": s.token + "\n", "resolv.conf": "nameserver 127.0.0.1\n"}
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
			return fmt.Errorf("put a file of the soak over /etc/%s: %w", name, err)
		}
	}
	ready := make(chan struct{})
	_, err := s.start("/proc/self/exe", serverName, func([]byte) { close(ready) })
	if err != nil {
		return err
	}
	select {
	case <-ready:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	s.tcphup, err = s.start(s.options.tcphup, "tcphup", s.audit, "serve",
		"--config.file=tcphup.yml", "--alerts.token-file=tcphup.token", "--audit.log-file=/dev/stdout", "--state.directory=.",
		"--watch-reconnect=5s", "--log.level=warn", "--web.listen-address="+metricsAddress, "--alerts.listen-address="+alertsAddress)
	if err != nil {
		return err
	}
	for app := range applications {
		hear := func(line []byte) {
			var m message
			if err := json.Unmarshal(line, &m); err != nil {
				s.fail(fmt.Errorf("an application says %q: %w", line, err))
				return
			}
			s.judge.hear(app, m)
		}
		if _, err := s.start("/proc/self/exe", applicationName, hear); err != nil {
			return err
		}
	}
	return s.await(ctx, "the applications are connected and tcphup sees them", func() bool {
		_, err := s.scrape(ctx)
		return err == nil && s.judge.sum().Opened > 0
	})
}

// audit takes what tcphup says it has decided, a line of JSON each. Nothing is
// judged by it but what it admits.
func (s *soak) audit(line []byte) {
	var record struct {
		Flow *struct{ Remote, Outcome string }
	}
	if err := json.Unmarshal(line, &record); err != nil {
		s.judge.fail("audit record %q: %v", line, err)
		return
	}
	s.count(func(c *counts) { c.records++ })
	if record.Flow == nil || slices.Contains([]string{"planned", "refused", "gone"}, record.Flow.Outcome) {
		return
	}
	for i := range destinations {
		if d := &destinations[i]; !d.victim() && d.address.String() == record.Flow.Remote {
			s.judge.fail("the audit has a bystander: %s", line)
		}
	}
}

// run drives everything for as long as was asked, and then ends it in order. Each
// driver begins nothing new when the second context ends, and finishes what it has
// begun under the first.
func (s *soak) run(ctx context.Context) error {
	before, err := listeners(ctx)
	if err != nil {
		return err
	}
	s.begun = time.Now()
	busy, cancel := context.WithTimeout(ctx, s.duration)
	defer cancel()
	scraping, stopScraping := context.WithCancel(ctx)
	defer stopScraping()
	var drivers, scraper sync.WaitGroup
	scraper.Go(func() { s.scrapeAll(scraping) })
	for _, drive := range []func(ctx, busy context.Context){s.alertAll, s.reloadAll, s.pauseAll, s.failOverAll, s.faultAll} {
		drivers.Go(func() { drive(ctx, busy) })
	}
	drivers.Wait()
	s.waiting.Wait()
	stopScraping()
	scraper.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}

	after, err := listeners(ctx)
	if err != nil {
		return err
	}
	s.count(func(c *counts) { c.listeners = len(before) })
	for cookie, address := range before {
		if _, there := after[cookie]; !there {
			s.count(func(c *counts) { c.listenersLost++ })
			s.judge.fail("listener lost: %v", address)
		}
	}
	// Applications first: the end of the server would look like a hang-up to them.
	var errs []error
	for _, p := range s.programs {
		if p.name == applicationName {
			errs = append(errs, p.end(nil))
		}
	}
	return errors.Join(append(errs, s.tcphup.end(syscall.SIGTERM), s.programs[0].end(nil))...)
}

// judgeRun returns every promise that was broken.
func (s *soak) judgeRun() error {
	for _, t := range s.trends.all() {
		if _, err := t.flat(); err != nil {
			s.judge.fail("%v", err)
		}
	}
	sum := s.judge.sum()
	s.judge.mu.Lock()
	defer s.judge.mu.Unlock()
	if sum.Failed > 0 {
		s.judge.note("%d connections could not be opened: %s", sum.Failed, sum.Why)
	}
	if s.judge.hungUp == 0 || s.counts.alerts.sent == 0 {
		s.judge.note("nothing was hung up: the run shows nothing")
	}
	if s.counts.breakers > 0 {
		s.judge.note("a breaker opened, and none is set")
	}
	if s.judge.failures == 0 {
		return nil
	}
	return fmt.Errorf("%d broken promises, the first are:\n  %s", s.judge.failures, strings.Join(s.judge.broken, "\n  "))
}

// sleep returns false when ctx ends before the time is over.
func (s *soak) sleep(ctx context.Context, long time.Duration) bool {
	select {
	case <-time.After(long):
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// await looks again and again until a condition holds.
func (s *soak) await(ctx context.Context, what string, condition func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, setUpTimeout)
	defer cancel()
	for !condition() {
		if !s.sleep(ctx, 50*time.Millisecond) {
			return fmt.Errorf("waited in vain until %s: %w", what, context.Cause(ctx))
		}
	}
	return nil
}
