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

// seen is what can be said of one flow, by ss or by the metrics.
type seen struct {
	State         string
	Receive, Send int
	Timer         string // on, keepalive, persist, or nothing
	Unanswered    bool
	// Packets counts, by ss, the packets that restart a clock: data sent or received,
	// and any packet received.
	Packets string
}

// bySS returns the flow to the destination as ss shows it, and its idle time and
// peer silence.
func bySS(t *testing.T, to netip.AddrPort) (s seen, idle, silence time.Duration) {
	t.Helper()
	address := to.String()
	out := strings.TrimSpace(shell(t, "ss -HtOnie state all exclude listening dst "+address))
	if out == "" || strings.Contains(out, "\n") {
		t.Fatalf("ss shows not one flow to %s:\n%s\n%s", address, out, shell(t, "ss -tOnie state all"))
	}
	return parseSS(out)
}

// parseSS reads a line of ss -HtOnie.
func parseSS(line string) (s seen, idle, silence time.Duration) {
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

// sampleFunc returns the value of a metric of one destination; labels follow
// those two, as they are written.
type sampleFunc func(name, before, after string) float64

func samples(t *testing.T, exposition string, to netip.AddrPort) sampleFunc {
	return func(name, before, after string) float64 {
		t.Helper()
		return value(t, []byte(exposition), fmt.Sprintf(`%s{%sdestination="%s",port="%d"%s}`, name, before, to.Addr(), to.Port(), after))
	}
}

// byMetrics returns the same from the metrics of a destination with one flow.
func byMetrics(t *testing.T, exposition string, to netip.AddrPort) (s seen, idle, silence time.Duration) {
	t.Helper()
	sample := samples(t, exposition, to)
	total := 0.0
	for _, state := range tcpStates {
		if n := sample("tcphup_sockets", "", `,state="`+state.String()+`"`); n > 0 {
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

// A mixed set of sockets, each to a destination of its own, in every situation
// that can be told apart.
func TestPrivilegedTruth(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		shell(t, "ip -6 addr add 2001:db8::2 dev lo nodad; sysctl -qw net.ipv4.tcp_retries2=15 net.ipv4.tcp_syn_retries=10")
		to := map[string]netip.AddrPort{}
		var client, server *net.TCPConn

		_, _, to["fresh"] = connect(t, "127.0.0.2", false)
		nstest.Eventually(t, "the kernel accepts packets to its new address", func() bool {
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
		stuff(t, client)
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
		stuff(t, full)
		closing, _, _ := connect(t, silentPeer, false)
		to["fin_wait1"] = closing.RemoteAddr().(*net.TCPAddr).AddrPort()
		cutLink(t)
		_, _ = client.Write(make([]byte, 100))
		_ = closing.CloseWrite()
		to["syn_sent"] = netip.MustParseAddrPort(silentPeer + ":9")
		go func() { // until the test ends it
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

		c, err := New(Config{})
		if err != nil {
			t.Fatal(err)
		}
		t.Run("inbound", func(t *testing.T) {
			var before, got map[string]int
			nstest.Eventually(t, "ss says the same before and after a scrape", func() bool {
				before = inboundBySS(t)
				got = inboundByMetrics(served(t, c))
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
					before                                             seen
					idleBefore, silenceBefore, idleAfter, silenceAfter time.Duration
					exposition                                         string
				)
				nstest.Eventually(t, "ss shows the same state and packets before and after a scrape", func() bool {
					var after seen
					before, idleBefore, silenceBefore = bySS(t, d)
					exposition = served(t, c)
					after, idleAfter, silenceAfter = bySS(t, d)
					return before == after
				})
				got, idle, silence := byMetrics(t, exposition, d)
				if diff := cmp.Diff(seen{State: before.State, Receive: before.Receive, Send: before.Send}, got); diff != "" {
					t.Errorf("ss and metrics differ (-ss +metrics):\n%s", diff)
				}
				sample := samples(t, exposition, d)

				timed := w.state != "syn_sent" && w.state != "time_wait"
				const tolerance = 50 * time.Millisecond
				if timed && (idle < idleBefore-tolerance || idle > idleAfter+tolerance) {
					t.Errorf("idle is %v, ss says %v to %v", idle, idleBefore, idleAfter)
				}
				if timed && (silence < silenceBefore-tolerance || silence > silenceAfter+tolerance) {
					t.Errorf("peer silence is %v, ss says %v to %v", silence, silenceBefore, silenceAfter)
				}
				for _, metric := range []string{"tcphup_socket_idle_seconds_count", "tcphup_socket_peer_silence_seconds_count"} {
					if n := sample(metric, "", ""); n != float64(index(timed)) {
						t.Errorf("%s is %v, want %v", metric, n, index(timed))
					}
				}
				if n := sample("tcphup_socket_age_seconds_count", "", ""); n != float64(index(timed)) {
					t.Errorf("age is known of %v flows", n)
				}

				keeps := w.state == "established" || w.state == "close_wait"
				for armed, want := range map[string]bool{"true": before.Timer == "keepalive", "false": keeps && before.Timer == ""} {
					if n := sample("tcphup_sockets_keepalive", `armed="`+armed+`",`, ""); n != float64(index(want)) {
						t.Errorf("armed=%s is %v, want %v", armed, n, want)
					}
				}
				for reason, timer := range map[string]string{"keepalive_probe": "keepalive", "retransmit": "on", "zero_window": "persist"} {
					want := before.Unanswered && before.Timer == timer
					if n := sample("tcphup_sockets_stalled", "", `,reason="`+reason+`"`); n != float64(index(want)) {
						t.Errorf("stalled by %s is %v, want %v", reason, n, want)
					}
				}
			})
		}
	})
}

// inboundBySS counts the sockets whose port is that of a listener, by port and state.
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

// Probes do not make a flow look busy, data does, and a fresh flow is not old.
func TestPrivilegedIdle(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		began := time.Now()
		client, _, to := connect(t, "127.0.0.2", false, keepalive(1))
		c, err := New(Config{})
		if err != nil {
			t.Fatal(err)
		}
		look := func() (idle, silence time.Duration) {
			_, idle, silence = byMetrics(t, served(t, c), to)
			return idle, silence
		}
		// The application's own view of the socket.
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
		if idle, _ := look(); idle > time.Since(began)+tolerance {
			t.Errorf("a flow that was opened %v ago has been idle for %v", time.Since(began), idle)
		}
		nstest.Eventually(t, "a probe is answered after two seconds without data", func() bool {
			between := func(got, before, after time.Duration) bool {
				return got >= before-tolerance && got <= after+tolerance
			}
			idleBefore, silenceBefore, packetsBefore := info()
			idle, silence := look()
			idleAfter, silenceAfter, packetsAfter := info()
			if packetsAfter != packetsBefore {
				return false // an answered probe has restarted the silence
			}
			if !between(idle, idleBefore, idleAfter) || !between(silence, silenceBefore, silenceAfter) {
				t.Errorf("idle %v, peer silence %v; tcp_info says %v and %v before, %v and %v after",
					idle, silence, idleBefore, silenceBefore, idleAfter, silenceAfter)
			}
			return idle > 2*time.Second && silence < idle-time.Second
		})
		began = time.Now()
		if _, err := client.Write([]byte("data")); err != nil {
			t.Fatal(err)
		}
		if idle, _ := look(); idle > time.Since(began)+tolerance {
			t.Errorf("%v after data the flow has been idle for %v", time.Since(began), idle)
		}
	})
}

// cookieOf asks the socket itself: an MPTCP one has another cookie than its paths.
func cookieOf(t *testing.T, c *net.TCPConn) (cookie uint64) {
	t.Helper()
	onSocket(t, c, func(fd int) (err error) {
		cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
		return err
	})
	return cookie
}

func TestPrivilegedAge(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		client, server, to := connect(t, "127.0.0.2", false)
		flow := &sockdiag.Flow{Cookie: cookieOf(t, client), Local: client.LocalAddr().(*net.TCPAddr).AddrPort()}
		c, err := New(Config{})
		if err != nil {
			t.Fatal(err)
		}
		if _, known := c.FirstSeen(flow); known {
			t.Error("flow is known before the first scrape")
		}
		began := time.Now()
		served(t, c)
		first, known := c.FirstSeen(flow)
		if !known || first.Before(began) || first.After(time.Now().Add(sightingStep)) {
			t.Errorf("first seen at %v, %t; scraped at %v", first, known, began)
		}
		age := func() time.Duration {
			return time.Duration(samples(t, served(t, c), to)("tcphup_socket_age_seconds_sum", "", "") * float64(time.Second))
		}
		nstest.Eventually(t, "the flow ages", func() bool { return age() > 500*time.Millisecond })
		if got, most := age(), time.Since(began); got > most {
			t.Errorf("age is %v, but it was first seen %v ago", got, most)
		}
		if again, _ := c.FirstSeen(flow); !again.Equal(first) {
			t.Errorf("first seen at %v, and then at %v", first, again)
		}
		_ = client.Close()
		_ = server.Close()
		nstest.Eventually(t, "the closed flow is forgotten", func() bool {
			served(t, c)
			_, known := c.FirstSeen(flow)
			return !known
		})
	})
}
