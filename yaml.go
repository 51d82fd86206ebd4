package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v3"
)

// yamlReader reads a YAML document strictly: an unknown key, a key that appears
// twice and a value of another type are mistakes. It goes on after a mistake, so
// that all of them can be mended at once.
type yamlReader struct {
	path string
	errs []error
}

// parse returns the top of the only document in content, or nil after a mistake
// and for a document without anything in it.
func (r *yamlReader) parse(content []byte) *yaml.Node {
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	var document, more yaml.Node
	err := decoder.Decode(&document)
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err == nil {
		if err = decoder.Decode(&more); err == nil {
			r.fail(&more, "a second document begins here: put everything into one")
			return nil
		}
		if errors.Is(err, io.EOF) {
			top := resolve(document.Content[0])
			if top.Tag == "!!null" {
				return nil
			}
			return top
		}
	}
	line, message := yamlErrorLine(err)
	r.errs = append(r.errs, fmt.Errorf("%s:%d: not YAML: %s", r.path, line, message))
	return nil
}

var yamlErrorForm = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)`)

// yamlErrorLine takes an error of the YAML library apart; without a line in it the
// mistake is in the first one.
func yamlErrorLine(err error) (line int, message string) {
	parts := yamlErrorForm.FindStringSubmatch(err.Error())
	if parts == nil {
		return 1, err.Error()
	}
	line, convErr := strconv.Atoi(parts[1])
	if convErr != nil {
		line = 1
	}
	return line, parts[2]
}

func (r *yamlReader) fail(n *yaml.Node, format string, args ...any) {
	r.errs = append(r.errs, fmt.Errorf("%s:%d: %s", r.path, n.Line, fmt.Sprintf(format, args...)))
}

// resolve follows an alias.
func resolve(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

// keys are the known keys of a mapping, each with what reads its value.
type keys map[string]func(*yaml.Node)

// mapping reads a mapping; what says what it describes. It returns the keys that
// are there.
func (r *yamlReader) mapping(n *yaml.Node, what string, known keys) map[string]bool {
	n = resolve(n)
	seen := make(map[string]bool)
	if n.Kind != yaml.MappingNode {
		r.fail(n, "%s must be a mapping with the keys %s", what, known)
		return seen
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		read, ok := known[key.Value]
		switch {
		case !ok:
			r.fail(key, "unknown key %q in %s: %s", key.Value, what, known.suggest(key.Value))
		case seen[key.Value]:
			r.fail(key, "the key %q appears twice in %s: keep one", key.Value, what)
		default:
			seen[key.Value] = true
			read(value)
		}
	}
	return seen
}

func (k keys) String() string {
	names := make([]string, 0, len(k))
	for name := range k {
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// suggest returns what to write in place of a key that is not known.
func (k keys) suggest(wrong string) string {
	best, least := "", 3
	for name := range k {
		if d := distance(wrong, name); d < least || d == least && best != "" && name < best {
			best, least = name, d
		}
	}
	if best != "" {
		return fmt.Sprintf("did you mean %q?", best)
	}
	return fmt.Sprintf("the known keys are %s", k)
}

// distance is the number of single-byte edits that make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			above := row[j+1]
			edit := diagonal
			if a[i] != b[j] {
				edit++
			}
			row[j+1] = min(edit, above+1, row[j]+1)
			diagonal = above
		}
	}
	return row[len(b)]
}

// list reads each element of a list.
func (r *yamlReader) list(n *yaml.Node, what string, read func(*yaml.Node)) {
	n = resolve(n)
	if n.Kind != yaml.SequenceNode {
		r.fail(n, "%s must be a list: write it in [ ] or with a dash before each", what)
		return
	}
	for _, element := range n.Content {
		read(resolve(element))
	}
}

// text reads a string that is not empty.
func (r *yamlReader) text(n *yaml.Node, what string) (string, bool) {
	n = resolve(n)
	if n.Kind != yaml.ScalarNode || n.Tag != "!!str" || n.Value == "" {
		r.fail(n, "%s must be a text that is not empty: write it in quotes", what)
		return "", false
	}
	return n.Value, true
}

// texts reads a list of strings.
func (r *yamlReader) texts(n *yaml.Node, what string, read func(n *yaml.Node, text string)) {
	r.list(n, what, func(element *yaml.Node) {
		if text, ok := r.text(element, "each entry of "+what); ok {
			read(element, text)
		}
	})
}

func (r *yamlReader) choice(to *string, what string, choices ...string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		n = resolve(n)
		if n.Kind != yaml.ScalarNode || !slices.Contains(choices, n.Value) {
			r.fail(n, "%s must be one of %s", what, strings.Join(choices, ", "))
			return
		}
		*to = n.Value
	}
}

func (r *yamlReader) boolean(to *bool, what string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		n = resolve(n)
		if n.Kind != yaml.ScalarNode || n.Tag != "!!bool" {
			r.fail(n, "%s must be true or false", what)
			return
		}
		*to = strings.EqualFold(n.Value, "true")
	}
}

// whole reads a whole number and returns false after a mistake.
func (r *yamlReader) whole(n *yaml.Node, what string, least, most int) (int, bool) {
	n = resolve(n)
	number, err := strconv.Atoi(n.Value)
	if n.Kind != yaml.ScalarNode || n.Tag != "!!int" || err != nil || number < least || number > most {
		r.fail(n, "%s must be a whole number from %d to %d", what, least, most)
		return 0, false
	}
	return number, true
}

func (r *yamlReader) count(to *int, what string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		if number, ok := r.whole(n, what, 1, 1_000_000); ok {
			*to = number
		}
	}
}

// number reads a number above 0 and not above most.
func (r *yamlReader) number(to *float64, what string, most float64) func(*yaml.Node) {
	return func(n *yaml.Node) {
		n = resolve(n)
		number, err := strconv.ParseFloat(n.Value, 64)
		if n.Kind != yaml.ScalarNode || err != nil || !(number > 0 && number <= most) {
			r.fail(n, "%s must be a number above 0, at most %g", what, most)
			return
		}
		*to = number
	}
}

// duration reads a duration in Prometheus' notation, at least as long as least.
func (r *yamlReader) duration(to *time.Duration, what string, least time.Duration) func(*yaml.Node) {
	return func(n *yaml.Node) {
		n = resolve(n)
		d, err := model.ParseDuration(n.Value)
		if n.Kind != yaml.ScalarNode || err != nil || time.Duration(d) < least {
			r.fail(n, "%s must be a duration such as 500ms, 30s, 5m or 1h, and at least %s", what, model.Duration(least))
			return
		}
		*to = time.Duration(d)
	}
}
