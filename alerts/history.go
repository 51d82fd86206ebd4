package alerts

import (
	"maps"
	"slices"
	"sync"
	"time"
)

// history remembers what was hung up lately: for the cooldown, for the breakers and
// to go on with what was left unfinished. It lives in memory only; after a restart
// Alertmanager's next notification finds the world as it is. Reloading the
// configuration keeps it. It holds entries only for destinations whose flows were
// hung up, and forgets them when nothing depends on them any more.
type history struct {
	mu       sync.Mutex
	policies map[string]*policyHistory
	trips    uint64 // how often a breaker has opened
}

type policyHistory struct {
	window       time.Duration
	openUntil    time.Time // of the whole policy
	destinations map[string]*destinationHistory
}

type destinationHistory struct {
	underWay  bool
	actions   []time.Time // within the window, the oldest first
	coolUntil time.Time
	openUntil time.Time
	// unfinished is when the action began that ran out of time; zero when none did.
	unfinished time.Time
}

// tripped returns how often a breaker has opened.
func (h *history) tripped() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.trips
}

func newHistory() *history { return &history{policies: make(map[string]*policyHistory)} }

// begin decides whether the policy may act on the target now. Every begin that
// does not refuse must be followed by end. since is when this piece of work was
// begun: now, or the start of the unfinished action that it goes on with.
func (h *history) begin(now time.Time, p *Policy, t *target) (since time.Time, no *refusal) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.forget(now)
	breaker := p.Limits.Breaker
	ph := h.policy(p)
	if now.Before(ph.openUntil) {
		return now, refuse(resultBreakerOpen, "the breaker of the policy is open until %s", stamp(ph.openUntil))
	}
	d := ph.destinations[t.key()]
	if d == nil {
		if breaker.Destinations > 0 && len(ph.destinations) >= breaker.Destinations {
			h.trips++
			ph.openUntil = now.Add(breaker.Window)
			return now, refuse(resultBreakerOpen, "the policy has hung up %d destinations within %s: "+
				"its breaker opens until %s", len(ph.destinations), breaker.Window, stamp(ph.openUntil))
		}
		d = new(destinationHistory)
		ph.destinations[t.key()] = d
	}
	switch {
	case now.Before(d.openUntil):
		return now, refuse(resultBreakerOpen, "the breaker of the destination is open until %s", stamp(d.openUntil))
	case !d.unfinished.IsZero():
		d.underWay = true
		return d.unfinished, nil
	case now.Before(d.coolUntil):
		return now, refuse(resultCooldown, "left alone until %s", stamp(d.coolUntil))
	case breaker.Actions > 0 && len(d.actions) >= breaker.Actions:
		h.trips++
		d.openUntil = now.Add(breaker.Window)
		return now, refuse(resultBreakerOpen, "hung up %d times within %s: the breaker opens until %s",
			breaker.Actions, breaker.Window, stamp(d.openUntil))
	}
	d.underWay = true
	return now, nil
}

// end notes what came of an action that begin let through: when it began (what
// begin returned), whether flows were hung up, and whether some are left to do.
func (h *history) end(now, since time.Time, p *Policy, t *target, acted, unfinished bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	ph := h.policies[p.Name]
	d := ph.destinations[t.key()]
	d.underWay = false
	// The pieces of one action that took several notifications count once.
	if acted && (len(d.actions) == 0 || d.actions[len(d.actions)-1].Before(since)) {
		d.actions = append(d.actions, now)
	}
	goesOn := !d.unfinished.IsZero()
	d.unfinished = time.Time{}
	switch {
	case unfinished:
		d.unfinished = since
	case acted || goesOn:
		d.coolUntil = now.Add(p.Limits.Cooldown)
	}
	h.forget(now)
}

// trip opens the breaker of a whole policy, unless it is open.
func (h *history) trip(now time.Time, p *Policy) (until time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	ph := h.policy(p)
	if !now.Before(ph.openUntil) {
		h.trips++
		ph.openUntil = now.Add(ph.window)
	}
	return ph.openUntil
}

// policy returns what is remembered of the policy, under its present window. The
// caller holds the lock.
func (h *history) policy(p *Policy) *policyHistory {
	ph := h.policies[p.Name]
	if ph == nil {
		ph = &policyHistory{destinations: make(map[string]*destinationHistory)}
		h.policies[p.Name] = ph
	}
	ph.window = p.Limits.Breaker.Window
	return ph
}

// open returns how many breakers of the policy are open.
func (h *history) open(now time.Time, policy string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	ph := h.policies[policy]
	if ph == nil {
		return 0
	}
	count := 0
	if now.Before(ph.openUntil) {
		count++
	}
	for _, d := range ph.destinations {
		if now.Before(d.openUntil) {
			count++
		}
	}
	return count
}

// unfinishedFor is how long the start of an unfinished action is remembered. The
// sender retries within minutes; what comes later is work of its own.
const unfinishedFor = 10 * time.Minute

// forget drops what nothing depends on any more. The caller holds the lock.
func (h *history) forget(now time.Time) {
	for _, ph := range h.policies {
		oldest := now.Add(-ph.window)
		maps.DeleteFunc(ph.destinations, func(_ string, d *destinationHistory) bool {
			d.actions = slices.DeleteFunc(d.actions, func(at time.Time) bool { return !at.After(oldest) })
			if now.Sub(d.unfinished) > unfinishedFor {
				d.unfinished = time.Time{}
			}
			return !d.underWay && len(d.actions) == 0 && d.unfinished.IsZero() &&
				!now.Before(d.coolUntil) && !now.Before(d.openUntil)
		})
	}
	maps.DeleteFunc(h.policies, func(_ string, ph *policyHistory) bool {
		return len(ph.destinations) == 0 && !now.Before(ph.openUntil)
	})
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
