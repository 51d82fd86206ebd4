package collector

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tcphup/sockdiag"
)

// Config.Histograms selects the histograms of each destination.
func TestHistograms(t *testing.T) {
	flows := []sockdiag.Flow{
		flow("10.0.0.1:40000", "10.0.0.2:80", mptcp(1, 0, 1), inode(100)),
		flow("10.0.0.1:40000", "10.0.0.2:80", subflow(1, 0), inode(100)),
	}
	for _, tt := range []struct {
		name     string
		selected []Histogram
		want     []string
	}{
		{"default", nil, []string{"tcphup_socket_idle_seconds"}},
		{"none", []Histogram{}, nil},
		{"one", []Histogram{AgeHistogram}, []string{"tcphup_socket_age_seconds"}},
		{"all", Histograms(), []string{
			"tcphup_mptcp_subflow_idle_seconds", "tcphup_socket_age_seconds", "tcphup_socket_idle_seconds", "tcphup_socket_peer_silence_seconds",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for line := range strings.Lines(scrape(t, newTest(t, Config{Histograms: tt.selected}, &fakeKernel{flows: flows}))) {
				if words := strings.Fields(line); words[1] == "TYPE" && words[3] == "histogram" && words[2] != "tcphup_mptcp_connection_subflows" {
					got = append(got, words[2])
				}
			}
			slices.Sort(got)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	if _, err := New(Config{Histograms: []Histogram{"idle", "peer-silence"}}); err == nil || !strings.Contains(err.Error(), `"peer-silence"`) {
		t.Errorf("unknown histogram: %v", err)
	}
}
