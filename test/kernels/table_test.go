package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tcphup/test/kit/docs"
)

func TestParseExpected(t *testing.T) {
	got, err := parseExpected("# comment\nsituation,every kernel,old,new\nidle,closed,,gone\n\"one, two\",refused,failed,\n")
	if err != nil {
		t.Fatal(err)
	}
	want := &table{kernels: []string{"old", "new"}, rows: []row{{"idle", []string{"closed", "gone"}}, {"one, two", []string{"failed", "refused"}}}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(table{}, row{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for name, tt := range map[string]struct{ text, fails string }{
		"empty":           {"", "table is empty"},
		"no default":      {"situation,old,new\nidle,closed,closed\n", `not "every kernel"`},
		"a cell missing":  {"situation,every kernel,old\nidle,,\n", `row "idle" has no cell for kernel old`},
		"row twice":       {"situation,every kernel,old\nidle,a,\nidle,b,\n", `row "idle" occurs twice`},
		"columns missing": {"situation,every kernel,old\nidle,a\n", "wrong number of fields"},
	} {
		if _, err := parseExpected(tt.text); err == nil || !strings.Contains(err.Error(), tt.fails) {
			t.Errorf("%s: error is %v, want %q", name, err, tt.fails)
		}
	}
}

// The expected table of the repository has a column for each kernel.
func TestExpectedKernels(t *testing.T) {
	expected, err := parseExpected(expectedText)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, k := range kernels() {
		names = append(names, k.name)
	}
	if diff := cmp.Diff(names, expected.kernels); diff != "" {
		t.Errorf("kernels (-want +got):\n%s", diff)
	}
}

func TestCompare(t *testing.T) {
	expected := &table{kernels: []string{"old", "new"}, rows: []row{{"idle", []string{"closed", "gone"}}, {"busy", []string{"refused", "refused"}}}}
	for name, tt := range map[string]struct {
		kernel string
		got    map[string]string
		want   []string
	}{
		"as expected":    {"new", map[string]string{"idle": "gone", "busy": "refused"}, nil},
		"another cell":   {"old", map[string]string{"idle": "gone", "busy": "refused"}, []string{`old: idle: got "gone", want "closed"`}},
		"no result":      {"old", map[string]string{"idle": "closed"}, []string{`old: busy: got "no result", want "refused"`}},
		"another row":    {"old", map[string]string{"idle": "closed", "busy": "refused", "x": "y"}, []string{`old: x: got "y", which is not in the expected table`}},
		"another kernel": {"6.6", nil, []string{"no results are expected of kernel 6.6"}},
	} {
		if diff := cmp.Diff(tt.want, expected.compare(tt.kernel, tt.got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// Results of a kernel replace its earlier ones, and those of the other kernels stay.
func TestWrite(t *testing.T) {
	expected := &table{kernels: []string{"old", "new"}, rows: []row{{"idle, IPv6", []string{"", ""}}, {"busy", []string{"", ""}}}}
	path := filepath.Join(t.TempDir(), "kernels.csv")
	for _, tt := range []struct{ kernel, release, cell, want string }{
		{"new", "7.2.1", "gone", "situation,new\nrelease,7.2.1\n\"idle, IPv6\",gone\nbusy,\n"},
		{"old", "5.10.1", "closed", "situation,old,new\nrelease,5.10.1,7.2.1\n\"idle, IPv6\",closed,gone\nbusy,,\n"},
		{"new", "7.2.2", "closed", "situation,old,new\nrelease,5.10.1,7.2.2\n\"idle, IPv6\",closed,closed\nbusy,,\n"},
	} {
		if err := write(path, expected, tt.kernel, &results{kernel: tt.release, cells: map[string]string{"idle, IPv6": tt.cell}}); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tt.want, string(text)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.release, diff)
		}
	}
}

// An exclusion names an existing test and a kernel.
func TestExcluded(t *testing.T) {
	excluded, err := parseExcluded(excludedText)
	if err != nil {
		t.Fatal(err)
	}
	for p, exclusions := range excluded {
		if !slices.Contains(packages, p) {
			t.Errorf("the tests of package %s do not run", p)
		}
		tests := testNames(t, filepath.Join("../..", p))
		for _, e := range exclusions {
			if !tests[e.test] {
				t.Errorf("package %s has no test %s", p, e.test)
			}
			if e.kernel != everyKernel && !slices.ContainsFunc(kernels(), func(k kernel) bool { return k.name == e.kernel }) {
				t.Errorf("%s: no kernel is named %q", e.test, e.kernel)
			}
		}
	}
	for _, text := range []string{"actuator,TestX,5.10\n", "actuator,TestX,5.10,\n", "actuator,,5.10,slow\n"} {
		if _, err := parseExcluded(text); err == nil {
			t.Errorf("%q is accepted", text)
		}
	}
}

func testNames(t *testing.T, dir string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	names := make(map[string]bool)
	for _, path := range files {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil {
				names[f.Name.Name] = true
			}
		}
	}
	return names
}

// Excluded tests are left out on the kernels that are named.
func TestSteps(t *testing.T) {
	excluded := map[string][]exclusion{"actuator": {{test: "TestA", kernel: "5.10"}, {test: "TestB", kernel: everyKernel}}}
	for kernel, want := range map[string]string{"5.10": "-test.skip=^TestA$|^TestB$", "6.1": "-test.skip=^TestB$"} {
		for _, s := range steps(kernel, excluded) {
			skips := slices.ContainsFunc(s.Args, func(arg string) bool { return strings.HasPrefix(arg, "-test.skip") })
			if actuator := s.Name == "tests of actuator"; skips != actuator || actuator && !slices.Contains(s.Args, want) {
				t.Errorf("%s: %s has arguments %v", kernel, s.Name, s.Args)
			}
		}
	}
}

// The table of docs/kernels.md is that of docs/kernels.csv, which make kernels writes, and it
// matches the expected one. `make docs` rewrites it.
func TestDocs(t *testing.T) {
	const directory = "../../docs"
	measured, err := readResults(filepath.Join(directory, "kernels.csv"))
	if err != nil {
		t.Fatal(err)
	}
	expected, err := parseExpected(expectedText)
	if err != nil {
		t.Fatal(err)
	}
	var lines [][]string
	for _, r := range measured.rows {
		lines = append(lines, append([]string{r.name}, r.cells...))
	}
	for i, kernel := range measured.kernels {
		cells := measured.column(i)
		delete(cells, releaseRow)
		for _, difference := range expected.compare(kernel, cells) {
			t.Errorf("docs/kernels.csv, run `make kernels`: %s", difference)
		}
	}
	docs.Check(t, filepath.Join(directory, "kernels.md"), "situations", docs.Table(append([]string{""}, measured.kernels...), lines))
	docs.Check(t, filepath.Join(directory, "kernels.md"), "excluded", excludedTable(t))
}

func excludedTable(t *testing.T) string {
	t.Helper()
	excluded, err := parseExcluded(excludedText)
	if err != nil {
		t.Fatal(err)
	}
	var lines [][]string
	for _, p := range packages {
		for _, e := range excluded[p] {
			lines = append(lines, []string{p, docs.Code(e.test), e.kernel, e.reason})
		}
	}
	return docs.Table([]string{"package", "test", "kernel", "reason"}, lines)
}
