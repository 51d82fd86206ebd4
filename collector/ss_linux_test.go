package collector

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"tcphup/sockdiag"
	"tcphup/test/kit/nstest"
)

// flowState is the state of one flow according to ss or to the metrics.
type flowState struct {
	State         string
	Receive, Send int
	Timer         string // on, keepalive, persist or empty
	Unanswered    bool
	// Packets has the counters of ss for packets that reset idle time or peer silence: data
	// segments sent, and all segments received.
	Packets string
}

// bySS returns the state of the flow to a destination, its idle time and its peer
// silence, according to ss.
func bySS(t *testing.T, to netip.AddrPort) (s flowState, idle, silence time.Duration) {
	t.Helper()
	address := to.String()
	out := strings.TrimSpace(shell(t, "ss -HtOnie state all exclude listening dst "+address))
	if out == "" || strings.Contains(out, "\n") {
		t.Fatalf("ss does not show one flow to %s:\n%s\n%s", address, out, shell(t, "ss -tOnie state all"))
	}
	return parseSS(out)
}

// parseSS parses a line of ss -HtOnie.
func parseSS(line string) (s flowState, idle, silence time.Duration) {
	words := strings.Fields(line)
	s.State = strings.ToLower(strings.NewReplacer("ESTAB", "established", "WAIT-", "WAIT", "-", "_").Replace(words[0]))
	s.Receive, _ = strconv.Atoi(words[1])
	s.Send, _ = strconv.Atoi(words[2])
	var sent, received int
	for _, word := range words {
		name, value, _ := strings.Cut(word, ":")
		n, _ := strconv.Atoi(value)
		switch name {
		case "timer":
			parts := strings.Split(strings.Trim(value, "()"), ",")
			s.Timer, s.Unanswered = parts[0], parts[2] != "0"
		case "lastsnd":
			sent = n
		case "lastrcv":
			received = n
		case "data_segs_out", "segs_in":
			s.Packets += word + " "
		case "lastack":
			silence = time.Duration(n) * time.Millisecond
		}
	}
	return s, time.Duration(min(sent, received)) * time.Millisecond, silence
}

// sampleFunc returns the value of a metric of one destination. before and after are the
// labels around destination and port, in text format.
type sampleFunc func(name, before, after string) float64

func samples(t *testing.T, exposition string, to netip.AddrPort) sampleFunc {
	return func(name, before, after string) float64 {
		t.Helper()
		return value(t, []byte(exposition), fmt.Sprintf(`%s{%sdestination="%s",port="%d"%s}`, name, before, to.Addr(), to.Port(), after))
	}
}

// byMetrics is bySS according to the metrics, for a destination with one flow.
func byMetrics(t *testing.T, exposition string, to netip.AddrPort) (s flowState, idle, silence time.Duration) {
	t.Helper()
	sample := samples(t, exposition, to)
	total := 0.0
	for _, state := range tcpStates {
		series := fmt.Sprintf(`tcphup_sockets{destination="%s",port="%d",state="%s"}`, to.Addr(), to.Port(), state)
		if !strings.Contains(exposition, series) {
			continue // not a core state
		}
		if n := value(t, []byte(exposition), series); n > 0 {
			s.State = state.String()
			total += n
		}
	}
	if total != 1 {
		t.Fatalf("%v has %v flows, want 1", to, total)
	}
	s.Receive = int(sample("tcphup_socket_queue_bytes", "", `,queue="receive"`))
	s.Send = int(sample("tcphup_socket_queue_bytes", "", `,queue="send"`))
	seconds := func(name string) time.Duration {
		return time.Duration(sample(name+"_sum", "", "") * float64(time.Second))
	}
	return s, seconds("tcphup_socket_idle_seconds"), seconds("tcphup_socket_peer_silence_seconds")
}

