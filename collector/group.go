package collector

import (
	"time"

	"tcphup/sockdiag"
)

// group is the sum of the flows that are counted together. The zero group is
// empty.
type group struct {
	states    [sockdiag.MaxState + 1]uint32
	idle      histogram
	silence   histogram
	age       histogram
	armed     uint32 // keepalive timer is running
	unarmed   uint32 // no timer at all is running
	stalled   [sockdiag.TimerZeroWindow + 1]uint32
	receive   uint64 // bytes not yet read
	send      uint64 // bytes not yet acknowledged
	multipath *multipathGroup
}

// histogram counts durations by bucket. The zero histogram is empty and takes
// the upper bounds of idleBuckets.
type histogram struct {
	counts [len(idleBuckets) + 1]uint32
	sum    time.Duration
}

// idleBuckets are the upper bounds of every histogram of durations. The highest
// is the time after which the kernel, unless told otherwise, sends its first
// keepalive probe.
var idleBuckets = [...]time.Duration{
	1 * time.Second, 5 * time.Second, 15 * time.Second, 30 * time.Second,
	1 * time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute,
	30 * time.Minute, 1 * time.Hour, 2 * time.Hour,
}

func (h *histogram) observe(d time.Duration) {
	i := 0
	for i < len(idleBuckets) && d > idleBuckets[i] {
		i++
	}
	h.counts[i]++
	h.sum += d
}

func (h *histogram) merge(other *histogram) {
	for i, n := range other.counts {
		h.counts[i] += n
	}
	h.sum += other.sum
}

// add counts one TCP flow.
func (g *group) add(f *sockdiag.Flow) {
	g.states[min(f.State, sockdiag.MaxState)]++
	if f.State == sockdiag.TimeWait {
		return
	}
	if idle, known := f.Idle(); known {
		g.idle.observe(idle)
	}
	if silence, known := f.PeerSilence(); known {
		g.silence.observe(silence)
	}
	// In other states the keepalive timer does the work of another one, and where
	// a timer for lost data runs it hides the keepalive timer from view.
	if f.State == sockdiag.Established || f.State == sockdiag.CloseWait {
		g.armed += uint32(index(f.Timer == sockdiag.TimerKeepalive))
		g.unarmed += uint32(index(f.Timer == sockdiag.TimerNone))
	}
	if f.Stalled() {
		g.stalled[f.Timer]++
	}
	g.receive += uint64(f.ReceiveQueue)
	g.send += uint64(f.SendQueue)
}

// size is what destinations are ranked by: their sockets and their MPTCP connections,
// which may have lost all their sockets.
func (g *group) size() uint64 {
	n := g.sockets()
	if g.multipath != nil {
		n += g.multipath.connections()
	}
	return n
}

// sockets counts TCP sockets without those that have ended and merely wait out the
// clock.
func (g *group) sockets() uint64 {
	var n uint64
	for state, count := range g.states {
		if sockdiag.State(state) != sockdiag.TimeWait {
			n += uint64(count)
		}
	}
	return n
}

// empty reports whether nothing was counted.
func (g *group) empty() bool {
	return g.size() == 0 && g.states[sockdiag.TimeWait] == 0
}

func (g *group) merge(other *group) {
	for i, n := range other.states {
		g.states[i] += n
	}
	g.idle.merge(&other.idle)
	g.silence.merge(&other.silence)
	g.age.merge(&other.age)
	g.armed += other.armed
	g.unarmed += other.unarmed
	for i, n := range other.stalled {
		g.stalled[i] += n
	}
	g.receive += other.receive
	g.send += other.send
	if other.multipath != nil {
		g.paths().merge(other.multipath)
	}
}

// paths returns the part for MPTCP, which few destinations have.
func (g *group) paths() *multipathGroup {
	if g.multipath == nil {
		g.multipath = new(multipathGroup)
	}
	return g.multipath
}
