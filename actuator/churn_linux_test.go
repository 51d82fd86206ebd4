package actuator

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"tcphup/hangup"
	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// Hang-ups of one destination end no other connection while applications connect sockets
// elsewhere (AF_UNSPEC), pass them to other processes (SCM_RIGHTS), fork, and move them
// between descriptors. Every connection that its application did not end must be in a
// report: as a flow that was hung up, or as one that failed because its socket was
// disconnected after the last lookup.
//
// TCPHUP_CHURN=10m runs longer; make churn.
func TestPrivilegedChurn(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		noLeaks(t)
		long, least := 20*time.Second, 200
		if text := os.Getenv("TCPHUP_CHURN"); text != "" {
			var err error
			if long, err = time.ParseDuration(text); err != nil {
				t.Fatal(err)
			}
			least = int(long/time.Minute) * 10_000
		}
		// Few ports and little TIME_WAIT force the reuse of ports.
		for name, value := range map[string]string{"ip_local_port_range": "40000 40199", "tcp_max_tw_buckets": "8"} {
			if err := os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.2:8080", Echo: true})
		bystander := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.3:8080", Echo: true})
		binary := testapp.BuildChurn(t)
		var outputs [2]bytes.Buffer
		var apps [2]*exec.Cmd
		for i := range apps {
			apps[i] = exec.CommandContext(t.Context(), binary, server.Addr().Addr().String(), bystander.Addr().Addr().String(),
				strconv.Itoa(int(server.Addr().Port())), strconv.Itoa(int(long.Seconds())))
			apps[i].Stdout, apps[i].Stderr = &outputs[i], os.Stderr
			if err := apps[i].Start(); err != nil {
				t.Fatal(err)
			}
		}

		var log bytes.Buffer
		a := New(Config{Logger: slog.New(slog.NewJSONHandler(&log, nil))})
		hungUp := make(map[life]bool)
		outcomes := make(map[string]int)
		actions, failed := 0, 0
		for start := time.Now(); time.Since(start) < long-time.Second; actions++ {
			request := hangup.Request{Selector: to(server.Addr()), Linger: 20 * time.Millisecond}
			if actions%2 == 1 {
				request.Method = hangup.Destroy
			}
			for _, r := range mustHangUp(t, a, request).Results {
				if r.Flow.Remote != server.Addr() {
					t.Fatalf("acted on %+v", r)
				}
				outcomes[strings.TrimSpace(fmt.Sprintf("`%s` %s %s", r.Outcome, r.Method, r.Reason))]++
				if slices.Contains([]hangup.Outcome{hangup.Closed, hangup.HalfClosed, hangup.Lingering}, r.Outcome) {
					l := life{r.Flow.Cookie, r.Flow.Local, r.Flow.Remote}
					hungUp[l], hungUp[l.connecting()] = true, true
				}
				if r.Outcome == hangup.Failed {
					if failed++; !strings.Contains(r.Err.Error(), "after the last lookup") {
						t.Errorf("failed: %v", r.Err)
					}
				}
			}
		}
		reported := reportedAsFailed(t, log.Bytes())

		var lives, changed, passed, forked, moved, ended, afterLookup, wrong int
		for i := range apps {
			if err := apps[i].Wait(); err != nil {
				t.Fatal(err)
			}
			var totals [5]int
			for line := range strings.Lines(outputs[i].String()) {
				if n, _ := fmt.Sscanf(line, "totals %d %d %d %d %d", &totals[0], &totals[1], &totals[2], &totals[3], &totals[4]); n == len(totals) {
					continue
				}
				ended++
				switch l := parseEnd(t, line); {
				case hungUp[l]:
				case reported[l.cookie] > 0:
					reported[l.cookie]--
					afterLookup++
				default:
					wrong++
					t.Errorf("wrong: %s", line)
				}
			}
			lives, changed, passed, forked, moved = lives+totals[0], changed+totals[1], passed+totals[2], forked+totals[3], moved+totals[4]
		}
		t.Logf("| lives | %d connections: %d by AF_UNSPEC, %d sockets passed, %d forks, %d moved between descriptors |", lives, changed, passed, forked, moved)
		t.Logf("| actions | %d, method `auto` and `destroy` in turn |", actions)
		for _, outcome := range slices.Sorted(maps.Keys(outcomes)) {
			t.Logf("| %s | %d |", outcome, outcomes[outcome])
		}
		t.Logf("| connections that the application did not end | %d, %d of them made after the last lookup |", ended, afterLookup)
		t.Logf("| reported as failed | %d |", failed)
		t.Logf("| wrong | %d |", wrong)
		if lives < least || changed == 0 || passed == 0 || forked == 0 || moved == 0 || ended == 0 {
			t.Errorf("too little happened, want %d lives", least)
		}
		if !server.Listens() || !bystander.Listens() {
			t.Error("a listener is gone")
		}
	})
}

// life is one connection of a socket.
type life struct {
	cookie        uint64
	local, remote netip.AddrPort
}

// connecting is a life whose connect(2) was aborted: its application reads no address.
func (l life) connecting() life {
	l.local = netip.AddrPort{}
	return l
}

// parseEnd parses a line of the application about a connection that has ended.
func parseEnd(t *testing.T, line string) life {
	t.Helper()
	var l life
	var local, remote, call, errno string
	if _, err := fmt.Sscanf(line, "end %d %s %s %s %s", &l.cookie, &local, &remote, &call, &errno); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	l.local, l.remote = netip.MustParseAddrPort(local), netip.MustParseAddrPort(remote)
	if l.local.Addr().IsUnspecified() {
		return l.connecting()
	}
	return l
}

// reportedAsFailed counts the flows of each cookie that the log reports as disconnected
// after the last lookup.
func reportedAsFailed(t *testing.T, log []byte) map[uint64]int {
	t.Helper()
	flows := make(map[uint64]int)
	for line := range bytes.Lines(log) {
		var record struct {
			Level  string
			Cookie uint64
		}
		if err := json.Unmarshal(line, &record); err != nil || record.Level != "ERROR" || record.Cookie == 0 {
			t.Fatalf("log: %s: %v", line, err)
		}
		flows[record.Cookie]++
	}
	return flows
}
