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

// floorStates are the states that a scrape of tcphup requests.
var floorStates = sockdiag.States(
	sockdiag.Established, sockdiag.SynSent, sockdiag.SynRecv, sockdiag.FinWait1, sockdiag.FinWait2,
	sockdiag.TimeWait, sockdiag.CloseWait, sockdiag.LastAck, sockdiag.Closing)

// floor receives the TCP sockets of a scrape for each line of its input, one address
// family after the other, and discards them. It is the lower bound for a single reader.
// It prints the wall time and the processor time in nanoseconds.
func floor([]string) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	buffer := make([]byte, 32<<10) // maximum per receive of a dump
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		busy, err := processorTime(os.Getpid())
		if err != nil {
			return err
		}
		start := time.Now()
		for _, family := range []sockdiag.Family{sockdiag.IPv4, sockdiag.IPv6} {
			if err := discard(fd, family, buffer, nil); err != nil {
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

// discard receives one dump up to NLMSG_DONE. It adds the number of sockets to count, unless
// that is nil: the floor does not parse.
func discard(fd int, family sockdiag.Family, buffer []byte, count *int) error {
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
		// NLMSG_DONE, 20 bytes long, is the last message.
		if n >= 20 && binary.NativeEndian.Uint32(buffer[n-20:]) == 20 && binary.NativeEndian.Uint16(buffer[n-16:]) == unix.NLMSG_DONE {
			return nil
		}
		for rest := buffer[:n]; count != nil && len(rest) >= 16; *count++ {
			size := int(binary.NativeEndian.Uint32(rest)+3) &^ 3
			if size < 16 || size > len(rest) {
				return fmt.Errorf("message of %d bytes, %d bytes left", size, len(rest))
			}
			rest = rest[size:]
		}
	}
}
