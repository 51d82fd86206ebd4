package collector

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"iter"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"tcphup/sockdiag"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// fakeKernel is a source with scripted flows and errors.
type fakeKernel struct {
	flows     []sockdiag.Flow // including listeners
	tcpErr    error           // after the flows
	mptcpErr  error
	dialErr   error
	listenErr error
	wait      <-chan struct{} // blocks a dump of TCP until closed
	dumps     *int            // number of dumps of TCP

	dialled, closed int
}

func (k *fakeKernel) Flows(ctx context.Context, q sockdiag.Query) iter.Seq2[sockdiag.Flow, error] {
	return func(yield func(sockdiag.Flow, error) bool) {
		for _, f := range k.flows {
			if f.Protocol == q.Protocol && q.States.Has(f.State) && !yield(f, nil) {
				return
			}
		}
		err := k.tcpErr
		switch {
		case q.Protocol == sockdiag.MPTCP:
			err = k.mptcpErr
		case q.States == sockdiag.States(sockdiag.Listen):
			err = k.listenErr
		default:
			if k.dumps != nil {
				*k.dumps++
			}
			if k.wait != nil {
				select {
				case <-k.wait:
				case <-ctx.Done():
					err = ctx.Err()
				}
			}
		}
		if err != nil {
			yield(sockdiag.Flow{}, err)
		}
	}
}

func (k *fakeKernel) Close() error {
	k.closed++
	return nil
}

// newTest returns a collector with a fake kernel and a fixed clock.
func newTest(t testing.TB, config Config, kernel *fakeKernel) *Collector {
	t.Helper()
	c, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	c.dial = func(uint64) (source, error) {
		kernel.dialled++
		return kernel, kernel.dialErr
	}
	c.ephemeralPorts = func() (sockdiag.PortRange, error) {
		return sockdiag.PortRange{First: 32768, Last: 60999}, nil
	}
	c.mptcpInUse = func() bool { return true }
	c.setClock(func() time.Time { return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) })
	return c
}

// testBoot is the time of the boot by the clocks of tests.
var testBoot = time.Date(2025, 12, 31, 0, 0, 0, 0, time.UTC)

// setClock replaces the clock of the collector and its first-seen tables.
func (c *Collector) setClock(now func() time.Time) {
	c.now = now
	for _, a := range []*firstSeenTable{c.own.tcp, c.own.mptcp} {
		a.now = func() time.Duration { return now().Sub(testBoot) }
	}
}

// flow returns an established flow with the changes applied. Its cookie is derived from
// its ports.
func flow(local, remote string, change ...func(*sockdiag.Flow)) sockdiag.Flow {
	f := sockdiag.Flow{
		Family:  sockdiag.IPv4,
		State:   sockdiag.Established,
		Local:   netip.MustParseAddrPort(local),
		Remote:  netip.MustParseAddrPort(remote),
		HasInfo: true,
		Inode:   1,
	}
	f.Cookie = uint64(f.Local.Port())<<16 | uint64(f.Remote.Port())
	for _, fn := range change {
		fn(&f)
	}
	if f.State == sockdiag.TimeWait || f.State == sockdiag.Listen || f.State == sockdiag.SynRecv {
		f.HasInfo = false
	}
	if f.Protocol == sockdiag.MPTCP {
		f.HasInfo, f.HasMPTCPInfo = false, true
	}
	return f
}

func state(s sockdiag.State) func(*sockdiag.Flow) { return func(f *sockdiag.Flow) { f.State = s } }

func idle(sent, received, acked time.Duration) func(*sockdiag.Flow) {
	return func(f *sockdiag.Flow) {
		f.TCPInfo.LastDataSent, f.TCPInfo.LastDataReceived, f.TCPInfo.LastAckReceived = sent, received, acked
	}
}

func timer(t sockdiag.Timer, retries uint8) func(*sockdiag.Flow) {
	return func(f *sockdiag.Flow) { f.Timer, f.Retries = t, retries }
}

