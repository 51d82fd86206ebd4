package alerts

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"tcphup/hangup"
	"tcphup/internal/text"
	"tcphup/sockdiag"
)

// job is one alert on its way: first what it asks for, then what became of it.
type job struct {
	alert  *alert
	policy *Policy // nil: none is for it
	target *target // nil: refused before it was known
	shadow bool

	result string // empty: not decided yet
	detail string
	report hangup.Report // empty: no action was begun
}

func (j *job) decide(result, format string, args ...any) {
	j.result, j.detail = result, fmt.Sprintf(format, args...)
}

func (j *job) refuse(no *refusal) { j.result, j.detail = no.result, no.detail }

// handle works on the alerts of a notification side by side and returns when
// everything is decided.
func (r *Receiver) handle(ctx context.Context, n *notification) *answer {
	rules := r.rules.Load()
	jobs := make([]job, len(n.alerts))
	for i := range n.alerts {
		jobs[i].alert = &n.alerts[i]
		r.plan(&jobs[i], rules)
	}
	r.checkSpread(jobs)

	var wait sync.WaitGroup
	next := make(chan *job)
	for range min(len(jobs), cap(r.actions)) {
		wait.Go(func() {
			for j := range next {
				r.run(ctx, j, rules)
			}
		})
	}
	for i := range jobs {
		if jobs[i].result == "" {
			next <- &jobs[i]
		}
	}
	close(next)
	wait.Wait()

	a := &answer{code: http.StatusOK, Shadow: r.modeUnder(rules) != ModeArmed}
	for i := range jobs {
		j := &jobs[i]
		a.add(j)
		r.metrics.alerts.WithLabelValues(j.result).Inc()
		r.record(j, n)
	}
	if n.truncated > 0 {
		r.metrics.truncated.Add(float64(n.truncated))
		r.log.Warn("alertmanager left alerts out, its max_alerts should be 0",
			"alerts", n.truncated, "external_url", n.externalURL)
	}
	return a
}

// plan decides what can be decided from the alert and the rules alone.
func (r *Receiver) plan(j *job, rules *Rules) {
	switch a := j.alert; {
	case a.status == "resolved":
		j.decide(resultResolved, "it does not fire any more")
		return
	case a.status != "firing":
		j.decide(resultMalformed, "status is %s", text.Quote(a.status))
		return
	}
	for i := range rules.Policies {
		if rules.Policies[i].matches(j.alert.labels) {
			j.policy = &rules.Policies[i]
			break
		}
	}
	if j.policy == nil {
		j.decide(resultUnmatched, "no policy is for it")
		return
	}
	j.shadow = r.shadow(j.policy)
	if no := r.checkAge(j.alert, j.policy); no != nil {
		j.refuse(no)
		return
	}
	t, no := j.policy.target(j.alert.labels, rules.Services, r.config.Names)
	if no != nil {
		j.refuse(no)
		return
	}
	j.target = t
	for _, never := range rules.Never {
		if len(t.prefixes) > 0 && never.covers(t) {
			j.decide(resultDenied, "the never list holds it")
			return
		}
	}
}

func (r *Receiver) checkAge(a *alert, p *Policy) *refusal {
	// An absent startsAt must not pass for one that is very long ago, nor for
	// evidence that every flow came up after it.
	if a.startsAt.Year() < 2000 {
		return refuse(resultMalformed, "startsAt is missing")
	}
	now := r.config.Now()
	if ahead := a.startsAt.Sub(now); ahead > r.config.ClockSkew {
		return refuse(resultFuture, "startsAt is %s in the future: compare the clocks", ahead.Round(time.Second))
	}
	if age := now.Sub(a.startsAt); p.Limits.MaxAlertAge > 0 && age > p.Limits.MaxAlertAge {
		return refuse(resultTooOld, "firing for %s, and max_alert_age is %s",
			age.Round(time.Second), p.Limits.MaxAlertAge)
	}
	return nil
}

// checkSpread opens the breaker of a policy when one notification alone names
// more destinations than the policy may hang up, before it has hung up any.
func (r *Receiver) checkSpread(jobs []job) {
	named := make(map[*Policy]map[string]bool)
	for i := range jobs {
		if j := &jobs[i]; j.result == "" {
			if named[j.policy] == nil {
				named[j.policy] = make(map[string]bool)
			}
			named[j.policy][j.target.key()] = true
		}
	}
	for p, destinations := range named {
		limit := p.Limits.Breaker.Destinations
		if limit == 0 || len(destinations) <= limit {
			continue
		}
		until := r.history.trip(r.config.Now(), p)
		for i := range jobs {
			if j := &jobs[i]; j.result == "" && j.policy == p {
				j.decide(resultBreakerOpen, "one notification names %d destinations and %d are allowed: "+
					"the breaker of the policy opens until %s", len(destinations), limit, stamp(until))
			}
		}
	}
}

