package command

import (
	"io"
	"strings"
	"unicode/utf8"
)

// style is how a terminal shows a cell: the parameters of an ANSI SGR sequence.
// The zero style is plain.
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

// table is text in aligned columns. The zero table is empty.
type table struct {
	// header names the columns; numbers are aligned to the right where a name
	// begins with '>', which is not shown. Without a header only the rows are shown.
	header []string
	rows   [][]cell
}

func (t *table) add(cells ...cell) { t.rows = append(t.rows, cells) }

// write writes the lines of the table to w.
func (t *table) write(w io.Writer, colour bool) error {
	var b strings.Builder
	for _, line := range t.lines(colour) {
		b.WriteString(line)
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// lines returns the header and the rows, with styles if colour is set. Nothing
// follows the last column, and a table without rows has no lines.
func (t *table) lines(colour bool) []string {
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
			b.WriteString(c.show(colour))
			if !right[i] && i < len(row)-1 {
				b.WriteString(padding)
			}
		}
		lines = append(lines, b.String())
	}
	return lines
}

func (c cell) show(colour bool) string {
	if !colour || c.style == "" || c.text == "" {
		return c.text
	}
	return "\x1b[" + string(c.style) + "m" + c.text + "\x1b[0m"
}
