package services

import (
	"maps"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tcphup/hangup"
	"tcphup/sockdiag"
)

// noteInterval is the minimum time between writes of the state file that only update the
// last flow of former addresses.
const noteInterval = 10 * time.Minute

// Observe starts a scan of the flows of the host. The caller passes each outbound TCP flow
// of its own dump to observe: a second dump per scrape would read all sockets again. After a
// complete dump it calls done, which returns the metrics. Both functions must be called
// from one goroutine.
func (w *Watcher) Observe() (observe func(*sockdiag.Flow), done func() []prometheus.Metric) {
	s := w.newScan()
	return func(f *sockdiag.Flow) { s.observe(nil, f) }, func() []prometheus.Metric {
		w.mu.Lock()
		defer w.mu.Unlock()
		s.finish(true)
		return s.metrics()
	}
}

// ObservePods is Observe for the flows of the pods of a node. The caller passes each
// outbound TCP flow with its pod, and calls done after every scan. complete reports whether
// the scan has read all sockets of every pod. The metrics have the labels namespace and pod,
// and exist for pods with a socket to the service only: a pod without metrics has no such
// socket, or was not read.
func (w *Watcher) ObservePods() (observe func(*hangup.Pod, *sockdiag.Flow), done func(complete bool) []prometheus.Metric) {
	s := w.newScan()
	return s.observe, func(complete bool) []prometheus.Metric {
		w.mu.Lock()
		defer w.mu.Unlock()
		s.finish(complete)
		return s.podMetrics()
	}
}

// scan counts the flows of the dumps of one scan.
type scan struct {
	watcher *Watcher
	index   *flowIndex
	counts  []uint32 // by target
	shared  []uint32 // by target: flows that may belong to another service
	others  []uint32 // by target: flows of another service

	pods map[hangup.PodName]podSockets
	// current is the entry in pods of the pod of the last flow, last.
	last    *hangup.Pod
	current podSockets
}

// podSockets has the sockets of a pod by service, parallel to flowIndex.names; nil for a
// service without sockets.
type podSockets []*serviceSockets

// serviceSockets are the sockets to a service. Former and shared are apart.
type serviceSockets struct {
	current, former, shared uint32
	idle                    time.Duration // longest idle time to a former address
	idleKnown               bool
}

func (w *Watcher) newScan() *scan {
	index := w.flowIndex()
	n := len(index.targets)
	return &scan{
		watcher: w, index: index,
		counts: make([]uint32, n), shared: make([]uint32, n), others: make([]uint32, n),
		pods: make(map[hangup.PodName]podSockets),
	}
}

// observe counts a flow of a pod; nil without node mode.
func (s *scan) observe(pod *hangup.Pod, f *sockdiag.Flow) {
	indices := s.index.byRemote[f.Remote]
	if len(indices) == 0 || !inUse.Has(f.State) {
		return
	}
	for _, i := range indices {
		target := &s.index.targets[i]
		owner := own
		if target.former {
			owner = s.watcher.owner(target, f)
		}
		if owner == other {
			s.others[i]++
			continue
		}
		sockets := s.socketsOf(pod, target.service)
		switch {
		case owner == unknown:
			s.shared[i]++
			sockets.shared++
		case target.former:
			s.counts[i]++
			sockets.addFormer(f)
		default:
			s.counts[i]++
			sockets.current++
		}
	}
}

func (k *serviceSockets) addFormer(f *sockdiag.Flow) {
	k.former++
	if idle, ok := f.Idle(); ok {
		k.idle, k.idleKnown = max(k.idle, idle), true
	}
}

// socketsOf returns the sockets of a pod to a service.
func (s *scan) socketsOf(pod *hangup.Pod, service int) *serviceSockets {
	if s.current == nil || pod != s.last {
		var name hangup.PodName
		if pod != nil {
			name = pod.Labels() // pods with the same labels are counted as one
		}
		if s.pods[name] == nil {
			s.pods[name] = make(podSockets, len(s.index.names))
		}
		s.last, s.current = pod, s.pods[name]
	}
	sockets := &s.current[service]
	if *sockets == nil {
		*sockets = new(serviceSockets)
	}
	return *sockets
}

// finish ends the scan. In an incomplete scan the sockets of a pod may be missing: those
// first seen later may then have been opened before the scan. w.mu must be held.
func (s *scan) finish(complete bool) {
	w := s.watcher
	now := time.Now()
	for i, n := range s.counts {
		target := &s.index.targets[i]
		target.address.count(now, n, s.shared[i], s.others[i])
		if !target.former {
			continue
		}
		if complete && target.address.lost == never {
			target.address.lost = w.boottime() + firstSeenError
			w.flows.Store(nil)
		}
		if n > 0 && now.Sub(w.lastNoted) >= noteInterval {
			w.lastNoted, w.dirty = now, true
		}
	}
	for _, entry := range w.watches {
		entry.pods = nil
		if entry.history.expire(now, w.keep) {
			w.dirty = true
			w.flows.Store(nil)
		}
	}
}

// metrics returns the metrics of all services. w.mu must be held.
func (s *scan) metrics() (list []prometheus.Metric) {
	d := &s.watcher.metrics
	for i, service := range s.index.names {
		sockets := s.socketsOf(nil, i)
		list = append(list,
			gauge(d.sockets, float64(sockets.current), service, labelCurrent),
			gauge(d.sockets, float64(sockets.former), service, labelFormer))
		if sockets.idleKnown {
			list = append(list, gauge(d.idle, sockets.idle.Seconds(), service))
		}
	}
	return list
}

// podMetrics returns the metrics of the services of each pod, and sets the pods of the
// status. w.mu must be held.
func (s *scan) podMetrics() (list []prometheus.Metric) {
	d := &s.watcher.metrics
	for _, pod := range slices.SortedFunc(maps.Keys(s.pods), hangup.PodName.Compare) {
		for i, service := range s.index.names {
			sockets := s.pods[pod][i]
			if sockets == nil {
				continue
			}
			if sockets.former+sockets.shared > 0 {
				entry := s.index.watches[i]
				entry.pods = append(entry.pods, PodSockets{
					Namespace: pod.Namespace, Pod: pod.Pod,
					Sockets: int(sockets.former), Shared: int(sockets.shared), LongestIdle: sockets.idle,
				})
			}
			if sockets.current+sockets.former == 0 {
				continue // they may belong to another service
			}
			list = append(list,
				gauge(d.podSockets, float64(sockets.current), pod.Namespace, pod.Pod, service, labelCurrent),
				gauge(d.podSockets, float64(sockets.former), pod.Namespace, pod.Pod, service, labelFormer))
			if sockets.idleKnown {
				list = append(list, gauge(d.podIdle, sockets.idle.Seconds(), pod.Namespace, pod.Pod, service))
			}
		}
	}
	return list
}
