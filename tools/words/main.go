// Words counts four idioms per 1,000 words of Go comments and of Markdown, and fails when a
// count exceeds the limit. The idioms personify code or replace a noun by a clause.
//
//	go run ./words -limit 0.3 ..
//	go run ./words DIR...
//
// Each directory has a row for program code, one for tests and one for documents. Without
// -limit, it only prints. Code blocks and generated regions of documents do not count.
// Directories named testdata, vendor, node_modules, bin, dist and .git are skipped.
package main

import (
	"flag"
	"fmt"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"text/tabwriter"
)

// idioms are the counted patterns and their column names.
var idioms = [...]struct {
	name    string
	pattern *regexp.Regexp
}{
	{"tell", regexp.MustCompile(`(?i)\b(tell|tells|told)\b`)},
	{"say", regexp.MustCompile(`(?i)\b(say|says|said)\b`)},
	{"nobody", regexp.MustCompile(`(?i)\b(nobody|whoever|somebody|someone|everyone|whatever)\b`)},
	{"what is", regexp.MustCompile(`(?i)\bwhat (is|was|are|has|have|had|it|they|a|the|can|could|one)\b`)},
}

// count is the result for one set of files. The zero value is ready to use.
type count struct {
	words int
	found [len(idioms)]int
	lines []string // positions of all occurrences
}

func (c *count) add(position, comment string) {
	c.words += len(strings.Fields(comment))
	for i, idiom := range idioms {
		n := len(idiom.pattern.FindAllString(comment, -1))
		c.found[i] += n
		if n > 0 {
			c.lines = append(c.lines, position+": "+idiom.name)
		}
	}
}

// per1000 returns the occurrences of an idiom per 1,000 words, 0 without words.
func (c *count) per1000(idiom int) float64 {
	if c.words == 0 {
		return 0
	}
	return 1000 * float64(c.found[idiom]) / float64(c.words)
}

func main() {
	limit := flag.Float64("limit", 0, "maximum occurrences of each idiom per 1,000 words; 0 only prints")
	list := flag.Bool("list", false, "print the position of every occurrence")
	flag.Parse()
	ok, err := run(os.Stdout, flag.Args(), *limit, *list)
	if err != nil {
		fmt.Fprintln(os.Stderr, "words:", err)
		os.Exit(2)
	}
	if !ok {
		fmt.Fprintf(os.Stderr, "words: an idiom exceeds %v per 1,000 words; -list prints where\n", *limit)
		os.Exit(1)
	}
}

// run prints the table and reports whether every count is within the limit.
func run(w io.Writer, roots []string, limit float64, list bool) (ok bool, err error) {
	if len(roots) == 0 {
		return false, fmt.Errorf("no directory given")
	}
	ok = true
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(table, "\twords\t")
	for _, idiom := range idioms {
		fmt.Fprintf(table, "%s\t", idiom.name)
	}
	fmt.Fprintln(table)
	for _, root := range roots {
		counts, err := countTree(root)
		if err != nil {
			return false, err
		}
		name := filepath.Base(root)
		if absolute, err := filepath.Abs(root); err == nil {
			name = filepath.Base(absolute)
		}
		for _, row := range []struct {
			name string
			*count
		}{{name, &counts.program}, {name + " (tests)", &counts.tests}, {name + " (documents)", &counts.documents}} {
			fmt.Fprintf(table, "%s\t%d\t", row.name, row.words)
			for i := range idioms {
				n := row.per1000(i)
				ok = ok && (limit == 0 || n <= limit)
				fmt.Fprintf(table, "%.2f\t", n)
			}
			fmt.Fprintln(table)
			if list {
				for _, line := range row.lines {
					fmt.Fprintln(w, line)
				}
			}
		}
	}
	return ok, table.Flush()
}

// tree has the counts of a directory.
type tree struct{ program, tests, documents count }

// countTree counts the comments of all Go files below root, separately for program and tests,
// and the prose of all Markdown files.
func countTree(root string) (*tree, error) {
	counts := &tree{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			switch entry.Name() {
			case "testdata", "vendor", "node_modules", "bin", "dist", ".git":
				return fs.SkipDir
			}
			return nil
		}
		switch filepath.Ext(path) {
		case ".md":
			return counts.documents.addMarkdown(path)
		case ".go":
			return counts.addGo(path)
		}
		return nil
	})
	return counts, err
}

// addGo counts the comments of a Go file.
func (t *tree) addGo(path string) error {
	to := &t.program
	if strings.HasSuffix(path, "_test.go") || strings.Contains(filepath.ToSlash(path), "/test/") {
		to = &t.tests
	}
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, path, nil, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	for _, group := range file.Comments {
		to.add(files.Position(group.Pos()).String(), group.Text())
	}
	return nil
}
