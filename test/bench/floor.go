package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"tcphup/sockdiag"
)

const floorName = "bench-floor"

// floorStates are those that a scrape of tcphup asks for.
var floorStates = sockdiag.States(
	sockdiag.Established, sockdiag.SynSent, sockdiag.SynRecv, sockdiag.FinWait1, sockdiag.FinWait2,
	sockdiag.TimeWait, sockdiag.CloseWait, sockdiag.LastAck, sockdiag.Closing)

// floor receives, for each line of its input, the TCP sockets that a scrape reads, one
// address family after the other, and does nothing with them: no reader that is alone
// can be faster. It answers with the nanoseconds that this took and those of the
// processor.
func floor([]string) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	buffer := make([]byte, 32<<10) // the kernel fills no more than this at a time
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		busy, err := processorTime(os.Getpid())
		if err != nil {
			return err
		}
		start := time.Now()
		for _, family := range []sockdiag.Family{sockdiag.IPv4, sockdiag.IPv6} {
			if err := discard(fd, family, buffer); err != nil {
				return fmt.Errorf("receive sockets: %w", err)
			}
		}
		took := time.Since(start)
		after, err := processorTime(os.Getpid())
		if err != nil {
			return err
		}
		fmt.Println(int64(took), int64(after-busy))
	}
	return nil
}

// discard receives one dump to its end.
func discard(fd int, family sockdiag.Family, buffer []byte) error {
	request := make([]byte, 72) // struct nlmsghdr, struct inet_diag_req_v2
	binary.NativeEndian.PutUint32(request, 72)
	binary.NativeEndian.PutUint16(request[4:], 20) // SOCK_DIAG_BY_FAMILY
	binary.NativeEndian.PutUint16(request[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	request[16], request[17], request[18] = byte(family), unix.IPPROTO_TCP, 1<<1 // INET_DIAG_INFO
	binary.NativeEndian.PutUint32(request[20:], uint32(floorStates))
	if err := unix.Sendto(fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	for {
		n, err := unix.Read(fd, buffer)
		if err != nil {
			return err
		}
		if n >= 36 && binary.NativeEndian.Uint16(buffer[4:]) == unix.NLMSG_ERROR {
			return unix.Errno(-int32(binary.NativeEndian.Uint32(buffer[16:])))
		}
		// NLMSG_DONE, of 20 bytes, is the last message of all.
		if n >= 20 && binary.NativeEndian.Uint32(buffer[n-20:]) == 20 && binary.NativeEndian.Uint16(buffer[n-16:]) == unix.NLMSG_DONE {
			return nil
		}
	}
}
