package alerts

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"

	"tcphup/hangup"
	"tcphup/sockdiag"
)

// checkSpread opens the breaker of a policy before any action when one notification has
// more destinations with matching flows than the breaker allows. Destinations without
// matching flows do not count, so an alert cannot open the breaker by naming many of them.
func (r *Receiver) checkSpread(ctx context.Context, jobs []job, rules *Rules) {
	named := make(map[*Policy][]*job)
	for i := range jobs {
		if j := &jobs[i]; j.result == "" && len(j.target.prefixes) > 0 {
			named[j.policy] = append(named[j.policy], j)
		}
	}
	for p, jobs := range named {
		limit := p.Limits.Breaker.Destinations
		targets := make(map[string]*target)
		for _, j := range jobs {
			targets[j.target.key()] = j.target
		}
		if limit == 0 || len(targets) <= limit {
			continue
		}
		exceeded, err := r.exceeds(ctx, limit, jobs, targets, rules)
		if err == nil && !exceeded {
			continue
		}
		for _, j := range jobs {
			if err != nil {
				j.classify(ctx, err)
				continue
			}
			until := r.limiter.openPolicy(r.config.Now(), p)
			j.decide(resultBreakerOpen, "notification has more than %d destinations with matching connections; "+
				"policy breaker open until %s", limit, stamp(until))
		}
	}
}

// exceeds reports whether more than limit targets have flows that the jobs, of one policy,
// would hang up. It is one dry run for all of them, with the latest startsAt.
func (r *Receiver) exceeds(ctx context.Context, limit int, jobs []*job, targets map[string]*target, rules *Rules) (bool, error) {
	latest := slices.MaxFunc(jobs, func(a, b *job) int { return a.alert.startsAt.Compare(b.alert.startsAt) })
	all, everyPort := new(target), false
	for _, t := range targets {
		all.prefixes = append(all.prefixes, t.prefixes...)
		all.ports = append(all.ports, t.ports...)
		everyPort = everyPort || len(t.ports) == 0
	}
	slices.Sort(all.ports)
	all.ports = slices.Compact(all.ports)
	if everyPort {
		all.ports = nil
	}
	select {
	case r.actions <- struct{}{}:
		defer func() { <-r.actions }()
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
	every := &job{alert: latest.alert, policy: latest.policy, target: all}
	if r.config.Pods != nil {
		found, err := r.config.Pods()
		if err != nil {
			return false, fmt.Errorf("find pods: %w", err)
		}
		every.pods = selectPods(found, earlier(latest.alert.startsAt, r.config.Now()), slices.Collect(maps.Values(targets))...)
		if len(every.pods.namespaces) == 0 {
			return false, nil
		}
	}
	request := r.newRequest(every, rules, r.config.Now(), action{began: r.config.Now()})
	request.Shared = func(f *sockdiag.Flow) bool { return r.isShared(f, targets) }
	report, err := r.dryRun(ctx, request)
	if err != nil {
		return false, err
	}
	places, matching := placesOf(report), 0
	for _, t := range targets {
		selector := sockdiag.Selector{Destinations: t.prefixes, Ports: sockdiag.Ports(t.ports...)}
		for at := range places {
			if at.isOf(t, &selector) {
				matching++
				break
			}
		}
		if matching > limit {
			return true, nil
		}
	}
	return false, nil
}

// place is a destination in a pod; pod is "" without node mode. An invalid remote stands for
// every destination.
type place struct {
	pod    string
	remote netip.AddrPort
}

// placesOf returns the places of the planned flows, and of the pods that could not be read.
func placesOf(report *hangup.Report) map[place]bool {
	places := make(map[place]bool)
	for _, result := range report.Results {
		for _, f := range append([]sockdiag.Flow{result.Flow}, result.Subflows...) {
			if result.Outcome == hangup.Planned {
				places[place{result.Namespace, f.Remote}] = true
			}
		}
	}
	for _, e := range report.NamespaceErrors {
		if !errors.Is(e.Err, os.ErrNotExist) {
			places[place{pod: e.Name}] = true
		}
	}
	return places
}

// isOf reports whether the target with this selector includes the place.
func (p *place) isOf(t *target, selector *sockdiag.Selector) bool {
	return t.includesNamed(p.pod) &&
		(!p.remote.IsValid() || selector.MatchEndpoint(&sockdiag.Flow{Remote: p.remote}, sockdiag.Outbound))
}

// isShared reports whether only targets of services include a flow, and it is not known to
// be stale for any of them.
func (r *Receiver) isShared(f *sockdiag.Flow, targets map[string]*target) bool {
	included := false
	for _, t := range targets {
		if !t.includes(f.Remote) {
			continue
		}
		if !t.service || r.config.Names == nil || r.config.Names.Stale(t.destination, f) {
			return false
		}
		included = true
	}
	return included
}

// begin begins the action of the job. It decides the result and returns false if the
// limiter refuses the action.
func (r *Receiver) begin(ctx context.Context, j *job, rules *Rules) (action, bool) {
	matching := false
	for {
		act, refusal, wait := r.limiter.begin(r.config.Now(), j.policy, j.target, matching)
		switch {
		case wait != nil:
			select {
			case <-wait:
			case <-ctx.Done():
				j.interrupted(context.Cause(ctx), "waiting for other destinations of the policy")
				return action{}, false
			}
		case refusal == errUnproven:
			report, err := r.dryRun(ctx, r.newRequest(j, rules, r.config.Now(), action{began: r.config.Now()}))
			if err != nil || report.Count(hangup.Planned) == 0 {
				if err == nil {
					j.report = *report
				}
				j.classify(ctx, err)
				return action{}, false
			}
			matching = true
		case refusal != nil:
			j.refuse(refusal)
			return action{}, false
		default:
			return act, true
		}
	}
}

// dryRun reports the flows that the job would hang up, whatever its budget.
func (r *Receiver) dryRun(ctx context.Context, request hangup.Request) (*hangup.Report, error) {
	request.DryRun, request.MaxFlows, request.MaxFraction = true, 0, 0
	report, err := r.hangUp(ctx, request)
	if err == nil {
		err = context.Cause(ctx) // flows that were not checked are planned
	}
	return report, err
}
