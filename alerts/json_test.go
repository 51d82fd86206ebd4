package alerts

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"
)

// valid reads one value of any type and returns the error.
func valid(r io.Reader) error {
	in := newJSONReader(r)
	if err := in.skip(); err != nil {
		return err
	}
	return in.end()
}

// depth returns the nesting of valid JSON.
func depth(t *testing.T, text []byte) (deepest int) {
	t.Helper()
	decoder, level := json.NewDecoder(bytes.NewReader(text)), 0
	for {
		token, err := decoder.Token()
		if err != nil {
			return deepest
		}
		switch token {
		case json.Delim('{'), json.Delim('['):
			level++
		case json.Delim('}'), json.Delim(']'):
			level--
		}
		deepest = max(deepest, level)
	}
}

var longNumber = regexp.MustCompile(fmt.Sprintf(`[0-9eE.+-]{%d}`, maxScalar+1))

// FuzzJSON compares jsonReader with encoding/json: both accept the same text, except invalid
// UTF-8, deep nesting and long numbers, and read the same string.
func FuzzJSON(f *testing.F) {
	for _, text := range []string{
		`{}`, `[]`, `{"a":1,"b":[true,false,null]}`, `{"a":1,}`, `[1,]`, `[,1]`, `[1 2]`, `{"a" 1}`, `{"a":}`, `{1:2}`, `{"a":1 "b":2}`,
		`01`, `-`, `-0`, `1.`, `.5`, `1e5`, `1e+`, `1E-7`, `+1`, `0x1`, `NaN`, `truex`, `nul`, `1"a"`, `{]`, `[}`, ``, ` `, `{} {}`, "\ufeff{}",
		`"\u00e9\ud83d\ude00\ud800\u0041\udc00"`, `"\u12g4"`, `"\x"`, `"\`, `"`, "\"\x00\"", "\"\t\"", "\"\xff\"", "\"\x7fé\"", "{}\x00", `"a\/b\"c\\"`,
		strings.Repeat("[", 33) + strings.Repeat("]", 33), strings.Repeat(`{"a":`, 32) + "1" + strings.Repeat("}", 32), strings.Repeat("1", 65),
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		err := valid(bytes.NewReader(text))
		if err == nil && (!json.Valid(text) || !utf8.Valid(text) || depth(t, text) > maxDepth) {
			t.Errorf("accepted %q", text)
		}
		if err != nil && json.Valid(text) && utf8.Valid(text) && depth(t, text) <= maxDepth && !longNumber.Match(text) {
			t.Errorf("rejected %q: %v", text, err)
		}
		var want string
		if err == nil && json.Unmarshal(text, &want) == nil && !bytes.Equal(bytes.TrimSpace(text), []byte("null")) {
			if got, err := newJSONReader(bytes.NewReader(text)).text(len(text)); err != nil || got != want {
				t.Errorf("%q is %q, %v; want %q", text, got, err, want)
			}
		}
	})
}

// Errors of the reader are distinct from errors in the text, wherever they occur.
func TestJSONReadError(t *testing.T) {
	const text = `{"a": [1, true, "x\u00e9"], "b": {"c": null}} `
	failure := errors.New("connection reset")
	for i := range len(text) {
		err := valid(io.MultiReader(strings.NewReader(text[:i]), iotest.ErrReader(failure)))
		if !errors.Is(err, errRead) || !errors.Is(err, failure) {
			t.Errorf("after %q: %v", text[:i], err)
		}
		if err := valid(strings.NewReader(text[:i])); errors.Is(err, errRead) || i < len(text)-1 && err == nil {
			t.Errorf("%q: %v", text[:i], err)
		}
	}
	if err := valid(iotest.OneByteReader(strings.NewReader(text))); err != nil {
		t.Errorf("byte by byte: %v", err)
	}
}

// A long string is cut, and the value after it is read.
func TestJSONLongString(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{`["abcd"]`, "abcd"},
		{`["abcde"]`, "abcde"},
		{`["abcdefghij"]`, "abcde"},
		{`["ab\n"]`, "ab\n"},
		{`["abc\nd"]`, `abc\n`},
		{`["éééé"]`, "ééé"},
	} {
		in := newJSONReader(strings.NewReader(tt.text))
		err := in.array(func() error {
			got, err := in.text(4)
			if got != tt.want {
				t.Errorf("%s: got %q, want %q", tt.text, got, tt.want)
			}
			return err
		})
		if err = errors.Join(err, in.end()); err != nil {
			t.Errorf("%s: %v", tt.text, err)
		}
	}
}
