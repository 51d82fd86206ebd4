package hangup

import (
	"encoding/json"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"tcphup/sockdiag"
)

func addrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func TestResultJSON(t *testing.T) {
	plain := sockdiag.Flow{
		Local: addrPort("10.0.0.1:40000"), Remote: addrPort("10.0.0.5:5432"), State: sockdiag.Established, Cookie: 1<<63 + 1, Inode: 7, UID: 1000,
		Timer: sockdiag.TimerRetransmit, Retries: 3, Expires: 1500 * time.Millisecond, ReceiveQueue: 1, SendQueue: 12, HasInfo: true,
	}
	plain.TCPInfo.LastDataSent, plain.TCPInfo.LastDataReceived, plain.TCPInfo.LastAckReceived = 3*time.Second, 2*time.Second, time.Second
	subflow := sockdiag.Flow{Local: addrPort("[fd00::1]:1"), Remote: addrPort("[fd00::2]:2"), State: sockdiag.SynSent, IsSubflow: true, Subflow: sockdiag.Subflow{Token: 9}}
	connection := sockdiag.Flow{Protocol: sockdiag.MPTCP, Local: subflow.Local, Remote: subflow.Remote, State: sockdiag.Established, ReceiveQueue: 99, HasMPTCPInfo: true}
	connection.MPTCPInfo.Token, connection.MPTCPInfo.SubflowsTotal = 9, 1
	tests := []struct {
		name   string
		result Result
		want   string
	}{
		{
			"tcp",
			Result{
				Flow: plain, PID: 42, Command: "java", Method: Shutdown, Outcome: Closed, Detail: "owner is accessible", Took: 2 * time.Millisecond,
				Reconnect: &Reconnect{Remote: addrPort("10.0.0.5:5433"), After: time.Second},
			},
			`{"local":"10.0.0.1:40000","remote":"10.0.0.5:5432","protocol":"tcp","direction":"outbound","state":"established",` +
				`"cookie":"9223372036854775809","inode":7,"uid":1000,"idle_seconds":2,"peer_silence_seconds":1,"stalled":true,` +
				`"timer":"retransmit","timer_seconds":1.5,"retries":3,"receive_queue_bytes":1,"send_queue_bytes":12,"pid":42,"command":"java",` +
				`"method":"shutdown","outcome":"closed","detail":"owner is accessible","took_seconds":0.002,` +
				`"reconnect":{"remote":"10.0.0.5:5433","same_address":true,"after_seconds":1}}`,
		},
		{
			"subflow",
			Result{Flow: subflow, Direction: sockdiag.Inbound, Method: None, Outcome: Refused, Reason: ReasonLastSubflow, Reconnect: &Reconnect{After: time.Second}},
			`{"local":"[fd00::1]:1","remote":"[fd00::2]:2","protocol":"tcp","subflow":true,"direction":"inbound","state":"syn_sent","cookie":"0","uid":0,` +
				`"stalled":false,"timer":"none","timer_seconds":0,"retries":0,"receive_queue_bytes":0,"send_queue_bytes":0,"mptcp_token":9,` +
				`"method":"none","outcome":"refused","reason":"last_subflow","reconnect":{"same_address":false,"after_seconds":1}}`,
		},
		{
			"connection",
			Result{Flow: connection, Subflows: []sockdiag.Flow{subflow}, Method: Shutdown, Outcome: Failed, Err: errors.New("too many open files")},
			`{"local":"[fd00::1]:1","remote":"[fd00::2]:2","protocol":"mptcp","direction":"outbound","state":"established","cookie":"0","uid":0,` +
				`"stalled":false,"timer":"none","timer_seconds":0,"retries":0,"send_queue_bytes":0,"mptcp_token":9,"subflow_count":1,` +
				`"subflows":[{"local":"[fd00::1]:1","remote":"[fd00::2]:2"}],"method":"shutdown","outcome":"failed","error":"too many open files"}`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			form := tt.result.JSON()
			text, err := json.Marshal(form)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, string(text)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			var back ResultJSON
			if err := json.Unmarshal(text, &back); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(form, back, cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
				t.Errorf("read back (-want +got):\n%s", diff)
			}
		})
	}
}

func TestReportCounts(t *testing.T) {
	r := Report{Results: []Result{{Outcome: Closed}, {Outcome: Refused, Reason: ReasonSIGPIPE}, {Outcome: Refused, Reason: ReasonDenied}, {Outcome: Refused, Reason: ReasonDenied}}}
	if diff := cmp.Diff(map[Outcome]int{Closed: 1, Refused: 3}, r.Outcomes()); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[Reason]int{ReasonSIGPIPE: 1, ReasonDenied: 2}, r.Refusals()); diff != "" {
		t.Errorf("refusals (-want +got):\n%s", diff)
	}
	if n := r.Count(Closed, Refused); n != 4 || r.Count(Gone) != 0 {
		t.Errorf("count is %d and %d, want 4 and 0", n, r.Count(Gone))
	}
	if counts := new(Report).Outcomes(); counts != nil {
		t.Errorf("a report without flows has outcomes %v", counts)
	}
}
