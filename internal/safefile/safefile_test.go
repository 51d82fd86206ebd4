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
		want       string // "" for no error
	}{
		{name: "own", mode: 0o600},
		{name: "world-readable", mode: 0o644},
		{name: "group-writable", mode: 0o664},
		{name: "read only", mode: 0o444},
		{name: "world-writable", mode: 0o646, unsafe: true, want: ": world-writable (mode 0646); run chmod o-w "},
		{name: "write-only for others", mode: 0o602, unsafe: true, want: "mode 0602"},
		{name: "missing", path: filepath.Join(dir, "missing"), want: "no such file"},
		{name: "directory", path: dir, want: "is a directory"},
		{name: "fifo", path: fifo, want: "not a regular file"},
		{name: "device", path: "/dev/zero", want: "not a regular file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := tt.path
			if path == "" {
				path = write(t, t.TempDir(), tt.mode)
			}
			// For a link, Read checks the target.
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
	if _, err := Read(write(t, t.TempDir(), 0o600), 6); err == nil || !strings.Contains(err.Error(), "larger than 6 bytes") {
		t.Errorf("a file above the limit: %v", err)
	}
}

// In a world-writable directory, files and links of other users are rejected, even a link to
// a file of the effective user.
func TestPrivilegedSharedDirectory(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		const other = 12345
		for _, tt := range []struct {
			name       string
			mode       os.FileMode
			file, link int  // owners
			linked     bool // path is a link to a file in another directory
			wantUnsafe bool
		}{
			{name: "other owner, safe directory", mode: 0o755, file: other},
			{name: "own file", mode: 0o777},
			{name: "other owner", mode: 0o777, file: other, wantUnsafe: true},
			{name: "other owner, sticky directory", mode: 0o777 | os.ModeSticky, file: other, wantUnsafe: true},
			{name: "own file, own link", mode: 0o777, linked: true},
			{name: "own file, other owner of link", mode: 0o777, linked: true, link: other, wantUnsafe: true},
			{name: "other owner, own link", mode: 0o777, linked: true, file: other, wantUnsafe: true},
		} {
			t.Run(tt.name, func(t *testing.T) {
				dir := t.TempDir()
				path := write(t, dir, 0o640)
				if tt.linked {
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
				if errors.Is(err, ErrUnsafe) != tt.wantUnsafe || !tt.wantUnsafe && err != nil {
					t.Errorf("got %v, want unsafe: %v", err, tt.wantUnsafe)
				}
				if tt.wantUnsafe && !strings.Contains(err.Error(), "belongs to user 12345") {
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
