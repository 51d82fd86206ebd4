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
		{"README.md", "outcomes", outcomes},
		{"docs/reference.md", "commands", commandSections(commands)},
		{"docs/reference.md", "outcomes", outcomes},
		{"docs/reference.md", "reasons", reasons},
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
	file, err := parser.ParseFile(token.NewFileSet(), "../hangup/report.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	meanings := make(map[string]string) // by value
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 {
			return true
		}
		if value, isText := spec.Values[0].(*ast.BasicLit); isText {
			meanings[strings.Trim(value.Value, `"`)] = strings.TrimSpace(spec.Comment.Text())
		}
		return true
	})
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
