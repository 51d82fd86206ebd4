package config

import (
	"cmp"
	"encoding"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v3"

	"tcphup/internal/text"
)

// decoder decodes YAML nodes into the structs of the schema. It continues after every
// mistake, names keys by their path, and rejects unknown keys, duplicate keys, merge keys
// and values of another type. The decoder of yaml.v3 stops at some mistakes and names Go
// types.
type decoder struct {
	mistakes []mistake
	warnings []mistake // valid, but probably not intended
}

type mistake struct {
	line int
	text string
}

func (m mistake) at(path string) string { return fmt.Sprintf("%s:%d: %s", path, m.line, m.text) }

// fail records a mistake at a node. It escapes line breaks in quoted values.
func (d *decoder) fail(n *yaml.Node, format string, args ...any) {
	d.mistakes = append(d.mistakes, newMistake(n, format, args...))
}

// warn is fail for a warning.
func (d *decoder) warn(n *yaml.Node, format string, args ...any) {
	d.warnings = append(d.warnings, newMistake(n, format, args...))
}

func newMistake(n *yaml.Node, format string, args ...any) mistake {
	return mistake{n.Line, text.Printable(fmt.Sprintf(format, args...))}
}

// err returns all mistakes, joined, in the order of their lines.
func (d *decoder) err(path string) error {
	slices.SortStableFunc(d.mistakes, func(a, b mistake) int { return a.line - b.line })
	var errs []error
	for _, m := range d.mistakes {
		errs = append(errs, errors.New(m.at(path)))
	}
	return errors.Join(errs...)
}

