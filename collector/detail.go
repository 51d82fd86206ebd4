package collector

import (
	"slices"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"

	"tcphup/internal/exposition"
	"tcphup/sockdiag"
)

// detail is the detail of the series of a destination.
type detail struct {
	// states have a series for each destination and inbound port. The other states have one
	// only while a socket is in them.
	states []sockdiag.State
	// bounds are the upper bounds of the histograms of durations: some of idleBuckets, in
	// ascending order.
	bounds []time.Duration
}

var (
	sidecarDetail = detail{
		states: []sockdiag.State{sockdiag.Established, sockdiag.SynSent, sockdiag.CloseWait, sockdiag.TimeWait},
		bounds: idleBuckets[:],
	}
	// nodeDetail has 15 series for each destination of a pod. deploy/rules.yml and
	// deploy/dashboard.json select its bounds.
	nodeDetail = detail{
		states: []sockdiag.State{sockdiag.Established},
		bounds: []time.Duration{time.Minute, 10 * time.Minute, time.Hour, 2 * time.Hour},
	}
)

// connectionStates are the states of MPTCP connections, which have no TIME_WAIT.
func (d detail) connectionStates() []sockdiag.State {
	return slices.DeleteFunc(slices.Clone(d.states), func(s sockdiag.State) bool { return s == sockdiag.TimeWait })
}

// missing returns the sentence of a help text about the states without series.
func (d detail) missing(states []sockdiag.State, what string) string {
	last := len(states) - 1
	names := states[last].String()
	if last > 0 {
		var first []string
		for _, s := range states[:last] {
			first = append(first, s.String())
		}
		names = strings.Join(first, ", ") + " and " + names
	}
	return "States other than " + names + " are missing without " + what + "."
}

// bounds are upper bounds of exported histograms.
type bounds struct {
	seconds []float64
	ends    []int // their indexes in idleBuckets
}

func newBounds(durations []time.Duration) *bounds {
	b := new(bounds)
	for _, d := range durations {
		b.seconds = append(b.seconds, d.Seconds())
		b.ends = append(b.ends, slices.Index(idleBuckets[:], d))
	}
	return b
}

// write adds a histogram with these bounds.
func (b *bounds) write(to *exposition.Metrics, h *histogram, labels ...*dto.LabelPair) {
	var counts [len(idleBuckets) + 1]uint32
	i := 0
	for j, n := range h.counts {
		if i < len(b.ends) && j > b.ends[i] {
			i++
		}
		counts[i] += n
	}
	to.Histogram(b.seconds, counts[:len(b.ends)+1], h.sum.Seconds(), labels...)
}
