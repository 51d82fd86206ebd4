package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	loadName = "bench-load"
	// maxConnections is the limit per process, which holds both ends of each connection:
	// 20,000 open files is a common hard limit.
	maxConnections = 9_500
	// prefix6 is the prefix of the IPv6 destinations, a local route.
	prefix6 = "fdbe::"
	// mptcpEvery makes one of so many connections MPTCP.
	mptcpEvery = 100
)

// manyDestinations returns one destination per ten sockets: five connections, both ends.
func manyDestinations(sockets int) int { return sockets / 10 }

// fewDestinations models a host with few services.
func fewDestinations(sockets int) int { return min(sockets/50, 200) }

// families are the address families of a load.
type families string

const (
	mixed      families = "both"
	onlyIPv4   families = "IPv4"
	onlyMapped families = "IPv4-mapped" // IPv6 sockets with IPv4 addresses, as those of JVMs
	// acceptedMapped is IPv4, accepted by an IPv6 socket.
	acceptedMapped families = "accepted-mapped"
)

// loads are helper processes that hold connections.
type loads []*helper

// startLoad opens sockets to that many destinations, in as many processes as RLIMIT_NOFILE
// requires. The caller stops the returned loads, also after an error.
func startLoad(sockets, destinations int, in families, mptcp bool) (loads, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return nil, err
	}
	// 100 descriptors are reserved for the process itself.
	most := min(maxConnections, (int(min(limit.Max, 1<<20))-100)/2)
	connections := sockets / 2
	processes := (connections + most - 1) / most
	// All processes share the listeners, so the number of ports does not depend on the
	// load. A process accepts as many connections as it opens, not always its own.
	var listeners []*os.File
	defer func() {
		for _, l := range listeners {
			_ = l.Close() // inherited by the processes
		}
	}()
	for _, k := range []kind{mapped, v4, v6, bothMapped, multipath} {
		if k == multipath && !mptcp {
			continue
		}
		l, err := listen(k)
		if err != nil {
			return nil, fmt.Errorf("listen: %w", err)
		}
		listeners = append(listeners, l)
	}
	var all loads
	for i := range processes {
		part := func(n int) string { return strconv.Itoa(n*(i+1)/processes - n*i/processes) }
		h, err := startHelper(loadName, listeners, strconv.Itoa(i), part(connections), part(destinations), string(in), strconv.FormatBool(mptcp))
		if err != nil {
			return all, err
		}
		all = append(all, h)
	}
	for _, h := range all {
		if err := h.readLine(new(string)); err != nil {
			return all, err
		}
	}
	return all, nil
}

// stop kills the processes. SIGKILL to all is faster than orderly exits one by one.
func (l loads) stop() error {
	var errs []error
	for _, h := range l {
		errs = append(errs, h.cmd.Process.Kill())
	}
	for _, h := range l {
		_ = h.cmd.Wait() // it was killed
	}
	return errors.Join(errs...)
}

// resetSIGPIPE makes SIGPIPE kill the processes, as those of programs that do not handle it.
func (l loads) resetSIGPIPE() error {
	for _, h := range l {
		if err := h.request("reset", new(string)); err != nil {
			return err
		}
	}
	return nil
}

// load holds connections, both ends, until EOF on its input. With each line of input it resets
// the disposition of SIGPIPE. Of a mixed load, half are IPv4
// accepted by an IPv6 socket, as in most servers; a quarter are IPv4 and a quarter IPv6 at
// both ends. Both dumps of the kernel thus have the same size. One in mptcpEvery is MPTCP.
func load(args []string) error {
	var (
		number, connections, destinations int
		in                                families
		mptcp                             bool
	)
	for i, to := range []any{&number, &connections, &destinations, &in, &mptcp} {
		if _, err := fmt.Sscan(args[i], to); err != nil {
			return err
		}
	}
	for i := range connections {
		// Each destination has one kind of connection: the port is part of the destination.
		destination := i % destinations
		if mptcp && destinations > 1 {
			destination = 1 + i%(destinations-1)
		}
		k := in.kind(destination)
		if mptcp && i%mptcpEvery == 0 {
			destination, k = 0, multipath
		}
		if err := connect(k, number, destination); err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
	}
	fmt.Println("connected")
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		if err := resetSIGPIPE(); err != nil {
			return err
		}
		fmt.Println("reset")
	}
	return nil
}

