package boottime

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Now agrees with /proc/uptime, which has hundredths of a second.
func TestNow(t *testing.T) {
	before := Now()
	content, err := os.ReadFile("/proc/uptime")
	after := Now()
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(content), " ")
	seconds, err := strconv.ParseFloat(first, 64)
	if err != nil {
		t.Fatal(err)
	}
	uptime := time.Duration(seconds * float64(time.Second))
	if uptime < before-20*time.Millisecond || uptime > after {
		t.Errorf("uptime %s, want from %s to %s", uptime, before, after)
	}
}

func TestID(t *testing.T) {
	a, err := ID()
	b, _ := ID()
	if err != nil || a != b || len(strings.Fields(a)[0]) != len("00000000-0000-0000-0000-000000000000") {
		t.Errorf("%q, then %q, %v", a, b, err)
	}
}
