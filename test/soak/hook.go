package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// hookedAddress is what getpeername(2) returns in the applications, for every connection.
var hookedAddress = [4]byte{192, 0, 2, 1}

// hook is a cgroup whose sockets have BPF programs that rewrite the result of getpeername(2),
// as the load balancing of Cilium does. It ends with its directory.
type hook struct {
	path string
	dir  *os.File
}

// newHook creates the cgroup and attaches the programs. It needs CAP_SYS_ADMIN, or CAP_BPF and
// CAP_NET_ADMIN, and Linux 5.8.
func newHook() (h *hook, err error) {
	mount := "/sys/fs/cgroup/unified" // of cgroup v2 in a hybrid hierarchy
	if _, err := os.Stat(mount); err != nil {
		mount = "/sys/fs/cgroup"
	}
	h = &hook{}
	if h.path, err = os.MkdirTemp(mount, "tcphup-soak-"); err != nil {
		return nil, err
	}
	if h.dir, err = os.Open(h.path); err != nil {
		return nil, h.closeAfter(err)
	}
	for _, kind := range []uint32{unix.BPF_CGROUP_INET4_GETPEERNAME, unix.BPF_CGROUP_INET6_GETPEERNAME} {
		if err := attach(int(h.dir.Fd()), kind); err != nil {
			return nil, h.closeAfter(fmt.Errorf("attach BPF program: %w", err))
		}
	}
	return h, nil
}

func (h *hook) closeAfter(err error) error {
	_ = h.close()
	return err
}

// close removes the cgroup after the end of its processes.
func (h *hook) close() error {
	if h == nil {
		return nil
	}
	_ = h.dir.Close()
	return os.Remove(h.path)
}

// attach loads a program and attaches it to a cgroup.
func attach(cgroup int, kind uint32) error {
	instruction := func(code, registers byte, offset int16, value uint32) []byte {
		b := binary.NativeEndian.AppendUint16([]byte{code, registers}, uint16(offset))
		return binary.NativeEndian.AppendUint32(b, value)
	}
	// The context in r1 is struct bpf_sock_addr (linux/bpf.h).
	address := binary.NativeEndian.Uint32(hookedAddress[:])
	var program []byte
	switch kind {
	case unix.BPF_CGROUP_INET4_GETPEERNAME:
		program = append(program, instruction(0xb4, 0x02, 0, address)...) // w2 = address
		program = append(program, instruction(0x63, 0x21, 4, 0)...)       // user_ip4 = w2
	default: // ::ffff:192.0.2.1
		mapped := binary.NativeEndian.Uint32([]byte{0, 0, 0xff, 0xff})
		for i, part := range []uint32{0, 0, mapped, address} {
			program = append(program, instruction(0xb4, 0x02, 0, part)...)         // w2 = part
			program = append(program, instruction(0x63, 0x21, int16(8+4*i), 0)...) // user_ip6[i] = w2
		}
	}
	program = append(program, instruction(0xb7, 0x00, 0, 1)...) // r0 = 1
	program = append(program, instruction(0x95, 0x00, 0, 0)...) // exit
	license := []byte("Apache-2.0\x00")
	load := make([]byte, 72) // union bpf_attr up to expected_attach_type
	binary.NativeEndian.PutUint32(load, unix.BPF_PROG_TYPE_CGROUP_SOCK_ADDR)
	binary.NativeEndian.PutUint32(load[4:], uint32(len(program)/8))
	binary.NativeEndian.PutUint64(load[8:], uint64(uintptr(unsafe.Pointer(&program[0]))))
	binary.NativeEndian.PutUint64(load[16:], uint64(uintptr(unsafe.Pointer(&license[0]))))
	binary.NativeEndian.PutUint32(load[68:], kind)
	fd, err := bpf(unix.BPF_PROG_LOAD, load)
	runtime.KeepAlive(program)
	runtime.KeepAlive(license)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	link := make([]byte, 16)
	binary.NativeEndian.PutUint32(link, uint32(cgroup))
	binary.NativeEndian.PutUint32(link[4:], uint32(fd))
	binary.NativeEndian.PutUint32(link[8:], kind)
	_, err = bpf(unix.BPF_PROG_ATTACH, link)
	return err
}

func bpf(command int, attributes []byte) (int, error) {
	n, _, errno := unix.Syscall(unix.SYS_BPF, uintptr(command), uintptr(unsafe.Pointer(&attributes[0])), uintptr(len(attributes)))
	if errno != 0 {
		return -1, errno
	}
	return int(n), nil
}
