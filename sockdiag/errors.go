package sockdiag

import "errors"

var (
	// ErrInterrupted reports that sockets changed during a dump in a way that makes it
	// inconsistent (NLM_F_DUMP_INTR). The dump may be repeated.
	ErrInterrupted = errors.New("dump was interrupted by changes and is inconsistent")

	// errDone ends a reply in order; it never leaves this package.
	errDone = errors.New("end of reply")

	// errShort is wrapped by every error about a message that is shorter than its
	// type or its own length field requires.
	errShort = errors.New("message is too short")
)
