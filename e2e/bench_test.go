package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"tcphup/internal/testapp"
)

// BenchmarkHangUp measures the command, from its start as a process to its end,
// that hangs up 100 flows of one application; beside it, in the same rounds, what
// it takes ss to list the same flows with their processes, which is the least that
// finding their owners costs by the usual way.
func BenchmarkHangUp(b *testing.B) {
	for _, sockets := range []int{1_000, 200_000} {
		b.Run(fmt.Sprintf("sockets=%d", sockets), func(b *testing.B) { benchmarkHangUp(b, sockets) })
	}
}

func benchmarkHangUp(b *testing.B, sockets int) {
	const victims = 100
	binary := testapp.Build(b)
	// A dozen processes hold the rest, half of them one end of a connection each.
	const pairs = 6
	for i := range pairs {
		testapp.Load(b, binary, netip.AddrFrom4([4]byte{127, 0, 1, byte(i + 1)}), (sockets/2-victims)/pairs)
	}
	server := testapp.Serve(b, testapp.ServerConfig{Address: "127.0.2.1:0", Echo: true})
	app := testapp.Start(b, binary)
	app.Ask("ignore")
	host, port := server.Addr().Addr().String(), strconv.Itoa(int(server.Addr().Port()))

	var ours, peers []time.Duration
	for b.Loop() {
		if got := app.Ask("many %s %s %d", host, port, victims); got != fmt.Sprintf("many ok %d", victims) {
			b.Fatal(got)
		}
		ss := runAs(b, nil, need(b, "ss", "iproute2"), "-Htnp", "dst", host, "dport", "=", port)
		if n := strings.Count(ss.stdout, "\n"); ss.exit != 0 || n != victims {
			b.Fatalf("ss: exit %d, %d flows", ss.exit, n)
		}
		r := tcphup(b, host, port)
		if r.exit != 0 || !strings.Contains(r.stderr, fmt.Sprintf("%d closed", victims)) {
			b.Fatalf("tcphup: exit %d: %s", r.exit, r.stderr)
		}
		ours, peers = append(ours, r.took), append(peers, ss.took)
	}
	own, peer := median(ours), median(peers)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(own.Seconds()*1e3, "tcphup-ms")
	b.ReportMetric(peer.Seconds()*1e3, "ss-tnp-ms")
	b.ReportMetric(own.Seconds()/peer.Seconds(), "tcphup/ss-tnp")
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

// BenchmarkServe measures the side-car as it runs: what a scrape of it takes and
// what memory it holds after some.
func BenchmarkServe(b *testing.B) {
	for _, sockets := range []int{1_000, 200_000} {
		b.Run(fmt.Sprintf("sockets=%d", sockets), func(b *testing.B) {
			binary := testapp.Build(b)
			const pairs = 6
			for i := range pairs {
				testapp.Load(b, binary, netip.AddrFrom4([4]byte{127, 0, 1, byte(i + 1)}), sockets/2/pairs)
			}
			p := startCommand(b, exec.Command(os.Getenv(binaryVariable), "serve", "--web.listen-address="+tcphupAddress, "--alerts.listen-address="+receiverAddress))
			awaitPage(b, "http://"+tcphupAddress+"/-/ready")
			var scrapes []time.Duration
			for b.Loop() {
				start := time.Now()
				page, err := get(b, "http://"+tcphupAddress+"/metrics")
				if err != nil || !strings.Contains(page, "tcphup_scrape_success{source=\"tcp\"} 1") {
					b.Fatalf("scrape failed: %v", err)
				}
				scrapes = append(scrapes, time.Since(start))
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(median(scrapes).Seconds()*1e3, "scrape-ms")
			b.ReportMetric(float64(residentBytes(b, p.cmd.Process.Pid))/1e6, "resident-MB")
		})
	}
}

// residentBytes is VmRSS of a process.
func residentBytes(t testing.TB, pid int) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	var kilobytes int
	if _, err := fmt.Sscanf(rest, "%d kB", &kilobytes); err != nil {
		t.Fatal(err)
	}
	return kilobytes << 10
}
