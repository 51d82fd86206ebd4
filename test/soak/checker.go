package main

import (
	"cmp"
	"fmt"
	"net/netip"
	"sync"
	"time"
)

// checker checks whether an alert justified the end of a connection. It records posted
// alerts, pauses and moves of the service by the clock of this host. Its verdict does not
// depend on tcphup.
type checker struct {
	mu      sync.Mutex
	alerts  [][]alertState // by number of the place and index of the destination
	placeOf []int          // by index of the application
	pauses  []span
	leftAt  map[netip.Addr]time.Time // when the service last left an address
	backAt  map[netip.Addr]time.Time // when the service last returned to an address
	// swappedAt is when two names last exchanged their addresses.
	swappedAt time.Time
	messages  []string // messages of the first violations
	failures  int      // number of all violations

	hungUp, bystanders, wrong int
	apps                      []totals // by index of the application
}

// alertState is the state of the alerts about a destination.
type alertState struct {
	inFlight int
	startsAt time.Time // of the latest alert
	lastDone time.Time
}

type span struct{ from, to time.Time }

// effectDelay bounds the delay from an action to its effect: pacing, linger and a busy host.
const effectDelay = 5 * time.Second

// lookupDelay bounds the delay from a change of the hosts file to its lookup: the resolver's
// cache and the lookup interval of the service.
const lookupDelay = 7 * time.Second

// noticeDelay bounds the delay from the end of a connection to the application's read.
const noticeDelay = time.Second

func newChecker(places []*place) *checker {
	c := &checker{leftAt: make(map[netip.Addr]time.Time), backAt: make(map[netip.Addr]time.Time)}
	for i, p := range places {
		c.alerts = append(c.alerts, make([]alertState, len(destinations)))
		for range p.applications {
			c.placeOf, c.apps = append(c.placeOf, i), append(c.apps, totals{})
		}
	}
	return c
}

// fail records a violation.
func (c *checker) fail(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.add(format, args...)
}

// add records a violation. The caller holds the lock.
func (c *checker) add(format string, args ...any) {
	const most = 20
	if c.failures++; len(c.messages) < most {
		c.messages = append(c.messages, fmt.Sprintf(format, args...))
	}
}

// begin records the start of an alert about places, done its end. An alert names one
// destination, or the service: it then applies to all former addresses of the service.
func (c *checker) begin(places []int, index int, startsAt time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, place := range places {
		for _, i := range destinationsOf(index) {
			a := &c.alerts[place][i]
			a.inFlight++
			if startsAt.After(a.startsAt) {
				a.startsAt = startsAt
			}
		}
	}
}

func (c *checker) done(places []int, index int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, place := range places {
		for _, i := range destinationsOf(index) {
			c.alerts[place][i].inFlight--
			c.alerts[place][i].lastDone = time.Now()
		}
	}
}

// destinationsOf returns all destinations that an alert about this destination applies to.
func destinationsOf(index int) []int {
	if !destinations[index].formerOnly {
		return []int{index}
	}
	var all []int
	for i := range destinations {
		if destinations[i].formerOnly {
			all = append(all, i)
		}
	}
	return all
}

// pause records the response to a pause request, resume the moment before a resume
// request.
func (c *checker) pause() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pauses = append(c.pauses[max(0, len(c.pauses)-1):], span{from: time.Now()})
}

func (c *checker) resume() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pauses[len(c.pauses)-1].to = time.Now()
}

// move records a move of the service.
func (c *checker) move(from, to netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leftAt[from], c.backAt[to] = time.Now(), time.Now()
}

// record records a message of an application and checks the end of a connection.
func (c *checker) record(app int, m message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.Totals != nil {
		c.apps[app] = *m.Totals
	}
	if m.End == nil {
		return
	}
	d := &destinations[m.End.Destination]
	if !d.target() {
		c.bystanders++
		c.add("bystander lost: %v from %s: %s", d, m.End.Local, m.End.Error)
		return
	}
	c.hungUp++
	if reason := c.violation(c.placeOf[app], d, m.End); reason != "" {
		c.wrong++
		c.add("wrong target: %v from %s, ended with %q at %s: %s", d, m.End.Local, m.End.Error, m.End.Noticed.Format(time.TimeOnly), reason)
	}
}

// violation returns why no alert justifies the end of a connection to a target; "" when one
// does. The caller holds the lock.
func (c *checker) violation(place int, d *destination, e *end) string {
	a := &c.alerts[place][e.Destination]
	earliest := e.Noticed.Add(-e.Starved)
	for _, p := range c.pauses {
		if earliest.After(p.from.Add(noticeDelay)) && (p.to.IsZero() || e.Noticed.Before(p.to)) {
			return fmt.Sprintf("paused for %s", e.Noticed.Sub(p.from))
		}
	}
	switch {
	case e.Unresponsive:
		return "open but unresponsive"
	case a.startsAt.IsZero(), a.inFlight == 0 && earliest.After(a.lastDone.Add(effectDelay)):
		return "no matching alert"
	case d.beforeAlert && e.Opened.After(a.startsAt):
		return fmt.Sprintf("opened %s after startsAt of the alert", e.Opened.Sub(a.startsAt))
	case d.idle > 0 && e.Noticed.Sub(e.LastData) < d.idle:
		return fmt.Sprintf("idle for %s", e.Noticed.Sub(e.LastData))
	case d.swapped && e.Opened.After(c.swappedAt.Add(lookupDelay)):
		return fmt.Sprintf("opened %s after the last swap of names", e.Opened.Sub(c.swappedAt))
	case d.formerOnly && !c.former(d.address.Addr(), e.Noticed) && !c.former(d.address.Addr(), earliest):
		return "current address of the service"
	}
	return ""
}

// former reports whether tcphup may treat an address as former: the service left it longer
// than settle ago, or has just returned and the next lookup is pending.
func (c *checker) former(address netip.Addr, at time.Time) bool {
	left, back := c.leftAt[address], c.backAt[address]
	if left.After(back) {
		return at.After(left.Add(settle))
	}
	return !left.IsZero() && back.Sub(left) > settle && at.Before(back.Add(lookupDelay+effectDelay))
}

// swap records an exchange of addresses between two names.
func (c *checker) swap() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.swappedAt = time.Now()
}

// vacated reports whether the service is at another address.
func (c *checker) vacated(address netip.Addr) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.leftAt[address].After(c.backAt[address])
}

// sum adds up the totals of all applications.
func (c *checker) sum() (sum totals) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.apps {
		sum.Opened += t.Opened
		sum.Closed += t.Closed
		sum.Failed += t.Failed
		sum.Hooked += t.Hooked
		sum.LastError = cmp.Or(sum.LastError, t.LastError)
	}
	return sum
}
