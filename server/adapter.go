package server

import (
	"context"
	"net/netip"
	"time"

	"tcphup/actuator"
	"tcphup/alerts"
	"tcphup/sockdiag"
)

// hangUpper lets the alert receiver use the actuator; neither knows the other.
type hangUpper struct {
	actuator *actuator.Actuator
	// watchReconnect is how long to watch what the applications do next.
	watchReconnect time.Duration
}

// HangUp implements alerts.HangUpper.
func (h hangUpper) HangUp(ctx context.Context, a alerts.Action) (alerts.Result, error) {
	report, err := h.actuator.HangUp(ctx, actuator.Request{
		Policy:            a.Policy,
		Selector:          a.Selector,
		Never:             never(a.Never),
		EstablishedBefore: a.EstablishedBefore,
		Method:            actuator.Method(a.Method),
		MPTCP:             actuator.MPTCPMode(a.MPTCP),
		DryRun:            a.Shadow,
		MaxFlows:          a.MaxFlows,
		MaxFraction:       a.MaxFraction,
		Linger:            a.Linger,
		Rate:              a.Rate,
		DrainQuiet:        a.DrainQuiet,
		DrainDeadline:     a.DrainDeadline,
		WatchReconnect:    h.watchReconnect,
		WatchLater:        true,
	})
	if err != nil {
		return alerts.Result{}, err
	}
	result := alerts.Result{Outcomes: make(map[string]int), Refusals: make(map[string]int)}
	for i := range report.Results {
		r := &report.Results[i]
		result.Outcomes[string(r.Outcome)]++
		if r.Outcome == actuator.Refused {
			result.Refusals[string(r.Reason)]++
		}
		result.Flows = append(result.Flows, flowRecord(r))
	}
	if !a.Shadow {
		result.Unfinished = report.Count(actuator.Planned)
	}
	return result, nil
}

func never(endpoints []alerts.Endpoint) []sockdiag.Selector {
	var selectors []sockdiag.Selector
	for _, e := range endpoints {
		s := sockdiag.Selector{Destinations: []netip.Prefix{e.Prefix}}
		if e.Port != 0 {
			s.Ports = []uint16{e.Port}
		}
		selectors = append(selectors, s)
	}
	return selectors
}

func flowRecord(r *actuator.Result) alerts.FlowRecord {
	record := alerts.FlowRecord{
		Local:   r.Flow.Local.String(),
		Remote:  r.Flow.Remote.String(),
		Cookie:  r.Flow.Cookie,
		PID:     r.PID,
		Command: r.Command,
		State:   r.Flow.State.String(),
		Stalled: r.Flow.Stalled(),
		Method:  string(r.Method),
		Outcome: string(r.Outcome),
		Reason:  string(r.Reason),
		Detail:  r.Detail,
	}
	if idle, known := r.Flow.Idle(); known {
		seconds := idle.Seconds()
		record.IdleSeconds = &seconds
	}
	if silence, known := r.Flow.PeerSilence(); known {
		seconds := silence.Seconds()
		record.PeerSilenceSeconds = &seconds
	}
	if r.Err != nil {
		record.Error = r.Err.Error()
	}
	return record
}
