package alerts

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"tcphup/internal/text"
)

const (
	// maxDepth limits JSON nesting; notifications have four levels, new fields may have
	// more.
	maxDepth = 32
	// maxKey and maxScalar limit the stored part of a key and of a number, in bytes.
	maxKey    = 2048
	maxScalar = 64
)

// errRead matches errors of the reader, as opposed to errors in the input.
var errRead = errors.New("read JSON")

// jsonReader reads JSON as a stream and validates all of it. Its memory use does not
// depend on the input: skipped values are not buffered and strings are cut. The decoder
// of encoding/json buffers each string.
type jsonReader struct {
	in     *bufio.Reader
	offset int
	depth  int
}

func newJSONReader(r io.Reader) *jsonReader { return &jsonReader{in: bufio.NewReader(r)} }

// object reads an object and calls field for each known key to read its value; null counts
// as an absent key. It skips the values of other keys. A known key that occurs twice is an
// error. Keys are case-sensitive.
func (r *jsonReader) object(known func(key string) bool, field func(key string) error) error {
	if err := r.open('{'); err != nil {
		return err
	}
	seen := make(map[string]bool)
	for first := true; ; first = false {
		if more, err := r.more(first, '}'); err != nil || !more {
			return err
		}
		key, err := r.text(maxKey)
		if err != nil {
			return err
		}
		if err := r.expect(':'); err != nil {
			return err
		}
		c, err := r.peek()
		switch {
		case err != nil:
		case !known(key):
			err = r.skip()
		case seen[key]:
			err = fmt.Errorf("duplicate key %s", text.Quote(key))
		case c == 'n':
			seen[key], err = true, r.skip()
		default:
			seen[key], err = true, field(key)
		}
		if err != nil {
			return err
		}
	}
}

// array reads an array and calls element to read each of its elements.
func (r *jsonReader) array(element func() error) error {
	if err := r.open('['); err != nil {
		return err
	}
	for first := true; ; first = false {
		if more, err := r.more(first, ']'); err != nil || !more {
			return err
		}
		if err := element(); err != nil {
			return err
		}
	}
}

// text reads a string. A string of more than limit bytes, as written in the input, is cut:
// the result is longer than limit and may be incomplete.
func (r *jsonReader) text(limit int) (string, error) {
	raw, err := r.quoted(limit)
	if err != nil || len(raw) > limit {
		return string(raw), err
	}
	var s string
	if err := json.Unmarshal(append(append([]byte{'"'}, raw...), '"'), &s); err != nil {
		return "", errors.New("invalid string")
	}
	return s, nil
}

// quoted reads a string and returns it as written, without quotes, cut behind limit.
func (r *jsonReader) quoted(limit int) ([]byte, error) {
	if err := r.expect('"'); err != nil {
		return nil, err
	}
	var raw []byte
	keep := func(c rune) {
		if len(raw) <= limit {
			raw = utf8.AppendRune(raw, c)
		}
	}
	escaped, digits := false, 0 // digits of \u that are missing
	for {
		c, err := r.read()
		switch {
		case err != nil:
			return nil, err
		case digits > 0:
			if !bytes.ContainsRune([]byte("0123456789abcdefABCDEF"), c) {
				return nil, r.syntax()
			}
			digits--
		case escaped:
			if !bytes.ContainsRune([]byte(`"\/bfnrtu`), c) {
				return nil, r.syntax()
			}
			escaped = false
			if c == 'u' {
				digits = 4
			}
		case c < ' ':
			return nil, r.syntax()
		case c == '"':
			return raw, nil
		case c == '\\':
			escaped = true
		}
		keep(c)
	}
}

// scalar reads a number, true, false or null.
func (r *jsonReader) scalar() ([]byte, error) {
	var raw []byte
	for len(raw) <= maxScalar {
		next, _ := r.in.Peek(1) // an error repeats at the next read
		if len(next) == 0 || !isScalar(next[0]) {
			break
		}
		c, err := r.read()
		if err != nil {
			return nil, err
		}
		raw = append(raw, byte(c))
	}
	if len(raw) > maxScalar || !json.Valid(raw) {
		if _, err := r.read(); errors.Is(err, errRead) {
			return nil, err
		}
		return nil, r.syntax()
	}
	return raw, nil
}

func isScalar(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '+' || c == '-' || c == '.'
}

// skip reads a value of any type and drops it.
func (r *jsonReader) skip() error {
	c, err := r.peek()
	if err != nil {
		return err
	}
	switch c {
	case '{':
		return r.object(func(string) bool { return false }, nil)
	case '[':
		return r.array(r.skip)
	case '"':
		_, err = r.quoted(-1)
	default:
		_, err = r.scalar()
	}
	return err
}

// end returns an error unless only white space is left.
func (r *jsonReader) end() error {
	_, err := r.peek()
	switch {
	case err == nil:
		return r.syntax()
	case errors.Is(err, errEndsEarly):
		return nil
	}
	return err
}

func (r *jsonReader) open(c rune) error {
	if err := r.expect(c); err != nil {
		return err
	}
	if r.depth++; r.depth > maxDepth {
		return fmt.Errorf("nested deeper than %d levels", maxDepth)
	}
	return nil
}

// more reads the separator or the end of an object or array, and reports whether another
// element follows.
func (r *jsonReader) more(first bool, end rune) (bool, error) {
	c, err := r.peek()
	switch {
	case err != nil:
		return false, err
	case c == end:
		r.depth--
		return false, r.expect(end)
	case first:
		return true, nil
	}
	return true, r.expect(',')
}

// expect reads white space and the character c.
func (r *jsonReader) expect(c rune) error {
	got, err := r.peek()
	if err != nil {
		return err
	}
	if got != c {
		return fmt.Errorf("want %q at byte %d", c, r.offset)
	}
	_, err = r.read()
	return err
}

// peek reads white space and returns the character after it, which stays unread.
func (r *jsonReader) peek() (rune, error) {
	for {
		c, err := r.read()
		if err != nil {
			return 0, err
		}
		if c != ' ' && c != '\t' && c != '\n' && c != '\r' {
			r.offset -= utf8.RuneLen(c)
			return c, r.in.UnreadRune()
		}
	}
}

var errEndsEarly = errors.New("not JSON: ends early")

func (r *jsonReader) syntax() error { return fmt.Errorf("not JSON at byte %d", r.offset) }

// read returns the next character.
func (r *jsonReader) read() (rune, error) {
	c, size, err := r.in.ReadRune()
	r.offset += size
	switch {
	case errors.Is(err, io.EOF):
		return 0, errEndsEarly
	case err != nil:
		return 0, fmt.Errorf("%w: %w", errRead, err)
	case c == utf8.RuneError && size == 1:
		return 0, fmt.Errorf("not valid UTF-8 at byte %d", r.offset)
	}
	return c, nil
}
