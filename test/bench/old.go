package main

import (
	"strings"
	"time"
)

// Names of the program of -old in the report.
const (
	oldScrapeName   = "the old scrape"
	oldShutdownName = "the old tcphup HOST PORT"
)

// mostOfOld is the maximum ratio of the new program's time to the old one's.
const mostOfOld = 1.10

// OldTable compares scrapes and hang-ups of the new and the old program.
func (r *report) OldTable() string {
	var b strings.Builder
	table(&b, "sockets", "destinations", "measure", "new, ms", "old, ms", "new ÷ old", "≤ "+times(mostOfOld))
	line := func(measured results, sockets, destinations, measure, now, before string, figure func(sample) time.Duration) {
		ratio := measured.ratio(now, before, figure)
		b.WriteString(row(sockets, destinations, measure, spread(measured.of(now, figure)), spread(measured.of(before, figure)),
			"**"+times(ratio)+"**", verdict(ratio <= mostOfOld)))
	}
	for _, g := range r.Readings {
		sockets, destinations := thousands(g.Sockets), thousands(g.Destinations)
		line(g.results, sockets, destinations, "scrape", scrapeName, oldScrapeName, wall)
		line(g.results, sockets, destinations, "scrape, processor time", scrapeName, oldScrapeName, cpu)
	}
	for _, h := range r.HangUps {
		line(h.results, thousands(h.Sockets), "1", "hang up", shutdownName, oldShutdownName, wall)
	}
	return b.String()
}
