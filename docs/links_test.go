package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// link is a link, or the name of a document in a comment.
type link struct {
	line   int
	path   string // relative to the root of the repository, slash-separated
	anchor string // "" without one
}

var (
	codeBlocks = regexp.MustCompile("(?ms)^ *```.*?^ *```")
	codeSpans  = regexp.MustCompile("`[^`\n]*`")
	markdown   = regexp.MustCompile(`\]\(([^)#\s]*)(?:#([^)\s]*))?\)`)
	mentions   = regexp.MustCompile(`\b((?:docs/[a-z]+|README|CONTRIBUTING|CHANGELOG|SECURITY)\.md)(?:#([a-z0-9_-]+))?`)
	headings   = regexp.MustCompile(`(?m)^#+ +(.*)$`)
	linkText   = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`)
	notAnchor  = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
)

// blank replaces matches by their line breaks, so that line numbers stay.
func blank(text string, pattern *regexp.Regexp) string {
	return pattern.ReplaceAllStringFunc(text, func(s string) string { return strings.Repeat("\n", strings.Count(s, "\n")) })
}

// anchors returns the anchors of the headings of a Markdown text, as GitHub and GitLab make
// them.
func anchors(text string) []string {
	var found []string
	repeated := make(map[string]int)
	for _, m := range headings.FindAllStringSubmatch(blank(text, codeBlocks), -1) {
		title := linkText.ReplaceAllString(strings.TrimSpace(m[1]), "$1")
		anchor := strings.ReplaceAll(notAnchor.ReplaceAllString(strings.ToLower(title), ""), " ", "-")
		n := repeated[anchor]
		repeated[anchor]++
		if n > 0 {
			anchor += "-" + strconv.Itoa(n)
		}
		found = append(found, anchor)
	}
	return found
}

// linksOf returns the links of the Markdown file at path, without those to other hosts.
func linksOf(path, text string) []link {
	var found []link
	number := 0
	for line := range strings.Lines(blank(text, codeBlocks)) {
		number++
		for _, m := range markdown.FindAllStringSubmatch(codeSpans.ReplaceAllString(line, ""), -1) {
			if strings.Contains(m[1], "://") || strings.HasPrefix(m[1], "mailto:") {
				continue
			}
			to := path
			if m[1] != "" {
				to = filepath.ToSlash(filepath.Join(filepath.Dir(path), m[1]))
			}
			found = append(found, link{number, to, m[2]})
		}
	}
	return found
}

// mentionsOf returns the documents that a text names by their paths from the root.
func mentionsOf(text string) []link {
	var found []link
	number := 0
	for line := range strings.Lines(text) {
		number++
		for _, m := range mentions.FindAllStringSubmatch(line, -1) {
			found = append(found, link{number, m[1], m[2]})
		}
	}
	return found
}

// repository reads files of the repository by their paths from the root.
type repository struct {
	t     *testing.T
	texts map[string]string
}

func (r *repository) read(path string) string {
	r.t.Helper()
	if _, ok := r.texts[path]; !ok {
		content, err := os.ReadFile(filepath.Join("..", path))
		if err != nil {
			r.t.Fatal(err)
		}
		r.texts[path] = string(content)
	}
	return r.texts[path]
}

// documents returns the paths of README.md, CONTRIBUTING.md and the like, and of docs/*.md.
func (r *repository) documents() []string {
	r.t.Helper()
	var paths []string
	for _, pattern := range []string{"*.md", "docs/*.md"} {
		found, err := filepath.Glob(filepath.Join("..", pattern))
		if err != nil {
			r.t.Fatal(err)
		}
		for _, path := range found {
			paths = append(paths, filepath.ToSlash(strings.TrimPrefix(path, ".."+string(filepath.Separator))))
		}
	}
	return paths
}

// check reports a link without a target.
func (r *repository) check(from string, to link) {
	r.t.Helper()
	info, err := os.Stat(filepath.Join("..", to.path))
	if err != nil {
		r.t.Errorf("%s:%d: dead link: %v", from, to.line, err)
		return
	}
	if to.anchor != "" && (info.IsDir() || !slices.Contains(anchors(r.read(to.path)), to.anchor)) {
		r.t.Errorf("%s:%d: %s has no heading for #%s", from, to.line, to.path, to.anchor)
	}
}

// Links in the documents, and documents named in the files of deploy/, lead to files and
// headings.
func TestLinks(t *testing.T) {
	r := &repository{t: t, texts: make(map[string]string)}
	documents := r.documents()
	links := 0
	for _, path := range documents {
		for _, to := range slices.Concat(linksOf(path, r.read(path)), mentionsOf(r.read(path))) {
			links++
			r.check(path, to)
		}
	}
	if len(documents) < 15 || links < 50 {
		t.Errorf("got %d links in %d documents", links, len(documents))
	}
	links = 0
	err := filepath.WalkDir("../deploy", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		path = filepath.ToSlash(strings.TrimPrefix(path, ".."+string(filepath.Separator)))
		for _, to := range mentionsOf(r.read(path)) {
			links++
			r.check(path, to)
		}
		return nil
	})
	if err != nil || links == 0 {
		t.Errorf("%d links in deploy: %v", links, err)
	}
}

// The index has a link to every page of docs/.
func TestIndex(t *testing.T) {
	const index = "docs/README.md"
	r := &repository{t: t, texts: make(map[string]string)}
	var listed []string
	for _, to := range linksOf(index, r.read(index)) {
		listed = append(listed, to.path)
	}
	for _, path := range r.documents() {
		if strings.HasPrefix(path, "docs/") && path != index && !slices.Contains(listed, path) {
			t.Errorf("%s does not link to %s", index, path)
		}
	}
}

func TestAnchors(t *testing.T) {
	text := "# A title\n\n```\n# no heading\n```\n\n## `GET /metrics`, and more\n## A title\n### [Link](x.md): over_budget\n"
	want := []string{"a-title", "get-metrics-and-more", "a-title-1", "link-over_budget"}
	if got := anchors(text); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestLinksOf(t *testing.T) {
	text := "[a](b.md) [c](../d/e.go#f)\n```\n[no](no.md)\n```\n`[no](no.md)` [g](#h) [i](https://j.example/k.md)\n![l](m.png)\n"
	want := []link{{1, "docs/b.md", ""}, {1, "d/e.go", "f"}, {5, "docs/a.md", "h"}, {6, "docs/m.png", ""}}
	if got := linksOf("docs/a.md", text); !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
