package main

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// addSamples adds samples with these wall times to the results of a program.
func addSamples(r results, name string, milliseconds ...int) {
	for _, n := range milliseconds {
		d := time.Duration(n) * time.Millisecond
		r[name] = append(r[name], sample{wall: d, cpu: 2 * d, memory: n * 1_000_000})
	}
}

// loaded returns a reading whose scrape takes that many milliseconds and megabytes, and
// whose floor takes 20 ms.
func loaded(sockets, destinations, scrape int) *reading {
	g := &reading{Sockets: sockets, Destinations: destinations, results: make(results), Allocated: 1_000_000 + sockets}
	addSamples(g.results, scrapeName, 1000, scrape, 1)
	addSamples(g.results, discardName, 20, 1, 1000)
	addSamples(g.results, ssName, 100, 100, 100)
	for i := range g.results[scrapeName] {
		g.results[scrapeName][i].memory = scrape * 1_000_000
	}
	return g
}

// TestGoals checks that medians decide about each goal.
func TestGoals(t *testing.T) {
	hung := &hangUps{Sockets: small, results: make(results)}
	addSamples(hung.results, shutdownName, 90, 21, 2)
	far := &hangUps{Sockets: large, results: make(results)}
	addSamples(far.results, shutdownName, 30, 31, 29)
	addSamples(far.results, ssListName, 30, 29, 31)
	a := &alerts{Sockets: small, results: make(results)}
	addSamples(a.results, alertName, 1, 3, 2)
	r := report{
		Sizes:    []int{small, middle, large},
		Readings: []*reading{loaded(small, 20, 20), loaded(middle, 200, 9), loaded(large, 200, 19), loaded(large, 20_000, 26)},
		OneFamily: []*reading{
			{Sockets: large, Families: onlyIPv4, results: loaded(large, 200, 23).results},
			{Sockets: large, Families: onlyMapped, results: loaded(large, 200, 24).results},
			{Sockets: middle, Families: onlyIPv4, results: loaded(middle, 200, 24).results},
		},
		HangUps: []*hangUps{hung, far},
		Alerts:  []*alerts{a},
	}
	var got []string
	for line := range strings.Lines(r.Goals()) {
		cells := strings.Split(strings.TrimSpace(line), " | ")
		if len(cells) == 4 && !strings.HasPrefix(cells[0], "| goal") && cells[0] != "| ---" {
			got = append(got, strings.TrimPrefix(cells[0], "| ")+" = "+cells[1]+" = "+cells[2])
		}
	}
	want := []string{
		"scrape ÷ floor ≤ 1.25: 200,000 sockets, 200 destinations = 0.95 = met",
		"wanted: below 1.0: 200,000 sockets, 200 destinations = 0.95 = met",
		"`ss -tain` takes 5 times as long or longer: 200,000 sockets, 200 destinations = 5.26 = met",
		"scrape ÷ floor ≤ 1.25: 200,000 sockets, 20,000 destinations = 1.30 = **missed**",
		"wanted: below 1.0: 200,000 sockets, 20,000 destinations = 1.30 = **missed**",
		"`ss -tain` takes 5 times as long or longer: 200,000 sockets, 20,000 destinations = 3.85 = **missed**",
		"scrape ÷ floor ≤ 1.15: 200,000 sockets, all IPv4 = 1.15 = met",
		"scrape ÷ floor ≤ 1.15: 200,000 sockets, all IPv4-mapped = 1.20 = **missed**",
		"memory allocated for a scrape does not grow with sockets: 10,000 sockets to 200 destinations, and 200,000 to 200 = 1,010 kB and 1,200 kB = **missed**",
		"resident ≤ 20 MB: 1,000 sockets, 20 destinations = 20.0 MB = met",
		"resident ≤ 40 MB: 200,000 sockets, 200 destinations = 19.0 MB = met",
		"resident ≤ 40 MB: 200,000 sockets, 20,000 destinations = 26.0 MB = met",
		"hang up 100 flows ≤ 20 ms at 1,000 sockets = 21.0 ms = **missed**",
		"hang up 100 flows in the time of `ss -tnp` at 200,000 sockets = 1.00 = met",
		"from an alert to the last of 10 FINs, p99: 1,000 sockets, SIGPIPE handled = 3.00 ms = no limit",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if share := r.KernelShare(); share != "105" {
		t.Errorf("the kernel's share is %s %%, want 105", share)
	}
	if goals := (&report{}).Goals(); !strings.Contains(goals, "not measured") {
		t.Errorf("without measurements: %s", goals)
	}
}

func TestSizes(t *testing.T) {
	for sockets, want := range map[int][]int{
		500:     {500},
		1_000:   {1_000},
		20_000:  {1_000, 10_000, 20_000},
		200_000: {1_000, 10_000, 50_000, 100_000, 200_000},
		300_000: {1_000, 10_000, 50_000, 100_000, 200_000, 300_000},
	} {
		if got := (options{sockets: sockets}).sizes(); !slices.Equal(got, want) {
			t.Errorf("%d sockets: %v, want %v", sockets, got, want)
		}
	}
}

func TestFigures(t *testing.T) {
	r := make(results)
	addSamples(r, "measured", 5, 1, 4, 3, 2)
	for what, tt := range map[string]struct{ got, want string }{
		"spread":        {spread(r.of("measured", wall)), "3.00 (1.00–5.00)"},
		"spread of one": {spread([]time.Duration{time.Second}), "1000 (1000–1000)"},
		"no spread":     {spread(nil), "–"},
		"p99":           {ms(percentile(r.of("measured", cpu), 99)), "10.0"},
		"memory":        {megabytes(r.memory("measured")), "5.0"},
		"no memory":     {megabytes(r.memory("skipped")), "–"},
		"no ratio":      {times(r.ratio("measured", "skipped", wall)), "–"},
		"hundreds":      {thousands(999), "999"},
		"millions":      {thousands(1_000_200), "1,000,200"},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: %s, want %s", what, tt.got, tt.want)
		}
	}
}