// resetSIGPIPE sets the default disposition, which os/signal does not.
func resetSIGPIPE() error {
	// struct sigaction of the kernel: a handler of 0 is SIG_DFL.
	var action [4]uint64
	const signals = 8 // bytes of its signal set
	if _, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(unix.SIGPIPE), uintptr(unsafe.Pointer(&action)), 0, signals, 0, 0); errno != 0 {
		return fmt.Errorf("reset SIGPIPE: %w", errno)
	}
	return nil
}

// kind returns the kind of the connections to a destination.
func (f families) kind(destination int) kind {
	switch f {
	case onlyIPv4:
		return v4
	case onlyMapped:
		return bothMapped
	case acceptedMapped:
		return mapped
	default:
		return [...]kind{v6, mapped, mapped, v4}[destination%4]
	}
}

// kind is the protocol of a connection and the family of its two sockets.
type kind int

const (
	mapped     kind = iota // IPv4, accepted by an IPv6 socket
	v4                     // IPv4
	v6                     // IPv6
	bothMapped             // IPv4, two IPv6 sockets
	multipath              // MPTCP over IPv4, accepted by an IPv6 socket
)

// firstListener is the descriptor of the first kind's listener in a load process; the
// other kinds follow.
const firstListener = 3

func (k kind) protocol() int {
	if k == multipath {
		return unix.IPPROTO_MPTCP
	}
	return unix.IPPROTO_TCP
}

// port returns the listen port of a kind. It is below the ephemeral range, where the
// direction of a flow would be ambiguous.
func (k kind) port() int { return 5001 + int(k) }

// listen opens a listener on the wildcard address.
func listen(k kind) (*os.File, error) {
	family, address := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: k.port()})
	if k == v4 {
		family, address = unix.AF_INET, &unix.SockaddrInet4{Port: k.port()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, k.protocol())
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "listener")
	if err := errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.Bind(fd, address), unix.Listen(fd, 128)); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// connect opens one connection to a destination and accepts one. Both descriptors stay
// open until the process exits.
func connect(k kind, process, destination int) error {
	host, high, low := byte(1+process), byte(destination>>8), byte(destination)
	var family int
	var to unix.Sockaddr
	switch k {
	case mapped, v4, multipath:
		family, to = unix.AF_INET, &unix.SockaddrInet4{Port: k.port(), Addr: [4]byte{127, host, high, low}}
	case v6:
		family, to = unix.AF_INET6, &unix.SockaddrInet6{Port: k.port(), Addr: [16]byte{0xfd, 0xbe, 13: host, 14: high, 15: low}}
	case bothMapped:
		family, to = unix.AF_INET6, &unix.SockaddrInet6{Port: k.port(), Addr: [16]byte{10: 0xff, 11: 0xff, 12: 127, 13: host, 14: high, 15: low}}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, k.protocol())
	if err != nil {
		return err
	}
	if err := unix.Connect(fd, to); err != nil {
		return err
	}
	accepted, _, err := unix.Accept4(firstListener+int(k), unix.SOCK_CLOEXEC)
	if err != nil {
		return err
	}
	// Closing with a reset is fast and leaves no TIME_WAIT for the next load.
	abort := &unix.Linger{Onoff: 1}
	return errors.Join(
		unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, abort),
		unix.SetsockoptLinger(accepted, unix.SOL_SOCKET, unix.SO_LINGER, abort))
}
