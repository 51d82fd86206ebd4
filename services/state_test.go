package services

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tcphup/internal/safefile"
)

func TestStateRoundTrip(t *testing.T) {
	dir := t.TempDir()
	w := known(t, "10.0.0.2 fd00::2", "10.0.0.1 fd00::1")
	w.state, w.dirty = stateIn(dir), true
	w.watches["db.internal"].history.changed = time.Unix(1_900_000_000, 0).UTC()
	w.save()
	want := w.snapshot()
	c := one(time.Minute)
	c.StateDirectory = dir
	again, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	is(t, again, "db.internal", "10.0.0.2 fd00::2", "10.0.0.1 fd00::1")
	if diff := cmp.Diff(want.Services[0].Changed, again.snapshot().Services[0].Changed); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*.*.*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// A link in the place of the state file is replaced and not followed, and nobody
// else can read what is written.
func TestStateReplacesLinks(t *testing.T) {
	dir := t.TempDir()
	file, victim := filepath.Join(dir, StateFile), filepath.Join(dir, "victim")
	if err := errors.Join(os.WriteFile(victim, []byte("precious"), 0o644), os.Symlink(victim, file)); err != nil {
		t.Fatal(err)
	}
	w := known(t, "10.0.0.2", "")
	w.state, w.dirty = stateFile(file), true
	w.save()
	if content, err := os.ReadFile(victim); err != nil || string(content) != "precious" {
		t.Errorf("what the link led to: %q, %v", content, err)
	}
	if info, err := os.Lstat(file); err != nil || info.Mode() != 0o600 {
		t.Errorf("the state file: %v, %v", info, err)
	}
}

// Whatever is in the file, the process starts; what is no state, or what anybody
// could have written, is set aside.
func TestDamagedState(t *testing.T) {
	good := `{"version":1,"services":[{"name":"db.internal","addresses":[{"address":"10.0.0.9"}]}]}`
	for _, tt := range []struct {
		name, content, knows string
		aside, open          bool
	}{
		{name: "good", content: good, knows: "10.0.0.9"},
		{name: "unknown name and key", content: `{"version":1,"more":1,"services":[{"name":"gone.internal","addresses":[{"address":"10.0.0.9"}]}]}`},
		{name: "mapped", content: strings.Replace(good, "10.0.0.9", "::ffff:10.0.0.9", 1), knows: "10.0.0.9"},
		{name: "empty", aside: true},
		{name: "cut off", content: good[:len(good)/2], aside: true},
		{name: "not JSON", content: "\x00\x01", aside: true},
		{name: "another version", content: strings.Replace(good, "1", "2", 1), aside: true},
		{name: "no address", content: strings.Replace(good, "10.0.0.9", "", 1), aside: true},
		{name: "open to every user", content: good, open: true, aside: true},
		{name: "unusable address", content: strings.Replace(good, "10.0.0.9", "0.0.0.0", 1), aside: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := one(time.Minute)
			c.StateDirectory = t.TempDir()
			file := filepath.Join(c.StateDirectory, StateFile)
			if err := os.WriteFile(file, []byte(tt.content), 0o600); err != nil {
				t.Fatal(err)
			}
			if tt.open {
				if err := os.Chmod(file, 0o602); err != nil {
					t.Fatal(err)
				}
				if k, err := ReadState(c.StateDirectory, "db.internal"); !errors.Is(err, safefile.ErrUnsafe) {
					t.Errorf("read: %+v, %v", k, err)
				}
			}
			var log bytes.Buffer
			c.Logger = slog.New(slog.NewTextHandler(&log, nil))
			w, err := New(c)
			if err != nil {
				t.Fatal(err)
			}
			is(t, w, "db.internal", tt.knows, "")
			content, err := os.ReadFile(file + ".damaged")
			if aside := err == nil && string(content) == tt.content; aside != tt.aside {
				t.Errorf("set aside: %t, %v", aside, err)
			}
			if logged := strings.Contains(log.String(), "level=ERROR"); logged != tt.aside {
				t.Errorf("log: %s", log.String())
			}
		})
	}
}

// A state file that cannot be written is tried again and does no harm.
func TestStateCannotBeWritten(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "later")
	w := known(t, "10.0.0.2", "")
	w.state, w.dirty = stateIn(dir), true
	w.save()
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	w.save()
	if k, err := ReadState(dir, "DB.internal"); err != nil || texts(k.Current) != "10.0.0.2" {
		t.Errorf("%+v, %v", k, err)
	}
	if _, err := ReadState(dir, "other.internal"); err == nil {
		t.Error("an unknown name is known")
	}
	if _, err := ReadState(dir+"/none", "db.internal"); err == nil {
		t.Error("a file that does not exist was read")
	}
}

// A process that is killed while it writes the state again and again leaves one file
// more, and its successor's next write takes its place.
func TestStateKilledWhileWriting(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, StateFile)
	if err := os.WriteFile(file+".new", []byte(`{"version":1,"serv`), 0o400); err != nil {
		t.Fatal(err)
	}
	w := known(t, "10.0.0.2", "")
	w.state, w.dirty = stateFile(file), true
	w.save()
	if k, err := ReadState(dir, "db.internal"); err != nil || texts(k.Current) != "10.0.0.2" {
		t.Errorf("%+v, %v", k, err)
	}
	if left, err := filepath.Glob(dir + "/*"); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
