package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"sort"
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
	document, more, err := decodeYAML(content)
	switch {
	case err != nil:
		line, message := yamlMistake(content, err)
		r.errs = append(r.errs, fmt.Errorf("%s:%d: not YAML: %s", r.path, line, message))
		return nil
	case more != nil:
		r.fail(more, "a second document begins here: put everything into one")
		return nil
	case document == nil:
		return nil
	}
	top := resolve(document.Content[0])
	if top.Tag == "!!null" {
		return nil
	}
	return top
}

// decodeYAML returns the first two documents, nil for one that is not there.
func decodeYAML(content []byte) (document, more *yaml.Node, err error) {
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	for _, to := range []**yaml.Node{&document, &more} {
		var node yaml.Node
		err := decoder.Decode(&node)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, nil, err
		}
		*to = &node
	}
	return document, more, nil
}

var (
	yamlErrorForm = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)`)
	// yamlStructure is about what stands beside each other, each of it well written.
	yamlStructure = regexp.MustCompile(`^did not find expected (key|node content|'-' indicator|',' or|<)`)
)

// yamlMistake takes an error of the YAML library apart. The library tells the line
// where something is badly written. Of a mistake in the structure it tells the line
// before the one where that structure begins, and of some mistakes none at all:
// such a one is in the line with which the content becomes wrong in this way.
func yamlMistake(content []byte, err error) (line int, message string) {
	parts := yamlErrorForm.FindStringSubmatch(err.Error())
	if parts == nil {
		return 1, err.Error()
	}
	line, convErr := strconv.Atoi(parts[1])
	if convErr == nil && !yamlStructure.MatchString(parts[2]) {
		return line, parts[2]
	}
	lines := bytes.SplitAfter(content, []byte("\n"))
	line = 1 + sort.Search(len(lines)-1, func(i int) bool {
		_, _, before := decodeYAML(bytes.Join(lines[:i+1], nil))
		return before != nil && before.Error() == err.Error()
	})
	return line, parts[2]
}

// fail notes a mistake, in one line even when it quotes a text of several.
func (r *yamlReader) fail(n *yaml.Node, format string, args ...any) {
	message := strings.NewReplacer("\n", `\n`, "\r", `\r`).Replace(fmt.Sprintf(format, args...))
	r.errs = append(r.errs, fmt.Errorf("%s:%d: %s", r.path, n.Line, message))
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
		// An alias has the name of its anchor for a value, which is no key.
		at, key, value := n.Content[i], resolve(n.Content[i]), n.Content[i+1]
		read, ok := known[key.Value]
		switch {
		case !ok || key.Tag != "!!str":
			r.fail(at, "unknown key %q in %s: %s", key.Value, what, known.suggest(key.Value))
		case seen[key.Value]:
			r.fail(at, "the key %q appears twice in %s: keep one", key.Value, what)
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

// choice reads one of a closed set into a string of any type.
func choice[T ~string](r *yamlReader, to *T, what string, choices []T) func(*yaml.Node) {
	return func(n *yaml.Node) {
		n = resolve(n)
		if n.Kind != yaml.ScalarNode || !slices.Contains(choices, T(n.Value)) {
			r.fail(n, "%s must be one of %s", what, strings.Join(names(choices), ", "))
			return
		}
		*to = T(n.Value)
	}
}

func (r *yamlReader) boolean(to *bool, what string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		n = resolve(n)
		is, not := strings.EqualFold(n.Value, "true"), strings.EqualFold(n.Value, "false")
		if n.Kind != yaml.ScalarNode || n.Tag != "!!bool" || !is && !not {
			r.fail(n, "%s must be true or false", what)
			return
		}
		*to = is
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
