package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"tcphup/sockdiag"
)

const nodeFloorName = "bench-node-floor"

// countLine is the input for which the node floor counts the sockets.
const countLine = "count"

// nodeFloor receives, for each line of its input, the TCP sockets of the network namespaces of
// the given processes, one namespace and one address family after the other, and discards
// them. It prints the wall time and the processor time in nanoseconds, and the number of
// sockets; 0: not counted.
func nodeFloor(pids []string) error {
	runtime.LockOSThread()
	own, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(own)
	buffer := make([]byte, 32<<10) // maximum per receive of a dump
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		busy, err := processorTime(os.Getpid())
		if err != nil {
			return err
		}
		sockets := 0
		var count *int
		if lines.Text() == countLine {
			count = &sockets
		}
		start := time.Now()
		for _, pid := range pids {
			if err := discardIn("/proc/"+pid+"/ns/net", buffer, count); err != nil {
				return fmt.Errorf("receive sockets of process %s: %w", pid, err)
			}
		}
		if err := unix.Setns(own, unix.CLONE_NEWNET); err != nil {
			return err
		}
		took := time.Since(start)
		after, err := processorTime(os.Getpid())
		if err != nil {
			return err
		}
		fmt.Println(int64(took), int64(after-busy), sockets)
	}
	return nil
}

// discardIn enters a network namespace and receives its sockets; see discard for count.
func discardIn(path string, buffer []byte, count *int) error {
	ns, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(ns)
	if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, family := range []sockdiag.Family{sockdiag.IPv4, sockdiag.IPv6} {
		if err := discard(fd, family, buffer, count); err != nil {
			return err
		}
	}
	return nil
}
