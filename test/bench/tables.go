package main

import "strings"

// readers are the names of the readers in the order of the tables.
var readers = []string{scrapeName, discardName, ssName, exporterName}

// row formats a row of a Markdown table.
func row(cells ...string) string { return "| " + strings.Join(cells, " | ") + " |\n" }

// table writes the header of a Markdown table.
func table(b *strings.Builder, heads ...string) {
	b.WriteString(row(heads...))
	b.WriteString("|" + strings.Repeat(" --- |", len(heads)) + "\n")
}

// loadTable returns a table with a row for every load.
func (r *report) loadTable(heads []string, cells func(*reading) []string) string {
	var b strings.Builder
	table(&b, append([]string{"sockets", "destinations"}, heads...)...)
	for _, reading := range r.Readings {
		b.WriteString(row(append([]string{thousands(reading.Sockets), thousands(reading.Destinations)}, cells(reading)...)...))
	}
	return b.String()
}

// RatioTable compares the readers as ratios.
func (r *report) RatioTable() string {
	heads := []string{"scrape ÷ floor", "scrape ÷ floor, processor time", "ss -tain ÷ scrape", "node_exporter ÷ scrape"}
	return r.loadTable(heads, func(g *reading) []string {
		return []string{
			"**" + times(g.ratio(scrapeName, discardName, wall)) + "**", times(g.ratio(scrapeName, discardName, cpu)),
			times(g.ratio(ssName, scrapeName, wall)), times(g.ratio(exporterName, scrapeName, wall)),
		}
	})
}

// TimeTable has the wall time of each reader.
func (r *report) TimeTable() string {
	heads := []string{scrapeName, "reading sockets", discardName, ssName, exporterName}
	return r.loadTable(heads, func(g *reading) []string {
		return []string{
			spread(g.of(scrapeName, wall)), spread(g.read), spread(g.of(discardName, wall)),
			spread(g.of(ssName, wall)), spread(g.of(exporterName, wall)),
		}
	})
}

// MemoryTable has the memory of each reader and the size of a scrape.
func (r *report) MemoryTable() string {
	heads := []string{"tcphup, resident", "node_exporter, resident", "ss -tain, peak", "floor, resident", "tcphup, allocated per scrape", "scrape size"}
	return r.loadTable(heads, func(g *reading) []string {
		return []string{
			megabytes(g.memory(scrapeName)), megabytes(g.memory(exporterName)), megabytes(g.memory(ssName)), megabytes(g.memory(discardName)),
			kilobytes(g.Allocated), kilobytes(g.Body),
		}
	})
}

func kilobytes(bytes int) string { return thousands(bytes/1000) + " kB" }

// HangUpTable has the wall time of each command.
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

// AlertTable has the times from an alert to the end of the last flow.
func (r *report) AlertTable() string {
	var b strings.Builder
	table(&b, "sockets", "SIGPIPE", "program", "rounds", "p50, ms", "p99, ms", "response or exit, p50, ms", "p50 ÷ ss -K")
	for _, a := range r.Alerts {
		for _, name := range []string{alertName, alertNoWatchName, ssKillName} {
			if len(a.results[name]) == 0 {
				continue
			}
			took := a.of(name, wall)
			b.WriteString(row(thousands(a.Sockets), a.disposition(), "`"+name+"`", thousands(len(took)), ms(median(took)), ms(percentile(took, 99)),
				ms(median(a.answered.of(name, wall))), times(a.ratio(name, ssKillName, wall))))
		}
	}
	return b.String()
}

// disposition is the disposition of SIGPIPE in the processes of the load.
func (a *alerts) disposition() string {
	if a.Killed {
		return "default"
	}
	return "handled"
}

// KernelShare returns the processor time of the floor as a percentage of a scrape's, at
// the largest load.
func (r *report) KernelShare() string {
	last := r.Sizes[len(r.Sizes)-1]
	g := r.reading(last, fewDestinations(last))
	return digits(100 * g.ratio(discardName, scrapeName, cpu))
}

// reading returns the reading of a load; nil: not measured.
func (r *report) reading(sockets, destinations int) *reading {
	for _, g := range r.Readings {
		if g.Sockets == sockets && g.Destinations == destinations {
			return g
		}
	}
	return nil
}

// hungUp returns the hang-ups at a load of so many sockets; nil: not measured.
func (r *report) hungUp(sockets int) *hangUps {
	for _, h := range r.HangUps {
		if h.Sockets == sockets {
			return h
		}
	}
	return nil
}
