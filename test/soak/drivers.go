package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// scrapeLoop scrapes the metrics every second until ctx ends and records the trends.
func (s *soak) scrapeLoop(ctx context.Context) {
	for tick := time.NewTicker(time.Second); ; {
		begun := time.Now()
		page, err := s.scrape(ctx)
		if ctx.Err() != nil {
			return
		}
		s.count(func(c *counts) { c.scrapes++ })
		if err != nil && !s.duringFault(begun) {
			s.count(func(c *counts) { c.scrapesFailed++ })
			s.checker.fail("scrape failed: %v", err)
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

// scrape returns the metrics by name and labels. A failed source is an error.
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
		return nil, fmt.Errorf("get /metrics: %s: %s", response.Status, body)
	}
	page := make(map[string]float64)
	for line := range strings.Lines(string(body)) {
		if i := strings.LastIndexByte(line, ' '); i > 0 && line[0] != '#' {
			if page[line[:i]], err = strconv.ParseFloat(strings.TrimSpace(line[i:]), 64); err != nil {
				return nil, err
			}
		}
	}
	if read := page[`tcphup_node_namespaces{result="read"}`]; s.node && int(read) != len(s.places) {
		return nil, fmt.Errorf("scrape: %v of %d namespaces read", read, len(s.places))
	}
	for _, source := range []string{"tcp", "mptcp"} {
		if page[`tcphup_scrape_success{source="`+source+`"}`] != 1 {
			return nil, fmt.Errorf("scrape source %s: no success", source)
		}
	}
	return page, nil
}

// sample adds memory, goroutines and descriptors of tcphup to the trends.
func (s *soak) sample(page map[string]float64) {
	at := time.Since(s.begun)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.tcphup.cmd.Process.Pid))
	if err != nil {
		return // exited, which start reports
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

// duringFault reports whether a fault was active when a scrape began.
func (s *soak) duringFault(begun time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return begun.Before(s.faultUntil)
}

const (
	reloadSuccess = "tcphup_config_last_reload_successful"
	reloadTime    = "tcphup_config_last_reload_success_timestamp_seconds"
)

// reloadLoop rewrites the configuration and reloads it, in turn by HTTP and SIGHUP. Every
// third file is invalid.
func (s *soak) reloadLoop(ctx, busy context.Context) {
	for n := 1; s.sleep(busy, s.every(15*time.Second)); n++ {
		text, broken := configuration(n, s.places), n%3 == 2
		if broken {
			text = brokenConfiguration(s.places)
		}
		if err := s.reload(ctx, text, broken, n%2 == 0); err != nil && ctx.Err() == nil {
			s.checker.fail("reload %d failed: %v", n, err)
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
			return fmt.Errorf("post /-/reload: status %d, want %d", code, want)
		}
	}
	if err != nil {
		return err
	}
	return s.await(ctx, "the metrics show the reload", func() bool {
		page, err := s.scrape(ctx)
		if broken {
			return err == nil && page[reloadSuccess] == 0
		}
		return err == nil && page[reloadSuccess] == 1 && page[reloadTime] > before[reloadTime]
	})
}

// pauseLoop pauses tcphup at intervals and posts at least one alert during each pause, which
// must be retried.
func (s *soak) pauseLoop(ctx, busy context.Context) {
	for s.sleep(busy, s.every(30*time.Second)) {
		if code, answer, err := s.post(ctx, "/-/pause", nil); err != nil || code != http.StatusOK {
			s.checker.fail("pause failed: %d %s %v", code, answer, err)
			continue
		}
		s.checker.pause()
		long := min(4*time.Second, s.duration/10)
		s.sleep(ctx, long/2)
		s.waiting.Go(func() { s.alert(ctx, plainTarget) })
		s.sleep(ctx, long/2)
		s.checker.resume()
		if code, answer, err := s.post(ctx, "/-/resume", nil); err != nil || code != http.StatusOK {
			s.checker.fail("resume failed: %d %s %v", code, answer, err)
		}
		s.count(func(c *counts) { c.pauses++ })
	}
}

// failoverLoop moves the service to the other address at intervals.
func (s *soak) failoverLoop(_, busy context.Context) {
	addresses := serviceAddresses()
	for n := 1; s.sleep(busy, s.every(40*time.Second)); n++ {
		if err := s.moveTo(addresses[n%2]); err != nil {
			s.fail(err)
			return
		}
		s.count(func(c *counts) { c.failovers++ })
	}
}

// moveTo changes the address of the service in the hosts file.
func (s *soak) moveTo(to netip.Addr) error {
	s.hostsMu.Lock()
	defer s.hostsMu.Unlock()
	if s.service != to {
		s.checker.move(s.service, to)
	}
	s.service = to
	return s.writeHosts()
}

// writeHosts writes the soak's /etc/hosts. The caller holds hostsMu.
func (s *soak) writeHosts() error {
	text := s.service.String() + " " + serviceName + "\n"
	for i, index := range swappedDestinations() {
		text += destinations[index].address.Addr().String() + " " + swappedNames[(i+s.swaps)%2] + "\n"
	}
	return write("hosts", text)
}

// swapLoop lets two names exchange their addresses at intervals. An alert about each name must
// then hang up the older flows to its former address, and keep the younger ones: the other name
// has that address now. Flows from before an earlier swap can belong to either name.
func (s *soak) swapLoop(ctx, busy context.Context) {
	var all []int // places
	for i := range s.places {
		all = append(all, i)
	}
	earlier := make([]map[uint64]time.Duration, len(destinations)) // flows from before the last swap
	for s.sleep(busy, s.every(50*time.Second)) {
		places, labels := s.anyPlace()
		since := time.Now()
		before, err := s.swappedFlows(ctx, places)
		if err != nil {
			s.fail(err)
			return
		}
		for index, flows := range before {
			maps.DeleteFunc(flows, func(cookie uint64, _ time.Duration) bool {
				_, known := earlier[index][cookie]
				return known
			})
		}
		// tcphup must have seen the flows before a lookup with the old addresses.
		if !s.awaitScrapes(ctx) {
			return
		}
		if err := s.awaitAnswers(ctx); err != nil {
			s.fail(err)
			return
		}
		if err := s.swapNames(); err != nil {
			s.fail(err)
			return
		}
		var alerts sync.WaitGroup
		for i, index := range swappedDestinations() {
			about := maps.Clone(labels)
			about["alertname"] = destinations[index].policy
			about["service"] = swappedNames[(i+s.swaps+1)%2] // it has left this address
			alerts.Go(func() {
				s.fire(ctx, index, places, about, func(ctx context.Context) (int, error) {
					return s.left(ctx, &destinations[index], places, before[index], since)
				})
			})
		}
		alerts.Wait()
		if busy.Err() != nil {
			return
		}
		if err := s.awaitExchange(ctx); err != nil {
			s.fail(err)
			return
		}
		if !s.awaitScrapes(ctx) {
			return
		}
		if earlier, err = s.swappedFlows(ctx, all); err != nil {
			s.fail(err)
			return
		}
	}
}

// swappedFlows returns the flows to the addresses of swappedNames, by index of the destination.
func (s *soak) swappedFlows(ctx context.Context, places []int) ([]map[uint64]time.Duration, error) {
	all := make([]map[uint64]time.Duration, len(destinations))
	for _, index := range swappedDestinations() {
		var err error
		if all[index], err = s.flows(ctx, &destinations[index], places); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// awaitScrapes waits for two scrapes: the first may have begun before the call. It returns
// false when ctx ends first.
func (s *soak) awaitScrapes(ctx context.Context) bool {
	for seen := s.scrapes.Load(); s.scrapes.Load() < seen+2; {
		if !s.sleep(ctx, 100*time.Millisecond) {
			return false
		}
	}
	return true
}

// awaitAnswers waits until two more lookups of each of the names have succeeded: the first may
// have begun before the call.
func (s *soak) awaitAnswers(ctx context.Context) error {
	answers := func() (n [len(swappedNames)]float64, err error) {
		page, err := s.scrape(ctx)
		for i, name := range swappedNames {
			labels := fmt.Sprintf("{service=%q}", name)
			n[i] = page["tcphup_service_lookups_total"+labels] - page["tcphup_service_lookup_failures_total"+labels]
		}
		return n, err
	}
	var before [len(swappedNames)]float64
	known := false
	return s.await(ctx, "the names were looked up", func() bool {
		now, err := answers()
		if err != nil {
			return false
		}
		if !known {
			before, known = now, true
		}
		return now[0] >= before[0]+2 && now[1] >= before[1]+2
	})
}

// awaitExchange waits until each of the names has one address, and the other's as a former one,
// since the last swap.
func (s *soak) awaitExchange(ctx context.Context) error {
	s.checker.mu.Lock()
	swapped := float64(s.checker.swappedAt.Unix())
	s.checker.mu.Unlock()
	return s.await(ctx, "the names have exchanged their addresses", func() bool {
		page, err := s.scrape(ctx)
		for _, name := range swappedNames {
			current := page[fmt.Sprintf("tcphup_service_addresses{address=\"current\",service=%q}", name)]
			former := page[fmt.Sprintf("tcphup_service_addresses{address=\"former\",service=%q}", name)]
			changed := page[fmt.Sprintf("tcphup_service_last_change_timestamp_seconds{service=%q}", name)]
			if err != nil || current != 1 || former != 1 || changed < swapped {
				return false
			}
		}
		return true
	})
}

func (s *soak) swapNames() error {
	s.hostsMu.Lock()
	defer s.hostsMu.Unlock()
	s.swaps++
	defer s.checker.swap()
	return s.writeHosts()
}

// every shortens an interval in a short run, so that every driver acts at least once.
func (s *soak) every(interval time.Duration) time.Duration {
	return min(interval, s.duration/5)
}
