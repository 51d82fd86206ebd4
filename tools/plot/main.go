// Plot draws the results of `make bench`: it reads docs/benchmarks.csv from standard input and
// writes the SVG of docs/benchmarks.md to standard output.
package main

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"image/color"
	"io"
	"os"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "plot:", err)
		os.Exit(1)
	}
}

// series has the measured points of one reader.
type series struct {
	name         string
	time, memory plotter.XYs
}

func run(in io.Reader, out io.Writer) error {
	all, err := parse(in)
	if err != nil {
		return fmt.Errorf("read series: %w", err)
	}
	times, err := panel("Time to read all sockets, ms", all, func(s series) plotter.XYs { return s.time })
	if err != nil {
		return err
	}
	memory, err := panel("Memory, MB", all, func(s series) plotter.XYs { return s.memory })
	if err != nil {
		return err
	}
	// The first panel has the legend of both.
	memory.Legend = plot.NewLegend()

	const width, height = 10 * vg.Inch, 4 * vg.Inch
	canvas := vgsvg.New(width, height)
	tiles := draw.Tiles{Rows: 1, Cols: 2, PadX: vg.Points(24), PadTop: vg.Points(4), PadLeft: vg.Points(8), PadRight: vg.Points(20), PadBottom: vg.Points(4)}
	panels := [][]*plot.Plot{{times, memory}}
	canvases := plot.Align(panels, tiles, draw.New(canvas))
	for i, p := range panels[0] {
		p.Draw(canvases[0][i])
	}
	var svg bytes.Buffer
	if _, err := canvas.WriteTo(&svg); err != nil {
		return err
	}
	_, err = out.Write(themed(svg.Bytes()))
	return err
}

// parse reads a table with the columns reader, sockets, milliseconds and megabytes.
func parse(in io.Reader) (all []series, err error) {
	r := csv.NewReader(in)
	r.FieldsPerRecord = 4
	lines, err := r.ReadAll()
	if err != nil {
		return nil, err
	}
	if len(lines) < 2 {
		return nil, errors.New("no data")
	}
	for _, line := range lines[1:] {
		var values [3]float64
		for i := range values {
			if values[i], err = strconv.ParseFloat(line[i+1], 64); err != nil {
				return nil, err
			}
			if values[i] <= 0 {
				return nil, fmt.Errorf("value %s: not positive, as a logarithmic scale requires", line[i+1])
			}
		}
		if len(all) == 0 || all[len(all)-1].name != line[0] {
			all = append(all, series{name: line[0]})
		}
		s := &all[len(all)-1]
		s.time = append(s.time, plotter.XY{X: values[0], Y: values[1]})
		s.memory = append(s.memory, plotter.XY{X: values[0], Y: values[2]})
	}
	return all, nil
}

// ink is the colour of text and axes, which themed replaces.
var ink = color.RGBA{R: 0x1f, G: 0x23, B: 0x28, A: 0xff}

// faint is a grey with an opacity of 25 %.
var faint = color.NRGBA{R: 0x80, G: 0x80, B: 0x80, A: 0x40}

// colours and shapes are distinguishable for colour-blind readers, on white and on black.
var (
	colours = []color.Color{
		color.RGBA{R: 0x1f, G: 0x83, B: 0xc4, A: 0xff},
		color.RGBA{R: 0x80, G: 0x86, B: 0x8e, A: 0xff},
		color.RGBA{R: 0xd5, G: 0x6a, B: 0x00, A: 0xff},
		color.RGBA{R: 0x00, G: 0x96, B: 0x70, A: 0xff},
	}
	shapes = []draw.GlyphDrawer{draw.CircleGlyph{}, draw.BoxGlyph{}, draw.TriangleGlyph{}, draw.PyramidGlyph{}}
)

func panel(title string, all []series, of func(series) plotter.XYs) (*plot.Plot, error) {
	p := plot.New()
	p.BackgroundColor = nil
	p.Title.Text = title
	p.X.Label.Text = "sockets"
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		axis.Scale, axis.Tick.Marker = plot.LogScale{}, ticks{}
		axis.Color, axis.Tick.Color = ink, ink
		axis.Label.TextStyle.Color, axis.Tick.Label.Color = ink, ink
	}
	p.Title.TextStyle.Color, p.Legend.TextStyle.Color = ink, ink
	for _, f := range []*font.Font{&p.Title.TextStyle.Font, &p.Legend.TextStyle.Font, &p.X.Label.TextStyle.Font, &p.X.Tick.Label.Font, &p.Y.Tick.Label.Font} {
		f.Variant = "Sans"
	}
	p.Title.Padding, p.Legend.Top, p.Legend.Left, p.Legend.XOffs = vg.Points(8), true, true, vg.Points(10)
	p.Legend.Padding = vg.Points(3)

	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Horizontal.Color = faint, faint
	p.Add(grid)
	for i, s := range all {
		line, points, err := plotter.NewLinePoints(of(s))
		if err != nil {
			return nil, err
		}
		line.Color, line.Width = colours[i%len(colours)], vg.Points(2)
		points.Color, points.Shape, points.Radius = colours[i%len(colours)], shapes[i%len(shapes)], vg.Points(3.5)
		p.Add(line, points)
		p.Legend.Add(s.name, line, points)
	}
	// Margin around the points.
	p.Y.Min, p.Y.Max = p.Y.Min/1.5, p.Y.Max*1.5
	return p, nil
}

// ticks labels 1, 2 and 5 times each power of ten.
type ticks struct{}

func (ticks) Ticks(least, most float64) (all []plot.Tick) {
	for power := 0.001; power <= most; power *= 10 {
		for _, digit := range []float64{1, 2, 5} {
			if at := power * digit; at >= least*0.999 && at <= most*1.001 {
				all = append(all, plot.Tick{Value: at, Label: number(at)})
			}
		}
	}
	return all
}

// number formats 20000 as 20k.
func number(v float64) string {
	if v >= 1000 {
		return strconv.FormatFloat(v/1000, 'g', 4, 64) + "k"
	}
	return strconv.FormatFloat(v, 'g', 4, 64)
}

// themed makes text and axes follow the browser's dark or light theme, and adds fallback
// fonts.
func themed(svg []byte) []byte {
	const style = `<style>svg{color:#1f2328}@media(prefers-color-scheme:dark){svg{color:#e6edf3}}</style>`
	svg = bytes.ReplaceAll(svg, fmt.Appendf(nil, "#%02X%02X%02X", ink.R, ink.G, ink.B), []byte("currentColor"))
	svg = bytes.ReplaceAll(svg, []byte("font-family:Liberation Sans"), []byte("font-family:Liberation Sans,Arial,sans-serif"))
	head, body, _ := bytes.Cut(svg, []byte("<g "))
	return bytes.Join([][]byte{head, []byte(style + "\n<g "), body}, nil)
}
