package collector

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"tcphup/hangup"
	"tcphup/sockdiag"
	"tcphup/test/kit/netns"
)

// BenchmarkNode measures the processor time of a scrape of N namespaces with K sockets each,
// beside that of two dumps in each namespace, received and discarded. It needs root.
func BenchmarkNode(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Fatal("needs root to create namespaces")
	}
	for _, size := range [][2]int{{110, 50}, {500, 100}} {
		b.Run(fmt.Sprintf("namespaces=%d,sockets=%d", size[0], size[1]), func(b *testing.B) {
			debug.SetGCPercent(25) // as tcphup serve
			defer debug.SetGCPercent(100)
			pods := loadNamespaces(b, size[0], size[1])
			c, err := New(Config{Node: &NodeConfig{Find: func() (Found, error) { return Found{Pods: pods}, nil }}})
			if err != nil {
				b.Fatal(err)
			}
			h, request := c.Handler(prometheus.NewRegistry()), httptest.NewRequest(http.MethodGet, "/metrics", nil)
			var scrapes, dumps time.Duration
			buffer := make([]byte, 32<<10)
			for b.Loop() {
				start := processTime(b)
				h.ServeHTTP(discardResponse{}, request)
				scraped := processTime(b)
				for _, ns := range pods {
					if err := ns.Do(func() error { return discardSockets(buffer) }); err != nil {
						b.Fatal(err)
					}
				}
				scrapes += scraped - start
				dumps += processTime(b) - scraped
			}
			if n := c.node.pods; len(n) != size[0] {
				b.Errorf("%d namespaces", len(n))
			}
			perRound := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 / float64(b.N) }
			b.ReportMetric(perRound(scrapes), "cpu-ms/scrape")
			b.ReportMetric(perRound(dumps), "cpu-ms/two-dumps")
			b.ReportMetric(float64(scrapes)/float64(dumps), "ratio")
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			b.ReportMetric(float64(m.HeapAlloc)/1e6, "heap-MB")
			runtime.KeepAlive(h)
			b.ReportMetric(float64(residentBytes(b))/1e6, "resident-MB")
		})
	}
}

// residentBytes returns the resident memory of this process.
func residentBytes(b *testing.B) int {
	b.Helper()
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		b.Fatal(err)
	}
	var size, resident int
	if _, err := fmt.Sscan(string(text), &size, &resident); err != nil {
		b.Fatal(err)
	}
	return resident * os.Getpagesize()
}

// discardResponse is a client that reads nothing.
type discardResponse struct{}

func (discardResponse) Header() http.Header         { return make(http.Header) }
func (discardResponse) Write(b []byte) (int, error) { return io.Discard.Write(b) }
func (discardResponse) WriteHeader(int)             {}

func processTime(t testing.TB) time.Duration {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts); err != nil {
		t.Fatal(err)
	}
	return time.Duration(ts.Nano())
}

// maxSockets is the number of sockets of one process, below the usual limit of descriptors.
const maxSockets = 15_000

// loadNamespaces returns n namespaces with both ends of sockets/2 connections to a listener.
// They end with the benchmark.
func loadNamespaces(b *testing.B, n, sockets int) []hangup.Namespace {
	b.Helper()
	var arguments []string
	each := maxSockets / sockets
	for rest := n; rest > 0; rest -= each {
		arguments = append(arguments, fmt.Sprintf("namespaces %d %d", min(rest, each), sockets/2))
	}
	var pods []hangup.Namespace
	for _, p := range start(b, arguments...) {
		for path := range strings.FieldsSeq(p.output) {
			ns, err := netns.Open(path)
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { _ = ns.Close() })
			fd, err := strconv.Atoi(filepath.Base(ns.Path()))
			if err != nil {
				b.Fatal(err)
			}
			var st unix.Stat_t
			if err := unix.Fstat(fd, &st); err != nil {
				b.Fatal(err)
			}
			pods = append(pods, hangup.Namespace{
				Inode: st.Ino, Pod: &hangup.Pod{Namespace: "default", Name: fmt.Sprintf("pod-%d", len(pods)), UID: strconv.Itoa(len(pods))},
				Do: func(open func() error) error { return enter(fd, open) },
			})
		}
	}
	return pods
}

// holdNamespaces is a helper. It holds args[0] namespaces, each with args[1] connections to a
// listener on loopback, and prints their paths.
func holdNamespaces(args []string) error {
	n, connections, err := twoNumbers(args)
	if err != nil {
		return err
	}
	limit := unix.Rlimit{Cur: 2*maxSockets - 10_000, Max: 2*maxSockets - 10_000}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	var paths []string
	var held []*netns.Namespace
	defer func() { runtime.KeepAlive(held) }()
	for range n {
		ns, err := netns.New()
		held = append(held, ns)
		if err == nil {
			err = ns.Do(func() error { return openConnections(connections) })
		}
		if err != nil {
			return err
		}
		paths = append(paths, ns.Path())
	}
	return ready(strings.Join(paths, " "))
}

// openConnections opens n connections, which stay open, to a listener on loopback.
func openConnections(n int) error {
	address := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: 5432}
	listener, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := errors.Join(unix.Bind(listener, address), unix.Listen(listener, 16)); err != nil {
		return err
	}
	for range n {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		if err := unix.Connect(fd, address); err != nil {
			return err
		}
		if _, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC); err != nil {
			return err
		}
	}
	return nil
}

// enter calls fn on a thread in the namespace of a descriptor.
func enter(namespace int, fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		own, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Setns(namespace, unix.CLONE_NEWNET)
		}
		if err == nil {
			err = fn()
		}
		if unix.Setns(own, unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		_ = unix.Close(own)
		done <- err
	}()
	return <-done
}

// discardSockets receives a dump of each address family and discards it.
func discardSockets(buffer []byte) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, family := range []sockdiag.Family{sockdiag.IPv4, sockdiag.IPv6} {
		request := make([]byte, 72) // struct nlmsghdr, struct inet_diag_req_v2
		binary.NativeEndian.PutUint32(request, 72)
		binary.NativeEndian.PutUint16(request[4:], 20) // SOCK_DIAG_BY_FAMILY
		binary.NativeEndian.PutUint16(request[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
		request[16], request[17], request[18] = byte(family), unix.IPPROTO_TCP, 1<<1 // INET_DIAG_INFO
		binary.NativeEndian.PutUint32(request[20:], uint32(sockdiag.States(tcpStates[:]...)))
		if err := unix.Sendto(fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			return err
		}
		for done := false; !done; {
			n, err := unix.Read(fd, buffer)
			if err != nil {
				return err
			}
			// NLMSG_DONE, 20 bytes long, is the last message.
			done = n >= 20 && binary.NativeEndian.Uint32(buffer[n-20:]) == 20 && binary.NativeEndian.Uint16(buffer[n-16:]) == unix.NLMSG_DONE
		}
	}
	return nil
}
