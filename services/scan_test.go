package services

import (
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"tcphup/hangup"
	"tcphup/sockdiag"
)

// podFlow is a flow of a pod.
type podFlow struct {
	pod  *hangup.Pod
	flow sockdiag.Flow
}

// podScan collects the metrics of a scan of the flows of pods.
type podScan struct {
	watcher  *Watcher
	complete bool
	flows    []podFlow
}

func (p podScan) Describe(chan<- *prometheus.Desc) {}

func (p podScan) Collect(ch chan<- prometheus.Metric) {
	observe, done := p.watcher.ObservePods()
	for i := range p.flows {
		observe(p.flows[i].pod, &p.flows[i].flow)
	}
	for _, m := range done(p.complete) {
		ch <- m
	}
}

// Pods with a socket to a service have metrics, and those with a socket to a former address
// are in the status. Complete scans or not, the sockets are those that the scan has read.
func TestObservePods(t *testing.T) {
	w := newWatcher(t, "10.0.0.2", "10.0.0.1 fd00::1")
	if err := w.Reload(append(oneService(time.Minute).Services, Service{Name: "never.found", Port: 1}, Service{Name: "allowed.only"})); err != nil {
		t.Fatal(err)
	}
	web, sameLabels := &hangup.Pod{Namespace: "prod", Name: "web-0", UID: "1"}, &hangup.Pod{Namespace: "prod", Name: "web-0", UID: "2"}
	idle, unnamed := &hangup.Pod{Namespace: "dev", Name: "web-0", UID: "3"}, &hangup.Pod{UID: "4"}
	elsewhere := &hangup.Pod{Namespace: "dev", Name: "web-1", UID: "5"}
	flows := []podFlow{
		{web, flow("10.0.0.1:5432", sockdiag.Established, 5*time.Second)},
		{web, flow("10.0.0.2:5432", sockdiag.Established, time.Hour)},
		{idle, flow("10.0.0.2:5432", sockdiag.Established, time.Hour)},
		{web, flow("[fd00::1]:5432", sockdiag.CloseWait, 7*time.Second)},
		{sameLabels, flow("10.0.0.1:5432", sockdiag.SynSent, 3*time.Second)},
		{unnamed, flow("10.0.0.1:5432", sockdiag.Established, 9*time.Second)},
		{elsewhere, flow("10.0.0.1:5433", sockdiag.Established, 0)},
		{elsewhere, flow("10.0.0.1:5432", sockdiag.FinWait1, 0)}, // closed locally
	}
	want := map[string]float64{
		`tcphup_service_former_idle_max_seconds{namespace="_unknown",pod="4",service="db.internal"}`:   9,
		`tcphup_service_former_idle_max_seconds{namespace="prod",pod="web-0",service="db.internal"}`:   7,
		`tcphup_service_sockets{address="current",namespace="_unknown",pod="4",service="db.internal"}`: 0,
		`tcphup_service_sockets{address="current",namespace="dev",pod="web-0",service="db.internal"}`:  1,
		`tcphup_service_sockets{address="current",namespace="prod",pod="web-0",service="db.internal"}`: 1,
		`tcphup_service_sockets{address="former",namespace="_unknown",pod="4",service="db.internal"}`:  1,
		`tcphup_service_sockets{address="former",namespace="dev",pod="web-0",service="db.internal"}`:   0,
		`tcphup_service_sockets{address="former",namespace="prod",pod="web-0",service="db.internal"}`:  3,
	}
	wantPods := []PodSockets{
		{Namespace: "_unknown", Pod: "4", Sockets: 1, LongestIdle: 9 * time.Second},
		{Namespace: "prod", Pod: "web-0", Sockets: 3, LongestIdle: 7 * time.Second},
	}
	for _, complete := range []bool{true, false} {
		if diff := cmp.Diff(want, gatherFrom(t, podScan{w, complete, flows})); diff != "" {
			t.Errorf("complete %t (-want +got):\n%s", complete, diff)
		}
		status := w.Status()[1]
		if diff := cmp.Diff(wantPods, status.Pods); diff != "" || status.Former[0].Sockets != 3 {
			t.Errorf("status %+v; pods (-want +got):\n%s", status, diff)
		}
	}
	if problems, err := testutil.CollectAndLint(podScan{w, true, flows}); err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, %v", problems, err)
	}
	if got := gatherFrom(t, podScan{w, true, nil}); len(got) > 0 {
		t.Errorf("without flows: %v", got)
	}
	if pods := w.Status()[1].Pods; pods != nil {
		t.Errorf("pods of the status without flows: %+v", pods)
	}
}

// sharedPods is a sharingTest with flows of two pods.
type sharedPods struct {
	*sharingTest
	pods     [2]*hangup.Pod
	followed map[netip.AddrPort]bool // by local address
}

func newSharedPods(t *testing.T) *sharedPods {
	s := &sharedPods{sharingTest: newSharingTest(t), followed: make(map[netip.AddrPort]bool)}
	s.pods = [...]*hangup.Pod{{Namespace: "prod", Name: "a"}, {Namespace: "prod", Name: "b"}}
	s.config.EstablishedAfter = func(f *sockdiag.Flow) (time.Time, bool) { return time.Now(), s.followed[f.Local] }
	return s
}

