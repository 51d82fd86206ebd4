// Package nstest runs a test in namespaces of its own: network, mount and
// process ids. Whatever the test opens, starts or configures ends with it.
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

// marker is set in the environment of a process that is inside.
const marker = "TCPHUP_NSTEST"

// passed is how the output of a test ends that has; with -cover a line more.
var passed = regexp.MustCompile(`(^|\n)PASS\n(coverage: .*\n)?$`)

// skipped is a line in the output of a test that skipped itself as a whole.
const skipped = "nstest: skipped"

// Run runs a privileged test; it must be all that the test does. It starts the
// test binary again for this one test, in new network, mount and process id
// namespaces with a /proc of their own and the loopback device up, calls fn
// there, and reports what came of it.
//
// A test that is not root fails: there is no way to pass by not running. The one
// exception is -short, which leaves privileged tests out and says so.
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
		t.Skip("privileged test left out by -short")
	}
	if os.Geteuid() != 0 {
		t.Fatal("must run as root (it makes namespaces of its own); -short leaves privileged tests out")
	}

	// A test's name can hold slashes, one for each level of subtests.
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
		// The inner one is to run out first: its goroutines are the ones to see.
		left := time.Until(deadline)
		args = append(args, "-test.timeout="+(left-left/10).String())
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), marker+"="+t.Name())
	cmd.SysProcAttr = netns.Own()
	out, err := cmd.CombinedOutput()
	switch {
	case err != nil:
		t.Fatalf("in namespaces of its own: %v\n%s", err, out)
	case !passed.Match(out):
		t.Fatalf("in namespaces of its own the test did not end with PASS:\n%s", out)
	case bytes.Contains(out, []byte(skipped+"\n")):
		t.Skipf("in namespaces of its own:\n%s", out)
	}
	t.Logf("in namespaces of its own:\n%s", out)
}

// Main is what TestMain of a package exits with whose benchmarks need namespaces
// too. With -bench it starts the test binary again as a whole, as Run does for
// one test, and passes its output on; without, it runs the tests.
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
		fmt.Fprintln(os.Stderr, "benchmarks must run as root: they make namespaces of their own")
		return 1
	}
	cmd := exec.Command(os.Args[0], os.Args[1:]...)
	cmd.Env = append(os.Environ(), marker+"="+all)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = netns.Own()
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "in namespaces of its own:", err)
		return 1
	}
	return 0
}

// prepare makes the new namespaces usable.
func prepare() error {
	if err := netns.Prepare(); err != nil {
		return err
	}
	// Named network namespaces (ip-netns(8)) must not outlive the test either.
	const named = "/run/netns"
	if err := os.MkdirAll(named, 0o755); err != nil {
		return fmt.Errorf("make %s: %w", named, err)
	}
	if err := unix.Mount("tmpfs", named, "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("mount %s: %w", named, err)
	}
	// The network settings of the machine must not decide what a test sees.
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
