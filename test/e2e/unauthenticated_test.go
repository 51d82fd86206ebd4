package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcphup/test/kit/nstest"
)

// TestPrivilegedUnauthenticatedClients checks that hundreds of idle or slow connections without
// credentials block neither hang-ups nor scrapes nor the health check, and that memory
// stays below the manifests' limit.
func TestPrivilegedUnauthenticatedClients(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		const (
			destinations   = 500
			slow, idle     = 100, 700
			limit          = 128 << 10 // kB, of deploy/kubernetes
			slowRequest    = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
			halfOfARequest = "POST /alerts HTTP/1.1\r\nHost: x\r\n"
		)
		server := startBackend(t, "0.0.0.0:0")
		for i := range destinations {
			to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 1, byte(i / 250), byte(i%250 + 1)}), server.addr().Port())
			dial(t, false, 1, to)
		}
		p := serveArmed(t)
		first := openConnection(t, receiverAddress, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		answer, err := http.ReadResponse(bufio.NewReader(first), nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, answer.Body)
		_ = answer.Body.Close()
		for range idle {
			openConnection(t, tcphupAddress, "")
			openConnection(t, receiverAddress, halfOfARequest)
		}
		for range slow {
			openConnection(t, tcphupAddress, slowRequest)
		}
		// The connection limit closes the oldest idle connection.
		if err := first.SetReadDeadline(time.Now().Add(nstest.HangGuard)); err != nil {
			t.Fatal(err)
		}
		if _, err := first.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("oldest connection still open: %v", err)
		}

		if r := tcphup(t, "healthcheck", "--timeout=1m"); r.exit != 0 {
			t.Errorf("health check: %s", r.stderr)
		}
		closes, err := postAlert(t, netip.AddrPortFrom(netip.MustParseAddr("127.1.0.1"), server.addr().Port()))
		if err != nil || !strings.Contains(closes, `"closed":1`) {
			t.Errorf("response: %s, %v", closes, err)
		}
		const closed = `tcphup_hangups_total{method="shutdown",outcome="closed",policy="labelled"} 1`
		nstest.Eventually(t, "a scrape succeeds and has the hang-up", func() bool {
			page, err := get(t, "http://"+tcphupAddress+"/metrics")
			return err == nil && strings.Contains(page, closed)
		})
		if size := peakMemory(t, p.cmd.Process.Pid); size > limit {
			t.Errorf("peak %d kB resident, want at most %d", size, limit)
		} else {
			t.Logf("peak %d kB resident", size)
		}
	})
}

// openConnection opens a connection with a minimal receive buffer and sends a request.
func openConnection(t *testing.T, address, send string) net.Conn {
	t.Helper()
	dialer := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		return errors.Join(raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 2048)
		}), err)
	}}
	c, err := dialer.DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if _, err := io.WriteString(c, send); err != nil {
		t.Fatal(err)
	}
	return c
}

// peakMemory returns VmHWM, the peak resident memory of a process in kB.
func peakMemory(t *testing.T, pid int) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "\nVmHWM:")
	number, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return number
}
