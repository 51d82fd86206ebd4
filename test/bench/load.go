package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

const (
	loadName = "bench-load"
	// maxConnections is for one process, which has both ends of each: 20,000 open
	// files are a common hard limit.
	maxConnections = 9_500
	// prefix6 stands for many addresses, all of which are this host's.
	prefix6 = "fdbe::"
	// mptcpEvery is how many connections one of which is MPTCP.
	mptcpEvery = 100
)

// manyDestinations has ten sockets for each: five connections with both their ends.
func manyDestinations(sockets int) int { return sockets / 10 }

// fewDestinations are those of a host that talks to few services.
func fewDestinations(sockets int) int { return min(sockets/50, 200) }

// loads are processes that hold connections.
type loads []*helper

// startLoad opens so many sockets, to so many destinations, in as many processes as
// it takes. What it returns is to be stopped in any case.
func startLoad(sockets, destinations int, mptcp bool) (loads, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return nil, err
	}
	// A few are for the process itself.
	most := min(maxConnections, (int(min(limit.Max, 1<<20))-100)/2)
	connections := sockets / 2
	processes := (connections + most - 1) / most
	// All processes accept from the same listeners, so that a large load has no more
	// ports than a small one. A listener gives each of them as many connections as it
	// has opened, though not always its own.
	var listeners []*os.File
	defer func() {
		for _, l := range listeners {
			_ = l.Close() // the processes have it
		}
	}()
	for _, k := range []kind{mapped, v4, v6, multipath} {
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
		h, err := startHelper(loadName, listeners, strconv.Itoa(i), part(connections), part(destinations), strconv.FormatBool(mptcp))
		if err != nil {
			return all, err
		}
		all = append(all, h)
	}
	for _, h := range all {
		if err := h.hear(new(string)); err != nil {
			return all, err
		}
	}
	return all, nil
}

// stop kills the processes: in turn they would close a socket at a time.
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

// load holds connections, and as many accepting ends, until its input ends. Half of them are
// IPv4 with an accepting end that is an IPv6 socket, as most servers have it, a
// quarter are IPv4 and a quarter are IPv6 at both ends: both of the kernel's dumps have
// as many sockets. One in mptcpEvery is MPTCP.
func load(args []string) error {
	var (
		number, connections, destinations int
		mptcp                             bool
	)
	for i, to := range []any{&number, &connections, &destinations, &mptcp} {
		if _, err := fmt.Sscan(args[i], to); err != nil {
			return err
		}
	}
	for i := range connections {
		// Each destination has connections of one kind: on another port it would be
		// another destination.
		destination := i % destinations
		if mptcp && destinations > 1 {
			destination = 1 + i%(destinations-1)
		}
		k := [...]kind{v6, mapped, mapped, v4}[destination%4]
		if mptcp && i%mptcpEvery == 0 {
			destination, k = 0, multipath
		}
		if err := connect(k, number, destination); err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
	}
	fmt.Println("connected")
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// kind says what the two ends of a connection are.
type kind int

const (
	mapped    kind = iota // IPv4, accepted by an IPv6 socket
	v4                    // IPv4
	v6                    // IPv6
	multipath             // MPTCP, and as mapped
)

// firstListener is the descriptor of the listener of the first kind in a process of the
// load; the others follow.
const firstListener = 3

func (k kind) protocol() int {
	if k == multipath {
		return unix.IPPROTO_MPTCP
	}
	return unix.IPPROTO_TCP
}

// port is where connections of a kind lead. It is none that the kernel gives to who
// opens a connection: that would be a service whose direction is hard to tell.
func (k kind) port() int { return 5001 + int(k) }

// listen opens a listener on all addresses.
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

// connect opens a connection to a destination of a process, and accepts one. Nobody
// closes them.
func connect(k kind, process, destination int) error {
	host, high, low := byte(1+process), byte(destination>>8), byte(destination)
	family, to := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: k.port(), Addr: [4]byte{127, host, high, low}})
	if k == v6 {
		family, to = unix.AF_INET6, &unix.SockaddrInet6{Port: k.port(), Addr: [16]byte{0xfd, 0xbe, 13: host, 14: high, 15: low}}
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
	// The end of the load is quick, and leaves no TIME_WAIT behind for the next one.
	abort := &unix.Linger{Onoff: 1}
	return errors.Join(
		unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, abort),
		unix.SetsockoptLinger(accepted, unix.SOL_SOCKET, unix.SO_LINGER, abort))
}