// open returns a flow of a pod to 10.0.0.1 that a scan sees for the first time now. followed
// reports whether an earlier complete scan of the pod has not seen it.
func (s *sharedPods) open(pod int, local string, followed bool) podFlow {
	f := s.sharingTest.open(local, "10.0.0.1")
	f.Netns = uint64(402653200 + pod)
	s.followed[f.Local] = followed
	return podFlow{s.pods[pod], f}
}

// scan passes the flows in one scan and checks by which name each is stale, as in
// sharingTest.scan.
func (s *sharedPods) scan(complete bool, want string, flows ...podFlow) {
	s.t.Helper()
	gatherFrom(s.t, podScan{s.Watcher, complete, flows})
	var got strings.Builder
	for i := range flows {
		for _, name := range []string{writer, reader} {
			if s.Stale(name, &flows[i].flow) {
				got.WriteString(name[:1])
			}
			if s.Other(name, &flows[i].flow) {
				got.WriteString(strings.ToUpper(name[:1]))
			}
		}
		got.WriteString(".")
	}
	if got.String() != want {
		s.t.Errorf("stale by name: %q, want %q", got.String(), want)
	}
}

// After two swaps, a flow that was opened before the first one belongs to the name that has
// the address again. That a scan after the first swap has not seen it, because its pod was
// not read then, does not prove otherwise.
func TestSwapBackIncomplete(t *testing.T) {
	for _, tt := range []struct {
		name     string
		complete bool // the scan after the first swap
		read     bool // it reads the second pod, too
		followed bool // scans before have read the second pod, without the flow
		first    string
		last     string
	}{
		// The flow of the second pod that is opened between the swaps belongs to the reader.
		{name: "complete", complete: true, read: true, first: "w.w.", last: "..r."},
		{name: "skipped", followed: true, first: "w.", last: "..."},
		// The pod was not found; the scan does not know that it has not read it.
		{name: "not found", complete: true, first: "w.", last: "..r."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSharedPods(t)
				s.resolve("10.0.0.1", "10.0.0.2")
				s.start()
				defer func() { s.stop() }()
				time.Sleep(time.Hour)
				seen := []podFlow{s.open(0, "1", false)}
				unread := s.open(1, "2", tt.followed)
				if tt.read {
					seen = append(seen, unread)
				}
				time.Sleep(time.Minute)
				s.resolve("10.0.0.2", "10.0.0.1")
				time.Sleep(2 * time.Minute)
				s.scan(tt.complete, tt.first, seen...)
				time.Sleep(time.Minute)
				if !tt.read { // until now
					s.seen[unread.flow.Local] = time.Now()
				}
				between := s.open(1, "3", true)
				all := []podFlow{seen[0], unread, between}
				gatherFrom(t, podScan{s.Watcher, false, all})
				time.Sleep(time.Minute)
				s.resolve("10.0.0.1", "10.0.0.2")
				time.Sleep(2 * time.Minute)
				for range 3 {
					s.scan(true, tt.last, all...)
					time.Sleep(time.Minute)
				}
			})
		})
	}
}

// A flow of a pod belongs to the service that has the address now only if a complete scan
// after the loss of the address has not seen it.
func TestSwapIncomplete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSharedPods(t)
		s.resolve("10.0.0.1", "10.0.0.2")
		s.start()
		defer func() { s.stop() }()
		time.Sleep(time.Hour)
		old := s.open(0, "1", false)
		time.Sleep(time.Minute)
		s.resolve("10.0.0.2", "10.0.0.1")
		time.Sleep(2 * time.Minute)
		s.scan(false, "w.", old)
		time.Sleep(time.Minute)
		late := s.open(1, "2", true)
		s.scan(false, "w..", old, late)
		s.scan(true, "w..", old, late)
		// Pods whose flows may belong to another service have no metrics, but are counted.
		want := map[string]float64{
			`tcphup_service_former_idle_max_seconds{namespace="prod",pod="a",service="writer.internal"}`:   0,
			`tcphup_service_sockets{address="current",namespace="prod",pod="a",service="reader.internal"}`: 1,
			`tcphup_service_sockets{address="current",namespace="prod",pod="a",service="writer.internal"}`: 0,
			`tcphup_service_sockets{address="current",namespace="prod",pod="b",service="reader.internal"}`: 1,
			`tcphup_service_sockets{address="former",namespace="prod",pod="a",service="reader.internal"}`:  0,
			`tcphup_service_sockets{address="former",namespace="prod",pod="a",service="writer.internal"}`:  1,
			`tcphup_service_sockets{address="former",namespace="prod",pod="b",service="reader.internal"}`:  0,
		}
		if diff := cmp.Diff(want, gatherFrom(t, podScan{s.Watcher, true, []podFlow{old, late}})); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		pods := s.Status()[3].Pods
		if diff := cmp.Diff([]PodSockets{{Namespace: "prod", Pod: "a", Sockets: 1}, {Namespace: "prod", Pod: "b", Shared: 1}}, pods); diff != "" {
			t.Errorf("pods (-want +got):\n%s", diff)
		}
		time.Sleep(time.Minute)
		later, unfollowed := s.open(1, "3", true), s.open(1, "4", false)
		s.scan(true, "W..", later, unfollowed)
	})
}
