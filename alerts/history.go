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
	target    *target
	underWay  bool
	actions   []time.Time // within the window, the oldest first
	coolUntil time.Time
	openUntil time.Time
	// unfinished is the action that ran out of time; its begin is zero when none did.
	unfinished work
}

// work is an action, which may take several tries: when it began, and how many flows
// it has hung up so far.
type work struct {
	began time.Time
	flows int
}

// tripped returns how often a breaker has opened.
func (h *history) tripped() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.trips
}

func newHistory() *history { return &history{policies: make(map[string]*policyHistory)} }

// begin decides whether the policy may act on the target now. It returns the work
// that the action is: a new one, or the unfinished one that it continues. Every begin
// that does not refuse must be followed by end. The rules, in this order:
//
//  1. The breaker of the policy is closed. It opens for one destination too many.
//  2. The breaker of the destination is closed.
//  3. Unfinished work continues, without a cooldown and as part of the same action.
//  4. The cooldown of the destination is over.
//  5. The breaker of the destination opens for one action too many.
//
// For 2, 4 and 5, every destination that overlaps the target counts: the same flows
// can be named in many ways.
func (h *history) begin(now time.Time, p *Policy, t *target) (work, *refusal) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.forget(now)
	ph := h.policy(p)
	d, no := h.destination(now, p, ph, t)
	if no != nil {
		return work{}, no
	}
	breaker := p.Limits.Breaker
	openUntil, coolUntil, actions := ph.overlapping(t)
	switch {
	case now.Before(openUntil):
		return work{}, refuse(resultBreakerOpen, "the breaker of the destination is open until %s", stamp(openUntil))
	case !d.unfinished.began.IsZero():
		d.underWay = true
		return d.unfinished, nil
	case now.Before(coolUntil):
		return work{}, refuse(resultCooldown, "left alone until %s", stamp(coolUntil))
	case breaker.Actions > 0 && actions >= breaker.Actions:
		h.trips++
		d.openUntil = now.Add(breaker.Window)
		return work{}, refuse(resultBreakerOpen, "hung up %d times within %s: the breaker opens until %s",
			actions, breaker.Window, stamp(d.openUntil))
	}
	d.underWay = true
	return work{began: now}, nil
}

// destination returns what is remembered of the target, unless the breaker of the
// policy is open or opens because this destination is one too many. The caller holds
// the lock.
func (h *history) destination(now time.Time, p *Policy, ph *policyHistory, t *target) (*destinationHistory, *refusal) {
	if now.Before(ph.openUntil) {
		return nil, refuse(resultBreakerOpen, "the breaker of the policy is open until %s", stamp(ph.openUntil))
	}
	d := ph.destinations[t.key()]
	if d == nil {
		breaker := p.Limits.Breaker
		if breaker.Destinations > 0 && len(ph.destinations) >= breaker.Destinations {
			h.trips++
			ph.openUntil = now.Add(breaker.Window)
			return nil, refuse(resultBreakerOpen, "the policy has hung up %d destinations within %s: "+
				"its breaker opens until %s", len(ph.destinations), breaker.Window, stamp(ph.openUntil))
		}
		d = new(destinationHistory)
		ph.destinations[t.key()] = d
	}
	d.target = t
	return d, nil
}

// overlapping combines the destinations that overlap the target: the last end of
// their breakers and of their cooldowns, and all their actions.
func (ph *policyHistory) overlapping(t *target) (openUntil, coolUntil time.Time, actions int) {
	for _, d := range ph.destinations {
		if d.target.overlaps(t) {
			openUntil, coolUntil = later(openUntil, d.openUntil), later(coolUntil, d.coolUntil)
			actions += len(d.actions)
		}
	}
	return openUntil, coolUntil, actions
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// end notes the result of a try that begin let through: the work that begin returned,
// how many flows were hung up, and whether some are left. The tries of one action count
// as one action for the breaker, at the time of the first that hung flows up. The
// cooldown begins at the end of an action that hung flows up or took several tries.
func (h *history) end(now time.Time, w work, p *Policy, t *target, flows int, unfinished bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	ph := h.policies[p.Name]
	d := ph.destinations[t.key()]
	d.underWay = false
	if flows > 0 && (len(d.actions) == 0 || d.actions[len(d.actions)-1].Before(w.began)) {
		d.actions = append(d.actions, now)
	}
	continued := !d.unfinished.began.IsZero()
	d.unfinished = work{}
	switch {
	case unfinished:
		d.unfinished = work{w.began, w.flows + flows}
	case flows > 0 || continued:
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
			if now.Sub(d.unfinished.began) > unfinishedFor {
				d.unfinished = work{}
			}
			return !d.underWay && len(d.actions) == 0 && d.unfinished.began.IsZero() &&
				!now.Before(d.coolUntil) && !now.Before(d.openUntil)
		})
	}
	maps.DeleteFunc(h.policies, func(_ string, ph *policyHistory) bool {
		return len(ph.destinations) == 0 && !now.Before(ph.openUntil)
	})
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
