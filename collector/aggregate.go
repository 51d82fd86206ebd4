package collector

import (
	"slices"
	"time"

	"tcphup/sockdiag"
)

// aggregate is the sum of the TCP flows and MPTCP connections of one destination or
// local port. The zero value is empty.
type aggregate struct {
	states  [sockdiag.MaxState + 1]uint32
	idle    histogram
	silence histogram
	age     histogram
	armed   uint32 // flows whose keepalive timer is running
	unarmed uint32 // flows without a running timer
	stalled [sockdiag.TimerZeroWindow + 1]uint32
	receive uint64 // bytes not yet read by the application
	send    uint64 // bytes not yet acknowledged by the peer
	mptcp   *mptcpAggregate

	idleTimes []time.Duration // the known idle times; only if aggregator.listIdle is set
}

// histogram counts durations by the upper bounds in idleBuckets. The zero value is
// empty.
type histogram struct {
	counts [len(idleBuckets) + 1]uint32
	sum    time.Duration
}

// idleBuckets are the upper bounds of all histograms of durations. The highest is the
// default of net.ipv4.tcp_keepalive_time.
var idleBuckets = [...]time.Duration{
	1 * time.Second, 5 * time.Second, 15 * time.Second, 30 * time.Second,
	1 * time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute,
	30 * time.Minute, 1 * time.Hour, 2 * time.Hour,
}

func (h *histogram) observe(d time.Duration) {
	i, _ := slices.BinarySearch(idleBuckets[:], d)
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
func (a *aggregate) add(f *sockdiag.Flow) {
	a.states[min(f.State, sockdiag.MaxState)]++
	if f.State == sockdiag.TimeWait {
		return
	}
	if idle, known := f.Idle(); known {
		a.idle.observe(idle)
	}
	if silence, known := f.PeerSilence(); known {
		a.silence.observe(silence)
	}
	// In other states the kernel uses the keepalive timer for other purposes. A running
	// retransmission or zero-window timer hides the keepalive timer.
	if f.State == sockdiag.Established || f.State == sockdiag.CloseWait {
		a.armed += uint32(toInt(f.Timer == sockdiag.TimerKeepalive))
		a.unarmed += uint32(toInt(f.Timer == sockdiag.TimerNone))
	}
	if f.Stalled() {
		a.stalled[f.Timer]++
	}
	a.receive += uint64(f.ReceiveQueue)
	a.send += uint64(f.SendQueue)
}

// size returns the rank of a destination: the number of its sockets and MPTCP
// connections. A connection counts even without subflows.
func (a *aggregate) size() uint64 {
	n := a.sockets()
	if a.mptcp != nil {
		n += a.mptcp.connections()
	}
	return n
}

// sockets returns the number of TCP sockets outside TIME_WAIT.
func (a *aggregate) sockets() uint64 {
	var n uint64
	for state, count := range a.states {
		if sockdiag.State(state) != sockdiag.TimeWait {
			n += uint64(count)
		}
	}
	return n
}

func (a *aggregate) empty() bool {
	return a.size() == 0 && a.states[sockdiag.TimeWait] == 0
}

func (a *aggregate) merge(other *aggregate) {
	for i, n := range other.states {
		a.states[i] += n
	}
	a.idle.merge(&other.idle)
	a.silence.merge(&other.silence)
	a.age.merge(&other.age)
	a.armed += other.armed
	a.unarmed += other.unarmed
	for i, n := range other.stalled {
		a.stalled[i] += n
	}
	a.receive += other.receive
	a.send += other.send
	a.idleTimes = append(a.idleTimes, other.idleTimes...)
	if other.mptcp != nil {
		a.mptcpPart().merge(other.mptcp)
	}
}

// mptcpPart returns a.mptcp, which it allocates on first use: few destinations have
// MPTCP.
func (a *aggregate) mptcpPart() *mptcpAggregate {
	if a.mptcp == nil {
		a.mptcp = new(mptcpAggregate)
	}
	return a.mptcp
}

func toInt(b bool) int {
	if b {
		return 1
	}
	return 0
}
