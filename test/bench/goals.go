package main

import (
	"fmt"
	"strings"
	"time"
)

// goal is a row of the table of goals: a target and the measured value.
type goal struct {
	what    string
	reached string
	verdict string
	how     string
}

const noLimit = "no limit"

func verdict(met bool) string {
	if met {
		return "met"
	}
	return "**missed**"
}

// The loads of the goals.
const small, middle, large = 1_000, 10_000, 200_000

// Goals returns a Markdown table of all goals whose loads were measured.
func (r *report) Goals() string {
	var goals []goal
	for _, part := range []func() []goal{r.scrapeGoals, r.familyGoals, r.memoryGoals, r.hangUpGoals, r.alertGoals, r.nodeGoals} {
		goals = append(goals, part()...)
	}
	if len(goals) == 0 {
		return fmt.Sprintf("The goals apply to loads of %s to %s sockets, which were not measured.\n", thousands(small), thousands(large))
	}
	var b strings.Builder
	table(&b, "goal", "reached", "", "how it is measured")
	for _, g := range goals {
		b.WriteString(row(g.what, g.reached, g.verdict, g.how))
	}
	return b.String()
}

func (r *report) scrapeGoals() (goals []goal) {
	const most, wanted, slower = 1.25, 1.0, 5.0
	for _, destinations := range []int{fewDestinations(large), manyDestinations(large)} {
		g := r.reading(large, destinations)
		if g == nil {
			continue
		}
		load := fmt.Sprintf("%s sockets, %s destinations", thousands(large), thousands(destinations))
		ratio := g.ratio(scrapeName, discardName, wall)
		goals = append(goals,
			goal{fmt.Sprintf("scrape ÷ floor ≤ %v: %s", most, load), times(ratio), verdict(ratio <= most), "medians: scrape over HTTP, one reader that discards"},
			goal{fmt.Sprintf("wanted: below %.1f: %s", wanted, load), times(ratio), verdict(ratio < wanted), "the same"})
		ratio = g.ratio(ssName, scrapeName, wall)
		goals = append(goals,
			goal{fmt.Sprintf("`ss -tain` takes %.0f times as long or longer: %s", slower, load), times(ratio), verdict(ratio >= slower), "medians; output to /dev/null"})
	}
	return goals
}

func (r *report) memoryGoals() (goals []goal) {
	// Variation of the allocations between two scrapes.
	const noise = 1.05
	for _, destinations := range []func(int) int{fewDestinations, manyDestinations} {
		m, l := r.reading(middle, destinations(middle)), r.reading(large, destinations(large))
		if m == nil || l == nil {
			continue
		}
		goals = append(goals, goal{
			fmt.Sprintf("memory allocated for a scrape does not grow with sockets: %s sockets to %s destinations, and %s to %s",
				thousands(middle), thousands(m.Destinations), thousands(large), thousands(l.Destinations)),
			kilobytes(m.Allocated) + " and " + kilobytes(l.Allocated),
			verdict(float64(l.Allocated) <= noise*float64(m.Allocated)),
			fmt.Sprintf("`go_memstats_alloc_bytes_total`; met up to %.0f %% more", 100*(noise-1)),
		})
	}
	for _, g := range r.Readings {
		limit, ok := map[int]int{small: 20, large: 40}[g.Sockets] // megabytes
		if !ok {
			continue
		}
		most := g.memory(scrapeName)
		goals = append(goals, goal{
			fmt.Sprintf("resident ≤ %d MB: %s sockets, %s destinations", limit, thousands(g.Sockets), thousands(g.Destinations)),
			megabytes(most) + " MB", verdict(most <= limit*1_000_000),
			"VmRSS of `tcphup serve` after each scrape, maximum",
		})
	}
	return goals
}

func (r *report) hangUpGoals() (goals []goal) {
	const quick = 20 * time.Millisecond
	if h := r.hungUp(small); h != nil {
		took := median(h.of(shutdownName, wall))
		goals = append(goals, goal{
			fmt.Sprintf("hang up %d flows ≤ %d ms at %s sockets", hungFlows, quick.Milliseconds(), thousands(small)),
			ms(took) + " ms", verdict(took <= quick), "median of `tcphup HOST PORT`, from process start to exit",
		})
	}
	if h := r.hungUp(large); h != nil {
		ratio := h.ratio(shutdownName, ssListName, wall)
		goals = append(goals, goal{
			fmt.Sprintf("hang up %d flows in the time of `ss -tnp` at %s sockets", hungFlows, thousands(large)),
			times(ratio), verdict(ratio <= 1), "medians; `ss` has the same filter and only lists",
		})
	}
	return goals
}

func (r *report) alertGoals() (goals []goal) {
	for _, a := range r.Alerts {
		goals = append(goals, goal{
			fmt.Sprintf("from an alert to the last of %d FINs, p99: %s sockets, SIGPIPE %s", alertFlows, thousands(a.Sockets), a.disposition()),
			ms(percentile(a.of(alertName, wall), 99)) + " ms", noLimit,
			fmt.Sprintf("%d alerts; `ss -K` in the same rounds: %s", len(a.results[alertName]), killed(a)),
		})
	}
	return goals
}

func killed(a *alerts) string {
	if len(a.results[ssKillName]) == 0 {
		return "skipped"
	}
	return ms(percentile(a.of(ssKillName, wall), 99)) + " ms"
}
