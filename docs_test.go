package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kingpin/v2"
	"github.com/google/go-cmp/cmp"

	"tcphup/hangup"
)

// The tables of the documentation that are made from the code say what the code says.
// `make docs` writes them anew.
func TestDocs(t *testing.T) {
	app, _ := newApp(nil)
	commands := app.Model().Commands
	hangup := commands[slices.IndexFunc(commands, func(c *kingpin.CmdModel) bool { return c.Default })]
	outcomes, reasons := outcomeTables(t)
	perDestination, others, services := metricTables(t)
	for _, tt := range []struct{ file, region, want string }{
		{"README.md", "hangup-flags", flagTable(hangup)},
		{"README.md", "outcomes", outcomes},
		{"docs/reference.md", "commands", commandSections(commands)},
		{"docs/reference.md", "outcomes", outcomes},
		{"docs/reference.md", "reasons", reasons},
		{"docs/metrics.md", "metrics-of-destinations", perDestination},
		{"docs/metrics.md", "other-metrics", others},
		{"docs/services.md", "service-metrics", services},
	} {
		t.Run(tt.file+"/"+tt.region, func(t *testing.T) {
			before, got, after := cutRegion(t, tt.file, tt.region)
			if *update {
				if err := os.WriteFile(tt.file, []byte(before+tt.want+after), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("write it anew with `make docs` (-want +got):\n%s", diff)
			}
		})
	}
}

// cutRegion returns what is between the marks of a region, and what is around it with
// the marks.
func cutRegion(t *testing.T, file, region string) (before, inside, after string) {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	begin, end := "<!-- begin "+region+": written by make docs -->\n\n", "\n<!-- end "+region+" -->\n"
	before, rest, hasBegin := strings.Cut(string(content), begin)
	inside, after, hasEnd := strings.Cut(rest, end)
	if !hasBegin || !hasEnd {
		t.Fatalf("%s has not the lines\n%s%s", file, begin, end)
	}
	return before + begin, inside, end + after
}

// markdownTable writes a table in Markdown.
func markdownTable(header []string, rows [][]string) string {
	var b strings.Builder
	line := func(cells []string) {
		for _, cell := range cells {
			b.WriteString(strings.TrimRight("| "+strings.ReplaceAll(cell, "|", `\|`), " ") + " ")
		}
		b.WriteString("|\n")
	}
	line(header)
	line(slices.Repeat([]string{"---"}, len(header)))
	for _, row := range rows {
		line(row)
	}
	return b.String()
}

func code(text string) string {
	if text == "" {
		return ""
	}
	return "`" + text + "`"
}

// flagTable shows the arguments and flags of a command.
func flagTable(cmd *kingpin.CmdModel) string {
	var rows [][]string
	for _, a := range cmd.Args {
		rows = append(rows, []string{code(a.Name), a.Help, code(strings.Join(a.Default, " "))})
	}
	for _, f := range cmd.Flags {
		if f.Hidden {
			continue
		}
		name := code("--" + f.Name)
		if f.Short != 0 {
			name = code("-"+string(f.Short)) + ", " + name
		}
		rows = append(rows, []string{name, f.Help, code(strings.Join(f.Default, " "))})
	}
	return markdownTable([]string{"flag", "", "default"}, rows)
}

func commandSections(commands []*kingpin.CmdModel) string {
	var sections []string
	for _, cmd := range commands {
		if cmd.Hidden || cmd.Name == "help" {
			continue
		}
		usage := "tcphup " + cmd.Name
		if len(cmd.Flags) > 0 {
			usage += " [FLAG...]"
		}
		for _, a := range cmd.Args {
			if a.Required {
				usage += " " + a.Name
			} else {
				usage += " [" + a.Name + "]"
			}
		}
		sections = append(sections, "### "+cmd.Name+"\n\n"+code(usage)+"\n\n"+cmd.Help+"\n\n"+flagTable(cmd))
	}
	return strings.Join(sections, "\n")
}

// outcomeTables show the outcomes and the reasons of package hangup with what their
// comments say: "NAME means: ...".
func outcomeTables(t *testing.T) (outcomes, reasons string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "hangup/report.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	meanings := make(map[string]string) // by value
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 {
			return true
		}
		value, isText := spec.Values[0].(*ast.BasicLit)
		meaning, isMeaning := strings.CutPrefix(spec.Doc.Text(), spec.Names[0].Name+" means: ")
		if isText && isMeaning {
			meaning = strings.TrimSuffix(strings.Join(strings.Fields(meaning), " "), ".")
			meanings[strings.Trim(value.Value, `"`)] = meaning
		}
		return true
	})
	rows := func(values []string) (rows [][]string) {
		for _, value := range values {
			if meanings[value] == "" {
				t.Errorf("hangup/report.go does not say what %q means", value)
			}
			rows = append(rows, []string{code(value), meanings[value]})
		}
		return rows
	}
	return markdownTable([]string{"outcome", ""}, rows(names(hangup.Outcomes()))),
		markdownTable([]string{"reason", ""}, rows(names(hangup.Reasons())))
}

// The table of HTTP paths has those that are served, and no others.
func TestDocumentedPaths(t *testing.T) {
	source, err := os.ReadFile("handlers.go")
	if err != nil {
		t.Fatal(err)
	}
	var served, documented []string
	for _, m := range regexp.MustCompile(`mux\.Handle(?:Func)?\("(?:GET )?([^"]+)"`).FindAllStringSubmatch(string(source), -1) {
		served = append(served, strings.TrimSuffix(m[1], "{$}"))
	}
	reference, err := os.ReadFile("docs/reference.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `(?:GET|POST) (/[^`]*)` \\|").FindAllStringSubmatch(string(reference), -1) {
		documented = append(documented, m[1])
	}
	slices.Sort(served)
	slices.Sort(documented)
	if diff := cmp.Diff(served, documented); diff != "" || len(served) == 0 {
		t.Errorf("paths (-served +in docs/reference.md):\n%s", diff)
	}
}
