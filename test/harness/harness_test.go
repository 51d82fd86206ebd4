// Package harness tests the demo, the soak and the bench, which run tcphup as a process.
package harness

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/program"
)

func TestMain(m *testing.M) { os.Exit(program.Main(m)) }

// build compiles test/NAME and returns the path of the binary, executable by all users.
func build(t *testing.T, name string) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), name)
	nstest.Command(t, "go", "build", "-o", binary, "tcphup/test/"+name)
	for _, dir := range []string{filepath.Dir(binary), filepath.Dir(filepath.Dir(binary))} {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return binary
}

// processes returns the pid and name of every other process in the test's pid
// namespace, zombies excepted.
func processes(t *testing.T) (names []string) {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		// pid (name) state …
		name, state := string(stat), ""
		if i := strings.LastIndex(name, ") "); i > 0 {
			name, state = name[:i+1], name[i+2:i+3]
		}
		pid, _, _ := strings.Cut(name, " ")
		if err == nil && state != "Z" && pid != strconv.Itoa(os.Getpid()) {
			names = append(names, name)
		}
	}
	return names
}
