package statuspage

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tcphup/audit"
	"tcphup/hangup"
)

// log builds audit records, one second apart.
type log struct {
	records []audit.Record
}

func (l *log) add(alert string, event audit.Event, change func(*audit.Record)) {
	r := audit.Record{
		Time: time.Unix(1_700_000_000+int64(len(l.records)), 0), Event: event, Policy: "p", Fingerprint: alert,
		Destination: "10.0.0.5", Port: "5432",
	}
	if change != nil {
		change(&r)
	}
	l.records = append(l.records, r)
}

func (l *log) begin(alert string, flows int) {
	l.add(alert, audit.EventBegin, func(r *audit.Record) { r.Action, r.Flows = "a", map[hangup.Outcome]int{hangup.Planned: flows} })
}

func (l *log) flows(alert string, n int, outcome hangup.Outcome, reason hangup.Reason) {
	for i := range n {
		l.add(alert, audit.EventFlow, func(r *audit.Record) {
			r.Flow = &hangup.ResultJSON{Outcome: outcome, Reason: reason}
			r.Flow.Local = netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), uint16(40000+i))
			r.Flow.Remote = netip.MustParseAddrPort("10.0.0.5:5432")
		})
	}
}

func (l *log) end(alert, result string, counts map[hangup.Outcome]int) {
	l.add(alert, audit.EventEnd, func(r *audit.Record) { r.Result, r.Flows = result, counts })
}

// rows returns the decisions as text.
func (l *log) rows(private bool) (rows []string) {
	d := &pageData{Private: private}
	d.setDecisions(l.records)
	for _, e := range d.Decisions {
		row := e.Outcome + ":"
		for _, c := range e.Counts {
			row += fmt.Sprintf(" %d %s", c.Flows, c.Outcome)
		}
		if e.Refusals != "" {
			row += ", refused: " + e.Refusals
		}
		if len(e.Flows) > 0 {
			row += fmt.Sprintf(", %s first of %d", e.Flows[0].Outcome, len(e.Flows)+e.More)
		}
		if e.Repeats > 0 {
			row += fmt.Sprintf(", repeated %d times since %d", e.Repeats, e.First.Unix()-1_700_000_000)
		}
		rows = append(rows, row)
	}
	return rows
}

func TestDecisions(t *testing.T) {
	type outcomes = map[hangup.Outcome]int
	for _, tt := range []struct {
		name string
		log  func(*log)
		want []string // newest first
	}{
		{name: "no records", log: func(*log) {}},
		{name: "action with a refusal before its begin", want: []string{"refused: 40 closed 1 refused, refused: 1 sigpipe, refused first of 41"}, log: func(l *log) {
			l.flows("x", 1, hangup.Refused, hangup.ReasonSIGPIPE)
			l.begin("x", 40)
			l.flows("x", 40, hangup.Closed, "")
			l.end("x", "refused", outcomes{hangup.Closed: 40, hangup.Refused: 1})
		}},
		{name: "two actions at once", want: []string{"done: 2 closed, closed first of 2", "done: 1 gone, gone first of 1"}, log: func(l *log) {
			l.begin("x", 2)
			l.begin("y", 1)
			l.flows("x", 1, hangup.Closed, "")
			l.flows("y", 1, hangup.Gone, "")
			l.flows("x", 1, hangup.Closed, "")
			l.end("y", "done", outcomes{hangup.Gone: 1})
			l.end("x", "done", outcomes{hangup.Closed: 2})
		}},
		{name: "running action", want: []string{"running: 1 closed 9 planned 1 refused, refused: 1 sigpipe, refused first of 2", "cooldown:"}, log: func(l *log) {
			l.flows("x", 1, hangup.Refused, hangup.ReasonSIGPIPE)
			l.begin("x", 10)
			l.flows("x", 1, hangup.Closed, "")
			l.end("y", "cooldown", nil)
		}},
		{name: "begin record no longer in memory", want: []string{"done: 60 closed, closed first of 3"}, log: func(l *log) {
			l.flows("x", 3, hangup.Closed, "")
			l.end("x", "done", outcomes{hangup.Closed: 60})
		}},
		{name: "action of an earlier process", want: []string{"done: 1 closed, closed first of 1", "aborted: 3 closed"}, log: func(l *log) {
			l.add("x", audit.EventAborted, func(r *audit.Record) { r.Flows = outcomes{hangup.Closed: 3} })
			l.begin("x", 1)
			l.flows("x", 1, hangup.Closed, "")
			l.end("x", "done", outcomes{hangup.Closed: 1})
		}},
		{
			name: "repeats", want: []string{"done: 1 closed, closed first of 1", "done: 1 closed, closed first of 1", "shadow: 2 planned, planned first of 2, repeated 2 times since 2", "cooldown:, repeated 1 times since 3"},
			log: func(l *log) {
				for range 3 {
					l.flows("x", 2, hangup.Planned, "")
					l.end("x", "shadow", outcomes{hangup.Planned: 2})
					l.end("y", "cooldown", nil)
				}
				l.records = l.records[:len(l.records)-1]
				for range 2 {
					l.flows("z", 1, hangup.Closed, "")
					l.end("z", "done", outcomes{hangup.Closed: 1})
				}
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var l log
			tt.log(&l)
			if diff := cmp.Diff(tt.want, l.rows(true)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			for _, row := range l.rows(false) {
				if strings.Contains(row, "first of") {
					t.Errorf("flows without Private: %s", row)
				}
			}
		})
	}
}

// One alert about many flows does not displace others, and its list is limited.
func TestManyFlows(t *testing.T) {
	var l log
	for i := range 3 {
		name := fmt.Sprint(i)
		l.begin(name, 2*pageFlows)
		l.flows(name, 2*pageFlows, hangup.Closed, "")
		l.end(name, "done", map[hangup.Outcome]int{hangup.Closed: 2 * pageFlows})
	}
	d := &pageData{Private: true, Receives: true}
	d.setDecisions(l.records)
	page, _ := render(t, d)
	for what, want := range map[string]int{"<details": 3, `<span class="badge good">100 closed</span>`: 3, `<th role="rowheader" scope="row" class="name">`: 3 * pageFlows, "50 more in": 3} {
		if got := strings.Count(page, what); got != want {
			t.Errorf("%d times %s, want %d", got, what, want)
		}
	}
}
