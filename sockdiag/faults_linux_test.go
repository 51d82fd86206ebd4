package sockdiag

import (
	"encoding/binary"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The faults of the kernel's side that cannot be made to happen.
func TestReceiveFaults(t *testing.T) {
	header := func(size, kind, flags int, sequence, portID uint32) []byte {
		b := binary.NativeEndian.AppendUint32(nil, uint32(size))
		b = binary.NativeEndian.AppendUint16(b, uint16(kind))
		b = binary.NativeEndian.AppendUint16(b, uint16(flags))
		b = binary.NativeEndian.AppendUint32(b, sequence)
		return binary.NativeEndian.AppendUint32(b, portID)
	}
	flow := func(flags int, sequence, portID uint32) []byte {
		payload := make([]byte, messageLen)
		payload[0], payload[1] = byte(IPv4), byte(Established)
		return append(header(headerLen+messageLen, typeByFamily, flags, sequence, portID), payload...)
	}
	number := func(kind int, n int32, sequence, portID uint32) []byte {
		return binary.NativeEndian.AppendUint32(header(headerLen+4, kind, 0, sequence, portID), uint32(n))
	}
	const nlError, nlDone = 2, 3
	type answer func(sequence, portID uint32) ([]byte, error)

	tests := []struct {
		name    string
		answers []answer
		flows   int
		want    error
		text    string
	}{
		{name: "complete", answers: []answer{
			func(s, p uint32) ([]byte, error) {
				return slices.Concat(flow(0, s, p), flow(0, s, p), number(nlDone, 0, s, p)), nil
			},
		}, flows: 2},
		{name: "old sequence is passed over", answers: []answer{
			func(s, p uint32) ([]byte, error) {
				return slices.Concat(flow(0, s-1, p), flow(0, s, p), number(nlDone, 0, s, p)), nil
			},
		}, flows: 1},
		{name: "interrupted", answers: []answer{
			func(s, p uint32) ([]byte, error) {
				return slices.Concat(flow(flagDumpInterrupted, s, p), number(nlDone, 0, s, p)), nil
			},
		}, flows: 1, want: ErrInterrupted},
		{name: "error in the middle ends it", answers: []answer{
			func(s, p uint32) ([]byte, error) {
				return slices.Concat(flow(0, s, p), number(nlError, -int32(unix.EPERM), s, p), flow(0, s, p)), nil
			},
		}, flows: 1, want: os.ErrPermission},
		{name: "dump ends with an error", answers: []answer{
			func(s, p uint32) ([]byte, error) {
				return slices.Concat(flow(0, s, p), number(nlDone, -int32(unix.EOPNOTSUPP), s, p)), nil
			},
		}, flows: 1, want: errors.ErrUnsupported},
		{name: "no room in the socket", answers: []answer{
			func(s, p uint32) ([]byte, error) { return nil, unix.ENOBUFS },
		}, want: unix.ENOBUFS},
		{name: "truncated datagram", answers: []answer{
			func(s, p uint32) ([]byte, error) { return make([]byte, bufferLen+1), nil },
		}, text: "do not fit"},
		{name: "truncated message", answers: []answer{
			func(s, p uint32) ([]byte, error) { return flow(0, s, p)[:headerLen+8], nil },
		}, want: errShort},
		{name: "truncated header", answers: []answer{
			func(s, p uint32) ([]byte, error) { return []byte{1, 2, 3}, nil },
		}, want: errShort},
		{name: "meant for another socket", answers: []answer{
			func(s, p uint32) ([]byte, error) { return flow(0, s, p+1), nil },
		}, text: "port id"},
		{name: "unknown type", answers: []answer{
			func(s, p uint32) ([]byte, error) { return header(headerLen, 99, 0, s, p), nil },
		}, text: "unexpected type 99"},
	}
	for _, tt := range tests {
		run := func(t *testing.T, ahead bool) {
			c := mustDial(t)
			kernel := c.receive
			c.receive = func(b []byte) (int, error) {
				// The kernel's own answer tells which numbers ours has to carry.
				n, err := kernel(b)
				if err != nil || n < headerLen {
					t.Fatalf("receive: %d bytes, %v", n, err)
				}
				datagram, err := tt.answers[0](binary.NativeEndian.Uint32(b[8:]), binary.NativeEndian.Uint32(b[12:]))
				return max(copy(b, datagram), len(datagram)), err
			}
			var flows int
			var got error
			for _, err := range c.Flows(t.Context(), Query{States: Open, Families: []Family{IPv4}, Ahead: ahead}) {
				if err != nil {
					got = err
					continue
				}
				flows++
			}
			if flows != tt.flows {
				t.Errorf("got %d flows, want %d", flows, tt.flows)
			}
			switch {
			case tt.want == nil && tt.text == "":
				if got != nil {
					t.Errorf("got error %v", got)
				}
			case tt.want != nil && !errors.Is(got, tt.want):
				t.Errorf("got error %v, want %v", got, tt.want)
			case tt.text != "" && (got == nil || !strings.Contains(got.Error(), tt.text)):
				t.Errorf("got error %v, want one with %q", got, tt.text)
			}
		}
		t.Run(tt.name, func(t *testing.T) { run(t, false) })
		t.Run(tt.name+", ahead", func(t *testing.T) { run(t, true) })
	}
}
