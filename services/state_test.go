package services

import (
	"bytes"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"tcphup/internal/safefile"
)

func TestStateRoundTrip(t *testing.T) {
	dir := t.TempDir()
	w := newWatcher(t, "10.0.0.2 fd00::2", "10.0.0.1 fd00::1")
	w.state, w.dirty = stateIn(dir), true
	w.watches["db.internal"].history.changed = time.Unix(1_900_000_000, 0).UTC()
	w.save()
	want := w.snapshot()
	c := oneService(time.Minute)
	c.StateDirectory = dir
	again, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	wantAddresses(t, again, "db.internal", "10.0.0.2 fd00::2", "10.0.0.1 fd00::1")
	if diff := cmp.Diff(want.Services[0].Changed, again.snapshot().Services[0].Changed); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*.*.*"))
	if err != nil || len(left) > 0 {
		t.Errorf("extra files: %v, %v", left, err)
	}
}

// A symbolic link in place of the state file is replaced, not followed, and the file is
// readable by its owner only.
func TestStateReplacesLinks(t *testing.T) {
	dir := t.TempDir()
	file, target := filepath.Join(dir, StateFile), filepath.Join(dir, "target")
	if err := errors.Join(os.WriteFile(target, []byte("unchanged"), 0o644), os.Symlink(target, file)); err != nil {
		t.Fatal(err)
	}
	w := newWatcher(t, "10.0.0.2", "")
	w.state, w.dirty = stateFile(file), true
	w.save()
	if content, err := os.ReadFile(target); err != nil || string(content) != "unchanged" {
		t.Errorf("target of the link: %q, %v", content, err)
	}
	if info, err := os.Lstat(file); err != nil || info.Mode() != 0o600 {
		t.Errorf("the state file: %v, %v", info, err)
	}
}

// A damaged or unsafe state file is renamed and never an error at the start.
func TestDamagedState(t *testing.T) {
	good := `{"version":1,"services":[{"name":"db.internal","addresses":[{"address":"10.0.0.9"}]}]}`
	for _, tt := range []struct {
		name, content, want string
		aside, open         bool
	}{
		{name: "good", content: good, want: "10.0.0.9"},
		{name: "unknown name and key", content: `{"version":1,"more":1,"services":[{"name":"gone.internal","addresses":[{"address":"10.0.0.9"}]}]}`},
		{name: "mapped", content: strings.Replace(good, "10.0.0.9", "::ffff:10.0.0.9", 1), want: "10.0.0.9"},
		{name: "empty", aside: true},
		{name: "cut off", content: good[:len(good)/2], aside: true},
		{name: "not JSON", content: "\x00\x01", aside: true},
		{name: "another version", content: strings.Replace(good, "1", "2", 1), aside: true},
		{name: "no address", content: strings.Replace(good, "10.0.0.9", "", 1), aside: true},
		{name: "open to every user", content: good, open: true, aside: true},
		{name: "unusable address", content: strings.Replace(good, "10.0.0.9", "0.0.0.0", 1), aside: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := oneService(time.Minute)
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
			wantAddresses(t, w, "db.internal", tt.want, "")
			content, err := os.ReadFile(file + ".damaged")
			if aside := err == nil && string(content) == tt.content; aside != tt.aside {
				t.Errorf("renamed: %t, %v", aside, err)
			}
			if logged := strings.Contains(log.String(), "level=ERROR"); logged != tt.aside {
				t.Errorf("log: %s", log.String())
			}
		})
	}
}

// A failed write of the state file is retried.
func TestStateCannotBeWritten(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "later")
	w := newWatcher(t, "10.0.0.2", "")
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
		t.Error("no error for an unknown name")
	}
	if _, err := ReadState(dir+"/none", "db.internal"); err == nil {
		t.Error("no error for a missing file")
	}
}

// A process killed during a write leaves a temporary file, which the next write replaces.
func TestStateKilledWhileWriting(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, StateFile)
	if err := os.WriteFile(file+".new", []byte(`{"version":1,"serv`), 0o400); err != nil {
		t.Fatal(err)
	}
	w := newWatcher(t, "10.0.0.2", "")
	w.state, w.dirty = stateFile(file), true
	w.save()
	if k, err := ReadState(dir, "db.internal"); err != nil || texts(k.Current) != "10.0.0.2" {
		t.Errorf("%+v, %v", k, err)
	}
	if left, err := filepath.Glob(dir + "/*"); err != nil || len(left) != 1 {
		t.Errorf("extra files: %v, %v", left, err)
	}
}

// The state file has the time since which a current address is missing, for tcphup --stale,
// also if the name has no new address.
func TestStateMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := oneService(time.Minute)
		c.StateDirectory = t.TempDir()
		dns := &fakeResolver{answer: fixedAnswer(t, "10.0.0.1 10.0.0.2")}
		start(t, c, dns.lookup)
		missing := func() time.Time {
			t.Helper()
			known, err := ReadState(c.StateDirectory, "db.internal")
			if err != nil || known.Settle != time.Minute || len(known.Missing) > 1 {
				t.Fatalf("%+v, %v", known, err)
			}
			return known.Missing[netip.MustParseAddr("10.0.0.1")]
		}
		time.Sleep(time.Minute)
		if got := missing(); !got.IsZero() {
			t.Errorf("before the change: missing since %s", got)
		}
		changed := time.Now()
		dns.set(fixedAnswer(t, "10.0.0.2"))
		time.Sleep(30 * time.Second)
		if got := missing(); got.Before(changed) || got.Sub(changed) > 20*time.Second {
			t.Errorf("missing since %s, %s after the change", got, got.Sub(changed))
		}
		dns.set(fixedAnswer(t, "10.0.0.1 10.0.0.2"))
		time.Sleep(20 * time.Second)
		if got := missing(); !got.IsZero() {
			t.Errorf("returned, but missing since %s", got)
		}
	})
}
