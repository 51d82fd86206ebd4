package command

import (
	"io"
	"strings"
	"unicode/utf8"
)

// style holds the parameters of an ANSI SGR sequence. The zero style is plain.
type style string

const (
	bold   style = "1"
	dim    style = "2"
	red    style = "31"
	yellow style = "33"
)

// cell is a field of a table.
type cell struct {
	text  string
	style style
}

// table prints cells in aligned columns. The zero value is an empty table.
type table struct {
	// header has the names of the columns. The prefix '>' aligns a column to the right
	// and is not printed. A nil header is not printed.
	header []string
	rows   [][]cell
}

func (t *table) add(cells ...cell) { t.rows = append(t.rows, cells) }

// write writes the lines of the table to w.
func (t *table) write(w io.Writer, color bool) error {
	var b strings.Builder
	for _, line := range t.lines(color) {
		b.WriteString(line + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// lines returns the header and the rows, with styles if color is set. The last column is
// not padded if it is aligned to the left. A table without rows has no lines.
func (t *table) lines(color bool) []string {
	if len(t.rows) == 0 {
		return nil
	}
	all := t.rows
	right := make([]bool, len(t.rows[0]))
	if t.header != nil {
		header := make([]cell, len(t.header))
		for i, name := range t.header {
			name, right[i] = strings.CutPrefix(name, ">")
			header[i] = cell{name, bold}
		}
		all = append([][]cell{header}, t.rows...)
	}
	widths := make([]int, len(right))
	for _, row := range all {
		for i, c := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(c.text))
		}
	}
	lines := make([]string, 0, len(all))
	for _, row := range all {
		var b strings.Builder
		for i, c := range row {
			padding := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c.text))
			if i > 0 {
				b.WriteString("  ")
			}
			if right[i] {
				b.WriteString(padding)
			}
			b.WriteString(c.show(color))
			if !right[i] && i < len(row)-1 {
				b.WriteString(padding)
			}
		}
		lines = append(lines, b.String())
	}
	return lines
}

func (c cell) show(color bool) string {
	if !color || c.style == "" || c.text == "" {
		return c.text
	}
	return "\x1b[" + string(c.style) + "m" + c.text + "\x1b[0m"
}
