package server

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tcphup/actuator"
)

// The self-test is repeated with back-off until a method is usable, and after that too when no
// method is usable any more.
func TestSelfTestDelay(t *testing.T) {
	shutdown := []actuator.Check{{Name: "dump_ipv4"}, {Name: "shutdown", Usable: true}, {Name: "destroy"}, {Name: "processes", Usable: true}}
	destroy := []actuator.Check{{Name: "shutdown"}, {Name: "destroy", Usable: true}, {Name: "processes"}}
	none := []actuator.Check{{Name: "dump_ipv4", Usable: true}, {Name: "shutdown"}, {Name: "destroy"}, {Name: "processes", Usable: true}}
	pending := []actuator.Check{{Name: "shutdown", Pending: true}, {Name: "destroy", Usable: true}, {Name: "processes", Pending: true}}
	const long = selfTestInterval
	for _, tt := range []struct {
		name    string
		results [][]actuator.Check
		want    []time.Duration
	}{
		{name: "usable", results: [][]actuator.Check{shutdown, destroy}, want: []time.Duration{long, long}},
		{
			name:    "application starts later",
			results: [][]actuator.Check{pending, pending, pending, shutdown, pending},
			want:    []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, long, time.Second},
		},
		{
			name:    "never usable",
			results: [][]actuator.Check{none, none, none, none, none, none, none, none, none, none, none},
			want: []time.Duration{
				time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 32 * time.Second,
				64 * time.Second, 128 * time.Second, 256 * time.Second, long, long,
			},
		},
		{name: "no result", results: [][]actuator.Check{nil}, want: []time.Duration{time.Second}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var delays backoff
			var got []time.Duration
			for _, checks := range tt.results {
				got = append(got, delays.next(methodUsable(checks)))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("delays (-want +got):\n%s", diff)
			}
		})
	}
}
