package main

import (
	"os"
	"regexp"
	"strconv"
	"strings"
)

// omitted are the parts of a Markdown file without prose of ours: regions that a command
// writes, code blocks, code spans, the targets of links, and separators of tables.
var omitted = []*regexp.Regexp{
	regexp.MustCompile(`(?s)<!-- begin .*?<!-- end [^>]*-->`),
	regexp.MustCompile("(?ms)^ *```.*?^ *```"),
	regexp.MustCompile("`[^`]*`"),
	regexp.MustCompile(`\]\([^)]*\)`),
	regexp.MustCompile(`\||---`),
}

// addMarkdown counts the prose of a Markdown file. Positions are lines.
func (c *count) addMarkdown(path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	text := string(content)
	for _, part := range omitted {
		text = part.ReplaceAllStringFunc(text, func(s string) string { return strings.Repeat("\n", strings.Count(s, "\n")) })
	}
	number := 0
	for line := range strings.Lines(text) {
		number++
		c.add(path+":"+strconv.Itoa(number), line)
	}
	return nil
}
