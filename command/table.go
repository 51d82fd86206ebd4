package command

import (
	"fmt"
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

	warning style = "1;33"
	loud    style = "1;31"
)

// cell is a field of a table.
type cell struct {
	text  string
	style style
}

// column describes a column of a table.
type column struct {
	name  string
	right bool // aligned to the right
	// shared is the number of rows from which the column is left out if all rows have the
	// same value: a line below the table has the value. 0 keeps the column.
	shared int
	// none is the text for the values "-", "none" and "0" that all rows have.
	none string
	// optional columns are left out of a terminal that is too narrow.
	optional bool
	// port is set for a column of addresses with ports. In a terminal that is too narrow it
	// has only the ports if all rows have the same address.
	port bool
}

// table prints cells in aligned columns. The zero value is an empty table.
type table struct {
	columns []column // nil: no header
	rows    [][]cell
}

func (t *table) add(cells ...cell) { t.rows = append(t.rows, cells) }

// layout is a table as lines of text.
type layout struct {
	header, rows []string
	// below has the values that all rows share, and the names of the columns left out.
	below []string
	// height is the number of lines of the header and of each row.
	height int
}

// write writes the lines of the table to w, and fits them to its width if it is a terminal.
func (t *table) write(w io.Writer, color bool) error {
	l := t.layout(terminalWidth(w), color)
	return writeLines(w, l.header, l.rows, l.below)
}

