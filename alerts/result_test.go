package alerts

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tcphup/hangup"
	"tcphup/sockdiag"
)

// The report or error of HangUp determines result and response.
func TestOutcomes(t *testing.T) {
	refused := func(reason hangup.Reason) *hangup.Report {
		r := outcome(hangup.Refused, 3)
		for i := range r.Results {
			r.Results[i].Reason = reason
		}
		r.Results = append(r.Results, outcome(hangup.Closed, 1).Results...)
		return r
	}
	spared := func(r *hangup.Report) *hangup.Report {
		r.Unselected = map[hangup.Reason]int{hangup.ReasonEvidence: 3}
		return r
	}
	tests := []struct {
		name   string
		report *hangup.Report
		err    error
		code   int
		result string
	}{
		{"nothing", new(hangup.Report), nil, 200, resultDone},
		{"closed", outcome(hangup.Closed, 3), nil, 200, resultDone},
		{"half closed", outcome(hangup.HalfClosed, 3), nil, 200, resultDone},
		{"lingering", outcome(hangup.Lingering, 3), nil, 200, resultDone},
		{"gone", outcome(hangup.Gone, 3), nil, 200, resultDone},
		{"failed", outcome(hangup.Failed, 3), nil, 200, resultFailed},
		{"refused", refused(hangup.ReasonSIGPIPE), nil, 200, resultRefused},
		{"no mptcp_diag", refused(hangup.ReasonPermission), nil, 200, resultRefused},
		{"no evidence", refused(hangup.ReasonEvidence), nil, 200, resultDone},
		{"denied", refused(hangup.ReasonDenied), nil, 200, resultDone},
		{"unknown age", refused(hangup.ReasonTooYoung), nil, 200, resultKept},
		{"shared address", refused(hangup.ReasonShared), nil, 200, resultKept},
		{"unknown direction", refused(hangup.ReasonDirection), nil, 200, resultRefused},
		{"some spared", spared(outcome(hangup.Closed, 37)), nil, 200, resultDone},
		{"some spared, others gone", spared(outcome(hangup.Gone, 1)), nil, 200, resultKept},
		{"all spared", spared(new(hangup.Report)), nil, 200, resultKept},
		{"younger flows", &hangup.Report{Younger: 3}, nil, 200, resultDone},
		{"flows of the other direction", &hangup.Report{LeftAlone: 3}, nil, 200, resultDone},
		{"over budget", refused(hangup.ReasonBudget), nil, 200, resultOverBudget},
		{"unfinished", unfinished(0, 4), nil, 503, resultUnfinished},
		{"kernel busy", nil, errors.New("read sockets: device or resource busy"), 503, resultError},
		{"no permission", nil, fmt.Errorf("read sockets: %w", os.ErrPermission), 200, resultFailed},
		{"not supported", nil, fmt.Errorf("read sockets: %w", errors.ErrUnsupported), 200, resultFailed},
		{"no tcp_diag", nil, fmt.Errorf("read listeners: %w", sockdiag.ErrNoTCPDiag), 200, resultFailed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t, DefaultRules(), nil)
			f.hang.hangUp = func(context.Context, hangup.Request) (*hangup.Report, error) { return tt.report, tt.err }
			got := f.post(t, notify(staleAlert("10.0.0.5", "80")))
			got.want(t, tt.code, map[string]int{tt.result: 1})
			want := tt.report
			if want == nil {
				want = new(hangup.Report)
			}
			if diff := cmp.Diff(want.Outcomes(), got.response.Flows); diff != "" {
				t.Errorf("flows (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(want.Spared(), got.response.Spared); diff != "" {
				t.Errorf("spared (-want +got):\n%s", diff)
			}
			if got.response.Unfinished != want.Count(hangup.Planned) {
				t.Errorf("unfinished %d, want %d", got.response.Unfinished, want.Count(hangup.Planned))
			}
		})
	}
}