// run hangs up what the job asks for, alone on its destination.
func (r *Receiver) run(ctx context.Context, j *job, rules *Rules) {
	release, err := r.claims.acquire(ctx, j.target)
	if err != nil {
		j.interrupted(err, "waiting for another action on the same destination")
		return
	}
	defer release()
	select {
	case r.actions <- struct{}{}:
		defer func() { <-r.actions }()
	case <-ctx.Done():
		j.interrupted(context.Cause(ctx), "waiting for other actions")
		return
	}
	if ctx.Err() != nil {
		j.interrupted(context.Cause(ctx), "before it began")
		return
	}
	if err := r.pause.why(); err != nil {
		j.interrupted(err, "before it began")
		return
	}
	if no := r.targetNow(j, rules); no != nil {
		j.refuse(no)
		return
	}
	if len(j.target.prefixes) == 0 {
		j.decide(resultDone, "the service has left no address behind")
		return
	}
	now := r.config.Now()
	w := work{began: now}
	if !j.shadow {
		var no *refusal
		if w, no = r.history.begin(now, j.policy, j.target); no != nil {
			j.refuse(no)
			return
		}
	}
	if most := j.policy.Limits.Flows; most > 0 && w.flows >= most {
		j.decide(resultOverBudget, "%d flows have been hung up in several tries, as many as the budget allows", w.flows)
	} else {
		report, err := r.hang.HangUp(ctx, r.newRequest(j, rules, now, w))
		if err == nil {
			j.report = *report
		}
		j.classify(ctx, err)
	}
	if !j.shadow {
		r.history.end(r.config.Now(), w, j.policy, j.target, j.acted(), again(j.result))
	}
}

// targetNow leaves out the addresses that have come back to their service while the job
// waited for its turn.
func (r *Receiver) targetNow(j *job, rules *Rules) *refusal {
	now, no := j.policy.target(j.alert.labels, rules.Services, r.config.Names)
	if no != nil {
		return no
	}
	t := *j.target // others may be looking at it
	t.prefixes = slices.DeleteFunc(slices.Clone(t.prefixes), func(p netip.Prefix) bool { return !slices.Contains(now.prefixes, p) })
	j.target = &t
	return nil
}

// newRequest translates the job. The tries of one work share its budget and its time
// to drain.
func (r *Receiver) newRequest(j *job, rules *Rules, now time.Time, w work) hangup.Request {
	p := j.policy
	request := hangup.Request{
		Policy: p.Name,
		Selector: sockdiag.Selector{
			Destinations:   j.target.prefixes,
			Ports:          j.target.ports,
			Direction:      sockdiag.Outbound,
			MinIdle:        p.Evidence.Idle,
			MinPeerSilence: p.Evidence.PeerSilence,
			Stalled:        p.Evidence.Stalled,
		},
		Method:         p.Method,
		MPTCP:          p.MPTCP,
		DryRun:         j.shadow,
		MaxFlows:       p.Limits.Flows,
		MaxFraction:    p.Limits.Fraction,
		Linger:         p.Linger,
		Rate:           p.Limits.Rate,
		WatchReconnect: r.config.WatchReconnect,
		WatchLater:     true,
	}
	for _, e := range rules.Never {
		request.Never = append(request.Never, e.selector())
	}
	if request.MaxFlows > 0 {
		request.MaxFlows -= w.flows
	}
	if p.Evidence.EstablishedBeforeAlert {
		request.EstablishedBefore = j.alert.startsAt
		if now.Before(request.EstablishedBefore) {
			request.EstablishedBefore = now
		}
	}
	if left := p.Drain.Deadline - now.Sub(w.began); p.Drain.Quiet > 0 && left > 0 {
		request.DrainQuiet, request.DrainDeadline = p.Drain.Quiet, left
	}
	return request
}

// acted returns how many flows were hung up.
func (j *job) acted() int {
	return j.report.Count(hangup.Closed, hangup.HalfClosed, hangup.Lingering)
}

// unfinished returns how many flows were to be hung up and were not, because time ran
// out.
func (j *job) unfinished() int {
	if j.shadow {
		return 0
	}
	return j.report.Count(hangup.Planned)
}

