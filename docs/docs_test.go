package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Tests, source files and functions named in the documentation exist.
func TestDocumentedTests(t *testing.T) {
	tests := make(map[string]bool)
	err := filepath.WalkDir("..", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil {
				tests[f.Name.Name] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	documents, err := filepath.Glob("*.md")
	if err != nil {
		t.Fatal(err)
	}
	named := 0
	for _, document := range documents {
		text, err := os.ReadFile(document)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile("`((?:Test|Fuzz|Benchmark)[A-Z][A-Za-z0-9]+)[/`]").FindAllSubmatch(text, -1) {
			named++
			if name := string(m[1]); !tests[name] {
				t.Errorf("%s: test %s does not exist", document, name)
			}
		}
		for _, m := range regexp.MustCompile("`([a-z_/]+\\.go)`((?:, [A-Za-z]+)*)").FindAllStringSubmatch(string(text), -1) {
			source, err := os.ReadFile(filepath.Join("..", m[1]))
			if err != nil {
				t.Errorf("%s: %v", document, err)
				continue
			}
			for name := range strings.SplitSeq(strings.TrimPrefix(m[2], ", "), ", ") {
				if !regexp.MustCompile(`\b` + name + `\b`).Match(source) {
					t.Errorf("%s: %s has no %s", document, m[1], name)
				}
			}
		}
	}
	if named == 0 {
		t.Error("no test is named")
	}
}
