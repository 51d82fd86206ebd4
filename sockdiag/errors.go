package sockdiag

import "errors"

var (
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
