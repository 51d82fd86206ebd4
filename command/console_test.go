package command

import (
	"bytes"
	"testing"
	"time"

	"tcphup/hangup"
)

func TestProgressText(t *testing.T) {
	now := time.Now()
	for _, tt := range []struct {
		progress hangup.Progress
		want     string
	}{
		{hangup.Progress{Activity: "reading connections"}, "tcphup: reading connections"},
		{hangup.Progress{Activity: hangup.FindingOwners}, "tcphup: searching for the owners of the connections"},
		{hangup.Progress{Activity: hangup.HangingUp, Done: 12, Total: 100, Until: now.Add(43600 * time.Millisecond)}, "tcphup: hanging up: 12 done, 88 left, 44s to go"},
		{hangup.Progress{Activity: hangup.Draining, Done: 1, Total: 2, Until: now.Add(-time.Second)}, "tcphup: waiting for connections to become quiet: 1 done, 1 left"},
		{hangup.Progress{Activity: "watching", Until: now.Add(2 * time.Second)}, "tcphup: watching: 2s to go"},
	} {
		if got := progressText(tt.progress, now); got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
}

// In a terminal, lines are broken between their parts; progress is erased before other output
// and at the end.
func TestConsole(t *testing.T) {
	var out bytes.Buffer
	c := &console{w: &out, width: 30}
	c.show(hangup.Progress{Activity: "hanging up", Total: 100000, Until: time.Now().Add(time.Hour)})
	c.draw()
	if out.Len() > 0 {
		t.Errorf("progress within the first second: %q", &out)
	}
	c.began = c.began.Add(-progressDelay)
	c.draw()
	_, _ = c.Write([]byte("tcphup: 12 connections lead elsewhere; to hang up: tcphup 10.20.0.5 5432\n"))
	c.draw()
	c.close()
	const progress = "\rtcphup: hanging up: 0 done, 1\x1b[K"
	want := progress + "\r\x1b[Ktcphup: 12 connections lead elsewhere;\n  to hang up: tcphup 10.20.0.5 5432\n" + progress + "\r\x1b[K"
	if out.String() != want {
		t.Errorf("%q, want %q", &out, want)
	}
	// In a pipe there is no progress, and lines are not broken.
	out.Reset()
	piped := newConsole(&out)
	piped.show(hangup.Progress{Activity: "hanging up"})
	n, err := piped.Write([]byte("a; b\n"))
	piped.close()
	if n != 5 || err != nil || piped.finished != nil || out.String() != "a; b\n" {
		t.Errorf("piped: %q, %d, %v", &out, n, err)
	}
}
