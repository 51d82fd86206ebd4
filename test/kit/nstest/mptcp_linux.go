package nstest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// mptcpEnabled exists if the kernel has MPTCP (CONFIG_MPTCP).
const mptcpEnabled = "/proc/sys/net/mptcp/enabled"

// noMPTCP is an environment variable. If it is set, tests emulate a kernel without MPTCP.
const noMPTCP = "TCPHUP_TEST_NO_MPTCP"

// NeedMPTCP skips a test on a kernel without MPTCP. If the kernel has MPTCP but opens no
// MPTCP socket, it fails the test.
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
	t.Skipf("kernel without MPTCP (%s): %v", reason, err)
}

// HasMPTCP reports whether the kernel opens MPTCP sockets. Tests of MPTCP use NeedMPTCP
// instead.
func HasMPTCP() bool { return openMPTCP() == nil }

func openMPTCP() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_MPTCP)
	if err != nil {
		return fmt.Errorf("open MPTCP socket: %w", err)
	}
	return unix.Close(fd)
}

// hideMPTCP disables MPTCP in the network namespace of the calling thread and hides its
// settings, if noMPTCP is set. MPTCP dumps of sock_diag still succeed and are empty.
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

// TCPAndMPTCP runs a test twice, as subtests over TCP and over MPTCP.
func TCPAndMPTCP(t *testing.T, test func(t *testing.T, mptcp bool)) {
	t.Helper()
	t.Run("tcp", func(t *testing.T) { test(t, false) })
	t.Run("mptcp", func(t *testing.T) {
		NeedMPTCP(t)
		test(t, true)
	})
}