// The metrics match ss for a socket in each state, with each timer.
func TestPrivilegedMatchesSS(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		shell(t, "ip -6 addr add 2001:db8::2 dev lo nodad; sysctl -qw net.ipv4.tcp_retries2=15 net.ipv4.tcp_syn_retries=10")
		to := map[string]netip.AddrPort{}
		var client, server *net.TCPConn

		_, _, to["fresh"] = connect(t, "127.0.0.2", false)
		nstest.Eventually(t, "the new address is routed", func() bool {
			return shell(t, "ip -6 route show table local 2001:db8::2") != ""
		})
		_, _, to["ipv6"] = connect(t, "2001:db8::2", false)
		to["mapped"] = connectMapped(t, "127.0.0.9")
		_, _, to["keepalive armed"] = connect(t, "127.0.0.3", false, keepalive(100))
		_, server, to["close_wait"] = connect(t, "127.0.0.4", false)
		_ = server.Close()
		client, server, to["fin_wait2"] = connect(t, "127.0.0.5", false)
		_ = client.CloseWrite()
		_ = server // still open
		_, server, to["unread"] = connect(t, "127.0.0.6", false)
		_, _ = server.Write(make([]byte, 1234))
		client, _, to["zero window"] = connect(t, "127.0.0.7", false)
		fillWindow(t, client)
		client, server, to["time_wait"] = connect(t, "127.0.0.8", false)
		_ = client.CloseWrite()
		_, _ = server.Read(make([]byte, 1))
		_ = server.Close()
		_, _ = client.Read(make([]byte, 1))
		_ = client.Close()

		addSilentPeer(t)
		_, _, to["probes unanswered"] = connect(t, silentPeer, false, keepalive(1))
		client, _, to["retransmitting"] = connect(t, silentPeer, false)
		full, _, _ := connect(t, silentPeer, false)
		to["zero window unanswered"] = full.RemoteAddr().(*net.TCPAddr).AddrPort()
		fillWindow(t, full)
		closing, _, _ := connect(t, silentPeer, false)
		to["fin_wait1"] = closing.RemoteAddr().(*net.TCPAddr).AddrPort()
		cutLink(t)
		_, _ = client.Write(make([]byte, 100))
		_ = closing.CloseWrite()
		to["syn_sent"] = netip.MustParseAddrPort(silentPeer + ":9")
		go func() { // until the end of the test
			var d net.Dialer
			if c, err := d.DialContext(t.Context(), "tcp", to["syn_sent"].String()); err == nil {
				_ = c.Close()
			}
		}()

		want := map[string]struct {
			state, timer string
			unanswered   bool
		}{
			"fresh":                  {state: "established"},
			"ipv6":                   {state: "established"},
			"mapped":                 {state: "established"},
			"keepalive armed":        {state: "established", timer: "keepalive"},
			"close_wait":             {state: "close_wait"},
			"fin_wait2":              {state: "fin_wait2"},
			"unread":                 {state: "established"},
			"zero window":            {state: "established", timer: "persist"},
			"time_wait":              {state: "time_wait", timer: "timewait"},
			"probes unanswered":      {state: "established", timer: "keepalive", unanswered: true},
			"retransmitting":         {state: "established", timer: "on", unanswered: true},
			"zero window unanswered": {state: "established", timer: "persist", unanswered: true},
			"fin_wait1":              {state: "fin_wait1", timer: "on", unanswered: true},
			"syn_sent":               {state: "syn_sent", timer: "on", unanswered: true},
		}
		for name, w := range want {
			nstest.Eventually(t, name, func() bool {
				if shell(t, "ss -HtOn state all dst "+to[name].String()) == "" {
					return false
				}
				s, _, _ := bySS(t, to[name])
				return s.State == w.state && s.Timer == w.timer && s.Unanswered == w.unanswered
			})
		}

		c, err := New(Config{Histograms: Histograms()})
		if err != nil {
			t.Fatal(err)
		}
		t.Run("inbound", func(t *testing.T) {
			var before, got map[string]int
			nstest.Eventually(t, "ss shows the same before and after a scrape", func() bool {
				before = inboundBySS(t)
				got = inboundByMetrics(scrape(t, c))
				return cmp.Equal(before, inboundBySS(t))
			})
			if diff := cmp.Diff(before, got); diff != "" || len(got) < 5 {
				t.Errorf("ss and metrics differ (-ss +metrics):\n%s", diff)
			}
		})
		for name, w := range want {
			t.Run(name, func(t *testing.T) {
				d := to[name]
				var (
					before                                             flowState
					idleBefore, silenceBefore, idleAfter, silenceAfter time.Duration
					exposition                                         string
				)
				nstest.Eventually(t, "ss shows the same state and packets before and after a scrape", func() bool {
					var after flowState
					before, idleBefore, silenceBefore = bySS(t, d)
					exposition = scrape(t, c)
					after, idleAfter, silenceAfter = bySS(t, d)
					return before == after
				})
				got, idle, silence := byMetrics(t, exposition, d)
				if diff := cmp.Diff(flowState{State: before.State, Receive: before.Receive, Send: before.Send}, got); diff != "" {
					t.Errorf("ss and metrics differ (-ss +metrics):\n%s", diff)
				}
				sample := samples(t, exposition, d)

				timed := w.state != "syn_sent" && w.state != "time_wait"
				const tolerance = 50 * time.Millisecond
				if timed && (idle < idleBefore-tolerance || idle > idleAfter+tolerance) {
					t.Errorf("idle time is %v, ss shows %v to %v", idle, idleBefore, idleAfter)
				}
				if timed && (silence < silenceBefore-tolerance || silence > silenceAfter+tolerance) {
					t.Errorf("peer silence is %v, ss shows %v to %v", silence, silenceBefore, silenceAfter)
				}
				for _, metric := range []string{"tcphup_socket_idle_seconds_count", "tcphup_socket_peer_silence_seconds_count"} {
					if n := sample(metric, "", ""); n != float64(toInt(timed)) {
						t.Errorf("%s is %v, want %v", metric, n, toInt(timed))
					}
				}
				if n := sample("tcphup_socket_age_seconds_count", "", ""); n != float64(toInt(timed)) {
					t.Errorf("%v flows with an age", n)
				}

				hasKeepalive := w.state == "established" || w.state == "close_wait"
				for armed, want := range map[string]bool{"true": before.Timer == "keepalive", "false": hasKeepalive && before.Timer == ""} {
					if n := sample("tcphup_sockets_keepalive", `armed="`+armed+`",`, ""); n != float64(toInt(want)) {
						t.Errorf("armed=%s is %v, want %v", armed, n, want)
					}
				}
				for reason, timer := range map[string]string{"keepalive_probe": "keepalive", "retransmit": "on", "zero_window": "persist"} {
					want := before.Unanswered && before.Timer == timer
					if n := sample("tcphup_sockets_stalled", "", `,reason="`+reason+`"`); n != float64(toInt(want)) {
						t.Errorf("stalled by %s is %v, want %v", reason, n, want)
					}
				}
			})
		}
	})
}

