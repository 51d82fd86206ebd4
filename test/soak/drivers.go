package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// scrapeAll reads the metrics each second, as long as ctx lasts, and notes what is
// to stay flat.
func (s *soak) scrapeAll(ctx context.Context) {
	for tick := time.NewTicker(time.Second); ; {
		begun := time.Now()
		page, err := s.scrape(ctx)
		if ctx.Err() != nil {
			return
		}
		s.count(func(c *counts) { c.scrapes++ })
		if err != nil && !s.excused(begun) {
			s.count(func(c *counts) { c.scrapesFailed++ })
			s.judge.fail("scrape failed: %v", err)
		}
		if err == nil {
			s.scrapes.Add(1)
			s.sample(page)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// scrape reads the page of metrics, and fails when tcphup says that it is not all.
func (s *soak) scrape(ctx context.Context) (map[string]float64, error) {
	ctx, cancel := context.WithTimeout(ctx, s.scrapeTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+metricsAddress+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	response, err := s.http.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("answer %s: %s", response.Status, body)
	}
	page := make(map[string]float64)
	for line := range strings.Lines(string(body)) {
		if i := strings.LastIndexByte(line, ' '); i > 0 && line[0] != '#' {
			if page[line[:i]], err = strconv.ParseFloat(strings.TrimSpace(line[i:]), 64); err != nil {
				return nil, err
			}
		}
	}
	for _, source := range []string{"tcp", "mptcp"} {
		if page[`tcphup_scrape_success{source="`+source+`"}`] != 1 {
			return nil, fmt.Errorf("%s sockets could not be read", source)
		}
	}
	return page, nil
}

func (s *soak) sample(page map[string]float64) {
	at := time.Since(s.begun)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.tcphup.cmd.Process.Pid))
	if err != nil {
		return // it has ended, which is a failure of its own
	}
	_, rest, _ := bytes.Cut(status, []byte("VmRSS:"))
	resident, err := strconv.ParseFloat(string(bytes.Fields(append(rest, " ?"...))[0]), 64)
	if err != nil {
		s.fail(fmt.Errorf("read resident memory: %w", err))
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trends.memory.add(at, resident*1024)
	s.trends.goroutines.add(at, page["go_goroutines"])
	s.trends.fds.add(at, page["process_open_fds"])
	s.counts.cpu = page["process_cpu_seconds_total"]
	s.counts.breakers = int(page["tcphup_breaker_trips_total"])
}

// excused reports whether a scrape that began then was disturbed by a fault.
func (s *soak) excused(begun time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return begun.Before(s.faultUntil)
}

const (
	reloadSuccess = "tcphup_config_last_reload_successful"
	reloadTime    = "tcphup_config_last_reload_success_timestamp_seconds"
)

// reloadAll rewrites the configuration and has it read, by HTTP and by SIGHUP; each
// third file is broken.
func (s *soak) reloadAll(ctx, busy context.Context) {
	for n := 1; s.sleep(busy, s.every(15*time.Second)); n++ {
		text, broken := configuration(n), n%3 == 2
		if broken {
			text = brokenConfiguration()
		}
		if err := s.reload(ctx, text, broken, n%2 == 0); err != nil && ctx.Err() == nil {
			s.judge.fail("reload %d: %v", n, err)
		}
		s.count(func(c *counts) {
			if c.reloads++; broken {
				c.broken++
			}
		})
	}
}

func (s *soak) reload(ctx context.Context, text string, broken, bySignal bool) error {
	before, err := s.scrape(ctx)
	if err != nil {
		return err
	}
	if err := write("tcphup.yml", text); err != nil {
		return err
	}
	if bySignal {
		err = s.tcphup.cmd.Process.Signal(syscall.SIGHUP)
	} else {
		var code int
		code, _, err = s.post(ctx, "/-/reload", nil)
		if want := map[bool]int{true: http.StatusInternalServerError, false: http.StatusOK}[broken]; err == nil && code != want {
			return fmt.Errorf("the answer is %d, want %d", code, want)
		}
	}
	if err != nil {
		return err
	}
	return s.await(ctx, "the metrics tell of the reload", func() bool {
		page, err := s.scrape(ctx)
		if broken {
			return err == nil && page[reloadSuccess] == 0
		}
		return err == nil && page[reloadSuccess] == 1 && page[reloadTime] > before[reloadTime]
	})
}

// pauseAll pauses everything now and then. Alerts that come meanwhile are retried;
// one at least does.
func (s *soak) pauseAll(ctx, busy context.Context) {
	for s.sleep(busy, s.every(30*time.Second)) {
		if code, answer, err := s.post(ctx, "/-/pause", nil); err != nil || code != http.StatusOK {
			s.judge.fail("pause: %d %s %v", code, answer, err)
			continue
		}
		s.judge.pause()
		long := min(4*time.Second, s.duration/10)
		s.sleep(ctx, long/2)
		s.waiting.Go(func() { s.alert(ctx, plainVictim) })
		s.sleep(ctx, long/2)
		s.judge.resume()
		if code, answer, err := s.post(ctx, "/-/resume", nil); err != nil || code != http.StatusOK {
			s.judge.fail("resume: %d %s %v", code, answer, err)
		}
		s.count(func(c *counts) { c.pauses++ })
	}
}

// failOverAll moves the service from one address to the other and back.
func (s *soak) failOverAll(_, busy context.Context) {
	addresses := serviceAddresses()
	for n := 1; s.sleep(busy, s.every(40*time.Second)); n++ {
		if err := s.moveTo(addresses[n%2]); err != nil {
			s.fail(err)
			return
		}
		s.count(func(c *counts) { c.failovers++ })
	}
}

// moveTo gives the name of the service to one of its addresses.
func (s *soak) moveTo(to netip.Addr) error {
	s.hostsMu.Lock()
	defer s.hostsMu.Unlock()
	if s.service != to {
		s.judge.move(s.service, to)
	}
	s.service = to
	return s.writeHosts()
}

// writeHosts writes the file /etc/hosts that the soak has to itself. The caller holds
// the lock.
func (s *soak) writeHosts() error {
	return write("hosts", s.service.String()+" "+serviceName+"\n")
}

// every returns how often something happens that is to happen at an interval: in a
// short run more often, so that it happens at all.
func (s *soak) every(interval time.Duration) time.Duration {
	return min(interval, s.duration/5)
}
