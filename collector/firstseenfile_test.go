package collector

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"tcphup/internal/boottime"
	"tcphup/sockdiag"
	"tcphup/test/kit/nstest"
)

// stateTest returns a collector of these flows with a state directory, and its log.
func stateTest(t *testing.T, directory string, flows ...sockdiag.Flow) (*Collector, *bytes.Buffer) {
	t.Helper()
	var log bytes.Buffer
	c := newTest(t, Config{StateDirectory: directory, Logger: slog.New(slog.NewTextHandler(&log, nil))}, &fakeKernel{flows: flows})
	c.now = time.Now
	c.own.tcp.now, c.own.mptcp.now = boottime.Now, boottime.Now
	return c, &log
}

// stop ends Run, which writes the file.
func stop(t *testing.T, c *Collector) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c.Run(ctx)
}

// First-seen times survive a restart, for connections and for TCP flows.
func TestFirstSeenRestart(t *testing.T) {
	directory := t.TempDir()
	flows := []sockdiag.Flow{
		flow("10.0.0.1:40000", "10.0.0.2:80"), flow("[fd00::1]:40000", "[fd00::2]:80"), flow("10.0.0.1:40002", "10.0.0.2:80", mptcp(1, 0, 1)),
	}
	c, _ := stateTest(t, directory, flows...)
	get(c, "10")
	start := boottime.Now()
	stop(t, c)
	nstest.Eventually(t, "the flows are older than a step", func() bool { return boottime.Now()-start > 2*firstSeenStep })

	opened := flow("10.0.0.1:40001", "10.0.0.2:80")
	c, log := stateTest(t, directory, append(flows, opened)...)
	check := func(when string) {
		t.Helper()
		for i := range flows {
			first, known := c.FirstSeen(&flows[i])
			if least := boottime.Now() - start - firstSeenStep; !known || time.Since(first) < least {
				t.Errorf("%s: %s is %v old, %t; want at least %v", when, flows[i].Remote, time.Since(first), known, least)
			}
		}
	}
	check("before the first scrape")
	if _, known := c.FirstSeen(&opened); known {
		t.Error("a flow that was never seen has an age")
	}
	get(c, "10")
	check("after a scrape")
	if first, known := c.FirstSeen(&opened); !known || time.Since(first) > boottime.Now()-start {
		t.Errorf("the new flow is %v old, %t", time.Since(first), known)
	}
	// Flows that a complete scrape does not see expire, also those of the file.
	stop(t, c)
	c, _ = stateTest(t, directory)
	get(c, "10")
	if _, known := c.FirstSeen(&flows[0]); known {
		t.Error("a closed flow has an age")
	}
	if log.Len() > 0 {
		t.Errorf("log: %s", log)
	}
}