// inboundBySS counts the sockets on the port of a listener, by port and state.
func inboundBySS(t *testing.T) map[string]int {
	t.Helper()
	listening := map[string]bool{}
	port := func(local string) string { return local[strings.LastIndex(local, ":")+1:] }
	for line := range strings.Lines(shell(t, "ss -Htnl")) {
		listening[port(strings.Fields(line)[3])] = true
	}
	counts := map[string]int{}
	for line := range strings.Lines(shell(t, "ss -Htn state all exclude listening")) {
		if p := port(strings.Fields(line)[3]); listening[p] {
			s, _, _ := parseSS(line)
			counts[p+" "+s.State]++
		}
	}
	return counts
}

func inboundByMetrics(exposition string) map[string]int {
	counts := map[string]int{}
	for line := range strings.Lines(exposition) {
		var port, state string
		var n int
		if _, err := fmt.Sscanf(strings.NewReplacer(`"`, " ", "}", " ").Replace(line), "tcphup_inbound_sockets{port= %s ,state= %s %d", &port, &state, &n); err == nil && n > 0 {
			counts[port+" "+state] += n
		}
	}
	return counts
}

// Data resets the idle time; keepalive probes do not.
func TestPrivilegedIdle(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		began := time.Now()
		client, _, to := connect(t, "127.0.0.2", false, keepalive(1))
		c, err := New(Config{Histograms: Histograms()})
		if err != nil {
			t.Fatal(err)
		}
		metrics := func() (idle, silence time.Duration) {
			_, idle, silence = byMetrics(t, scrape(t, c), to)
			return idle, silence
		}
		// tcp_info of the socket.
		info := func() (idle, silence time.Duration, packets uint32) {
			onSocket(t, client, func(fd int) error {
				i, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
				if err == nil {
					idle = time.Duration(min(i.Last_data_sent, i.Last_data_recv)) * time.Millisecond
					silence = time.Duration(i.Last_ack_recv) * time.Millisecond
					packets = i.Segs_in
				}
				return err
			})
			return idle, silence, packets
		}
		const tolerance = 50 * time.Millisecond // the kernel counts in jiffies
		if idle, _ := metrics(); idle > time.Since(began)+tolerance {
			t.Errorf("%v after the handshake the idle time is %v", time.Since(began), idle)
		}
		nstest.Eventually(t, "a probe is acknowledged after two seconds without data", func() bool {
			between := func(got, before, after time.Duration) bool {
				return got >= before-tolerance && got <= after+tolerance
			}
			idleBefore, silenceBefore, packetsBefore := info()
			idle, silence := metrics()
			idleAfter, silenceAfter, packetsAfter := info()
			if packetsAfter != packetsBefore {
				return false // an acknowledged probe has reset the silence
			}
			if !between(idle, idleBefore, idleAfter) || !between(silence, silenceBefore, silenceAfter) {
				t.Errorf("idle %v, peer silence %v; tcp_info has %v and %v before, %v and %v after",
					idle, silence, idleBefore, silenceBefore, idleAfter, silenceAfter)
			}
			return idle > 2*time.Second && silence < idle-time.Second
		})
		began = time.Now()
		if _, err := client.Write([]byte("data")); err != nil {
			t.Fatal(err)
		}
		if idle, _ := metrics(); idle > time.Since(began)+tolerance {
			t.Errorf("%v after data the idle time is %v", time.Since(began), idle)
		}
	})
}

