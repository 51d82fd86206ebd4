package main

import (
	"fmt"
	"slices"
	"strings"
)

// Sizes of the curves: width and height of the plot, and its left and top margin.
const (
	plotWidth, plotHeight = 560, 150
	plotLeft, plotTop     = 40, 26
)

// curves draws how many clients with a silent peer continue within a time, as SVG.
func (r *report) curves() []byte {
	var b strings.Builder
	total := r.count(silentTcphup)
	bound := defaultBound.Seconds()
	x := func(seconds float64) float64 { return plotLeft + position(seconds)*plotWidth }
	y := func(clients int) float64 { return plotTop + plotHeight*(1-float64(clients)/float64(total)) }
	svgHeader(&b, plotLeft+plotWidth+20, plotTop+plotHeight+24, "Clients that continue within a time, with a silent peer")
	for _, seconds := range ticks {
		fmt.Fprintf(&b, `<line x1="%.1[1]f" y1="%[2]d" x2="%.1[1]f" y2="%[3]d" stroke="#808080" stroke-opacity="0.25"/><text x="%.1[1]f" y="%[4]d" text-anchor="middle">%[5]g s</text>`+"\n",
			x(seconds), plotTop, plotTop+plotHeight, plotTop+plotHeight+16, seconds)
	}
	for _, clients := range []int{0, total / 2, total} {
		fmt.Fprintf(&b, `<text x="%d" y="%.1f" text-anchor="end">%d</text>`+"\n", plotLeft-6, y(clients)+4, clients)
	}
	legend := float64(plotLeft)
	for _, s := range series() {
		var freed []float64
		for _, one := range r.records {
			if one.situation == s.situation && !one.has(stillWaiting) {
				freed = append(freed, one.freed)
			}
		}
		slices.Sort(freed)
		fmt.Fprintf(&b, `<path fill="none" stroke="%s" stroke-width="2.5" d="M%d %.1f`, s.colour, plotLeft, y(0))
		for i, seconds := range freed {
			fmt.Fprintf(&b, "H%.1fV%.1f", x(seconds), y(i+1))
		}
		fmt.Fprintf(&b, `H%.1f"/>`+"\n", x(bound))
		name := fmt.Sprintf("%s: %d of %d", s.name, len(freed), total)
		fmt.Fprintf(&b, `<rect x="%.0f" y="4" width="10" height="10" fill="%s"/><text x="%.0f" y="13">%s</text>`+"\n", legend, s.colour, legend+14, name)
		legend += float64(40 + 6*len(name))
	}
	b.WriteString("</svg>\n")
	return []byte(b.String())
}