func queues(receive, send uint32) func(*sockdiag.Flow) {
	return func(f *sockdiag.Flow) { f.ReceiveQueue, f.SendQueue = receive, send }
}

func inode(n uint32) func(*sockdiag.Flow) { return func(f *sockdiag.Flow) { f.Inode = n } }

func mptcp(token uint32, flags uint32, subflows uint8) func(*sockdiag.Flow) {
	return func(f *sockdiag.Flow) {
		f.Protocol = sockdiag.MPTCP
		f.MPTCPInfo = sockdiag.MPTCPInfo{Token: token, Flags: flags, SubflowsTotal: subflows}
	}
}

func subflow(token uint32, flags sockdiag.SubflowFlags) func(*sockdiag.Flow) {
	return func(f *sockdiag.Flow) {
		f.IsSubflow = true
		f.Subflow = sockdiag.Subflow{Token: token, Flags: flags}
	}
}

func TestGolden(t *testing.T) {
	const s = time.Second
	tests := []struct {
		name   string
		config Config
		kernel fakeKernel
	}{
		{name: "empty"},
		{name: "states", kernel: fakeKernel{flows: []sockdiag.Flow{
			flow("10.0.0.1:40000", "10.0.0.2:5432"),
			flow("10.0.0.1:40001", "10.0.0.2:5432", state(sockdiag.SynSent), idle(1e6*s, 1e6*s, 1e6*s), timer(sockdiag.TimerRetransmit, 2), queues(0, 1)),
			flow("10.0.0.1:40002", "10.0.0.2:5432", state(sockdiag.FinWait1)),
			flow("10.0.0.1:40003", "10.0.0.2:5432", state(sockdiag.FinWait2), timer(sockdiag.TimerKeepalive, 0)),
			flow("10.0.0.1:40004", "10.0.0.2:5432", state(sockdiag.TimeWait), timer(sockdiag.TimerTimeWait, 0)),
			flow("10.0.0.1:40005", "10.0.0.2:5432", state(sockdiag.CloseWait), queues(1, 0)),
			flow("10.0.0.1:40006", "10.0.0.2:5432", state(sockdiag.LastAck)),
			flow("10.0.0.1:40007", "10.0.0.2:5432", state(sockdiag.Closing)),
		}}},
		{name: "times", config: Config{Histograms: Histograms()}, kernel: fakeKernel{flows: []sockdiag.Flow{
			flow("10.0.0.1:40000", "10.0.0.2:5432", idle(1*s, 2*s, 1*s)),
			flow("10.0.0.1:40001", "10.0.0.2:5432", idle(90*s, 70*s, 100*s)),
			flow("10.0.0.1:40002", "10.0.0.2:5432", idle(7200*s, 7200*s, 40*s)),
			flow("10.0.0.1:40003", "10.0.0.2:5432", idle(7201*s, 9000*s, 10*s)),
			flow("[2001:db8::1]:40003", "[2001:db8::2]:5432", idle(3*s, 0, 1500*time.Millisecond)),
		}}},
		{name: "timers", kernel: fakeKernel{flows: []sockdiag.Flow{
			flow("10.0.0.1:40000", "10.0.0.2:80"),
			flow("10.0.0.1:40001", "10.0.0.2:80", timer(sockdiag.TimerKeepalive, 0)),
			flow("10.0.0.1:40002", "10.0.0.2:80", timer(sockdiag.TimerKeepalive, 3)),
			flow("10.0.0.1:40003", "10.0.0.2:80", timer(sockdiag.TimerRetransmit, 0), queues(0, 100)),
			flow("10.0.0.1:40004", "10.0.0.2:80", timer(sockdiag.TimerRetransmit, 5), queues(0, 1000)),
			flow("10.0.0.1:40005", "10.0.0.2:80", timer(sockdiag.TimerZeroWindow, 0), queues(7, 10000)),
			flow("10.0.0.1:40006", "10.0.0.2:80", timer(sockdiag.TimerZeroWindow, 1), queues(0, 100000)),
		}}},
		{name: "directions", kernel: fakeKernel{flows: []sockdiag.Flow{
			flow("0.0.0.0:8080", "0.0.0.0:0", state(sockdiag.Listen)),
			flow("10.0.0.1:9090", "0.0.0.0:0", state(sockdiag.Listen)),
			flow("10.0.0.1:8080", "10.9.9.9:41000"),
			flow("10.0.0.1:8080", "10.9.9.8:41000", state(sockdiag.SynRecv), inode(0)),
			flow("10.0.0.1:8080", "10.9.9.7:41000", state(sockdiag.TimeWait), inode(0)),
			flow("10.0.0.1:9090", "10.9.9.9:41001", state(sockdiag.CloseWait)),
			flow("10.0.0.3:9090", "10.9.9.9:2000"),  // listener has another address, local port is not ephemeral: outbound
			flow("10.0.0.1:7070", "10.9.9.9:41002"), // without a listener
			flow("10.0.0.1:40000", "10.0.0.1:8080"), // both ends are local
			flow("10.0.0.1:8080", "10.0.0.1:40000"),
		}}},
		{name: "other", config: Config{MaxDestinations: 2}, kernel: fakeKernel{flows: []sockdiag.Flow{
			flow("10.0.0.1:40000", "10.0.0.2:80"), flow("10.0.0.1:40001", "10.0.0.2:80"),
			flow("10.0.0.1:40002", "10.0.0.3:80"), flow("10.0.0.1:40003", "10.0.0.3:80"), flow("10.0.0.1:40004", "10.0.0.3:80"),
			flow("10.0.0.1:40005", "10.0.0.4:80", idle(10*s, 10*s, 10*s)),
			flow("10.0.0.1:40006", "10.0.0.5:80", idle(20*s, 20*s, 20*s), queues(3, 4)),
			flow("10.0.0.1:40007", "10.0.0.6:80", state(sockdiag.TimeWait)), // many, but all in TIME_WAIT
			flow("10.0.0.1:40008", "10.0.0.6:80", state(sockdiag.TimeWait)),
			flow("10.0.0.1:40009", "10.0.0.6:80", state(sockdiag.TimeWait)),
			flow("10.0.0.1:1", "10.9.9.9:40000"), flow("10.0.0.1:2", "10.9.9.9:40000"), flow("10.0.0.1:3", "10.9.9.9:40000"),
			flow("10.0.0.1:3", "10.9.9.9:40001"),
		}}},
		{name: "pinned", config: Config{
			MaxDestinations: 1,
			Pinned: func(p netip.Prefix, port uint16) bool {
				return p == netip.MustParsePrefix("10.0.0.3/32") && port == 80
			},
		}, kernel: fakeKernel{flows: []sockdiag.Flow{
			flow("10.0.0.1:40000", "10.0.0.2:80"), flow("10.0.0.1:40001", "10.0.0.2:80"),
			flow("10.0.0.1:40002", "10.0.0.3:80"),
		}}},
		{name: "prefixes", config: Config{PrefixLengthV4: 24, PrefixLengthV6: 64}, kernel: fakeKernel{flows: []sockdiag.Flow{
			flow("10.0.0.1:40000", "10.0.1.2:80"), flow("10.0.0.1:40001", "10.0.1.200:80"),
			flow("10.0.0.1:40002", "10.0.2.2:80"),
			flow("[2001:db8::1]:40003", "[2001:db8::aaaa]:80"), flow("[2001:db8::1]:40003", "[2001:db8::bbbb]:80"),
		}}},
		{name: "include_exclude", config: Config{
			Include: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
			Exclude: []netip.Prefix{netip.MustParsePrefix("10.2.0.0/16")},
		}, kernel: fakeKernel{flows: []sockdiag.Flow{
			flow("10.0.0.1:40000", "10.1.0.1:80"), flow("10.0.0.1:40001", "10.2.0.1:80"), flow("10.0.0.1:40002", "192.0.2.1:80"),
			flow("[2001:db8::1]:40003", "[2001:db8::2]:80"),
		}}},
		{name: "mptcp", config: Config{Histograms: Histograms()}, kernel: fakeKernel{flows: []sockdiag.Flow{
			flow("0.0.0.0:8080", "0.0.0.0:0", state(sockdiag.Listen)),
			// Two subflows, the second to another address of the peer.
			flow("10.0.0.1:40000", "10.0.0.2:80", mptcp(1, 0, 2), inode(100)),
			flow("10.0.0.1:40000", "10.0.0.2:80", subflow(1, sockdiag.SubflowFullyEstablished), inode(100), idle(2*s, 2*s, s)),
			flow("10.0.1.1:40001", "10.0.1.2:80", subflow(1, sockdiag.SubflowJoinLocal|sockdiag.SubflowBackupLocal), inode(100), idle(70*s, 80*s, s)),
			// Fell back.
			flow("10.0.0.1:40002", "10.0.0.2:80", mptcp(2, 1, 1), inode(101)),
			flow("10.0.0.1:40002", "10.0.0.2:80", inode(101)),
			// Lost all subflows.
			flow("10.0.0.1:40003", "10.0.0.2:80", mptcp(3, 0, 0), inode(102)),
			// Ended between the two dumps: SubflowsTotal is still 1.
			flow("10.0.0.1:40004", "10.0.0.2:80", mptcp(4, 0, 1), inode(103)),
			// Closed by the application; its subflow matches by token.
			flow("10.0.0.1:40005", "10.0.0.2:80", mptcp(5, 0, 0), inode(0), state(sockdiag.FinWait1)),
			flow("10.0.0.1:40005", "10.0.0.2:80", subflow(5, 0), inode(0), state(sockdiag.FinWait1)),
			// Inbound, with a subflow to a port without a listener.
			flow("10.0.0.1:8080", "10.9.9.9:41000", mptcp(6, 0, 2), inode(104)),
			flow("10.0.0.1:8080", "10.9.9.9:41000", subflow(6, 0), inode(104)),
			flow("10.0.1.1:45000", "10.9.9.9:41001", subflow(6, sockdiag.SubflowJoinRemote), inode(104)),
		}}},
		{name: "mptcp_closing", kernel: fakeKernel{flows: []sockdiag.Flow{
			// Ended but not yet closed by the application: neither pathless nor in the
			// histogram of subflows.
			flow("10.0.0.1:40000", "10.0.0.2:80", mptcp(1, 0, 0), inode(100), state(sockdiag.Close)),
			// Closed by the application; its subflows keep the inode.
			flow("10.0.0.1:40001", "10.0.0.2:80", mptcp(2, 0, 2), inode(0), state(sockdiag.FinWait2)),
			flow("10.0.0.1:40001", "10.0.0.2:80", subflow(2, 0), inode(101)),
			flow("10.0.1.1:40002", "10.0.0.2:80", subflow(2, sockdiag.SubflowJoinLocal), inode(101)),
		}}},
		{name: "mptcp_subflow_by_peer", kernel: fakeKernel{flows: []sockdiag.Flow{
			flow("10.0.1.1:5000", "0.0.0.0:0", state(sockdiag.Listen)),
			flow("10.0.0.1:40000", "10.0.0.2:80", mptcp(1, 0, 2), inode(100)),
			flow("10.0.0.1:40000", "10.0.0.2:80", subflow(1, 0), inode(100)),
			flow("10.0.1.1:5000", "10.0.1.2:59031", subflow(1, sockdiag.SubflowJoinRemote), inode(100)),
		}}},
		{name: "mptcp_pathless_alone", kernel: fakeKernel{flows: []sockdiag.Flow{
			flow("10.0.0.1:40003", "10.0.0.2:80", mptcp(3, 0, 0), inode(102)),
		}}},
		{name: "mptcp_hidden_subflows", kernel: fakeKernel{flows: []sockdiag.Flow{
			flow("10.0.0.1:40000", "10.0.0.2:80", mptcp(1, 0, 0), inode(100)),
			flow("10.0.0.1:40000", "10.0.0.2:80", inode(100)),
			flow("10.0.1.1:40001", "10.0.1.2:80", inode(100)),
		}}},
		{name: "tcp_failed", kernel: fakeKernel{
			flows:  []sockdiag.Flow{flow("10.0.0.1:40000", "10.0.0.2:80"), flow("10.0.0.1:40000", "10.0.0.2:80", mptcp(1, 0, 0))},
			tcpErr: sockdiag.ErrInterrupted,
		}},
		{name: "mptcp_failed", kernel: fakeKernel{
			flows:    []sockdiag.Flow{flow("10.0.0.1:40000", "10.0.0.2:80"), flow("10.0.0.1:40000", "10.0.0.2:80", mptcp(1, 0, 0))},
			mptcpErr: os.ErrPermission,
		}},
		{name: "mptcp_unsupported", kernel: fakeKernel{
			flows:    []sockdiag.Flow{flow("10.0.0.1:40000", "10.0.0.2:80")},
			mptcpErr: sockdiag.ErrNoMPTCPDiag,
		}},
		{name: "no_mptcp_diag", kernel: fakeKernel{
			flows:    []sockdiag.Flow{flow("10.0.0.1:40000", "10.0.0.2:80", subflow(1, 0))},
			mptcpErr: sockdiag.ErrNoMPTCPDiag,
		}},
		{name: "no_sock_diag", kernel: fakeKernel{dialErr: errors.ErrUnsupported}},
		{name: "no_listeners", kernel: fakeKernel{listenErr: errors.ErrUnsupported, flows: []sockdiag.Flow{flow("10.0.0.1:40000", "10.0.0.2:80")}}},
	}
	served := make(map[string]bool) // families
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			golden(t, tt.name, newTest(t, tt.config, &tt.kernel), served)
		})
	}
	for _, f := range families(Histograms(), false) {
		if !served[f.Name] {
			t.Errorf("no golden file has the family %s", f.Name)
		}
	}
}

