package main

import (
	"bytes"
	_ "embed"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
)

// table has a row for each situation and a column for each kernel.
type table struct {
	kernels []string
	rows    []row
}

type row struct {
	name  string
	cells []string // by kernel
}

// expectedText has the expected table. The second column applies to each kernel whose own
// cell is empty.
//
//go:embed expected.csv
var expectedText string

const everyKernel = "every kernel"

// parseExpected returns the expected table.
func parseExpected(text string) (*table, error) {
	t, err := readTable(strings.NewReader(text))
	if err != nil {
		return nil, err
	}
	if len(t.kernels) < 2 || t.kernels[0] != everyKernel {
		return nil, fmt.Errorf("the second column is not %q", everyKernel)
	}
	t.kernels = t.kernels[1:]
	for i, r := range t.rows {
		for j, cell := range r.cells[1:] {
			if cell == "" {
				r.cells[j+1] = r.cells[0]
			}
			if r.cells[j+1] == "" {
				return nil, fmt.Errorf("row %q has no cell for kernel %s", r.name, t.kernels[j])
			}
		}
		t.rows[i].cells = r.cells[1:]
	}
	return t, nil
}

// readTable reads a table as CSV. Lines that start with # are comments.
func readTable(from io.Reader) (*table, error) {
	reader := csv.NewReader(from)
	reader.Comment = '#'
	lines, err := reader.ReadAll()
	if err != nil {
		return nil, err
	}
	if len(lines) == 0 {
		return nil, errors.New("table is empty")
	}
	t := &table{kernels: lines[0][1:]}
	for _, line := range lines[1:] {
		if slices.ContainsFunc(t.rows, func(r row) bool { return r.name == line[0] }) {
			return nil, fmt.Errorf("row %q occurs twice", line[0])
		}
		t.rows = append(t.rows, row{line[0], line[1:]})
	}
	return t, nil
}

// csv returns the table as CSV.
func (t *table) csv() ([]byte, error) {
	lines := [][]string{append([]string{"situation"}, t.kernels...)}
	for _, r := range t.rows {
		lines = append(lines, append([]string{r.name}, r.cells...))
	}
	var out bytes.Buffer
	w := csv.NewWriter(&out)
	err := w.WriteAll(lines)
	return out.Bytes(), err
}

// compare returns the differences between the results of a kernel and its column.
func (t *table) compare(kernel string, got map[string]string) (differences []string) {
	column := slices.Index(t.kernels, kernel)
	if column < 0 {
		return []string{"no results are expected of kernel " + kernel}
	}
	expected := make(map[string]bool)
	for _, r := range t.rows {
		expected[r.name] = true
		cell, ok := got[r.name]
		if !ok {
			cell = "no result"
		}
		if cell != r.cells[column] {
			differences = append(differences, fmt.Sprintf("%s: %s: got %q, want %q", kernel, r.name, cell, r.cells[column]))
		}
	}
	for name := range got {
		if !expected[name] {
			differences = append(differences, fmt.Sprintf("%s: %s: got %q, which is not in the expected table", kernel, name, got[name]))
		}
	}
	slices.Sort(differences)
	return differences
}

// releaseRow is the row of results with the kernel's release and version.
const releaseRow = "release"

// update returns a table of results with those of one more kernel. It has the rows of the
// expected table, and of its kernels those that have results.
func (t *table) update(old *table, kernel string, r *results) *table {
	columns := make(map[string]map[string]string) // kernel, row: cell
	for i, k := range old.kernels {
		columns[k] = old.column(i)
	}
	columns[kernel] = maps.Clone(r.cells)
	columns[kernel][releaseRow] = r.kernel
	updated := &table{rows: []row{{name: releaseRow}}}
	for _, r := range t.rows {
		updated.rows = append(updated.rows, row{name: r.name})
	}
	for _, k := range t.kernels {
		if columns[k] == nil {
			continue
		}
		updated.kernels = append(updated.kernels, k)
		for i := range updated.rows {
			updated.rows[i].cells = append(updated.rows[i].cells, columns[k][updated.rows[i].name])
		}
	}
	return updated
}

// column returns the cells of a kernel by row.
func (t *table) column(i int) map[string]string {
	cells := make(map[string]string)
	for _, r := range t.rows {
		cells[r.name] = r.cells[i]
	}
	return cells
}

// readResults reads the table of results; an empty one if there is no file.
func readResults(path string) (*table, error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &table{}, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return readTable(file)
}
