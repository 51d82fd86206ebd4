package collector

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"tcphup/sockdiag"
)

// recorder is an Observer that records the observed flows.
type recorder struct {
	desc         *prometheus.Desc
	seen         []string
	begun, ended int
}

func (w *recorder) Observe() (func(*sockdiag.Flow), func() []prometheus.Metric) {
	w.begun++
	w.seen = nil
	return func(f *sockdiag.Flow) { w.seen = append(w.seen, f.Remote.String()) },
		func() []prometheus.Metric {
			w.ended++
			return []prometheus.Metric{prometheus.MustNewConstMetric(w.desc, prometheus.GaugeValue, float64(len(w.seen)))}
		}
}

// An Observer receives outbound flows, excluded ones too, and adds metrics to complete
// scans.
func TestObserver(t *testing.T) {
	w := &recorder{desc: prometheus.NewDesc("observed", "Flows.", nil, nil)}
	kernel := &fakeKernel{flows: []sockdiag.Flow{
		flow("0.0.0.0:80", "0.0.0.0:0", state(sockdiag.Listen)),
		flow("10.0.0.9:80", "10.0.0.1:40000"),
		flow("10.0.0.9:40001", "10.0.0.1:5432"),
		flow("10.0.0.9:40002", "10.0.0.2:5432", state(sockdiag.TimeWait)),
		flow("10.0.0.9:40003", "10.0.0.3:5432"),
		flow("10.0.0.9:40004", "10.0.0.4:5432", mptcp(1, 0, 1), inode(100)),
		flow("10.0.0.9:40004", "10.0.0.4:5432", subflow(1, 0), inode(100)),
		// Hung up: its subflows end when the peer closes the connection.
		flow("10.0.0.9:40005", "10.0.0.5:5432", mptcp(2, 0, 1), inode(101), state(sockdiag.FinWait2)),
		flow("10.0.0.9:40005", "10.0.0.5:5432", subflow(2, 0), inode(101)),
	}}
	c := newTest(t, Config{Observer: w, Exclude: []netip.Prefix{netip.MustParsePrefix("10.0.0.3/32")}}, kernel)
	observed := func() (values []float64) {
		families, err := parsed(scrape(t, c)).Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() == "observed" {
				values = append(values, f.GetMetric()[0].GetGauge().GetValue())
			}
		}
		return values
	}
	values := observed()
	slices.Sort(w.seen)
	if diff := cmp.Diff([]string{"10.0.0.1:5432", "10.0.0.3:5432", "10.0.0.4:5432"}, w.seen); diff != "" {
		t.Errorf("seen (-want +got):\n%s", diff)
	}
	if len(values) != 1 || values[0] != 3 {
		t.Errorf("values %v", values)
	}
	kernel.tcpErr = errors.New("broken")
	if values := observed(); values != nil || w.begun != 2 || w.ended != 1 {
		t.Errorf("after a failed scan: values %v, begun %d, ended %d", values, w.begun, w.ended)
	}
}
