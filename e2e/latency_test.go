package e2e

import (
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"tcphup/internal/nstest"
	"tcphup/internal/testapp"
)

// BenchmarkAlertToFIN measures how long it takes from the POST of a notification
// with a single alert until the last of 10 peers has the FIN, for an application
// with 50 open descriptors, without draining and at the highest rate that can be
// configured; and in turns with it how long ss -K takes, as a process, to destroy
// as many flows of the same application. Each is done 300 times. It reports
//
//	p50-ms, p99-ms        of the alert, until the last FIN is there
//	answer-p50-ms         of the alert, until it is answered
//	ss-p50-ms, ss-p99-ms  of ss -K, until the last RST is there
//	ss-exit-p50-ms        of ss -K, until it has ended
//	p50/ss                the first as a multiple of the same of ss
func BenchmarkAlertToFIN(b *testing.B) {
	binary := testapp.Build(b)
	ss := need(b, "ss", "iproute2")
	for _, watch := range []string{"5s", "0s"} {
		b.Run("watch-reconnect="+watch, func(b *testing.B) { benchmarkAlert(b, binary, ss, watch) })
	}
}

func benchmarkAlert(b *testing.B, binary, ss, watch string) {
	const rounds, descriptors, flows = 300, 50, 10
	server := testapp.Serve(b, testapp.ServerConfig{Address: "127.0.0.1:0"})
	others := testapp.Serve(b, testapp.ServerConfig{Address: "127.0.0.1:0"})
	app := testapp.Start(b, binary)
	app.Ask("ignore")
	// Four descriptors are its standard ones and a copy of one.
	if got := app.Ask("many %s %d %d", others.Addr().Addr(), others.Addr().Port(), descriptors-flows-4); !strings.HasPrefix(got, "many ok") {
		b.Fatal(got)
	}
	serveArmed(b, "--watch-reconnect="+watch, "--log.level=warn", "--config.file="+policyFile(b,
		"    limits: {cooldown: 0s, rate: 10000, breaker: {actions: 1000000, destinations: 1000000}}"))

	var fin, answered, rst, exited []time.Duration
	for b.Loop() {
		for range rounds {
			hungup, whole := round(b, app, server, flows, "eof", func() {
				answer, err := postAlert(b, server.Addr())
				if err != nil || !strings.Contains(answer, fmt.Sprintf(`"closed":%d`, flows)) {
					b.Fatalf("the answer is %q, %v", answer, err)
				}
			})
			fin, answered = append(fin, hungup), append(answered, whole)
			destroyed, whole := round(b, app, server, flows, "reset", func() {
				cmd := exec.Command(ss, "-K", "dst", server.Addr().Addr().String(), "dport", "=", strconv.Itoa(int(server.Addr().Port())))
				if out, err := cmd.CombinedOutput(); err != nil {
					b.Fatalf("ss -K: %v\n%s", err, out)
				}
			})
			rst, exited = append(rst, destroyed), append(exited, whole)
		}
	}
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	b.ReportMetric(ms(percentile(fin, 50)), "p50-ms")
	b.ReportMetric(ms(percentile(fin, 99)), "p99-ms")
	b.ReportMetric(ms(percentile(answered, 50)), "answer-p50-ms")
	b.ReportMetric(ms(percentile(rst, 50)), "ss-p50-ms")
	b.ReportMetric(ms(percentile(rst, 99)), "ss-p99-ms")
	b.ReportMetric(ms(percentile(exited, 50)), "ss-exit-p50-ms")
	b.ReportMetric(ms(percentile(fin, 50))/ms(percentile(rst, 50)), "p50/ss")
	b.ReportMetric(0, "ns/op")
}

// round opens flows, has act end them, and returns how long it took until the
// server has seen the last of them end and until act returned.
func round(b *testing.B, app *testapp.App, server *testapp.Server, flows int, how string, act func()) (ended, returned time.Duration) {
	var opened []int
	before := server.Accepted()
	for range flows {
		opened = append(opened, app.Connect(server.Addr(), false, false))
	}
	nstest.Eventually(b, "the server has accepted", func() bool { return server.Accepted() == before+flows })
	done := make(chan time.Duration, 1)
	start := time.Now()
	go func() {
		for range flows {
			if end := <-server.Ends; end != how {
				b.Errorf("a connection ended with %s, want %s", end, how)
			}
		}
		done <- time.Since(start)
	}()
	act()
	returned = time.Since(start)
	ended = <-done
	for _, fd := range opened {
		if got := app.Ask("close %d", fd); got != "close ok" {
			b.Fatal(got)
		}
	}
	return ended, returned
}

// percentile returns the smallest value that p per cent of all do not exceed.
func percentile(values []time.Duration, p int) time.Duration {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[(len(sorted)*p+99)/100-1]
}
