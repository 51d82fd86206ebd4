package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"tcphup/test/kit/nstest"
)

// auditRecords returns the records of an audit log; invalid lines are errors.
func auditRecords(t *testing.T, path string) (records []record) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(content)) {
		var r record
		if err := json.Unmarshal([]byte(line), &r); err != nil && strings.HasSuffix(line, "\n") {
			t.Fatalf("%q: %v", line, err)
		}
		records = append(records, r)
	}
	return records
}

// TestPrivilegedAuditKilled kills serve during an action. The audit log has the action and
// the flows that are done. The next instance records that the action did not end, and the
// number of flows without a record.
func TestPrivilegedAuditKilled(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		noYama(t)
		const flows = 6
		s := newFixture(t, flows)
		s.connect()
		log := filepath.Join(t.TempDir(), "audit.jsonl")
		args := []string{"--audit.log-file=" + log, "--config.file=" + policyFile(t, "    limits: {rate: 1, cooldown: 0s}")}
		p := serveArmed(t, args...)
		responses := make(chan error, 1)
		go func() {
			_, err := postAlert(t, s.target.addr())
			responses <- err
		}()
		nstest.Eventually(t, "two flows are recorded", func() bool {
			content, err := os.ReadFile(log)
			return err == nil && strings.Count(string(content), `"event":"flow"`) >= 2
		})
		p.kill()
		if err := <-responses; err == nil {
			t.Fatal("the action ended before the kill")
		}
		before := auditRecords(t, log)
		recorded := 0
		for i, r := range before {
			switch {
			case r.Action != before[0].Action || (r.Event == "begin") != (i == 0):
				t.Errorf("record %d: %+v", i, r)
			case r.Event == "flow" && r.Flow.Outcome == "closed":
				recorded++
			}
		}
		untouched := s.mustBeIntact("after the kill")
		if before[0].Flows["planned"] != flows || recorded < 2 || recorded > flows-untouched {
			t.Errorf("%d of %d flows are untouched, %d recorded: %+v", untouched, flows, recorded, before)
		}

		next := serveArmed(t, args...)
		awaitLog(t, next, "earlier action did not end")
		response, err := postAlert(t, s.target.addr())
		if err != nil || !strings.HasPrefix(response, "200 ") {
			t.Errorf("response of the next instance: %s, %v", response, err)
		}
		after := auditRecords(t, log)[len(before):]
		want := record{
			Event: "aborted", Action: before[0].Action, Policy: "test", Fingerprint: before[0].Fingerprint, StartsAt: before[0].StartsAt,
			ExternalURL: before[0].ExternalURL, Destination: before[0].Destination, Port: before[0].Port,
			Detail: fmt.Sprintf("tcphup ended during the action; flows without a record: %d", flows-recorded),
			Flows:  map[string]int{"closed": recorded},
		}
		if diff := cmp.Diff(want, after[0], cmpopts.IgnoreFields(record{}, "Time")); diff != "" {
			t.Errorf("first record of the next instance (-want +got):\n%s", diff)
		}
		if end := after[len(after)-1]; end.Event != "end" || end.Action == before[0].Action || end.Flows["closed"] != untouched {
			t.Errorf("last record of the next instance: %+v", end)
		}
		s.finish("after both")
	})
}
