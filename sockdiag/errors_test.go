package sockdiag

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The error of a dump without its module names the module and the kernel option. It does
// not mean that a flow is gone.
func TestDumpError(t *testing.T) {
	for protocol, names := range map[Protocol][]string{
		TCP:   {"dump tcp", "tcp_diag", "inet_diag", "CONFIG_INET_TCP_DIAG"},
		MPTCP: {"dump mptcp", "modprobe mptcp_diag", "CONFIG_INET_MPTCP_DIAG"},
	} {
		err := dumpError(protocol, unix.ENOENT)
		for _, name := range names {
			if !strings.Contains(err.Error(), name) {
				t.Errorf("%v does not name %s", err, name)
			}
		}
		if !errors.Is(err, errors.ErrUnsupported) || errors.Is(err, os.ErrNotExist) {
			t.Errorf("%v matches the wrong errors", err)
		}
		if other := dumpError(protocol, unix.EPERM); !errors.Is(other, os.ErrPermission) || errors.Is(other, errors.ErrUnsupported) {
			t.Errorf("%v matches the wrong errors", other)
		}
	}
}
