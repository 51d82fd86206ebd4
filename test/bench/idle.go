package main

import (
	"errors"
	"fmt"
	"strings"

	"tcphup/test/kit/netns"
)

// crowded is the number of sockets in other namespaces of a busy node.
const crowded = 50_000

// mostOfIdle is the maximum ratio of the new program's processor time to the old one's.
const mostOfIdle = 0.45

// idle has the scrapes of a sidecar in a network namespace without connections.
type idle struct {
	Elsewhere int // sockets in other namespaces
	results
}

// idleScrapes measures the scrape of an idle sidecar, and that of the old program, in a new
// network namespace.
func (r *report) idleScrapes(o options, elsewhere int) (err error) {
	ns, err := netns.New()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ns.Close()) }()
	out := idle{Elsewhere: elsewhere}
	var candidates []candidate
	for _, c := range []struct{ name, address, program string }{{scrapeName, tcphupAddress, o.tcphup}, {oldScrapeName, oldAddress, o.old}} {
		if c.program == "" {
			continue
		}
		server, err := startServerIn(ns.Do, c.address, "/-/ready", c.program, scrapeArguments(c.address)...)
		if err != nil {
			return err
		}
		defer func() { _ = server.stop() }()
		candidates = append(candidates, candidate{c.name, func() (sample, error) {
			s, _, err := server.scrape()
			return s, err
		}})
	}
	if _, err := runRounds(2, candidates); err != nil {
		return err
	}
	// A scrape takes little time, so that more rounds are cheap.
	if out.results, err = runRounds(10*o.rounds, candidates); err != nil {
		return err
	}
	r.Idle = append(r.Idle, &out)
	return nil
}

// IdleTable has the cost of a scrape in a namespace without connections.
func (r *report) IdleTable() string {
	var b strings.Builder
	heads := []string{"sockets in other namespaces", "scrape, ms", "processor time, ms", "resident, MB"}
	if r.Old != "" {
		heads = append(heads, "old, processor time, ms", "new ÷ old", "≤ "+times(mostOfIdle))
	}
	table(&b, heads...)
	for _, i := range r.Idle {
		cells := []string{thousands(i.Elsewhere), spread(i.of(scrapeName, wall)), spread(i.of(scrapeName, cpu)), megabytes(i.memory(scrapeName))}
		if r.Old != "" {
			ratio := i.ratio(scrapeName, oldScrapeName, cpu)
			cells = append(cells, spread(i.of(oldScrapeName, cpu)), "**"+times(ratio)+"**", verdict(ratio <= mostOfIdle))
		}
		b.WriteString(row(cells...))
	}
	return b.String()
}

// PerNode returns the processor time in ms that 110 idle sidecars take per scrape interval.
func (i *idle) PerNode() string {
	const sidecars = 110
	return fmt.Sprintf("%d sidecars: %s ms", sidecars, ms(sidecars*median(i.of(scrapeName, cpu))))
}
