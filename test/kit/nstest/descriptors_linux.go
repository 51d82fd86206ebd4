package nstest

import (
	"fmt"
	"os"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// LimitDescriptors leaves a process, which may be the one that calls, no more than so
// many descriptors to open, until lift is called or the test ends.
func LimitDescriptors(t testing.TB, pid, spare int) (lift func()) {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	open := make(map[int]bool)
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			t.Fatal(err)
		}
		// The directory that was just read is closed by now.
		if _, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, fd)); err == nil {
			open[fd] = true
		}
	}
	// The limit is on numbers, and the lowest that is free is taken.
	limit := 0
	for ; spare > 0 || open[limit]; limit++ {
		if !open[limit] {
			spare--
		}
	}
	var old unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &old); err != nil {
		t.Fatal(err)
	}
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(limit), Max: old.Max}, nil); err != nil {
		t.Fatal(err)
	}
	lifted := false
	lift = func() {
		if lifted {
			return
		}
		lifted = true
		if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &old, nil); err != nil {
			t.Errorf("lift the limit of descriptors: %v", err)
		}
	}
	t.Cleanup(lift)
	return lift
}