// A damaged or unsafe file is renamed. A file of another boot is ignored.
func TestFirstSeenFileUnusable(t *testing.T) {
	f := flow("10.0.0.1:40000", "10.0.0.2:80")
	edit := func(change func(s *firstSeenJSON)) func(string) string {
		return func(content string) string {
			var s firstSeenJSON
			if err := json.Unmarshal([]byte(content), &s); err != nil {
				t.Fatal(err)
			}
			change(&s)
			b, _ := json.Marshal(s)
			return string(b)
		}
	}
	for _, tt := range []struct {
		name         string
		edit         func(string) string
		open         bool
		known, aside bool
	}{
		{name: "good", edit: func(s string) string { return s }, known: true},
		{name: "another boot", edit: edit(func(s *firstSeenJSON) { s.Clock = "another" })},
		{name: "another boot, later", edit: edit(func(s *firstSeenJSON) { s.Clock, s.TCP.Flows[8] = "another", 0xff })},
		{name: "another version", edit: edit(func(s *firstSeenJSON) { s.Version++ }), aside: true},
		{name: "seen in the future", edit: edit(func(s *firstSeenJSON) { s.TCP.Flows[8] = 0xff }), aside: true},
		{name: "key of a free entry", edit: edit(func(s *firstSeenJSON) { clear(s.TCP.Flows[:8]) }), aside: true},
		{name: "incomplete row", edit: edit(func(s *firstSeenJSON) { s.TCP.Flows = s.TCP.Flows[:11] }), aside: true},
		{name: "incomplete row of MPTCP", edit: edit(func(s *firstSeenJSON) { s.MPTCP.Flows = make([]byte, 11) }), aside: true},
		{name: "cut off", edit: func(s string) string { return s[:len(s)/2] }, aside: true},
		{name: "empty", edit: func(string) string { return "" }, aside: true},
		{name: "too large", edit: func(s string) string { return s + strings.Repeat(" ", maxFirstSeen) }},
		{name: "open to every user", edit: func(s string) string { return s }, open: true, aside: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			directory := t.TempDir()
			file := filepath.Join(directory, "firstseen.json")
			c, _ := stateTest(t, directory, f)
			get(c, "10")
			stop(t, c)
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(tt.edit(string(content))), 0o600); err != nil {
				t.Fatal(err)
			}
			if tt.open {
				if err := os.Chmod(file, 0o602); err != nil {
					t.Fatal(err)
				}
			}
			c, log := stateTest(t, directory)
			if _, known := c.FirstSeen(&f); known != tt.known {
				t.Errorf("known: %t", known)
			}
			if _, err := os.Stat(file + ".damaged"); (err == nil) != tt.aside {
				t.Errorf("renamed: %v", err)
			}
			if tt.aside != strings.Contains(log.String(), "renamed") || tt.known && log.Len() > 0 {
				t.Errorf("log: %s", log)
			}
		})
	}
}

// The file is written at most every 30 s, not without new flows, and has a maximum size.
func TestFirstSeenFileWrites(t *testing.T) {
	directory := t.TempDir()
	file := filepath.Join(directory, "firstseen.json")
	c, log := stateTest(t, directory)
	inode := func() uint64 {
		info, err := os.Stat(file)
		if err != nil {
			return 0
		}
		return info.Sys().(*syscall.Stat_t).Ino
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); c.Run(ctx) }()
		writes, last := 0, inode()
		var cookie uint64
		minute := func(flows int) int {
			for range 60 {
				for range flows {
					cookie++
					c.own.tcp.observe(&sockdiag.Flow{Cookie: cookie})
				}
				time.Sleep(time.Second)
				synctest.Wait()
				if now := inode(); now != last {
					writes, last = writes+1, now
				}
			}
			return writes
		}
		c.aggregator.begin(c.own)
		if n := minute(maxSavedFlows / 40); n != 2 {
			t.Errorf("%d writes in a minute", n)
		}
		before := minute(0)
		if n := minute(0); n != before {
			t.Errorf("%d writes without new flows", n-before)
		}
		cookie++
		c.own.tcp.observe(&sockdiag.Flow{Cookie: cookie})
		cancel()
		<-done
		if inode() == last {
			t.Error("not written at the stop")
		}
	})
	info, err := os.Stat(file)
	if err != nil || info.Size() > maxFirstSeen || log.Len() > 0 {
		t.Errorf("%v, %v; log: %s", info, err, log)
	}
	c, log = stateTest(t, directory)
	if n := c.own.tcp.used; n != maxSavedFlows || log.Len() > 0 {
		t.Errorf("%d flows, want %d; log: %s", n, maxSavedFlows, log)
	}
}

// A failed write is logged once and retried.
func TestFirstSeenFileCannotBeWritten(t *testing.T) {
	directory := filepath.Join(t.TempDir(), "later")
	c, log := stateTest(t, directory)
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); c.Run(ctx) }()
		c.own.tcp.observe(&sockdiag.Flow{Cookie: 1})
		time.Sleep(3 * firstSeenInterval)
		synctest.Wait()
		if n := strings.Count(log.String(), "cannot save"); n != 1 {
			t.Errorf("log: %s", log)
		}
		if err := os.Mkdir(directory, 0o700); err != nil {
			t.Fatal(err)
		}
		time.Sleep(firstSeenInterval)
		synctest.Wait()
		if _, err := os.Stat(filepath.Join(directory, "firstseen.json")); err != nil {
			t.Error(err)
		}
		cancel()
		<-done
	})
}
