package main

import (
	"encoding/xml"
	"fmt"
	"math"
	"strings"
)

// Sizes of the figure.
const (
	nameWidth, barWidth = 190, 560
	barHeight, rowStep  = 4, 17
	topMargin           = 44
	shortest            = 0.01 // seconds at the left end of the bars
)

// svgHeader begins a picture.
func svgHeader(b *strings.Builder, width, height int, title string) {
	fmt.Fprintf(b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" font-family="Liberation Sans,Arial,sans-serif" font-size="11" fill="currentColor">`+"\n", width, height)
	b.WriteString("<style>svg{color:#1f2328}@media(prefers-color-scheme:dark){svg{color:#e6edf3}}</style>\n")
	fmt.Fprintf(b, "<title>%s</title>\n", title)
}

// oneSeries is a situation with its name and colour in the pictures.
type oneSeries struct{ situation, name, colour string }

func series() []oneSeries {
	return []oneSeries{{silentTcphup, "tcphup", "#1F83C4"}, {silentSS, "ss -K", "#80868E"}, {silentNothing, "nothing", "#D56A00"}}
}

// ticks are the seconds on the logarithmic axis, from shortest to defaultBound.
var ticks = []float64{0.01, 0.1, 1, 10, 60}

// position returns the place of a time on the axis, from 0 to 1.
func position(seconds float64) float64 {
	return math.Log(min(max(seconds, shortest), defaultBound.Seconds())/shortest) / math.Log(defaultBound.Seconds()/shortest)
}

// figure draws how long each client waits for a silent peer, as SVG.
func (r *report) figure() []byte {
	var b strings.Builder
	bars := series()
	bars[2].name += fmt.Sprintf(" (to the edge: still waiting after %.0f s)", defaultBound.Seconds())
	var names []string
	for _, name := range r.clients() {
		if _, ok := r.find(name, silentTcphup); ok {
			names = append(names, name)
		}
	}
	height := topMargin + rowStep*len(names) + 8
	svgHeader(&b, nameWidth+barWidth+20, height, "Seconds until a client with a silent peer continues")
	x := float64(nameWidth)
	for _, bar := range bars {
		fmt.Fprintf(&b, `<rect x="%.0f" y="4" width="10" height="10" fill="%s"/><text x="%.0f" y="13">%s</text>`+"\n", x, bar.colour, x+14, bar.name)
		x += float64(40 + 6*len(bar.name))
	}
	for _, seconds := range ticks {
		fmt.Fprintf(&b, `<line x1="%.1f" y1="34" x2="%[1]f" y2="%d" stroke="#808080" stroke-opacity="0.25"/><text x="%.1f" y="30" text-anchor="middle">%g s</text>`+"\n",
			nameWidth+position(seconds)*barWidth, height-4, nameWidth+position(seconds)*barWidth, seconds)
	}
	for i, name := range names {
		y := topMargin + rowStep*i
		fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">`, nameWidth-6, y+9)
		_ = xml.EscapeText(&b, []byte(name))
		b.WriteString("</text>\n")
		for j, bar := range bars {
			one, ok := r.find(name, bar.situation)
			if !ok {
				continue
			}
			width := float64(barWidth)
			if !one.has(stillWaiting) {
				width = max(1, position(one.freed)*barWidth)
			}
			fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`+"\n", nameWidth, y+j*(barHeight+1), width, barHeight, bar.colour)
		}
	}
	b.WriteString("</svg>\n")
	return []byte(b.String())
}
