package main

import (
	"bytes"
	_ "embed"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
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

// measured returns the table of results, with the rows of the expected table.
func (t *table) measured(kernels []string, all map[string]*results) *table {
	m := &table{kernels: kernels}
	release := row{name: "release"}
	for _, k := range kernels {
		release.cells = append(release.cells, all[k].kernel)
	}
	m.rows = append(m.rows, release)
	for _, r := range t.rows {
		cells := row{name: r.name}
		for _, k := range kernels {
			cells.cells = append(cells.cells, all[k].cells[r.name])
		}
		m.rows = append(m.rows, cells)
	}
	return m
}
