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

	"tcphup/audit"
	"tcphup/hangup"
	"tcphup/internal/text"
	"tcphup/sockdiag"
)

// job is the handling of one alert: the plan, then the result.
type job struct {
	alert  *alert
	from   *notification
	policy *Policy // nil: none matched
	target *target // nil: refused before
	pods   pods    // of the target, in node mode
	shadow bool

	result string // empty: not decided yet
	detail string
	report hangup.Report // empty: no action started
	action string        // audit.Record.Action; empty: no flow was to be hung up
}

func (j *job) decide(result, format string, args ...any) {
	j.result, j.detail = result, fmt.Sprintf(format, args...)
}

func (j *job) refuse(r *refusal) { j.result, j.detail = r.result, r.detail }

// handle handles the alerts of a notification concurrently and returns when each has a
// result.
func (r *Receiver) handle(ctx context.Context, n *notification, rules *Rules) *response {
	jobs := make([]job, len(n.alerts))
	for i := range n.alerts {
		jobs[i].alert, jobs[i].from = &n.alerts[i], n
		r.plan(&jobs[i], rules)
	}
	r.checkSpread(ctx, jobs, rules)
	for i := range jobs {
		if jobs[i].result != "" {
			r.record(&jobs[i])
		}
	}

	var wait sync.WaitGroup
	next := make(chan *job)
	for range min(len(jobs), cap(r.actions)) {
		wait.Go(func() {
			for j := range next {
				r.run(ctx, j, rules)
				r.record(j)
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

	resp := &response{code: http.StatusOK, Shadow: r.modeUnder(rules) != ModeArmed}
	for i := range jobs {
		j := &jobs[i]
		resp.add(j)
		r.metrics.alerts.WithLabelValues(j.result).Inc()
	}
	if n.truncated > 0 {
		r.metrics.truncated.Add(float64(n.truncated))
		r.log.Warn("alertmanager omitted alerts",
			"alerts", n.truncated, "external_url", n.externalURL, "hint", "set max_alerts to 0")
	}
	return resp
}

// plan selects policy and target, or decides the result from the alert and the rules.
func (r *Receiver) plan(j *job, rules *Rules) {
	switch a := j.alert; {
	case a.status == "resolved":
		j.decide(resultResolved, "alert is resolved")
		return
	case a.status != "firing":
		j.decide(resultMalformed, "unknown status %s", text.Quote(a.status))
		return
	case a.longLabel != "":
		j.decide(resultMalformed, "label %s exceeds %d bytes", text.Quote(a.longLabel), maxLabel)
		return
	}
	i := slices.IndexFunc(rules.Policies, func(p Policy) bool { return p.matches(j.alert.labels) })
	if i < 0 {
		j.decide(resultUnmatched, "no policy matched")
		return
	}
	j.policy = &rules.Policies[i]
	j.shadow = r.shadow(j.policy)
	refusal := r.checkSender(j.policy, j.from.from)
	if refusal == nil {
		refusal = r.checkAge(j.alert, j.policy)
	}
	if refusal == nil {
		j.target, refusal = r.targetOf(j, rules)
	}
	if refusal != nil {
		j.refuse(refusal)
	} else if len(j.target.prefixes) > 0 && slices.ContainsFunc(rules.Never, func(e Endpoint) bool { return e.covers(j.target) }) {
		j.decide(resultDenied, "destination is on the never list")
	}
}

// clockSkew is how far startsAt may be in the future.
const clockSkew = 30 * time.Second

// checkAge refuses alerts with a missing, future or old startsAt.
func (r *Receiver) checkAge(a *alert, p *Policy) *refusal {
	// The zero time is a missing startsAt: neither a very old alert nor a limit for
	// EstablishedBeforeAlert.
	if a.startsAt.Year() < 2000 {
		return refuse(resultMalformed, "startsAt is missing")
	}
	now := r.config.Now()
	if ahead := a.startsAt.Sub(now); ahead > clockSkew {
		return refuse(resultFuture, "startsAt is %s in the future; check the clocks", ahead.Round(time.Second))
	}
	if age := now.Sub(a.startsAt); p.Limits.MaxAlertAge > 0 && age > p.Limits.MaxAlertAge {
		return refuse(resultTooOld, "firing for %s, max_alert_age is %s",
			age.Round(time.Second), p.Limits.MaxAlertAge)
	}
	return nil
}

// run performs the action of the job, under the lock of its target.
func (r *Receiver) run(ctx context.Context, j *job, rules *Rules) {
	release, err := r.locks.acquire(ctx, j.target)
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
		j.interrupted(context.Cause(ctx), "before the action")
		return
	}
	if err := r.pause.cause(); err != nil {
		j.interrupted(err, "before the action")
		return
	}
	if refusal := r.targetNow(j, rules); refusal != nil {
		j.refuse(refusal)
		return
	}
	if len(j.target.prefixes) == 0 {
		j.decide(resultDone, "service has no former address")
		return
	}
	if r.config.Pods != nil && !r.findPods(ctx, j) {
		return
	}
	now := r.config.Now()
	act := action{began: now}
	if !j.shadow {
		var ok bool
		if act, ok = r.begin(ctx, j, rules); !ok {
			return
		}
	}
	if most := j.policy.Limits.Flows; most > 0 && act.flows >= most {
		j.decide(resultOverBudget, "%s closed in earlier attempts, budget exhausted", text.Plural(act.flows, "flow"))
	} else {
		request := r.newRequest(j, rules, now, act)
		request.Begin = func(flows int) { r.recordBegin(j, flows) }
		request.Done = func(f *hangup.Result) { r.recordFlow(j, f) }
		request.Reconnected = func(f *hangup.Result) { r.config.Audit.CountReconnect(j.action, f.Reconnect.SameAddress(&f.Flow)) }
		report, err := r.hangUp(ctx, request)
		if err == nil {
			j.report = *report
		}
		j.classify(ctx, err)
	}
	if !j.shadow {
		r.limiter.end(r.config.Now(), act, j.policy, j.target, j.acted(), retryable(j.result))
	}
}

// targetNow removes the addresses that became current again while the job waited.
func (r *Receiver) targetNow(j *job, rules *Rules) *refusal {
	now, refusal := r.targetOf(j, rules)
	if refusal != nil {
		return refusal
	}
	t := *j.target // the lock reads the original concurrently
	t.prefixes = slices.DeleteFunc(slices.Clone(t.prefixes), func(p netip.Prefix) bool { return !slices.Contains(now.prefixes, p) })
	j.target = &t
	return nil
}

// newRequest returns the request of the job. All attempts of an action share its budget and
// its drain deadline.
func (r *Receiver) newRequest(j *job, rules *Rules, now time.Time, act action) hangup.Request {
	p := j.policy
	request := hangup.Request{
		Policy: p.Name,
		Selector: sockdiag.Selector{
			Destinations:   j.target.prefixes,
			Ports:          sockdiag.Ports(j.target.ports...),
			Direction:      sockdiag.Outbound,
			MinIdle:        p.Evidence.Idle,
			MinPeerSilence: p.Evidence.PeerSilence,
			Stalled:        p.Evidence.Stalled,
		},
		Namespaces:     j.pods.namespaces,
		Method:         p.Method,
		MPTCP:          p.MPTCP,
		SIGPIPESafe:    p.SIGPIPESafe,
		DryRun:         j.shadow,
		MaxFlows:       p.Limits.Flows,
		MaxFraction:    p.Limits.Fraction,
		Linger:         p.Linger,
		ReceiveWait:    p.ReceiveWait,
		Rate:           p.Limits.Rate,
		WatchReconnect: r.config.WatchReconnect,
	}
	if t := j.target; t.service && r.config.Names != nil {
		request.Shared = func(f *sockdiag.Flow) bool {
			return t.includes(f.Remote) && !r.config.Names.Stale(t.destination, f)
		}
		request.Other = func(f *sockdiag.Flow) bool { return t.includes(f.Remote) && r.config.Names.Other(t.destination, f) }
	}
	for _, e := range rules.Never {
		request.Never = append(request.Never, e.selector())
	}
	if request.MaxFlows > 0 {
		request.MaxFlows -= act.flows
	}
	if p.Evidence.EstablishedBeforeAlert {
		request.EstablishedBefore = earlier(j.alert.startsAt, now)
	}
	if left := p.Drain.Deadline - now.Sub(act.began); p.Drain.Quiet > 0 && left > 0 {
		request.DrainQuiet, request.DrainDeadline, request.DrainAnswer = p.Drain.Quiet, left, p.Drain.Answer
	}
	return request
}

func (j *job) acted() int { return j.report.Count(hangup.Closed, hangup.HalfClosed, hangup.Lingering) }

// unfinished returns the number of flows that remain because the time was over, or because
// tcphup was out of descriptors or memory.
func (j *job) unfinished() int {
	exhausted := j.report.Exhausted()
	if j.shadow {
		return exhausted
	}
	return j.report.Count(hangup.Planned) + exhausted
}

// refused returns the number of refused flows, without those that may not be stale or are
// on the never list.
func (j *job) refused() int {
	refusals := j.report.Refusals()
	return j.report.Count(hangup.Refused) - refusals[hangup.ReasonEvidence] - refusals[hangup.ReasonTooYoung] -
		refusals[hangup.ReasonShared] - refusals[hangup.ReasonDenied]
}

// keeps reports whether flows that may be stale stay open: nothing was hung up and flows
// were spared, the age of a flow or a pod is unknown, a pod without a known name may be meant, or
// another name has the address.
func (j *job) keeps() bool {
	spared := j.report.Spared()
	return j.pods.ageless > 0 || j.pods.mayBeUnnamed(j.target) || j.acted() == 0 && len(spared) > 0 || spared[hangup.ReasonTooYoung] > 0 || spared[hangup.ReasonShared] > 0
}

// summary counts the flows of a finished action as text.
func (j *job) summary() string {
	s := text.Plural(j.acted(), "flow") + " hung up"
	if spared := hangup.FormatSpared(j.report.Spared()); spared != "" {
		s += ", spared: " + spared
	}
	if j.report.Younger > 0 {
		s += fmt.Sprintf(", %d younger than the alert", j.report.Younger)
	}
	if j.report.Others > 0 {
		s += fmt.Sprintf(", %d of another service", j.report.Others)
	}
	if j.report.LeftAlone > 0 {
		s += fmt.Sprintf(", %d in the other direction", j.report.LeftAlone)
	}
	return s
}

// classify decides the job's result from the report or the error of HangUp.
func (j *job) classify(ctx context.Context, err error) {
	j.classifyFlows(ctx, err)
	if err == nil && j.target.namespace != "" {
		j.detail += "; " + j.pods.summary(j.report.NamespaceErrors)
	}
}

func (j *job) classifyFlows(ctx context.Context, err error) {
	unread := firstUnread(j.report.NamespaceErrors)
	unfinished, failed, overBudget := j.unfinished(), j.report.Count(hangup.Failed), j.report.Refusals()[hangup.ReasonBudget]
	switch {
	case ctx.Err() != nil && (err != nil || unfinished > 0):
		j.interrupted(context.Cause(ctx), text.Plural(unfinished, "flow")+" left")
	case errors.Is(err, os.ErrPermission), errors.Is(err, errors.ErrUnsupported):
		j.decide(resultFailed, "%v", err)
	case err != nil:
		j.decide(resultError, "%v", err)
	case j.report.Exhausted() > 0:
		j.decide(resultUnfinished, "%s left, out of descriptors or memory", text.Plural(unfinished, "flow"))
	case unfinished > 0:
		j.decide(resultUnfinished, "%s left", text.Plural(unfinished, "flow"))
	case overBudget > 0:
		j.decide(resultOverBudget, "%s over the budget, none closed", text.Plural(overBudget, "flow"))
	case errors.Is(unread, os.ErrPermission), errors.Is(unread, errors.ErrUnsupported):
		j.decide(resultFailed, "%v", unread)
	case unread != nil:
		j.decide(resultError, "%v", unread)
	case j.shadow:
		j.decide(resultShadow, "%s would be hung up", text.Plural(j.report.Count(hangup.Planned), "flow"))
	case failed > 0:
		i := slices.IndexFunc(j.report.Results, func(r hangup.Result) bool { return r.Outcome == hangup.Failed })
		j.decide(resultFailed, "%s failed, first error: %v", text.Plural(failed, "flow"), j.report.Results[i].Err)
	case j.refused() > 0:
		j.decide(resultRefused, "%s refused", text.Plural(j.refused(), "flow"))
	case j.pods.own > 0:
		j.decide(resultRefused, "%s", j.summary())
	case j.keeps():
		j.decide(resultKept, "%s", j.summary())
	default:
		j.decide(resultDone, "%s", j.summary())
	}
}

// interrupted decides the result of a job whose context ended.
func (j *job) interrupted(cause error, detail string) {
	if errors.Is(cause, errPaused) {
		j.decide(resultPaused, "%v, %s", cause, detail)
		return
	}
	j.decide(resultUnfinished, "timed out, %s", detail)
}

// record logs and audits the result of the alert. Resolved and unmatched alerts are logged
// at debug level and not audited.
func (r *Receiver) record(j *job) {
	level := slog.LevelInfo
	switch j.result {
	case resultResolved, resultUnmatched:
		level = slog.LevelDebug
	case resultDone, resultKept, resultShadow, resultCooldown:
	default:
		level = slog.LevelWarn
	}
	rec := r.newRecord(j, audit.EventEnd)
	rec.Result, rec.Detail, rec.Flows, rec.Spared = j.result, j.detail, j.report.Outcomes(), j.report.Spared()
	// The context of the request may have ended.
	r.log.With(podAttributes(&rec)...).Log(context.Background(), level, "alert handled", "policy", rec.Policy,
		"fingerprint", rec.Fingerprint, "starts_at", rec.StartsAt, "external_url", rec.ExternalURL,
		"destination", rec.Destination, "port", rec.Port, "result", rec.Result, "detail", rec.Detail, "shadow", rec.Shadow,
		"flows", rec.Flows, "refusals", j.report.Refusals(), "spared", rec.Spared, "unfinished", j.unfinished())
	if level > slog.LevelDebug {
		r.audit(rec)
	}
}
