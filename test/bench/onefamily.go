package main

import (
	"fmt"
	"strings"
)

// mostOfFloor is the goal for scrape ÷ floor on a host with one address family.
const mostOfFloor = 1.15

// oneFamily measures reading at the largest load, all connections of one address family.
func (r *report) oneFamily(o options) error {
	sockets := r.Sizes[len(r.Sizes)-1]
	for _, in := range []families{onlyIPv4, onlyMapped} {
		err := r.withLoad(o, sockets, fewDestinations(sockets), in, func(g *reading, _ loads) error {
			r.OneFamily = append(r.OneFamily, g)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// FamilyTable compares hosts with one address family with the mixed load of the same size.
func (r *report) FamilyTable() string {
	var b strings.Builder
	table(&b, "sockets", "address family", "scrape ÷ floor", "scrape ÷ floor, processor time", scrapeName+", ms", discardName+", ms")
	last := r.Sizes[len(r.Sizes)-1]
	all := r.OneFamily
	if g := r.reading(last, fewDestinations(last)); g != nil {
		all = append([]*reading{g}, all...)
	}
	for _, g := range all {
		b.WriteString(row(thousands(g.Sockets), string(g.Families),
			"**"+times(g.ratio(scrapeName, discardName, wall))+"**", times(g.ratio(scrapeName, discardName, cpu)),
			spread(g.of(scrapeName, wall)), spread(g.of(discardName, wall))))
	}
	return b.String()
}

func (r *report) familyGoals() (goals []goal) {
	for _, g := range r.OneFamily {
		if g.Sockets != large {
			continue
		}
		ratio := g.ratio(scrapeName, discardName, wall)
		goals = append(goals, goal{
			fmt.Sprintf("scrape ÷ floor ≤ %v: %s sockets, all %s", mostOfFloor, thousands(large), g.Families),
			times(ratio), verdict(ratio <= mostOfFloor), "medians, as above",
		})
	}
	return goals
}