// refused returns how many flows were to be hung up and were refused. Flows that do
// not show the evidence, or that a never rule covers, were not to be hung up.
func (j *job) refused() int {
	refusals := j.report.Refusals()
	return j.report.Count(hangup.Refused) - refusals[hangup.ReasonEvidence] - refusals[hangup.ReasonDenied]
}

// classify decides the job's result from what the hang-up returned.
func (j *job) classify(ctx context.Context, err error) {
	unfinished, failed, overBudget := j.unfinished(), j.report.Count(hangup.Failed), j.report.Refusals()[hangup.ReasonBudget]
	switch {
	case ctx.Err() != nil && (err != nil || unfinished > 0):
		j.interrupted(context.Cause(ctx), fmt.Sprintf("%d flows left", unfinished))
	case errors.Is(err, os.ErrPermission), errors.Is(err, errors.ErrUnsupported):
		j.decide(resultFailed, "%v", err)
	case err != nil:
		j.decide(resultError, "%v", err)
	case unfinished > 0:
		j.decide(resultUnfinished, "%d flows left", unfinished)
	case overBudget > 0:
		j.decide(resultOverBudget, "%d flows match, more than the budget allows: nothing was closed", overBudget)
	case j.shadow:
		j.decide(resultShadow, "%d flows would be hung up", j.report.Count(hangup.Planned))
	case failed > 0:
		j.decide(resultFailed, "%d flows failed", failed)
	case j.refused() > 0:
		j.decide(resultRefused, "%d flows were refused", j.refused())
	default:
		j.decide(resultDone, "%d flows hung up", j.acted())
	}
}

// interrupted decides a job that the end of its context has cut short.
func (j *job) interrupted(cause error, during string) {
	if errors.Is(cause, errPaused) {
		j.decide(resultPaused, "%v, %s", cause, during)
		return
	}
	j.decide(resultUnfinished, "no time left, %s", during)
}

// record writes what became of the alert to the log and to the audit: a record of
// the decision and one for each flow. Alerts that ask for nothing are not decisions.
func (r *Receiver) record(j *job, n *notification) {
	level := slog.LevelInfo
	switch j.result {
	case resultResolved, resultUnmatched:
		level = slog.LevelDebug
	case resultDone, resultShadow, resultCooldown:
	default:
		level = slog.LevelWarn
	}
	rec := Record{
		Time:        r.config.Now(),
		Fingerprint: text.Clip(j.alert.fingerprint, clipLimit),
		StartsAt:    j.alert.startsAt,
		ExternalURL: text.Clip(n.externalURL, clipLimit),
		Result:      j.result,
		Detail:      j.detail,
		Shadow:      j.shadow,
		Flows:       j.report.Outcomes(),
	}
	if j.policy != nil {
		rec.Policy = j.policy.Name
	}
	if j.target != nil {
		rec.Destination, rec.Port = j.target.destination, j.target.port
	}
	// The log outlives the caller: a client that has gone changes nothing.
	ctx := context.Background()
	r.log.Log(ctx, level, "alert handled", "policy", rec.Policy, "fingerprint", rec.Fingerprint,
		"starts_at", rec.StartsAt, "external_url", rec.ExternalURL, "destination", rec.Destination,
		"port", rec.Port, "result", rec.Result, "detail", rec.Detail, "shadow", rec.Shadow,
		"flows", rec.Flows, "refusals", j.report.Refusals(), "unfinished", j.unfinished())
	if level == slog.LevelDebug {
		return
	}
	r.audit(rec)
	for i := range j.report.Results {
		f := j.report.Results[i].JSON()
		r.log.Log(ctx, slog.LevelInfo, "flow handled", "policy", rec.Policy, "fingerprint", rec.Fingerprint,
			"local", f.Local, "remote", f.Remote, "cookie", f.Cookie, "pid", f.PID, "command", f.Command,
			"state", f.State, "method", f.Method, "outcome", f.Outcome, "reason", f.Reason, "detail", f.Detail, "err", f.Error)
		rec.Detail, rec.Flows, rec.Flow = "", nil, &f
		r.audit(rec)
	}
}

func (r *Receiver) audit(rec Record) {
	if err := r.config.Audit.Add(rec); err != nil {
		r.auditFailed.Do(func() { r.log.Error("cannot write audit record", "err", err) })
	}
}

// clipLimit is how many bytes of a sender's text the log and the audit hold.
const clipLimit = 512
