package nstest

import (
	"fmt"
	"os"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// LimitDescriptors lowers RLIMIT_NOFILE of a process so that it can open n more descriptors.
// The limit is restored by lift or at the end of the test.
func LimitDescriptors(t testing.TB, pid, n int) (lift func()) {
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
		// Skip the descriptor of the directory, which is closed by now.
		if _, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, fd)); err == nil {
			open[fd] = true
		}
	}
	// The limit applies to descriptor numbers, and the kernel assigns the lowest free one.
	limit := 0
	for ; n > 0 || open[limit]; limit++ {
		if !open[limit] {
			n--
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
			t.Errorf("restore descriptor limit: %v", err)
		}
	}
	t.Cleanup(lift)
	return lift
}
