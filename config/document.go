package config

import (
	"bytes"
	"errors"
	"io"
	"regexp"
	"sort"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// document returns the top node of the only document in content. It returns nil for an
// empty document and after a mistake.
func (d *decoder) document(content []byte) *yaml.Node {
	document, more, err := decodeYAML(content)
	switch {
	case err != nil:
		line, message := yamlMistake(content, err)
		d.fail(&yaml.Node{Line: line}, "not YAML: %s", message)
		return nil
	case more != nil:
		d.fail(more, "second document: only one is supported")
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

// decodeYAML returns the first two documents; a missing document is nil.
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
	// yamlStructure matches errors about valid tokens in an invalid order.
	yamlStructure = regexp.MustCompile(`^did not find expected (key|node content|'-' indicator|',' or|<)`)
)

// yamlMistake returns line and message of a yaml.v3 error. yaml.v3 reports the line of an
// invalid token, but the line before an invalid structure, and no line for some errors. In
// these cases yamlMistake finds the shortest beginning of content with the same error; the
// mistake is in its last line.
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
