package main

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// results are the samples by name of the candidate, in the order of the rounds.
type results map[string][]sample

func wall(s sample) time.Duration { return s.wall }
func cpu(s sample) time.Duration  { return s.cpu }

// of returns one figure of each sample of a candidate.
func (r results) of(name string, figure func(sample) time.Duration) []time.Duration {
	var all []time.Duration
	for _, s := range r[name] {
		all = append(all, figure(s))
	}
	return all
}

// memory returns the maximum of a candidate's samples in bytes; 0: not read.
func (r results) memory(name string) int {
	most := 0
	for _, s := range r[name] {
		most = max(most, s.memory)
	}
	return most
}

// ratio returns the ratio of two candidates' medians; 0 when one has no samples.
func (r results) ratio(of, to string, figure func(sample) time.Duration) float64 {
	if len(r[of]) == 0 || len(r[to]) == 0 {
		return 0
	}
	return float64(median(r.of(of, figure))) / float64(median(r.of(to, figure)))
}

// percentile returns the smallest value that at least p per cent do not exceed.
func percentile[T cmp.Ordered](values []T, p int) T {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[max(0, (len(sorted)*p+99)/100-1)]
}

func median[T cmp.Ordered](values []T) T { return percentile(values, 50) }

// ms formats milliseconds with three significant digits.
func ms(d time.Duration) string { return digits(d.Seconds() * 1e3) }

func digits(v float64) string {
	switch {
	case v < 10:
		return strconv.FormatFloat(v, 'f', 2, 64)
	case v < 100:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 0, 64)
}

// spread formats median, minimum and maximum.
func spread(values []time.Duration) string {
	if len(values) == 0 {
		return "–"
	}
	return fmt.Sprintf("%s (%s–%s)", ms(median(values)), ms(slices.Min(values)), ms(slices.Max(values)))
}

// times formats a ratio; "–" for 0.
func times(ratio float64) string {
	if ratio == 0 {
		return "–"
	}
	return strconv.FormatFloat(ratio, 'f', 2, 64)
}

func megabytes(bytes int) string {
	if bytes == 0 {
		return "–"
	}
	return strconv.FormatFloat(float64(bytes)/1e6, 'f', 1, 64)
}

// thousands formats 200000 as 200,000.
func thousands(n int) string {
	if n < 1000 {
		return strconv.Itoa(n)
	}
	return fmt.Sprintf("%s,%03d", thousands(n/1000), n%1000)
}
