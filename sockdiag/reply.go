package sockdiag

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"syscall"

	"github.com/mdlayher/netlink"
)

const (
	headerLen = 16 // sizeof(struct nlmsghdr)

	flagDumpInterrupted = 0x10 // NLM_F_DUMP_INTR
)

// reply validates the datagrams of the reply to one request.
type reply struct {
	sequence, portID uint32
	interrupted      bool
	ended            bool // NLMSG_DONE or NLMSG_ERROR received
}

// messages yields the inet_diag payloads of a datagram. An error is yielded last:
// errDone for a complete reply, else the cause. Messages with the sequence number of an
// earlier request are skipped. Another port id or an unexpected type is an error.
func (r *reply) messages(b []byte) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for len(b) > 0 {
			m, rest, err := r.next(b)
			b = rest
			if m == nil && err == nil {
				continue
			}
			if !yield(m, err) || err != nil {
				return
			}
		}
	}
}

// next splits one message off b. It returns neither payload nor error for a message to
// skip.
func (r *reply) next(b []byte) (payload, rest []byte, err error) {
	if len(b) < headerLen {
		return nil, nil, fmt.Errorf("read netlink header: %w: %d bytes left", errShort, len(b))
	}
	var (
		size     = int(binary.NativeEndian.Uint32(b))
		kind     = binary.NativeEndian.Uint16(b[4:])
		flags    = binary.NativeEndian.Uint16(b[6:])
		sequence = binary.NativeEndian.Uint32(b[8:])
		portID   = binary.NativeEndian.Uint32(b[12:])
	)
	if size < headerLen || size > len(b) {
		return nil, nil, fmt.Errorf("read netlink message: %w: length field %d, %d bytes left", errShort, size, len(b))
	}
	payload, rest = b[headerLen:size], b[min(align4(size), len(b)):]
	if portID != r.portID {
		return nil, nil, fmt.Errorf("read netlink message: port id %d, expected %d", portID, r.portID)
	}
	if sequence != r.sequence {
		return nil, rest, nil
	}
	if flags&flagDumpInterrupted != 0 {
		r.interrupted = true
	}

	switch netlink.HeaderType(kind) {
	case typeByFamily, typeBothFamilies:
		return payload, rest, nil
	case netlink.Noop:
		return nil, rest, nil
	case netlink.Error, netlink.Done:
		r.ended = true
		if err := kernelError(payload); err != nil {
			return nil, nil, err
		}
		if r.interrupted {
			return nil, nil, ErrInterrupted
		}
		return nil, nil, errDone
	case netlink.Overrun:
		return nil, nil, errors.New("read netlink message: NLMSG_OVERRUN: data lost")
	default:
		return nil, nil, fmt.Errorf("read netlink message: unexpected type %d", kind)
	}
}

// kernelError decodes the error number of NLMSG_ERROR and NLMSG_DONE. The result is nil or
// a syscall.Errno, which matches os.ErrPermission and the like.
func kernelError(b []byte) error {
	if len(b) < 4 {
		return fmt.Errorf("read netlink error: %w: %d bytes", errShort, len(b))
	}
	if n := int32(binary.NativeEndian.Uint32(b)); n != 0 {
		return syscall.Errno(-n)
	}
	return nil
}
