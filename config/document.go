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

// document returns the top node of the only document in content, or nil after a mistake
// and for an empty document.
func (d *decoder) document(content []byte) *yaml.Node {
	document, more, err := decodeYAML(content)
	switch {
	case err != nil:
		line, message := yamlMistake(content, err)
		d.fail(&yaml.Node{Line: line}, "not YAML: %s", message)
		return nil
	case more != nil:
		d.fail(more, "a second document begins here: put everything into one")
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

// decodeYAML returns the first two documents, nil for each that is missing.
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
	// yamlStructure matches errors about tokens that are valid alone and invalid together.
	yamlStructure = regexp.MustCompile(`^did not find expected (key|node content|'-' indicator|',' or|<)`)
)

// yamlMistake splits an error of the YAML library. The library reports the line of an
// invalid token. For a mistake in the structure it reports the line before the structure,
// and for some mistakes no line: those are in the first line with which the content up to
// there has the same error.
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
