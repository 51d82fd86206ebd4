package nstest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// mptcpEnabled exists where the kernel has MPTCP (CONFIG_MPTCP).
const mptcpEnabled = "/proc/sys/net/mptcp/enabled"

// noMPTCP is a variable of the environment. When it is set, tests run as on a kernel
// without MPTCP.
const noMPTCP = "TCPHUP_TEST_NO_MPTCP"

// NeedMPTCP skips a test about MPTCP on a kernel without MPTCP. A kernel that has
// MPTCP and opens no MPTCP socket fails the test.
func NeedMPTCP(t testing.TB) {
	t.Helper()
	err := openMPTCP()
	if err == nil {
		return
	}
	if _, missing := os.Stat(mptcpEnabled); !errors.Is(missing, os.ErrNotExist) {
		t.Fatalf("the kernel has MPTCP (%s exists): %v", mptcpEnabled, err)
	}
	reason := mptcpEnabled + " does not exist"
	if os.Getenv(noMPTCP) != "" {
		reason = noMPTCP + " is set"
	}
	t.Skipf("test about MPTCP on a kernel without MPTCP (%s): %v", reason, err)
}

// HasMPTCP reports whether the kernel opens MPTCP sockets. It is for the setting of tests
// that are not about MPTCP.
func HasMPTCP() bool { return openMPTCP() == nil }

func openMPTCP() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_MPTCP)
	if err != nil {
		return fmt.Errorf("open MPTCP socket: %w", err)
	}
	return unix.Close(fd)
}

// hideMPTCP makes the network namespace of the calling thread look as on a kernel
// without MPTCP when noMPTCP is set. The MPTCP table of sock_diag stays, and is empty.
func hideMPTCP() error {
	if os.Getenv(noMPTCP) == "" {
		return nil
	}
	if err := os.WriteFile(mptcpEnabled, []byte("0"), 0o644); errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("disable MPTCP: %w", err)
	}
	if err := unix.Mount("tmpfs", filepath.Dir(mptcpEnabled), "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("hide %s: %w", mptcpEnabled, err)
	}
	return nil
}

// TCPAndMPTCP runs a subtest over TCP and the same over MPTCP.
func TCPAndMPTCP(t *testing.T, test func(t *testing.T, mptcp bool)) {
	t.Helper()
	t.Run("tcp", func(t *testing.T) { test(t, false) })
	t.Run("mptcp", func(t *testing.T) {
		NeedMPTCP(t)
		test(t, true)
	})
}
