package command

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"tcphup/hangup"
	"tcphup/sockdiag"
)

func result(port int, outcome hangup.Outcome, change func(*hangup.Result)) hangup.Result {
	r := hangup.Result{
		Flow: sockdiag.Flow{
			State: sockdiag.Established, Local: netip.AddrPortFrom(netip.MustParseAddr("10.20.0.9"), uint16(port)),
			Remote: netip.MustParseAddrPort("10.30.0.5:5432"), HasInfo: true,
		},
		PID: 812, Command: "java", Method: hangup.Shutdown, Outcome: outcome,
	}
	r.Flow.TCPInfo.LastDataSent, r.Flow.TCPInfo.LastDataReceived = 145*time.Second, 145*time.Second
	if change != nil {
		change(&r)
	}
	return r
}

// Each detail and error is printed once below the table. The rows have its number if their
// outcome has several.
func TestReportDetails(t *testing.T) {
	refused := func(pid int, detail string) func(*hangup.Result) {
		return func(r *hangup.Result) {
			r.PID, r.Method, r.Reason, r.Detail = pid, hangup.None, hangup.ReasonSIGPIPE, detail
		}
	}
	report := &hangup.Report{Results: []hangup.Result{
		result(40001, hangup.Closed, func(r *hangup.Result) { r.Detail = "FIN acknowledged" }),
		result(40002, hangup.Closed, func(r *hangup.Result) { r.Detail = "FIN acknowledged" }),
		result(40003, hangup.Refused, refused(7, "fatal in process 7 (java)")),
		result(40004, hangup.Refused, refused(8, "fatal in process 8 (java)")),
		result(40005, hangup.Refused, refused(9, "fatal in process 1 (init)")),
		result(40006, hangup.Failed, func(r *hangup.Result) { r.Err = errors.New("too many\x1bfiles") }),
		result(40007, hangup.Gone, nil),
	}}
	var b strings.Builder
	if err := writeTable(&b, report); err != nil {
		t.Fatal(err)
	}
	want := `LOCAL            OWNER      IDLE  OUTCOME                METHOD
10.20.0.9:40001  812/java  2m25s  closed                 shutdown
10.20.0.9:40002  812/java  2m25s  closed                 shutdown
10.20.0.9:40003  7/java    2m25s  refused (sigpipe) [1]  none
10.20.0.9:40004  8/java    2m25s  refused (sigpipe) [1]  none
10.20.0.9:40005  9/java    2m25s  refused (sigpipe) [2]  none
10.20.0.9:40006  812/java  2m25s  failed                 shutdown
10.20.0.9:40007  812/java  2m25s  gone                   shutdown
all 7: remote 10.30.0.5:5432, state established, protocol tcp
closed: FIN acknowledged
refused (sigpipe) [1]: fatal in the owner
refused (sigpipe) [2]: fatal in process 1 (init)
failed: too many\x1bfiles
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// In 80 columns: usual addresses with all that can differ, and the longest addresses on two
// lines.
func TestTablesFit(t *testing.T) {
	const width = 80
	for name, addresses := range map[string][2]string{
		"ipv4": {"10.120.100.%d:40001", "10.130.200.%d:15432"},
		"ipv6": {"[2001:db8:20::%d]:40001", "[2001:db8:30::%d]:5432"},
		"long": {"[2001:db8:1234:5678:9abc:def0:1234:%d]:40001", "[2001:db8:8765:4321:9abc:def0:8765:%d]:15432"},
	} {
		s, all := &snapshot{}, make(summaries)
		report := &hangup.Report{}
		for i, state := range []sockdiag.State{sockdiag.Established, sockdiag.FinWait2, sockdiag.CloseWait} {
			f := idleFlow(fmt.Sprintf(addresses[1], i+1), time.Duration(i+1)*25*time.Hour)
			f.Local, f.State = netip.MustParseAddrPort(fmt.Sprintf(addresses[0], i+1)), state
			f.Timer, f.Expires, f.Retries = sockdiag.Timer(i), time.Minute, uint8(i)
			f.SendQueue, f.ReceiveQueue, f.subflow = uint32(i)*1000000, uint32(i)*1000, i == 0
			s.add(f, all)
			s.flows = append(s.flows, f)
			report.Results = append(report.Results, hangup.Result{Flow: f.Flow, PID: 2048123, Command: "postgres-exporte", Method: hangup.Methods()[i], Outcome: hangup.Refused, Reason: hangup.ReasonLastSubflow})
		}
		s.destinations = all.sorted(sortIdle)
		for table, l := range map[string]layout{
			"destinations": s.table(false).layout(width, false),
			"flows":        s.table(true).layout(width, false),
			"report":       reportTable(report, newExplanations(report)).layout(width, false),
		} {
			text := strings.Join(slices.Concat(l.header, l.rows, l.below), "\n")
			for line := range strings.SplitSeq(text, "\n") {
				if n := utf8.RuneCountInString(line); n > width {
					t.Errorf("%s, %s: %d columns: %s", name, table, n, line)
				}
			}
			if (l.height > 1) != (name == "long") {
				t.Errorf("%s, %s: rows have %d lines:\n%s", name, table, l.height, text)
			}
		}
	}
}
