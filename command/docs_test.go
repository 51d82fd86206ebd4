package command

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alecthomas/kingpin/v2"

	"tcphup/hangup"
	"tcphup/test/kit/docs"
)

// Generated tables of the documentation match the code. `make docs` rewrites them.
func TestDocs(t *testing.T) {
	app, _ := newApp(nil)
	commands := app.Model().Commands
	outcomes, reasons := outcomeTables(t)
	for _, tt := range []struct{ file, region, want string }{
		{"docs/hangup.md", "outcomes", outcomes},
		{"docs/reference.md", "commands", commandSections(commands)},
		{"docs/reference.md", "reasons", reasons},
		{"docs/reference.md", "results", resultTable(t)},
	} {
		docs.Check(t, filepath.Join("..", tt.file), tt.region, tt.want)
	}
}

// flagTable returns the table of the arguments and flags of a command.
func flagTable(cmd *kingpin.CmdModel) string {
	var rows [][]string
	for _, a := range cmd.Args {
		rows = append(rows, []string{docs.Code(a.Name), a.Help, docs.Code(strings.Join(a.Default, " "))})
	}
	for _, f := range cmd.Flags {
		if f.Hidden {
			continue
		}
		name := docs.Code("--" + f.Name)
		if f.Short != 0 {
			name = docs.Code("-"+string(f.Short)) + ", " + name
		}
		rows = append(rows, []string{name, f.Help, docs.Code(strings.Join(f.Default, " "))})
	}
	return docs.Table([]string{"flag", "", "default"}, rows)
}

func commandSections(commands []*kingpin.CmdModel) string {
	var sections []string
	for _, cmd := range commands {
		if cmd.Hidden || cmd.Name == "help" {
			continue
		}
		forms := synopsis(cmd)
		for i, form := range forms {
			forms[i] = docs.Code(form)
		}
		sections = append(sections, "### "+cmd.Name+"\n\n"+strings.Join(forms, " or ")+"\n\n"+cmd.Help+"\n\n"+flagTable(cmd))
	}
	return strings.Join(sections, "\n")
}

// outcomeTables returns the tables of the outcomes and reasons of package hangup. The
// meaning of each is its line comment.
func outcomeTables(t *testing.T) (outcomes, reasons string) {
	t.Helper()
	_, meanings := lineComments(t, "../hangup/report.go")
	rows := func(values []string) (rows [][]string) {
		for _, value := range values {
			if meanings[value] == "" {
				t.Errorf("hangup/report.go: %q has no line comment", value)
			}
			rows = append(rows, []string{docs.Code(value), meanings[value]})
		}
		return rows
	}
	return docs.Table([]string{"outcome", ""}, rows(names(hangup.Outcomes()))),
		docs.Table([]string{"reason", ""}, rows(names(hangup.Reasons())))
}

// resultTable returns the table of the results of alerts, with their line comments.
func resultTable(t *testing.T) string {
	t.Helper()
	values, meanings := lineComments(t, "../alerts/result.go")
	var rows [][]string
	for _, value := range values {
		if meanings[value] == "" {
			t.Errorf("alerts/result.go: %q has no line comment", value)
		}
		rows = append(rows, []string{docs.Code(value), meanings[value]})
	}
	if len(rows) < 20 {
		t.Errorf("alerts/result.go has %d results", len(rows))
	}
	return docs.Table([]string{"result", ""}, rows)
}

// lineComments returns the string constants of a file in their order, and their line comments.
func lineComments(t *testing.T, path string) (values []string, comments map[string]string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	comments = make(map[string]string)
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 {
			return true
		}
		if value, isText := spec.Values[0].(*ast.BasicLit); isText && value.Kind == token.STRING {
			text := strings.Trim(value.Value, `"`)
			values, comments[text] = append(values, text), strings.TrimSpace(spec.Comment.Text())
		}
		return true
	})
	return values, comments
}
