package main

import (
	"slices"
	"testing"
	"time"
)

// TestChecker checks that an end counts as wrong unless an alert and its policy justify it.
func TestChecker(t *testing.T) {
	target := func(policy string) int {
		return slices.IndexFunc(destinations, func(d destination) bool { return d.policy == policy })
	}
	now := time.Now()
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	service := destinations[target("failover")].address.Addr()
	// alert starts an alert; about returns the end of a matching connection.
	alert := func(policy string, startsAt time.Time) func(*checker) {
		return func(c *checker) { c.begin([]int{1}, target(policy), startsAt) }
	}
	about := func(policy string) end {
		return end{Destination: target(policy), Opened: ago(time.Minute), LastData: ago(30 * time.Second), Noticed: now}
	}
	tests := []struct {
		name    string
		before  func(*checker)
		end     end
		change  func(*end)
		want    string
		setting func(*checker)
	}{
		{name: "matching alert", before: alert("plain", ago(time.Second)), end: about("plain")},
		{name: "no alert", before: func(*checker) {}, end: about("plain"), want: "no matching alert"},
		{name: "an alert about another", before: alert("idle", ago(time.Second)), end: about("plain"), want: "no matching alert"},
		{name: "an alert long ago", before: func(c *checker) {
			alert("plain", ago(time.Minute))(c)
			c.done([]int{1}, target("plain"))
		}, end: about("plain"), change: func(e *end) { e.Noticed = now.Add(effectDelay + time.Second) }, want: "no matching alert"},
		{name: "unresponsive", before: alert("plain", ago(time.Second)), end: about("plain"), change: func(e *end) { e.Unresponsive = true }, want: "open but unresponsive"},
		{name: "older than the alert", before: alert("before-alert", ago(time.Second)), end: about("before-alert")},
		{name: "younger than the alert", before: alert("before-alert", ago(2*time.Minute)), end: about("before-alert"), want: "opened 1m0s after startsAt of the alert"},
		{name: "idle", before: alert("idle", ago(time.Second)), end: about("idle")},
		{name: "not idle", before: alert("idle", ago(time.Second)), end: about("idle"), change: func(e *end) { e.LastData = ago(900 * time.Millisecond) }, want: "idle for 900ms"},
		{name: "paused", before: alert("plain", ago(time.Minute)), end: about("plain"), setting: func(c *checker) {
			c.pauses = []span{{from: ago(3 * time.Second)}}
		}, want: "paused for 3s"},
		{name: "paused just now", before: alert("plain", ago(time.Minute)), end: about("plain"), setting: func(c *checker) {
			c.pauses = []span{{from: ago(noticeDelay / 2)}}
		}},
		{name: "paused while the application had no processor time", before: alert("plain", ago(time.Minute)), end: about("plain"), setting: func(c *checker) {
			c.pauses = []span{{from: ago(3 * time.Second)}}
		}, change: func(e *end) { e.Starved = 3 * time.Second }},
		{name: "paused before", before: alert("plain", ago(time.Minute)), end: about("plain"), setting: func(c *checker) {
			c.pauses = []span{{from: ago(3 * time.Second), to: ago(time.Second)}}
		}},
		{name: "a former address", before: alert("failover", ago(time.Second)), end: about("failover"), setting: func(c *checker) {
			c.leftAt[service] = ago(settle + time.Second)
		}},
		{name: "the address of the service", before: alert("failover", ago(time.Second)), end: about("failover"), want: "current address of the service"},
		{name: "address that the service has just left", before: alert("failover", ago(time.Second)), end: about("failover"), setting: func(c *checker) {
			c.leftAt[service] = ago(settle / 2)
		}, want: "current address of the service"},
		{name: "address that the service has returned to", before: alert("failover", ago(time.Second)), end: about("failover"), setting: func(c *checker) {
			c.leftAt[service], c.backAt[service] = ago(time.Minute), ago(lookupDelay+effectDelay+time.Second)
		}, want: "current address of the service"},
		{name: "older than the swap of names", before: alert("swap", ago(time.Second)), end: about("swap"), setting: func(c *checker) {
			c.swappedAt = ago(30 * time.Second)
		}},
		{name: "younger than the swap of names", before: alert("swap", ago(time.Second)), end: about("swap"), setting: func(c *checker) {
			c.swappedAt = ago(time.Minute + lookupDelay + time.Second)
		}, want: "opened 8s after the last swap of names"},
		{name: "names that were never swapped", before: alert("swap", ago(time.Second)), end: about("swap"), setting: func(c *checker) {
			c.swappedAt = ago(time.Hour)
		}, want: "opened 59m0s after the last swap of names"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := newChecker(newPlaces(true))
			tt.before(c)
			if tt.setting != nil {
				tt.setting(c)
			}
			e := tt.end
			if tt.change != nil {
				tt.change(&e)
			}
			if got := c.violation(1, &destinations[e.Destination], &e); got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
			for _, other := range []int{0, 2} {
				if got := c.violation(other, &destinations[e.Destination], &e); got == "" {
					t.Errorf("no violation in pod %d, which no alert is about", other)
				}
			}
			c.record(1, message{End: &e})
			if (c.wrong == 1) != (tt.want != "") || c.failures != c.wrong || c.hungUp != 1 {
				t.Errorf("%d wrong of %d, %d violations", c.wrong, c.hungUp, c.failures)
			}
		})
	}
}

// TestCheckerBystander checks that the end of a bystander's connection is always a violation.
func TestCheckerBystander(t *testing.T) {
	c := newChecker(newPlaces(false))
	index := slices.IndexFunc(destinations, func(d destination) bool { return !d.target() })
	c.begin([]int{0}, index, time.Now().Add(-time.Minute))
	c.record(0, message{End: &end{Destination: index, Opened: time.Now(), Noticed: time.Now(), Error: "EOF"}})
	if c.bystanders != 1 || c.failures != 1 || c.hungUp != 0 {
		t.Errorf("%d bystanders, %d violations, %d hung up", c.bystanders, c.failures, c.hungUp)
	}
}
