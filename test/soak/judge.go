package main

import (
	"cmp"
	"fmt"
	"net/netip"
	"sync"
	"time"
)

// judge decides whether an end of a connection was asked for. It knows what alerts
// were posted, when everything was paused and where the service was, all by the
// clock of this host, and takes nothing from tcphup.
type judge struct {
	mu       sync.Mutex
	alerts   []asked // by destination
	pauses   []span
	left     map[netip.Addr]time.Time // when the service last left the address
	back     map[netip.Addr]time.Time // when it last came back to it
	broken   []string                 // promises, in words; the first of them
	failures int

	hungUp, bystanders, wrong int
	apps                      []totals // by application
}

// asked is what alerts have asked for about a destination.
type asked struct {
	underWay int
	startsAt time.Time // of the latest
	lastDone time.Time
}

type span struct{ from, to time.Time }

// late is how long after an action its effect may show: its pace, the linger of the
// policies, and a busy host.
const late = 5 * time.Second

// lookedUp is how long a change of the hosts file takes to be looked up: the resolver's
// cache and the interval of the service.
const lookedUp = 7 * time.Second

// noticedWithin is how much later than the end an application notices it.
const noticedWithin = time.Second

func newJudge() *judge {
	return &judge{alerts: make([]asked, len(destinations)), left: make(map[netip.Addr]time.Time), back: make(map[netip.Addr]time.Time)}
}

// fail notes a broken promise.
func (j *judge) fail(format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.note(format, args...)
}

// note is fail for who holds the lock.
func (j *judge) note(format string, args ...any) {
	const most = 20
	if j.failures++; len(j.broken) < most {
		j.broken = append(j.broken, fmt.Sprintf(format, args...))
	}
}

// begin notes that an alert for a policy is about to be posted, done that it is no
// longer. An alert names one destination, or the service: then it is about whatever
// that has left when the alert is acted on.
func (j *judge) begin(index int, startsAt time.Time) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, i := range sameAlert(index) {
		a := &j.alerts[i]
		a.underWay++
		if startsAt.After(a.startsAt) {
			a.startsAt = startsAt
		}
	}
}

func (j *judge) done(index int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, i := range sameAlert(index) {
		j.alerts[i].underWay--
		j.alerts[i].lastDone = time.Now()
	}
}

// sameAlert returns the destinations that an alert about this one can reach.
func sameAlert(index int) []int {
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

// pause notes that the answer to a pause has come, resume that one is about to be
// asked for the contrary.
func (j *judge) pause() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.pauses = append(j.pauses[max(0, len(j.pauses)-1):], span{from: time.Now()})
}

func (j *judge) resume() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.pauses[len(j.pauses)-1].to = time.Now()
}

// move notes that the service leaves one address for the other.
func (j *judge) move(from, to netip.Addr) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.left[from], j.back[to] = time.Now(), time.Now()
}

// hear takes what an application tells.
func (j *judge) hear(app int, m message) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if m.Totals != nil {
		j.apps[app] = *m.Totals
	}
	if m.End == nil {
		return
	}
	d := &destinations[m.End.Destination]
	if !d.victim() {
		j.bystanders++
		j.note("bystander lost: %v from %s: %s", d, m.End.Local, m.End.How)
		return
	}
	j.hungUp++
	if why := j.unasked(d, m.End); why != "" {
		j.wrong++
		j.note("wrong victim: %v from %s, ended with %q at %s: %s", d, m.End.Local, m.End.How, m.End.Noticed.Format(time.TimeOnly), why)
	}
}

// unasked says why no alert can have asked for the end of a connection to a victim;
// "" when one has. The caller holds the lock.
func (j *judge) unasked(d *destination, e *end) string {
	a := &j.alerts[e.Destination]
	earliest := e.Noticed.Add(-e.Late)
	for _, p := range j.pauses {
		if earliest.After(p.from.Add(noticedWithin)) && (p.to.IsZero() || e.Noticed.Before(p.to)) {
			return fmt.Sprintf("paused for %s", e.Noticed.Sub(p.from))
		}
	}
	switch {
	case e.Mute:
		return "it is open, and nothing is answered"
	case a.startsAt.IsZero(), a.underWay == 0 && earliest.After(a.lastDone.Add(late)):
		return "no alert was about it"
	case d.beforeAlert && e.Opened.After(a.startsAt):
		return fmt.Sprintf("opened %s after the alert began to fire", e.Opened.Sub(a.startsAt))
	case d.idle > 0 && e.Noticed.Sub(e.LastData) < d.idle:
		return fmt.Sprintf("idle for %s", e.Noticed.Sub(e.LastData))
	case d.formerOnly && !j.former(d.address.Addr(), e.Noticed) && !j.former(d.address.Addr(), earliest):
		return "the service was there"
	}
	return ""
}

// former reports whether tcphup could know an address as a former one: the service
// had left it for long enough, or has come back just now, which takes a look at the
// hosts file to see.
func (j *judge) former(address netip.Addr, at time.Time) bool {
	left, back := j.left[address], j.back[address]
	if left.After(back) {
		return at.After(left.Add(settle))
	}
	return !left.IsZero() && back.Sub(left) > settle && at.Before(back.Add(lookedUp+late))
}

// isLeft reports whether the service is not at the address.
func (j *judge) isLeft(address netip.Addr) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.left[address].After(j.back[address])
}

// sum adds up what the applications have told.
func (j *judge) sum() (sum totals) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, t := range j.apps {
		sum.Opened += t.Opened
		sum.Closed += t.Closed
		sum.Failed += t.Failed
		sum.Why = cmp.Or(sum.Why, t.Why)
	}
	return sum
}