func writeLines(w io.Writer, groups ...[]string) error {
	var b strings.Builder
	for _, lines := range groups {
		for _, line := range lines {
			b.WriteString(line + "\n")
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// layout returns the lines of the table, with styles if color is set. Width 0 does not limit
// their length; otherwise columns that do not fit are left out or continue on a second
// line. A table without rows has no lines.
func (t *table) layout(width int, color bool) layout {
	if len(t.rows) == 0 {
		return layout{height: 1}
	}
	f := t.fit(width)
	var l layout
	if t.columns != nil {
		header := make([]cell, len(f.columns))
		for i, c := range f.columns {
			header[i] = cell{c.name, bold}
		}
		l.header = f.lines(header, width, color)
	}
	for _, row := range f.rows {
		lines := f.lines(row, width, color)
		l.height = len(lines)
		l.rows = append(l.rows, lines...)
	}
	if len(f.shared) > 0 {
		head := ""
		if len(t.rows) > 1 {
			head = fmt.Sprintf("all %d: ", len(t.rows))
		}
		l.below = append(l.below, wrapParts(head, f.shared, ", ", width, color)...)
	}
	if len(f.left) > 0 {
		l.below = append(l.below, wrapParts(fmt.Sprintf("not shown in %d columns, but with | cat: ", width), f.left, ", ", width, color)...)
	}
	return l
}

// fitted is a table with the columns that are printed.
type fitted struct {
	columns []column
	rows    [][]cell
	shared  []cell // values that all rows share
	left    []cell // names of the columns that were left out for lack of width
	widths  []int
}

func (t *table) fit(width int) *fitted {
	f := &fitted{columns: t.columns, rows: t.rows}
	if f.columns == nil {
		f.columns = make([]column, len(t.rows[0]))
	}
	f.keep(func(i int) bool {
		c := f.columns[i]
		if c.shared == 0 || len(f.rows) < c.shared || !f.isShared(i, func(s string) string { return s }) {
			return true
		}
		f.shared = append(f.shared, c.sharedValue(f.rows[0][i]))
		return false
	})
	all := make([]bool, len(f.columns))
	needed := make([]bool, len(f.columns))
	for i, c := range f.columns {
		all[i], needed[i] = true, !c.optional
	}
	if f.height(all, width) == 1 {
		return f
	}
	for i, c := range f.columns {
		if c.port && len(f.rows) > 1 && f.isShared(i, addressOf) {
			f.shared = append(f.shared, cell{text: strings.ToLower(c.name) + " address " + addressOf(f.rows[0][i].text)})
			f.shorten(i)
		}
	}
	// Columns further left come first.
	height := f.height(needed, width)
	for i := range needed {
		if needed[i] {
			continue
		}
		needed[i] = true
		if f.height(needed, width) > height {
			needed[i] = false
			f.left = append(f.left, cell{text: f.columns[i].name})
		}
	}
	f.keep(func(i int) bool { return needed[i] })
	return f
}

// height returns the number of lines of a row with the columns.
func (f *fitted) height(columns []bool, width int) int {
	height, used := 1, -len(gap)
	for i, w := range f.widths {
		if !columns[i] {
			continue
		}
		used += len(gap) + w
		if width > 0 && used > width && used > w {
			height, used = height+1, len(continuation)+w
		}
	}
	return height
}

// gap separates columns.
const gap = "  "

// continuation indents the second line of a row or a sentence.
const continuation = "  "

// keep removes the columns for which keep returns false, and sets the widths.
func (f *fitted) keep(keep func(i int) bool) {
	var kept []int
	for i := range f.columns {
		if keep(i) {
			kept = append(kept, i)
		}
	}
	columns := make([]column, len(kept))
	rows := make([][]cell, len(f.rows))
	f.widths = make([]int, len(kept))
	for i, from := range kept {
		columns[i] = f.columns[from]
		f.widths[i] = utf8.RuneCountInString(columns[i].name)
		for j, row := range f.rows {
			rows[j] = append(rows[j], row[from])
			f.widths[i] = max(f.widths[i], utf8.RuneCountInString(row[from].text))
		}
	}
	f.columns, f.rows = columns, rows
}

// isShared reports whether the parts of the values that part returns are all the same.
func (f *fitted) isShared(i int, part func(string) string) bool {
	for _, row := range f.rows {
		if part(row[i].text) != part(f.rows[0][i].text) {
			return false
		}
	}
	return true
}

// shorten removes the addresses from a column.
func (f *fitted) shorten(i int) {
	for _, row := range f.rows {
		row[i].text = strings.TrimPrefix(row[i].text, addressOf(row[i].text))
	}
	f.keep(func(int) bool { return true })
}

// addressOf returns ADDRESS of ADDRESS:PORT.
func addressOf(s string) string { return s[:max(strings.LastIndexByte(s, ':'), 0)] }

// sharedValue returns the text for a value that all rows have.
func (c *column) sharedValue(value cell) cell {
	if c.none != "" && (value.text == "-" || value.text == "none" || value.text == "0") {
		return cell{text: c.none}
	}
	return cell{strings.ToLower(c.name) + " " + value.text, value.style}
}

// lines returns a row; columns that exceed the width continue on the next line. The last
// column is not padded if it is aligned to the left.
func (f *fitted) lines(row []cell, width int, color bool) []string {
	var lines []string
	var b strings.Builder
	used := 0
	for i, c := range row {
		switch {
		case i == 0:
		case width > 0 && used+len(gap)+f.widths[i] > width:
			lines = append(lines, strings.TrimRight(b.String(), " "))
			b.Reset()
			b.WriteString(continuation)
			used = len(continuation)
		default:
			b.WriteString(gap)
			used += len(gap)
		}
		used += f.widths[i]
		padding := strings.Repeat(" ", f.widths[i]-utf8.RuneCountInString(c.text))
		if f.columns[i].right {
			b.WriteString(padding)
		}
		b.WriteString(c.show(color))
		if !f.columns[i].right && i < len(row)-1 {
			b.WriteString(padding)
		}
	}
	return append(lines, b.String())
}

func (c cell) show(color bool) string {
	if !color || c.style == "" || c.text == "" {
		return c.text
	}
	return "\x1b[" + string(c.style) + "m" + c.text + "\x1b[0m"
}

// wrapParts joins parts after a head. Parts that exceed the width continue on the next line,
// without the spaces of the separator; width 0 does not limit the length.
func wrapParts(head string, parts []cell, separator string, width int, color bool) []string {
	var lines []string
	line, used := head, utf8.RuneCountInString(head)
	for i, c := range parts {
		end := ""
		if i < len(parts)-1 {
			end = separator
		}
		need := utf8.RuneCountInString(c.text + strings.TrimRight(end, " "))
		if width > 0 && used+need > width && used > len(continuation) {
			lines = append(lines, strings.TrimRight(line, " "))
			line, used = continuation, len(continuation)
		}
		line += c.show(color) + end
		used += utf8.RuneCountInString(c.text + end)
	}
	return append(lines, line)
}

// wrapText breaks a text at a separator.
func wrapText(text, separator string, s style, width int, color bool) []string {
	var parts []cell
	for part := range strings.SplitSeq(text, separator) {
		parts = append(parts, cell{part, s})
	}
	return wrapParts("", parts, separator, width, color)
}
