// Package heldlock makes a thread hold the lock of a socket, as a process can do that handles
// its own page faults.
package heldlock

import (
	"sync"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Requests of include/uapi/linux/userfaultfd.h.
const (
	uffdioAPI      = 0xc018aa3f
	uffdioRegister = 0xc020aa00
	uffdioZeroPage = 0xc020aa04
)

const pageSize = 4096

// Hold sends on a connected TCP socket from a page without content, and returns when the kernel
// waits for the page: it holds the lock of the socket then. release, or the end of the test,
// provides the page. It needs CAP_SYS_PTRACE and CONFIG_USERFAULTFD.
func Hold(t testing.TB, fd int) (release func()) {
	t.Helper()
	fatal := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	faults, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|unix.O_NONBLOCK, 0, 0)
	fatal("userfaultfd", asError(errno))
	page, err := unix.Mmap(-1, 0, pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	fatal("mmap", err)
	request := func(number uintptr, values ...uint64) error {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, faults, number, uintptr(unsafe.Pointer(unsafe.SliceData(values))))
		return asError(errno)
	}
	start := uint64(uintptr(unsafe.Pointer(unsafe.SliceData(page))))
	fatal("UFFDIO_API", request(uffdioAPI, 0xaa, 0, 0))
	fatal("UFFDIO_REGISTER", request(uffdioRegister, start, pageSize, 1, 0)) // mode missing
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, _, _ = unix.Syscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(start), pageSize, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, 0, 0)
	}()
	var once sync.Once
	release = func() {
		once.Do(func() {
			if err := request(uffdioZeroPage, start, pageSize, 0, 0); err != nil {
				t.Errorf("UFFDIO_ZEROPAGE: %v", err)
			}
			<-sent
			_ = unix.Close(int(faults))
			_ = unix.Munmap(page)
		})
	}
	t.Cleanup(release)
	poll := []unix.PollFd{{Fd: int32(faults), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(poll, 10_000)
		if err == unix.EINTR {
			continue
		}
		fatal("poll", err)
		if n == 0 {
			t.Fatal("no page fault")
		}
		return release
	}
}

func asError(errno unix.Errno) error {
	if errno == 0 {
		return nil
	}
	return errno
}
