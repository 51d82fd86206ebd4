package command

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"tcphup/audit"
	"tcphup/hangup"
	"tcphup/sockdiag"
)

// handRequest is a request whose callbacks append to calls.
func handRequest(calls *[]string) *hangup.Request {
	return &hangup.Request{
		Selector: sockdiag.Selector{
			Destinations: []netip.Prefix{netip.MustParsePrefix("10.20.0.0/16"), netip.MustParsePrefix("10.30.0.5/32")},
			Ports:        sockdiag.Ports(5432, 6432),
		},
		Begin: func(int) { *calls = append(*calls, "begin") },
		Done:  func(*hangup.Result) { *calls = append(*calls, "done") },
	}
}

func emptyFile(t *testing.T, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "audit.log")
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chmod(path, mode)); err != nil {
		t.Fatal(err)
	}
	return path
}

// A hang-up has a begin record before the first flow is touched, one for each flow, and an
// end record. Callbacks of the request are still called.
func TestAuditHangup(t *testing.T) {
	t.Setenv("SUDO_USER", "alice")
	path := emptyFile(t, 0o600)
	var calls []string
	var stderr bytes.Buffer
	request := handRequest(&calls)
	lines := func() (records []audit.Record) {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(content) {
			var r audit.Record
			if err := json.Unmarshal(line, &r); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			records = append(records, r)
		}
		return records
	}
	a := auditHangup(path, request, []string{"--pid=12", "--netns=web"}, &stderr)
	report := &hangup.Report{Results: []hangup.Result{{Outcome: hangup.Closed, PID: 7}, {Outcome: hangup.Refused, Reason: hangup.ReasonSIGPIPE}}}
	request.Begin(2)
	if n := len(lines()); n != 1 {
		t.Errorf("%d records before the first flow is touched", n)
	}
	request.Done(&report.Results[0])
	if n := len(lines()); n != 2 {
		t.Errorf("%d records after the first flow", n)
	}
	request.Done(&report.Results[1])
	a.end(t.Context(), report, nil)

	got := lines()
	user, action := got[0].User, got[0].Action
	if user.UID != os.Getuid() || user.Login == "" || action == "" || time.Since(got[0].Time) > time.Minute {
		t.Errorf("user %+v, action %q, time %v", user, action, got[0].Time)
	}
	common := audit.Record{Action: action, User: user, Destination: "10.20.0.0/16,10.30.0.5", Port: "5432,6432"}
	want := []audit.Record{common, common, common, common}
	want[0].Event, want[0].Flows = audit.EventBegin, map[hangup.Outcome]int{hangup.Planned: 2}
	want[0].Detail = "--pid=12 --netns=web"
	want[1].Event, want[1].Flow = audit.EventFlow, new(report.Results[0].JSON())
	want[2].Event, want[2].Flow = audit.EventFlow, new(report.Results[1].JSON())
	want[3].Event, want[3].Result, want[3].Flows = audit.EventEnd, "refused", report.Outcomes()
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(audit.Record{}, "Time"), cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"begin", "done", "done"}, calls); diff != "" || stderr.Len() > 0 {
		t.Errorf("calls (-want +got):\n%s\n%s", diff, stderr.String())
	}
}

// A dry run has no records, and an audit file is not created. Without one nothing is printed,
// unless a flag names it. A file that cannot be used is one warning.
func TestAuditHangupWithoutFile(t *testing.T) {
	empty := emptyFile(t, 0o600)
	missing := filepath.Join(t.TempDir(), "missing")
	for _, tt := range []struct {
		name, path string
		dryRun     bool
		warning    string
	}{
		{name: "dry run", path: empty, dryRun: true},
		{name: "dry run without the file", path: missing, dryRun: true},
		{name: "missing", path: missing, warning: missing},
		{name: "other users can write it", path: emptyFile(t, 0o666), warning: "world-writable"},
		{name: "full disk", path: "/dev/full", warning: "not a regular file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var calls []string
			var stderr bytes.Buffer
			request := handRequest(&calls)
			request.DryRun = tt.dryRun
			a := auditHangup(tt.path, request, nil, &stderr)
			report := &hangup.Report{Results: []hangup.Result{{Outcome: hangup.Closed}}}
			request.Begin(1)
			request.Done(&report.Results[0])
			a.end(t.Context(), report, nil)
			if got := stderr.String(); (got == "") != (tt.warning == "") || !strings.Contains(got, tt.warning) || strings.Count(got, "\n") > 1 {
				t.Errorf("stderr: %q", got)
			}
			if len(calls) != 2 {
				t.Errorf("calls: %q", calls)
			}
		})
	}
	if content, err := os.ReadFile(empty); err != nil || len(content) > 0 {
		t.Errorf("a dry run wrote %q, %v", content, err)
	}
	if _, err := os.Stat(missing); err == nil {
		t.Error("file created")
	}
}

// A write error is one warning.
func TestAuditHangupWriteError(t *testing.T) {
	var calls []string
	var stderr bytes.Buffer
	request := handRequest(&calls)
	a := auditHangup(emptyFile(t, 0o600), request, nil, &stderr)
	if err := a.close(); err != nil {
		t.Fatal(err)
	}
	a.close = func() error { return nil }
	request.Begin(1)
	request.Done(new(hangup.Result))
	a.end(t.Context(), new(hangup.Report), nil)
	if strings.Count(stderr.String(), "warning: hang-up is not in the audit file") != 1 || len(calls) != 2 {
		t.Errorf("stderr: %q, calls: %q", stderr.String(), calls)
	}
}

func TestAuditResult(t *testing.T) {
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tt := range []struct {
		interrupted bool
		results     []hangup.Result
		want        string
	}{
		{false, nil, "done"},
		{false, []hangup.Result{{Outcome: hangup.Closed}, {Outcome: hangup.HalfClosed}}, "done"},
		{false, []hangup.Result{{Outcome: hangup.Closed}, {Outcome: hangup.Refused, Reason: hangup.ReasonSIGPIPE}}, "refused"},
		{false, []hangup.Result{{Outcome: hangup.Refused, Reason: hangup.ReasonBudget}}, "over_budget"},
		{false, []hangup.Result{{Outcome: hangup.Failed}, {Outcome: hangup.Refused}}, "failed"},
		{true, []hangup.Result{{Outcome: hangup.Closed}, {Outcome: hangup.Planned}}, "unfinished"},
		{true, []hangup.Result{{Outcome: hangup.Closed}}, "done"},
	} {
		ctx := t.Context()
		if tt.interrupted {
			ctx = canceled
		}
		if got := auditResult(ctx, &hangup.Report{Results: tt.results}); got != tt.want {
			t.Errorf("%+v: %s, want %s", tt.results, got, tt.want)
		}
	}
}

// An error of the hang-up is the detail of its end record.
func TestAuditHangupError(t *testing.T) {
	path := emptyFile(t, 0o600)
	a := auditHangup(path, new(hangup.Request), nil, os.Stderr)
	a.end(t.Context(), nil, errors.New("read flows: permission denied"))
	content, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(content), `"result":"error","detail":"read flows: permission denied"`) {
		t.Errorf("%s, %v", content, err)
	}
}
