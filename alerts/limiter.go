package alerts

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// limiter holds cooldowns, circuit breakers and unfinished actions per policy and
// destination, in node mode also per namespace and pod. The state is in memory only: it
// survives a reload and is lost by a restart. A destination has an entry only after an action
// on it, until its limits have expired.
type limiter struct {
	mu       sync.Mutex
	policies map[string]*policyState
	ended    chan struct{} // closed and replaced at the end of each action
	trips    atomic.Uint64 // breaker openings
}

type policyState struct {
	window       time.Duration
	openUntil    time.Time // breaker of the policy
	destinations map[string]*destinationState
}

type destinationState struct {
	target    *target
	running   bool
	actions   []time.Time // within the window, oldest first
	coolUntil time.Time
	openUntil time.Time
	// unfinished is the action that timed out; its began is zero if there is none.
	unfinished action
}

// action is the start of an action and the number of flows closed so far. An action may
// take several attempts.
type action struct {
	began time.Time
	flows int
}

func newLimiter() *limiter {
	return &limiter{policies: make(map[string]*policyState), ended: make(chan struct{})}
}

// errUnproven means that the policy has closed flows of as many destinations as its breaker
// allows: begin opens the breaker if flows of another one match.
var errUnproven = &refusal{}

// begin reports whether the policy may act on the target now. It returns a new action or
// the unfinished one that the attempt continues. The caller calls end after begin returned
// neither a refusal nor a channel; a channel is closed when begin should be called again.
// matching means that a dry run has found flows of the target. The checks, in order:
//
//  1. The breaker of the policy is closed; it opens when the destinations with closed flows
//     exceed the limit. Where running actions decide that, begin returns the channel.
//  2. The breaker of the destination is closed.
//  3. An unfinished action continues without cooldown and counts as one action.
//  4. The cooldown of the destination is over.
//  5. The breaker of the destination opens when the actions exceed the limit.
//
// Checks 2, 4 and 5 include every destination that overlaps the target: an address and a
// prefix can select the same flows.
func (l *limiter) begin(now time.Time, p *Policy, t *target, matching bool) (action, *refusal, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expire(now)
	ph := l.policy(p)
	if refusal, wait := l.checkDestinations(now, p, ph, t, matching); refusal != nil || wait != nil {
		return action{}, refusal, wait
	}
	d := ph.destinations[t.key()]
	if d == nil {
		d = new(destinationState)
		ph.destinations[t.key()] = d
	}
	d.target = t
	breaker := p.Limits.Breaker
	openUntil, coolUntil, actions := ph.overlapping(t)
	switch {
	case now.Before(openUntil):
		return action{}, refuse(resultBreakerOpen, "destination breaker open until %s", stamp(openUntil)), nil
	case !d.unfinished.began.IsZero():
		d.running = true
		return d.unfinished, nil, nil
	case now.Before(coolUntil):
		return action{}, refuse(resultCooldown, "cooldown until %s", stamp(coolUntil)), nil
	case breaker.Actions > 0 && actions >= breaker.Actions:
		l.trips.Add(1)
		d.openUntil = now.Add(breaker.Window)
		return action{}, refuse(resultBreakerOpen, "%d actions within %s; destination breaker open until %s",
			actions, breaker.Window, stamp(d.openUntil)), nil
	}
	d.running = true
	return action{began: now}, nil, nil
}

// checkDestinations is the first check of begin. The caller holds the lock.
func (l *limiter) checkDestinations(now time.Time, p *Policy, ph *policyState, t *target, matching bool) (*refusal, <-chan struct{}) {
	if now.Before(ph.openUntil) {
		return refuse(resultBreakerOpen, "policy breaker open until %s", stamp(ph.openUntil)), nil
	}
	breaker := p.Limits.Breaker
	closed, running, others := 0, 0, 0 // destinations with closed flows, with a running action, and others
	for key, d := range ph.destinations {
		switch {
		case len(d.actions) > 0 && key == t.key():
			return nil, nil
		case len(d.actions) > 0:
			closed++
		case d.running:
			running++
		case key != t.key() && d.target.namespace == t.namespace:
			others++
		}
	}
	switch {
	case others >= maxUnfinished:
		return refuse(resultUnfinished, "policy has %d unfinished actions", others), nil
	case breaker.Destinations == 0 || closed+running < breaker.Destinations:
		return nil, nil
	case closed < breaker.Destinations:
		return nil, l.ended
	case !matching:
		return errUnproven, nil
	}
	l.trips.Add(1)
	ph.openUntil = now.Add(breaker.Window)
	return refuse(resultBreakerOpen, "policy acted on %d destinations within %s; policy breaker open until %s",
		closed, breaker.Window, stamp(ph.openUntil)), nil
}