// golden compares a scrape with testdata/name.prom, checks its consistency, lints it, and
// adds its families to names.
func golden(t *testing.T, name string, c *Collector, names map[string]bool) {
	t.Helper()
	exposition := scrape(t, c)
	gatherer := prometheus.Gatherers{parsed(exposition)} // checks for duplicate series
	if problems, err := testutil.GatherAndLint(gatherer); err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, %v", problems, err)
	}
	families, err := gatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	for _, f := range families {
		names[f.GetName()] = true
		for _, m := range f.GetMetric() {
			if !slices.IsSortedFunc(m.GetLabel(), func(a, b *dto.LabelPair) int { return strings.Compare(a.GetName(), b.GetName()) }) {
				t.Errorf("labels of %s are not sorted: %v", f.GetName(), m.GetLabel())
			}
		}
		if _, err := expfmt.MetricFamilyToText(&b, f); err != nil {
			t.Fatal(err)
		}
	}
	got := b.String()
	path := filepath.Join("testdata", name+".prom")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
	if diff := cmp.Diff(sortedLines(string(want)), sortedLines(exposition)); diff != "" {
		t.Errorf("text of the scrape (-want +got):\n%s", diff)
	}
}

// parsed returns the families of an exposition.
func parsed(exposition string) prometheus.GathererFunc {
	return func() ([]*dto.MetricFamily, error) {
		parser := expfmt.NewTextParser(model.UTF8Validation)
		families, err := parser.TextToMetricFamilies(strings.NewReader(exposition))
		return slices.Collect(maps.Values(families)), err
	}
}

// scrape returns the response of GET /metrics.
func scrape(t *testing.T, c *Collector) string {
	t.Helper()
	w := httptest.NewRecorder()
	c.Handler(prometheus.NewRegistry()).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("scrape: %d\n%s", w.Code, w.Body)
	}
	return w.Body.String()
}

func sortedLines(exposition string) []string {
	return slices.Sorted(strings.SplitSeq(exposition, "\n"))
}
