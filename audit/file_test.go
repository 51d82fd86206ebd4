package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"tcphup/internal/safefile"
)

// Open appends to a file that exists, on a new line after an incomplete one.
func TestOpen(t *testing.T) {
	for _, tt := range []struct{ content, want string }{
		{"", ""},
		{"{}\n", "{}\n"},
		{"{}\n" + `{"time":"20`, "{}\n" + `{"time":"20` + "\n"},
	} {
		path := filepath.Join(t.TempDir(), "audit.log")
		if err := os.WriteFile(path, []byte(tt.content), 0o640); err != nil {
			t.Fatal(err)
		}
		log, closeFile, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(log.Add(Record{Event: EventEnd}), closeFile()); err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		record, found := strings.CutPrefix(string(content), tt.want)
		if !found || strings.Count(record, "\n") != 1 || !json.Valid([]byte(record)) {
			t.Errorf("%q became %q", tt.content, content)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
			t.Errorf("mode %v, %v", info.Mode(), err)
		}
	}
}

// Open creates no file, follows no link, does not wait for the reader of a FIFO, and rejects
// files that other users can write.
func TestOpenRejects(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	err := errors.Join(
		os.WriteFile(path("file"), nil, 0o600), os.Symlink("file", path("link")), syscall.Mkfifo(path("fifo"), 0o600),
		os.WriteFile(path("open"), nil, 0o600), os.Chmod(path("open"), 0o666),
		os.WriteFile(path("name"), nil, 0o600), os.Link(path("name"), path("other")))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]error{
		"missing": fs.ErrNotExist, "link": ErrNotRegular, "fifo": syscall.ENXIO, "open": safefile.ErrUnsafe, ".": syscall.EISDIR, "other": safefile.ErrUnsafe,
	} {
		if _, _, err := Open(path(name)); !errors.Is(err, want) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v, want %v and the path", name, err, want)
		}
	}
	if _, err := os.Lstat(path("missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("file created: %v", err)
	}
	reader, err := os.OpenFile(path("fifo"), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if _, _, err := Open(path("fifo")); !errors.Is(err, ErrNotRegular) {
		t.Errorf("FIFO with a reader: %v", err)
	}
}

// Records of several writers do not mix.
func TestOpenConcurrently(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const writers, records = 8, 200
	var wait sync.WaitGroup
	for w := range writers {
		wait.Go(func() {
			log, closeFile, err := Open(path)
			if err != nil {
				t.Error(err)
				return
			}
			for i := range records {
				if err := log.Add(Record{Action: strconv.Itoa(w), Detail: strings.Repeat("x", 10*i)}); err != nil {
					t.Error(err)
				}
			}
			if err := closeFile(); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := 0
	for line := range bytes.Lines(content) {
		if lines++; !json.Valid(line) {
			t.Fatalf("line %d: %q", lines, line)
		}
	}
	if lines != writers*records {
		t.Errorf("%d lines, want %d", lines, writers*records)
	}
}
