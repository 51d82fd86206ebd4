package main

import "strings"

// readers are those who read all sockets, in the order of the tables.
var readers = []string{scrapeName, discardName, ssName, exporterName}

// row writes the cells of a line of a table.
func row(cells ...string) string { return "| " + strings.Join(cells, " | ") + " |\n" }

// table begins one.
func table(b *strings.Builder, heads ...string) {
	b.WriteString(row(heads...))
	b.WriteString("|" + strings.Repeat(" --- |", len(heads)) + "\n")
}

// each writes a table with a line for every load.
func (r *report) each(heads []string, cells func(*reading) []string) string {
	var b strings.Builder
	table(&b, append([]string{"sockets", "destinations"}, heads...)...)
	for _, reading := range r.Readings {
		b.WriteString(row(append([]string{thousands(reading.Sockets), thousands(reading.Destinations)}, cells(reading)...)...))
	}
	return b.String()
}

// RatioTable has the ratios of the readers.
func (r *report) RatioTable() string {
	heads := []string{"scrape ÷ floor", "the same, processor time", "ss -tain ÷ scrape", "node_exporter ÷ scrape"}
	return r.each(heads, func(g *reading) []string {
		return []string{
			"**" + times(g.ratio(scrapeName, discardName, wall)) + "**", times(g.ratio(scrapeName, discardName, cpu)),
			times(g.ratio(ssName, scrapeName, wall)), times(g.ratio(exporterName, scrapeName, wall)),
		}
	})
}

// TimeTable has what the readers took.
func (r *report) TimeTable() string {
	heads := []string{scrapeName, "of that, reading", discardName, ssName, exporterName}
	return r.each(heads, func(g *reading) []string {
		return []string{
			spread(g.of(scrapeName, wall)), spread(g.read), spread(g.of(discardName, wall)),
			spread(g.of(ssName, wall)), spread(g.of(exporterName, wall)),
		}
	})
}

// MemoryTable has what the readers held.
func (r *report) MemoryTable() string {
	heads := []string{"tcphup, resident", "node_exporter, resident", "ss -tain, at its most", "floor, resident", "tcphup, allocated for a scrape", "size of a scrape"}
	return r.each(heads, func(g *reading) []string {
		return []string{
			megabytes(g.memory(scrapeName)), megabytes(g.memory(exporterName)), megabytes(g.memory(ssName)), megabytes(g.memory(discardName)),
			kilobytes(g.Allocated), kilobytes(g.Body),
		}
	})
}

func kilobytes(bytes int) string { return thousands(bytes/1000) + " kB" }

// HangUpTable has what the commands took.
func (r *report) HangUpTable() string {
	var b strings.Builder
	table(&b, "sockets", "command", "ms", "÷ ss -tnp")
	for _, h := range r.HangUps {
		for _, name := range []string{shutdownName, destroyName, ssKillName, ssListName} {
			if len(h.results[name]) == 0 {
				continue
			}
			b.WriteString(row(thousands(h.Sockets), "`"+name+"`", spread(h.of(name, wall)), times(h.ratio(name, ssListName, wall))))
		}
	}
	return b.String()
}

// AlertTable has how long flows lived after an alert.
func (r *report) AlertTable() string {
	var b strings.Builder
	table(&b, "sockets", "by", "times", "p50, ms", "p99, ms", "answered or ended, p50, ms", "p50 ÷ ss -K")
	for _, a := range r.Alerts {
		for _, name := range []string{alertName, alertNoWatchName, ssKillName} {
			if len(a.results[name]) == 0 {
				continue
			}
			took := a.of(name, wall)
			b.WriteString(row(thousands(a.Sockets), "`"+name+"`", thousands(len(took)), ms(median(took)), ms(percentile(took, 99)),
				ms(median(a.answered.of(name, wall))), times(a.ratio(name, ssKillName, wall))))
		}
	}
	return b.String()
}

// KernelShare is the part of a scrape's processor time that the floor takes too, at the
// largest load, in per cent.
func (r *report) KernelShare() string {
	last := r.Sizes[len(r.Sizes)-1]
	g := r.reading(last, fewDestinations(last))
	return digits(100 * g.ratio(discardName, scrapeName, cpu))
}

// reading returns that of a load; nil when there is none.
func (r *report) reading(sockets, destinations int) *reading {
	for _, g := range r.Readings {
		if g.Sockets == sockets && g.Destinations == destinations {
			return g
		}
	}
	return nil
}

// hungUp returns what was measured with so many sockets; nil for nothing.
func (r *report) hungUp(sockets int) *hangUps {
	for _, h := range r.HangUps {
		if h.Sockets == sockets {
			return h
		}
	}
	return nil
}
