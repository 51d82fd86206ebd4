package alerts

import (
	"bytes"
	"context"
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tcphup/audit"
	"tcphup/hangup"
	"tcphup/sockdiag"
)

// auditLines returns event and number of flows of each line, in order.
func auditLines(t *testing.T, log string) (lines []string) {
	t.Helper()
	for line := range strings.Lines(log) {
		var r audit.Record
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		what := string(r.Event) + " " + r.Result + hangup.FormatOutcomes(r.Flows)
		if r.Flow != nil {
			what += string(r.Flow.Outcome)
		}
		lines = append(lines, what)
	}
	return lines
}

// A process that ends at any moment of an action leaves a begin record before the first flow
// is touched and a record of each flow that is done. The next one finds what is missing.
func TestAuditDuringAction(t *testing.T) {
	var file bytes.Buffer
	f := newFixture(t, DefaultRules(), func(c *Config) { c.Audit = audit.New(&file) })
	// check compares the log as it is now, and the aborted record of a successor.
	check := func(want []string, aborted ...string) {
		t.Helper()
		if diff := cmp.Diff(want, auditLines(t, file.String())); diff != "" {
			t.Errorf("log (-want +got):\n%s", diff)
		}
		var got []string
		for _, r := range audit.Aborted(file.Bytes()) {
			if r.Event != audit.EventAborted || r.Policy != "labelled" || r.Fingerprint == "" || r.StartsAt.IsZero() || r.Destination != "10.0.0.5" || r.Port != "80" || r.Flow != nil {
				t.Errorf("incomplete record: %+v", r)
			}
			got = append(got, strings.TrimPrefix(r.Detail, "tcphup ended during the action; ")+" "+hangup.FormatOutcomes(r.Flows))
		}
		if diff := cmp.Diff(aborted, got); diff != "" {
			t.Errorf("aborted (-want +got):\n%s", diff)
		}
	}
	f.Receiver.hang = hangUpFunc(func(_ context.Context, a hangup.Request) (*hangup.Report, error) {
		check(nil)
		a.Begin(3)
		check([]string{"begin 3 planned"}, "flows without a record: 3 ")
		report := outcome(hangup.Closed, 3)
		report.Results[1].Outcome = hangup.HalfClosed
		a.Done(&report.Results[0])
		a.Done(&report.Results[1])
		check([]string{"begin 3 planned", "flow closed", "flow half_closed"}, "flows without a record: 1 1 closed, 1 half_closed")
		a.Done(&report.Results[2])
		return report, nil
	})
	f.post(t, notify(staleAlert("10.0.0.5", "80"))).want(t, 200, map[string]int{resultDone: 1})
	check([]string{"begin 3 planned", "flow closed", "flow half_closed", "flow closed", "end done2 closed, 1 half_closed"})
}

type hangUpFunc func(context.Context, hangup.Request) (*hangup.Report, error)

func (f hangUpFunc) HangUp(ctx context.Context, a hangup.Request) (*hangup.Report, error) {
	return f(ctx, a)
}

// The record of an action does not wait for the other alerts of its notification.
func TestAuditEndOfEachAction(t *testing.T) {
	var file bytes.Buffer
	f := newFixture(t, DefaultRules(), func(c *Config) { c.Audit, c.MaxActions = audit.New(&file), 1 })
	calls := 0
	f.hang.hangUp = func(context.Context, hangup.Request) (*hangup.Report, error) {
		if calls++; calls == 2 {
			if got := auditLines(t, file.String()); len(got) != 3 || got[2] != "end done1 closed" {
				t.Errorf("records at the second action: %q", got)
			}
		}
		return outcome(hangup.Closed, 1), nil
	}
	f.post(t, notify(staleAlert("10.0.0.5", "80"), staleAlert("10.0.0.6", "80"))).want(t, 200, map[string]int{resultDone: 2})
	if calls != 2 {
		t.Errorf("%d actions", calls)
	}
}

// The end record in memory counts the reconnects of its action, before and after it was
// added, until it is dropped.
func TestAuditReconnects(t *testing.T) {
	old := sockdiag.Flow{Remote: netip.MustParseAddrPort("10.0.0.5:80")}
	to := func(address string) *hangup.Result {
		return &hangup.Result{Flow: old, Reconnect: &hangup.Reconnect{Remote: netip.MustParseAddrPort(address)}}
	}
	f := newFixture(t, DefaultRules(), nil)
	var reconnected func(*hangup.Result)
	f.Receiver.hang = hangUpFunc(func(_ context.Context, a hangup.Request) (*hangup.Report, error) {
		reconnected = a.Reconnected
		a.Begin(3)
		reconnected(to("10.0.0.5:80"))
		return outcome(hangup.Closed, 3), nil
	})
	f.post(t, notify(staleAlert("10.0.0.5", "80")))
	reconnected(to("10.0.0.6:80"))
	reconnected(to("10.0.0.7:80"))
	log := f.config.Audit
	records := log.Records()
	if diff := cmp.Diff(&audit.Reconnects{SameAddress: 1, OtherAddress: 2}, records[len(records)-1].Reconnects); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if records[0].Reconnects != nil {
		t.Error("begin record has reconnects")
	}
	for range audit.MaxRecords {
		if err := log.Add(audit.Record{Event: audit.EventFlow}); err != nil {
			t.Fatal(err)
		}
	}
	reconnected(to("10.0.0.6:80"))
	records = log.Records()
	for i := range records {
		if records[i].Reconnects != nil {
			t.Errorf("record %d has reconnects of a dropped record", i)
		}
	}
}