// overlapping combines all destinations that overlap the target: the latest end of a
// breaker, the latest end of a cooldown, and the number of actions.
func (ph *policyState) overlapping(t *target) (openUntil, coolUntil time.Time, actions int) {
	for _, d := range ph.destinations {
		if d.target.overlaps(t) {
			openUntil, coolUntil = later(openUntil, d.openUntil), later(coolUntil, d.coolUntil)
			actions += len(d.actions)
		}
	}
	return openUntil, coolUntil, actions
}

func earlier(a, b time.Time) time.Time { return slices.MinFunc([]time.Time{a, b}, time.Time.Compare) }

func later(a, b time.Time) time.Time { return slices.MaxFunc([]time.Time{a, b}, time.Time.Compare) }

// end records an attempt of the action that begin returned: the number of closed flows and
// whether flows remain. All attempts count as one action for the breaker, at the time of
// the first that closed flows. The cooldown starts when an action ends that closed flows
// or took several attempts.
func (l *limiter) end(now time.Time, a action, p *Policy, t *target, flows int, unfinished bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ph := l.policies[p.Name]
	d := ph.destinations[t.key()]
	d.running = false
	close(l.ended)
	l.ended = make(chan struct{})
	if flows > 0 && (len(d.actions) == 0 || d.actions[len(d.actions)-1].Before(a.began)) {
		d.actions = append(d.actions, now)
	}
	continued := !d.unfinished.began.IsZero()
	d.unfinished = action{}
	switch {
	case unfinished:
		d.unfinished = action{a.began, a.flows + flows}
	case flows > 0 || continued:
		d.coolUntil = now.Add(p.Limits.Cooldown)
	}
	l.expire(now)
}

// openPolicy opens the breaker of the policy unless it is open, and returns when it closes.
func (l *limiter) openPolicy(now time.Time, p *Policy) (until time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ph := l.policy(p)
	if !now.Before(ph.openUntil) {
		l.trips.Add(1)
		ph.openUntil = now.Add(ph.window)
	}
	return ph.openUntil
}

// closeBreakers closes all breakers, forgets the actions that they count, and returns the
// number of breakers that were open. Cooldowns and unfinished actions stay.
func (l *limiter) closeBreakers(now time.Time) (closed int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, ph := range l.policies {
		closed += ph.openBreakers(now)
		ph.openUntil = time.Time{}
		for _, d := range ph.destinations {
			d.openUntil, d.actions = time.Time{}, nil
		}
	}
	return closed
}

// policy returns the state of the policy with its current window. The caller holds the
// lock.
func (l *limiter) policy(p *Policy) *policyState {
	ph := l.policies[p.Name]
	if ph == nil {
		ph = &policyState{destinations: make(map[string]*destinationState)}
		l.policies[p.Name] = ph
	}
	ph.window = p.Limits.Breaker.Window
	return ph
}

// openBreakers returns the number of open breakers of the policy.
func (l *limiter) openBreakers(now time.Time, policy string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if ph := l.policies[policy]; ph != nil {
		return ph.openBreakers(now)
	}
	return 0
}

func (ph *policyState) openBreakers(now time.Time) (count int) {
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

// unfinishedFor is how long an unfinished action can continue. Alertmanager retries within
// minutes; a later notification starts a new action.
const unfinishedFor = 10 * time.Minute

// maxUnfinished limits the destinations of a policy without closed flows in memory, in node
// mode for each Kubernetes namespace.
const maxUnfinished = 1000

// expire deletes entries whose limits are over. The caller holds the lock.
func (l *limiter) expire(now time.Time) {
	for _, ph := range l.policies {
		oldest := now.Add(-ph.window)
		maps.DeleteFunc(ph.destinations, func(_ string, d *destinationState) bool {
			d.actions = slices.DeleteFunc(d.actions, func(at time.Time) bool { return !at.After(oldest) })
			if now.Sub(d.unfinished.began) > unfinishedFor {
				d.unfinished = action{}
			}
			return !d.running && len(d.actions) == 0 && d.unfinished.began.IsZero() &&
				!now.Before(d.coolUntil) && !now.Before(d.openUntil)
		})
	}
	maps.DeleteFunc(l.policies, func(_ string, ph *policyState) bool {
		return len(ph.destinations) == 0 && !now.Before(ph.openUntil)
	})
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
