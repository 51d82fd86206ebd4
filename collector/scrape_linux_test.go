package collector

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcphup/sockdiag"
)

// BenchmarkScrape compares a whole scrape of /metrics over HTTP, of an exporter
// in a process of its own, with a loop that receives the same dumps and throws
// them away, and with ss. It reports
//
//	read-ms       the part of it that reads sockets
//	floor-ms      time of that loop
//	x-floor       scrape as a multiple of it
//	cpu-x-floor   the same for the time of all processors, which a machine that
//	              is busy with other things falsifies less
//	ss/scrape     ss -tain state all as a multiple of the scrape
//	B-alloc       bytes that the exporter allocates for a scrape
//	MB-rss        its resident memory after the last one
func BenchmarkScrape(b *testing.B) {
	for _, size := range []struct{ sockets, destinations int }{
		{1000, 20}, {10_000, 200}, {200_000, 200}, {200_000, 20_000},
	} {
		b.Run(fmt.Sprintf("sockets=%d/destinations=%d", size.sockets, size.destinations), func(b *testing.B) {
			// The two ends of a connection are two file descriptors, of which a
			// process may have 20,000, and it needs a few for itself.
			processes := (size.sockets + 18_999) / 19_000
			arguments := make([]string, processes)
			for i := range arguments {
				arguments[i] = fmt.Sprintf("load %d %d", size.sockets/2/processes, size.destinations/processes)
			}
			start(b, arguments...)
			exporter := start(b, "serve 0")[0]
			benchmarkScrape(b, exporter)
		})
	}
}

func benchmarkScrape(b *testing.B, exporter process) {
	const (
		allocated = "go_memstats_alloc_bytes_total"
		processor = "process_cpu_seconds_total"
	)
	scrapeURL(b, exporter.answer) // the first one makes room
	body := scrapeURL(b, exporter.answer)
	before, busyBefore := value(b, body, allocated), value(b, body, processor)
	var floorBusy time.Duration
	var scrapes, reads, floors []time.Duration
	for b.Loop() {
		start := time.Now()
		body = scrapeURL(b, exporter.answer)
		scrapes = append(scrapes, time.Since(start))
		read := value(b, body, `tcphup_scrape_duration_seconds{source="tcp"}`)
		reads = append(reads, time.Duration(read*float64(time.Second)))
		busy := ownProcessorTime(b)
		floors = append(floors, floor(b))
		floorBusy += ownProcessorTime(b) - busy
	}
	if value(b, body, `tcphup_scrape_success{source="tcp"}`) != 1 {
		b.Fatal("a scrape failed")
	}
	start := time.Now()
	if out, err := exec.Command("sh", "-c", "ss -tain state all | wc -l").CombinedOutput(); err != nil {
		b.Fatalf("ss: %v: %s", err, out)
	}
	ss := time.Since(start)

	scrape, floor := median(scrapes), median(floors)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(scrape.Seconds()*1e3, "scrape-ms")
	b.ReportMetric(median(reads).Seconds()*1e3, "read-ms")
	b.ReportMetric(floor.Seconds()*1e3, "floor-ms")
	b.ReportMetric(scrape.Seconds()/floor.Seconds(), "x-floor")
	b.ReportMetric((value(b, body, processor)-busyBefore)/floorBusy.Seconds(), "cpu-x-floor")
	b.ReportMetric(ss.Seconds()/scrape.Seconds(), "ss/scrape")
	b.ReportMetric((value(b, body, allocated)-before)/float64(len(scrapes)), "B-alloc")
	b.ReportMetric(residentMB(b, exporter.cmd.Process.Pid), "MB-rss")
	b.ReportMetric(float64(len(body)), "B-body")
}

func ownProcessorTime(t testing.TB) time.Duration {
	t.Helper()
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		t.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

func scrapeURL(t testing.TB, address string) []byte {
	t.Helper()
	response, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("scrape: %s, %v\n%s", response.Status, err, body)
	}
	return body
}

func residentMB(t testing.TB, pid int) float64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	var kB float64
	if _, err := fmt.Sscan(rest, &kB); err != nil {
		t.Fatal(err)
	}
	return kB / 1024
}

// floor receives all that a scrape asks the kernel for and does nothing with it.
func floor(t testing.TB) time.Duration {
	t.Helper()
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	buffer := make([]byte, 32<<10)
	start := time.Now()
	for _, family := range []sockdiag.Family{sockdiag.IPv4, sockdiag.IPv6} {
		request := make([]byte, 72) // struct nlmsghdr, struct inet_diag_req_v2
		binary.NativeEndian.PutUint32(request, 72)
		binary.NativeEndian.PutUint16(request[4:], 20) // SOCK_DIAG_BY_FAMILY
		binary.NativeEndian.PutUint16(request[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
		request[16], request[17], request[18] = byte(family), unix.IPPROTO_TCP, 1<<1 // INET_DIAG_INFO
		binary.NativeEndian.PutUint32(request[20:], uint32(sockdiag.States(tcpStates[:]...)))
		if err := unix.Sendto(fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			t.Fatal(err)
		}
		for done := false; !done; {
			n, err := unix.Read(fd, buffer)
			if err != nil {
				t.Fatal(err)
			}
			// NLMSG_DONE, of 20 bytes, is the last message of all.
			done = n >= 20 && binary.NativeEndian.Uint32(buffer[n-20:]) == 20 && buffer[n-16] == unix.NLMSG_DONE
		}
	}
	return time.Since(start)
}
