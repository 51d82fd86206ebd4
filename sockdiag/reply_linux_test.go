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

// Faults of the kernel side that cannot be provoked are injected into receive.
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
	type response func(sequence, portID uint32) ([]byte, error)

	tests := []struct {
		name    string
		replies []response
		flows   int
		want    error
		text    string
	}{
		{name: "complete", replies: []response{
			func(s, p uint32) ([]byte, error) {
				return slices.Concat(flow(0, s, p), flow(0, s, p), number(nlDone, 0, s, p)), nil
			},
		}, flows: 2},
		{name: "old sequence is skipped", replies: []response{
			func(s, p uint32) ([]byte, error) {
				return slices.Concat(flow(0, s-1, p), flow(0, s, p), number(nlDone, 0, s, p)), nil
			},
		}, flows: 1},
		{name: "interrupted", replies: []response{
			func(s, p uint32) ([]byte, error) {
				return slices.Concat(flow(flagDumpInterrupted, s, p), number(nlDone, 0, s, p)), nil
			},
		}, flows: 1, want: ErrInterrupted},
		{name: "error ends the dump", replies: []response{
			func(s, p uint32) ([]byte, error) {
				return slices.Concat(flow(0, s, p), number(nlError, -int32(unix.EPERM), s, p), flow(0, s, p)), nil
			},
		}, flows: 1, want: os.ErrPermission},
		{name: "dump ends with an error", replies: []response{
			func(s, p uint32) ([]byte, error) {
				return slices.Concat(flow(0, s, p), number(nlDone, -int32(unix.EOPNOTSUPP), s, p)), nil
			},
		}, flows: 1, want: errors.ErrUnsupported},
		{name: "no tcp_diag", replies: []response{
			func(s, p uint32) ([]byte, error) { return number(nlDone, -int32(unix.ENOENT), s, p), nil },
		}, want: ErrNoTCPDiag},
		{name: "receive buffer overrun", replies: []response{
			func(s, p uint32) ([]byte, error) { return nil, unix.ENOBUFS },
		}, want: unix.ENOBUFS},
		{name: "truncated datagram", replies: []response{
			func(s, p uint32) ([]byte, error) { return make([]byte, bufferLen+1), nil },
		}, text: "exceeds buffer"},
		{name: "truncated message", replies: []response{
			func(s, p uint32) ([]byte, error) { return flow(0, s, p)[:headerLen+8], nil },
		}, want: errShort},
		{name: "truncated header", replies: []response{
			func(s, p uint32) ([]byte, error) { return []byte{1, 2, 3}, nil },
		}, want: errShort},
		{name: "port id of another socket", replies: []response{
			func(s, p uint32) ([]byte, error) { return flow(0, s, p+1), nil },
		}, text: "port id"},
		{name: "unknown type", replies: []response{
			func(s, p uint32) ([]byte, error) { return header(headerLen, 99, 0, s, p), nil },
		}, text: "unexpected type 99"},
	}
	for _, tt := range tests {
		run := func(t *testing.T, ahead bool) {
			c := mustDial(t)
			kernel := c.receive
			c.receive = func(b []byte) (int, error) {
				// The injected reply needs the sequence number and port id of the real one.
				n, err := kernel(b)
				if err != nil || n < headerLen {
					t.Fatalf("receive: %d bytes, %v", n, err)
				}
				datagram, err := tt.replies[0](binary.NativeEndian.Uint32(b[8:]), binary.NativeEndian.Uint32(b[12:]))
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
