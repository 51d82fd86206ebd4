package config

import (
	"strings"

	"github.com/prometheus/alertmanager/pkg/labels"
	"go.yaml.in/yaml/v3"

	"tcphup/alerts"
)

// otherQuotes are quotation marks without a meaning in matchers.
const otherQuotes = "'`‘’‚‛“”„‟‹›«»"

// checkQuotes warns about matchers in quotes that are part of the name or the value. n is
// the list of matchers; nil if it is missing.
func (d *decoder) checkQuotes(n *yaml.Node) {
	if n == nil {
		return
	}
	for _, entry := range n.Content {
		entry = resolve(entry)
		parsed, err := alerts.ParseMatchers(entry.Value)
		if err != nil {
			continue // a mistake
		}
		for _, m := range parsed {
			name, value := unquote(m.Name, entry.Value), unquote(m.Value, entry.Value)
			if name == m.Name && value == m.Value {
				continue
			}
			if want, err := labels.NewMatcher(m.Type, name, value); err == nil {
				d.warn(entry, "match: the quotes in %s%s%s are part of the label's name or value: write %s", m.Name, m.Type, m.Value, want)
			}
		}
	}
}

// unquote removes otherQuotes around a name or value, unless the text of its matcher has it
// in double quotes.
func unquote(s, matcher string) string {
	bare := strings.Trim(s, otherQuotes)
	if strings.HasPrefix(s, bare) || strings.HasSuffix(s, bare) || strings.Contains(matcher, `"`+s+`"`) {
		return s
	}
	return bare
}
