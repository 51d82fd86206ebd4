package safefile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"tcphup/test/kit/nstest"
)

func TestRead(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, path string
		mode       os.FileMode
		unsafe     bool
		want       string // "" when it is read
	}{
		{name: "own", mode: 0o600},
		{name: "shared for reading", mode: 0o644},
		{name: "shared with its group", mode: 0o664},
		{name: "read only", mode: 0o444},
		{name: "world-writable", mode: 0o646, unsafe: true, want: "may be changed by every user (mode 0646), refused: chmod o-w "},
		{name: "write only for others", mode: 0o602, unsafe: true, want: "mode 0602"},
		{name: "missing", path: filepath.Join(dir, "missing"), want: "no such file"},
		{name: "directory", path: dir, want: "is not a file of at most 7 bytes"},
		{name: "fifo", path: fifo, want: "is not a file"},
		{name: "device", path: "/dev/zero", want: "is not a file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := tt.path
			if path == "" {
				path = write(t, t.TempDir(), tt.mode)
			}
			// What a link leads to is what counts.
			link := filepath.Join(t.TempDir(), "link")
			if err := os.Symlink(path, link); err != nil {
				t.Fatal(err)
			}
			for _, path := range []string{path, link} {
				content, err := Read(path, 7)
				if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) || errors.Is(err, ErrUnsafe) != tt.unsafe {
					t.Errorf("%s: %v, want %q", path, err, tt.want)
				}
				if err == nil && string(content) != "content" {
					t.Errorf("%s: %q", path, content)
				}
				if errors.Is(err, fs.ErrNotExist) != (tt.name == "missing") {
					t.Errorf("%s: %v", path, err)
				}
			}
		})
	}
	if _, err := Read(write(t, t.TempDir(), 0o600), 6); err == nil {
		t.Error("a file above the limit was read")
	}
}

// In a directory that everyone may write to, what another user has put there is
// refused: a file of theirs, and a link of theirs to a file of ours.
func TestPrivilegedSharedDirectory(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		const other = 12345
		for _, tt := range []struct {
			name        string
			mode        os.FileMode
			file, link  int // owners
			elsewhere   bool
			wantRefused bool
		}{
			{name: "theirs in a directory of ours", mode: 0o755, file: other},
			{name: "ours", mode: 0o777},
			{name: "theirs", mode: 0o777, file: other, wantRefused: true},
			{name: "theirs, sticky", mode: 0o777 | os.ModeSticky, file: other, wantRefused: true},
			{name: "ours through our link", mode: 0o777, elsewhere: true},
			{name: "ours through their link", mode: 0o777, elsewhere: true, link: other, wantRefused: true},
			{name: "theirs through our link", mode: 0o777, elsewhere: true, file: other, wantRefused: true},
		} {
			t.Run(tt.name, func(t *testing.T) {
				dir := t.TempDir()
				path := write(t, dir, 0o640)
				if tt.elsewhere {
					path = filepath.Join(dir, "link")
					target := write(t, t.TempDir(), 0o640)
					chown(t, target, tt.file)
					if err := os.Symlink(target, path); err != nil {
						t.Fatal(err)
					}
					chown(t, path, tt.link)
				} else {
					chown(t, path, tt.file)
				}
				if err := os.Chmod(dir, tt.mode); err != nil {
					t.Fatal(err)
				}
				_, err := Read(path, 100)
				if errors.Is(err, ErrUnsafe) != tt.wantRefused || !tt.wantRefused && err != nil {
					t.Errorf("got %v, want refused: %v", err, tt.wantRefused)
				}
				if tt.wantRefused && !strings.Contains(err.Error(), "belongs to user 12345") {
					t.Errorf("got %v", err)
				}
			})
		}
	})
}

func chown(t *testing.T, path string, uid int) {
	t.Helper()
	if err := os.Lchown(path, uid, uid); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, dir string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(dir, "file")
	if err := os.WriteFile(path, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}
