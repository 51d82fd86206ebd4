// Package exposition encodes the metrics of one scrape family by family, in memory that
// the next scrape uses again.
//
// It is not promhttp with a registry: these hold every family of a scrape at once, copy
// and check each metric and allocate anew each time, several kilobytes for each
// destination, which costs more than everything in a scrape but reading the sockets.
// Here a family exists while it is encoded, and a metric is some hundred bytes of a
// slab. Consistency of the families is checked by tests.
package exposition

import (
	"slices"
	"strings"
	"sync/atomic"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
)

// Family is all metrics of one name. Write adds them to Metrics from the result of a
// scrape; if it adds none the family is left out.
type Family[R any] struct {
	Name, Help string
	Type       dto.MetricType
	Write      func(to *Metrics, from R)
}

// Encoder encodes families from results of type R. Its methods may be called
// concurrently.
type Encoder[R any] struct {
	families []Family[R]
	scratch  atomic.Pointer[Metrics] // not in use; may be nil
}

// NewEncoder returns an Encoder of the families, sorted by name.
func NewEncoder[R any](families []Family[R]) *Encoder[R] {
	families = slices.Clone(families)
	slices.SortFunc(families, func(a, b Family[R]) int { return strings.Compare(a.Name, b.Name) })
	return &Encoder[R]{families: families}
}

// Encode writes the families of a result and then the others. With names it writes the
// families of these names only.
func (e *Encoder[R]) Encode(to expfmt.Encoder, names []string, from R, others []*dto.MetricFamily) error {
	wanted := func(name string) bool { return len(names) == 0 || slices.Contains(names, name) }
	m := e.scratch.Swap(nil)
	if m == nil {
		m = new(Metrics)
	}
	defer e.scratch.Store(m)
	for i := range e.families {
		f := &e.families[i]
		if !wanted(f.Name) {
			continue
		}
		m.reset(&f.Name, &f.Help, &f.Type)
		if f.Write(m, from); len(m.family.GetMetric()) == 0 {
			continue
		}
		if err := to.Encode(&m.family); err != nil {
			return err
		}
	}
	for _, f := range others {
		if !wanted(f.GetName()) {
			continue
		}
		if err := to.Encode(f); err != nil {
			return err
		}
	}
	return nil
}
