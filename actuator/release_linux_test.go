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

// duplicate does not block on a descriptor that refers to another file by now, here on a
// FUSE server that never completes the close.
func TestPrivilegedBlockingClose(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		stuck := openUnclosable(t)
		result := make(chan error)
		go func() {
			fd, err := duplicate(holder{pid: os.Getpid(), fd: stuck}, &sockdiag.Flow{Cookie: 1})
			if err == nil {
				err = fmt.Errorf("got descriptor %d", fd)
			}
			result <- err
		}()
		select {
		case err := <-result:
			if !errors.Is(err, errIdentity) {
				t.Errorf("got %v", err)
			}
		case <-time.After(nstest.HangGuard):
			t.Errorf("duplicate blocked for %v", nstest.HangGuard)
		}
	})
}

// release does not block on the unsent data of a socket with SO_LINGER whose owner has
// closed its descriptor.
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
		t.Errorf("release blocked for %v", nstest.HangGuard)
	}
}

// openUnclosable returns a descriptor whose close blocks until the test ends. The file is
// on a FUSE server (linux/fuse.h) that does not reply to FUSE_FLUSH.
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
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("test", path, "fuse", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("fd=%d,rootmode=100600,user_id=0,group_id=0", fd)); err != nil {
		t.Fatal(err)
	}
	device := os.NewFile(uintptr(fd), "/dev/fuse") // nonblocking
	t.Cleanup(func() {
		if err := errors.Join(device.Close(), unix.Unmount(path, unix.MNT_DETACH)); err != nil {
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
			reply := binary.NativeEndian.AppendUint32(nil, uint32(outHeader+len(body)))
			reply = binary.NativeEndian.AppendUint32(reply, uint32(fault))
			reply = append(reply, request[8:16]...) // unique
			if _, err := device.Write(append(reply, body...)); err != nil {
				return
			}
		}
	}()
	// os.Open would send FUSE_POLL.
	file, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return file
}
