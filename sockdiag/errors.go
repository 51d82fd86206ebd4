package sockdiag

import (
	"errors"
	"fmt"
	"os"
)

var (
	// ErrNoTCPDiag matches errors about a TCP dump without the kernel module tcp_diag, or
	// without inet_diag, on which it depends. They match errors.ErrUnsupported as well.
	ErrNoTCPDiag error = missingModule("kernel module tcp_diag or inet_diag is missing: run modprobe tcp_diag, or use a kernel with CONFIG_INET_TCP_DIAG")

	// ErrNoMPTCPDiag matches errors about an MPTCP dump without the kernel module mptcp_diag,
	// or without MPTCP; see Table.LacksMPTCPDiag. They match errors.ErrUnsupported as well.
	ErrNoMPTCPDiag error = missingModule("kernel module mptcp_diag is missing: run modprobe mptcp_diag, or use a kernel with CONFIG_INET_MPTCP_DIAG")

	// ErrInterrupted matches errors about a dump that is inconsistent because sockets
	// changed meanwhile (NLM_F_DUMP_INTR). The dump may be repeated.
	ErrInterrupted = errors.New("dump interrupted: sockets changed and the result is inconsistent")

	// errDone marks the end of a complete reply. It is not returned to callers of this
	// package.
	errDone = errors.New("end of reply")

	// errShort matches errors about a message shorter than its type or its length field
	// requires.
	errShort = errors.New("message is too short")
)

type missingModule string

func (m missingModule) Error() string { return string(m) }

func (missingModule) Is(target error) bool { return target == errors.ErrUnsupported }

// dumpError returns the error of a failed dump. The kernel returns ENOENT without the
// module of the protocol.
func dumpError(p Protocol, err error) error {
	switch {
	case !errors.Is(err, os.ErrNotExist):
	case p == MPTCP:
		err = ErrNoMPTCPDiag
	default:
		err = ErrNoTCPDiag
	}
	return fmt.Errorf("dump %s sockets: %w", p, err)
}
