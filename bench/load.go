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
	var all loads
	for i := range processes {
		part := func(n int) string { return strconv.Itoa(n*(i+1)/processes - n*i/processes) }
		h, err := startHelper(loadName, strconv.Itoa(i), part(connections), part(destinations), strconv.FormatBool(mptcp))
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

// load holds connections, both their ends, until its input ends. Half of them are
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
		protocol := 0
		if mptcp && i%mptcpEvery == 0 {
			protocol = unix.IPPROTO_MPTCP
		}
		// Destinations differ from one kind to the next, so that each is one in the
		// kernel's eyes.
		kind := [...]kind{mapped, mapped, v4, v6}[i%max(destinations, 1)%4]
		if err := connect(kind, protocol, number, i%max(destinations, 1)); err != nil {
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
	mapped kind = iota // IPv4, accepted by an IPv6 socket
	v4
	v6
)

// listeners are those of this process, by kind and protocol.
var listeners = map[[2]int]listener{}

type listener struct{ fd, port int }

func listen(k kind, protocol int) (listener, error) {
	key := [2]int{int(k), protocol}
	if l, ok := listeners[key]; ok {
		return l, nil
	}
	family, address := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{})
	if k == v4 {
		family, address = unix.AF_INET, &unix.SockaddrInet4{}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return listener{}, err
	}
	if err := errors.Join(unix.Bind(fd, address), unix.Listen(fd, 16)); err != nil {
		return listener{}, err
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return listener{}, err
	}
	l := listener{fd: fd}
	switch name := name.(type) {
	case *unix.SockaddrInet4:
		l.port = name.Port
	case *unix.SockaddrInet6:
		l.port = name.Port
	}
	listeners[key] = l
	return l, nil
}

// connect opens a connection, which nobody closes.
func connect(k kind, protocol, process, destination int) error {
	l, err := listen(k, protocol)
	if err != nil {
		return err
	}
	high, low := byte(destination>>8), byte(destination)
	family, to := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: l.port, Addr: [4]byte{127, byte(1 + process), high, low}})
	if k == v6 {
		family, to = unix.AF_INET6, &unix.SockaddrInet6{Port: l.port, Addr: [16]byte{0xfd, 0xbe, 13: byte(1 + process), 14: high, 15: low}}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return err
	}
	if err := unix.Connect(fd, to); err != nil {
		return err
	}
	accepted, _, err := unix.Accept4(l.fd, unix.SOCK_CLOEXEC)
	if err != nil {
		return err
	}
	// The end of the load leaves no TIME_WAIT behind for the next one.
	abort := &unix.Linger{Onoff: 1}
	return errors.Join(
		unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, abort),
		unix.SetsockoptLinger(accepted, unix.SOL_SOCKET, unix.SO_LINGER, abort))
}