// cookieOf returns the cookie of the socket. An MPTCP socket has another cookie than its
// subflows.
func cookieOf(t *testing.T, c *net.TCPConn) (cookie uint64) {
	t.Helper()
	onSocket(t, c, func(fd int) (err error) {
		cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
		return err
	})
	return cookie
}

func TestPrivilegedFirstSeen(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		client, server, to := connect(t, "127.0.0.2", false)
		flow := &sockdiag.Flow{Cookie: cookieOf(t, client), Local: client.LocalAddr().(*net.TCPAddr).AddrPort(), Remote: to}
		c, err := New(Config{Histograms: Histograms()})
		if err != nil {
			t.Fatal(err)
		}
		if _, known := c.FirstSeen(flow); known {
			t.Error("flow is recorded before the first scrape")
		}
		began := time.Now()
		scrape(t, c)
		first, known := c.FirstSeen(flow)
		if !known || first.Before(began) || first.After(time.Now().Add(firstSeenStep)) {
			t.Errorf("first seen at %v, %t; scraped at %v", first, known, began)
		}
		age := func() time.Duration {
			return time.Duration(samples(t, scrape(t, c), to)("tcphup_socket_age_seconds_sum", "", "") * float64(time.Second))
		}
		nstest.Eventually(t, "the flow ages", func() bool { return age() > 500*time.Millisecond })
		if got, most := age(), time.Since(began); got > most {
			t.Errorf("age is %v, but the first scrape was %v ago", got, most)
		}
		if again, _ := c.FirstSeen(flow); again.Sub(first).Abs() > firstSeenStep {
			t.Errorf("first seen at %v, later at %v", first, again)
		}
		_ = client.Close()
		_ = server.Close()
		nstest.Eventually(t, "the closed flow has expired", func() bool {
			scrape(t, c)
			_, known := c.FirstSeen(flow)
			return !known
		})
	})
}
