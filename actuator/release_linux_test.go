package actuator

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcphup/sockdiag"
	"tcphup/test/kit/nstest"
)

// A process may put anything in the place of a socket that was seen, such as a file
// of a FUSE server of its own that answers no close. Nobody waits for it.
func TestPrivilegedStuckClose(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		stuck := openUnclosable(t)
		answers := make(chan error)
		go func() {
			fd, err := duplicate(holder{pid: os.Getpid(), fd: stuck}, &sockdiag.Flow{Cookie: 1})
			if err == nil {
				err = fmt.Errorf("got descriptor %d", fd)
			}
			answers <- err
		}()
		select {
		case err := <-answers:
			if !errors.Is(err, errIdentity) {
				t.Errorf("got %v", err)
			}
		case <-time.After(nstest.HangGuard):
			t.Errorf("waited %v in vain for the duplicate to be refused", nstest.HangGuard)
		}
	})
}

// Nor for what a socket has still to send, when its owner has asked the last close
// to wait and has closed its own descriptor.
func TestReleaseOfLingeringSocket(t *testing.T) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	to := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: listener.Addr().(*net.TCPAddr).Port}
	if err := unix.Connect(fd, to); err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = unix.SendmsgN(fd, make([]byte, 1<<16), nil, nil, unix.MSG_DONTWAIT)
	}
	if !errors.Is(err, unix.EAGAIN) {
		t.Fatal(err)
	}
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 3600}); err != nil {
		t.Fatal(err)
	}
	released := make(chan struct{})
	go func() {
		release(fd)
		close(released)
	}()
	select {
	case <-released:
	case <-time.After(nstest.HangGuard):
		t.Errorf("waited %v in vain for the release", nstest.HangGuard)
	}
}

// openUnclosable opens a file, and returns its descriptor, whose FUSE server (linux/fuse.h) leaves FUSE_FLUSH,
// which a close waits for, unanswered until the test ends.
func openUnclosable(t *testing.T) int {
	t.Helper()
	const (
		getAttr, open, flush, start = 3, 14, 25, 26
		inHeader, outHeader         = 40, 16
	)
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	place := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(place, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("test", place, "fuse", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("fd=%d,rootmode=100600,user_id=0,group_id=0", fd)); err != nil {
		t.Fatal(err)
	}
	device := os.NewFile(uintptr(fd), "/dev/fuse") // which can be polled from now on
	t.Cleanup(func() {
		if err := errors.Join(device.Close(), unix.Unmount(place, unix.MNT_DETACH)); err != nil {
			t.Error(err)
		}
	})
	go func() {
		request := make([]byte, 1<<17)
		for {
			n, err := device.Read(request)
			if err != nil || n < inHeader {
				return // the test has ended
			}
			var body []byte
			fault := int32(0)
			switch binary.NativeEndian.Uint32(request[4:]) {
			case start:
				body = make([]byte, 64) // struct fuse_init_out
				binary.NativeEndian.PutUint32(body, 7)
				binary.NativeEndian.PutUint32(body[4:], 31)
				binary.NativeEndian.PutUint32(body[20:], 4096) // max_write
			case getAttr:
				body = make([]byte, 104) // struct fuse_attr_out
				binary.NativeEndian.PutUint64(body[16:], 1)
				binary.NativeEndian.PutUint32(body[16+60:], unix.S_IFREG|0o600)
				binary.NativeEndian.PutUint32(body[16+64:], 1)
			case open:
				body = make([]byte, 16) // struct fuse_open_out
			case flush:
				continue
			default:
				fault = -int32(unix.ENOSYS)
			}
			answer := binary.NativeEndian.AppendUint32(nil, uint32(outHeader+len(body)))
			answer = binary.NativeEndian.AppendUint32(answer, uint32(fault))
			answer = append(answer, request[8:16]...) // unique
			if _, err := device.Write(append(answer, body...)); err != nil {
				return
			}
		}
	}()
	// os.Open would poll it.
	file, err := unix.Open(place, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return file
}
