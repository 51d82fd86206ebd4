// Package nstest runs a test in new network, mount and process id namespaces. The kernel
// removes sockets, processes and settings of the test when it ends.
package nstest

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcphup/test/kit/netns"
)

// marker is the environment variable of a process in test namespaces.
const marker = "TCPHUP_NSTEST"

// passed matches the output of a passed test. With -cover there is one more line.
var passed = regexp.MustCompile(`(^|\n)PASS\n(coverage: .*\n)?$`)

// skipped is a line in the output of a skipped test.
const skipped = "nstest: skipped"

// Run runs a privileged test in new network, mount and process id namespaces. It must be the
// only statement of the test. It starts the test binary again for this test with a new /proc
// and the loopback device up, calls fn there, and reports the result.
//
// Without root the test fails, so that it cannot pass without running. With -short it is
// skipped.
func Run(t *testing.T, fn func(t *testing.T)) {
	t.Helper()
	if os.Getenv(marker) == t.Name() {
		if err := prepare(); err != nil {
			t.Fatalf("prepare namespaces: %v", err)
		}
		defer func() {
			if t.Skipped() {
				fmt.Println(skipped)
			}
		}()
		fn(t)
		return
	}
	if testing.Short() {
		t.Skip("privileged test, skipped by -short")
	}
	if os.Geteuid() != 0 {
		t.Fatal("needs root to create namespaces; -short skips privileged tests")
	}

	// -test.run takes one pattern for each level of subtests.
	levels := strings.Split(t.Name(), "/")
	for i, level := range levels {
		levels[i] = "^" + level + "$"
	}
	args := []string{"-test.run=" + strings.Join(levels, "/"), "-test.count=1"}
	for _, arg := range os.Args[1:] {
		for _, prefix := range []string{"-test.v", "-test.gocoverdir=", "-update"} {
			if strings.HasPrefix(arg, prefix) {
				args = append(args, arg)
			}
		}
	}
	if deadline, ok := t.Deadline(); ok {
		// The inner timeout must expire first, because its stack traces show the cause.
		left := time.Until(deadline)
		args = append(args, "-test.timeout="+(left-left/10).String())
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), marker+"="+t.Name())
	cmd.SysProcAttr = netns.CloneAttributes()
	out, err := cmd.CombinedOutput()
	switch {
	case err != nil:
		t.Fatalf("test process: %v\n%s", err, out)
	case !passed.Match(out):
		t.Fatalf("test process did not report PASS:\n%s", out)
	case bytes.Contains(out, []byte(skipped+"\n")):
		t.Skipf("test process:\n%s", out)
	}
	t.Logf("test process:\n%s", out)
}

// Main runs the tests of a package and returns the exit code for TestMain. With -bench it
// runs the whole test binary in new namespaces, as Run does for one test.
func Main(m *testing.M) (code int) {
	const all = "benchmarks"
	flag.Parse()
	switch {
	case os.Getenv(marker) == all:
		if err := prepare(); err != nil {
			fmt.Fprintln(os.Stderr, "prepare namespaces:", err)
			return 1
		}
		fallthrough
	case flag.Lookup("test.bench").Value.String() == "" || os.Getenv(marker) != "":
		return m.Run()
	case os.Geteuid() != 0:
		fmt.Fprintln(os.Stderr, "benchmarks need root to create namespaces")
		return 1
	}
	cmd := exec.Command(os.Args[0], os.Args[1:]...)
	cmd.Env = append(os.Environ(), marker+"="+all)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = netns.CloneAttributes()
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "benchmark process:", err)
		return 1
	}
	return 0
}

// prepare sets up the new namespaces.
func prepare() error {
	if err := netns.Prepare(); err != nil {
		return err
	}
	// A private /run/netns removes named network namespaces (ip-netns(8)) with the test.
	const named = "/run/netns"
	if err := os.MkdirAll(named, 0o755); err != nil {
		return fmt.Errorf("make %s: %w", named, err)
	}
	if err := unix.Mount("tmpfs", named, "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("mount %s: %w", named, err)
	}
	// Tests must not depend on the network settings of the machine.
	settings := map[string]string{
		mptcpEnabled:                               "1",
		"/proc/sys/net/ipv6/conf/all/accept_dad":   "0",
		"/proc/sys/net/ipv6/conf/all/use_tempaddr": "0",
	}
	for path, value := range settings {
		if err := os.WriteFile(path, []byte(value), 0o644); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("set %s: %w", path, err)
		}
	}
	return hideMPTCP()
}