// resolve follows an alias.
func resolve(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

// object decodes a mapping into the struct at to, and returns the values of the known
// keys. name identifies the mapping in mistakes.
func (d *decoder) object(n *yaml.Node, name string, to any) map[string]*yaml.Node {
	return d.mapping(n, name, "", reflect.ValueOf(to).Elem())
}

// mapping is object with a prefix for the path of the keys.
func (d *decoder) mapping(n *yaml.Node, name, prefix string, v reflect.Value) map[string]*yaml.Node {
	n = resolve(n)
	fields := make(map[string]reflect.StructField)
	for _, field := range reflect.VisibleFields(v.Type()) {
		if key := field.Tag.Get("yaml"); !field.Anonymous {
			fields[key] = field
		}
	}
	values := make(map[string]*yaml.Node)
	if n.Kind != yaml.MappingNode {
		d.fail(n, "%s must be a mapping with the keys %s", name, strings.Join(slices.Sorted(maps.Keys(fields)), ", "))
		return values
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		// The value of an alias node is the anchor's name, not a key.
		at, key, value := n.Content[i], resolve(n.Content[i]), resolve(n.Content[i+1])
		field, known := fields[key.Value]
		switch {
		case !known || key.Tag != "!!str":
			d.fail(at, "unknown key %q in %s: %s", key.Value, name, suggest(key.Value, fields))
		case values[key.Value] != nil:
			d.fail(at, "duplicate key %q in %s", key.Value, name)
		default:
			values[key.Value] = value
			d.value(value, prefix+key.Value, v.FieldByIndex(field.Index), field.Tag)
		}
	}
	for _, field := range reflect.VisibleFields(v.Type()) {
		if key := field.Tag.Get("yaml"); field.Tag.Get("required") != "" && values[key] == nil {
			d.fail(n, "missing key %q in %s", key, name)
		}
	}
	return values
}

// value decodes the value of a key.
func (d *decoder) value(n *yaml.Node, key string, v reflect.Value, tag reflect.StructTag) {
	if _, raw := v.Interface().(yaml.Node); raw {
		v.Set(reflect.ValueOf(*n))
		return
	}
	_, isText := v.Addr().Interface().(encoding.TextUnmarshaler)
	switch kind := v.Kind(); {
	case isText:
		d.scalar(n, key, key, v, tag)
	case kind == reflect.Struct:
		d.mapping(n, key, key+".", v)
	case kind == reflect.Slice:
		d.list(n, key, v, tag)
	default:
		d.scalar(n, key, key, v, tag)
	}
}

// list decodes each element of a list. An empty list becomes a non-nil empty slice.
func (d *decoder) list(n *yaml.Node, key string, v reflect.Value, tag reflect.StructTag) {
	if n.Kind != yaml.SequenceNode {
		d.fail(n, "%s must be a list: write [a, b], or one entry per line after a dash", key)
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
	for i, element := range n.Content {
		element = resolve(element)
		if node, raw := v.Index(i).Addr().Interface().(*yaml.Node); raw {
			*node = *element
			continue
		}
		d.scalar(element, "each entry of "+key, key+":", v.Index(i), tag)
	}
}

// scalar decodes a single value. name identifies it in mistakes about type and bounds,
// subject in mistakes that quote the value.
func (d *decoder) scalar(n *yaml.Node, name, subject string, v reflect.Value, tag reflect.StructTag) {
	var value any
	var want string
	var ok bool
	switch to := v.Addr().Interface().(type) {
	case encoding.TextUnmarshaler:
		if n.Kind != yaml.ScalarNode || n.Tag != "!!str" || n.Value == "" {
			d.fail(n, "%s must be a non-empty string: write it in quotes", name)
		} else if err := to.UnmarshalText([]byte(n.Value)); err != nil {
			d.fail(n, "%s %v", subject, err)
		}
		return
	case *string:
		choices := tag.Get("oneof")
		ok, want = slices.Contains(strings.Split(choices, ", "), n.Value), "one of "+choices
		value = n.Value
	case *bool:
		// yaml.v3 resolves "!!bool yes" as a boolean.
		yes, no := strings.EqualFold(n.Value, "true"), strings.EqualFold(n.Value, "false")
		ok, want = n.Tag == "!!bool" && (yes || no), "true or false"
		value = yes
	case *float64:
		high := limit(tag, "max", parseFloat)
		number, err := parseFloat(n.Value)
		ok, want = err == nil && number > 0 && number <= high, fmt.Sprintf("a number above 0, at most %g", high)
		value = number
	case *time.Duration:
		low := limit(tag, "min", model.ParseDuration)
		duration, err := model.ParseDuration(n.Value)
		ok, want = err == nil && duration >= low, fmt.Sprintf("a duration such as 500ms, 30s, 5m or 1h, and at least %s", low)
		value = duration
	default: // int and uint16
		low, high := limit(tag, "min", strconv.Atoi), limit(tag, "max", strconv.Atoi)
		number, err := strconv.Atoi(n.Value)
		ok, want = n.Tag == "!!int" && err == nil && number >= low && number <= high, fmt.Sprintf("a whole number from %d to %d", low, high)
		value = number
	}
	if !ok || n.Kind != yaml.ScalarNode {
		d.fail(n, "%s must be %s", name, want)
		return
	}
	v.Set(reflect.ValueOf(value).Convert(v.Type()))
}

func parseFloat(s string) (float64, error) { return strconv.ParseFloat(s, 64) }

// limit returns the bound in a tag of the schema; the default is 0.
func limit[T any](tag reflect.StructTag, name string, parse func(string) (T, error)) T {
	bound, err := parse(cmp.Or(tag.Get(name), "0"))
	if err != nil {
		panic(fmt.Sprintf("schema: %s is %q: %v", name, tag.Get(name), err))
	}
	return bound
}

// suggest returns the hint about an unknown key: the nearest known key within two edits,
// otherwise all known keys.
func suggest(wrong string, fields map[string]reflect.StructField) string {
	known := slices.Sorted(maps.Keys(fields))
	nearest := slices.MinFunc(known, func(a, b string) int { return distance(wrong, a) - distance(wrong, b) })
	if distance(wrong, nearest) > 2 {
		return "the known keys are " + strings.Join(known, ", ")
	}
	return fmt.Sprintf("did you mean %q?", nearest)
}

// distance returns the number of single-byte edits between a and b.
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
