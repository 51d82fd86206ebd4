package collector

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tcphup/sockdiag"
	"tcphup/test/kit/nodiag"
	"tcphup/test/kit/nstest"
)

func TestPrivilegedMPTCP(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NeedMPTCP(t)
		shell(t, `ip addr add 10.0.0.1/24 dev lo; ip addr add 10.0.1.1/24 dev lo; ip addr add 10.0.0.2 dev lo
			ip mptcp limits set subflow 4 add_addr_accepted 4
			ip mptcp endpoint add 10.0.1.1 dev lo subflow backup`)
		c, err := New(Config{Histograms: Histograms()})
		if err != nil {
			t.Fatal(err)
		}
		client, server, to := connect(t, "10.0.0.2", true)
		if _, err := client.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if _, err := server.Read(make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
		connection := func(fallback, state string) string {
			return fmt.Sprintf(`tcphup_mptcp_connections{destination="%s",fallback="%s",port="%d",state="%s"}`, to.Addr(), fallback, to.Port(), state)
		}
		subflow := func(role, backup string) string {
			return fmt.Sprintf(`tcphup_mptcp_subflows{backup="%s",destination="%s",port="%d",role="%s"}`, backup, to.Addr(), to.Port(), role)
		}
		other := func(name string) string {
			return fmt.Sprintf(`%s{destination="%s",port="%d"}`, name, to.Addr(), to.Port())
		}
		check := func(condition string, want map[string]float64) {
			t.Helper()
			var diff string
			defer func() {
				if t.Failed() {
					t.Log(diff, shell(t, "ss -tOnie; ss -MOnie"))
				}
			}()
			nstest.Eventually(t, condition, func() bool {
				exposition := scrape(t, c)
				got := map[string]float64{}
				for name := range want {
					if strings.Contains(exposition, name+" ") {
						got[name] = value(t, []byte(exposition), name)
					}
				}
				diff = cmp.Diff(want, got)
				return diff == ""
			})
		}
		check("a connection with two subflows", map[string]float64{
			connection("false", "established"):                                              1,
			subflow("initial", "false"):                                                     1,
			subflow("join", "true"):                                                         1,
			subflow("join", "false"):                                                        0,
			other("tcphup_mptcp_connection_subflows_sum"):                                   2,
			other("tcphup_mptcp_connection_subflows_count"):                                 1,
			other("tcphup_mptcp_subflow_idle_seconds_count"):                                2,
			other("tcphup_mptcp_connections_pathless"):                                      0,
			other("tcphup_socket_idle_seconds_count"):                                       2,
			fmt.Sprintf(`tcphup_inbound_sockets{port="%d",state="established"}`, to.Port()): 2,
		})

		subflowIdle := func() (sum time.Duration) {
			lines := strings.Split(strings.TrimSpace(shell(t, "ss -HtOnie dst "+to.String())), "\n")
			if len(lines) != 2 {
				t.Fatalf("ss does not show two subflows:\n%s", strings.Join(lines, "\n"))
			}
			for _, line := range lines {
				_, idle, _ := parseSS(line)
				sum += idle
			}
			return sum
		}
		const tolerance = 2 * 50 * time.Millisecond
		nstest.Eventually(t, "the subflows have been idle", func() bool { return subflowIdle() > 5*tolerance })
		before := subflowIdle()
		seconds := value(t, []byte(scrape(t, c)), other("tcphup_mptcp_subflow_idle_seconds_sum"))
		after := subflowIdle()
		if idle := time.Duration(seconds * float64(time.Second)); idle < before-tolerance || idle > after+tolerance {
			t.Errorf("idle time of both subflows is %v, ss shows %v to %v", idle, before, after)
		}
		if states := strings.Fields(shell(t, "ss -HMn dst "+to.String())); len(states) == 0 || states[0] != "ESTAB" {
			t.Errorf("ss shows the connection as %v", states)
		}

		flow := &sockdiag.Flow{
			Protocol: sockdiag.MPTCP, Cookie: cookieOf(t, client),
			Local: client.LocalAddr().(*net.TCPAddr).AddrPort(), Remote: to,
		}
		if _, known := c.FirstSeen(flow); !known {
			t.Error("first-seen time of the connection is unknown")
		}

		conn, err := sockdiag.Dial()
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		var subflows []sockdiag.Flow
		for f, err := range conn.Flows(context.Background(), sockdiag.Query{States: sockdiag.Open, Info: true}) {
			if err != nil {
				t.Fatal(err)
			}
			if f.Remote == to {
				subflows = append(subflows, f)
			}
		}
		for i := range subflows {
			if err := conn.Destroy(t.Context(), &subflows[i]); err != nil {
				t.Fatal(err)
			}
		}
		check("a connection without subflows", map[string]float64{
			connection("false", "established"):              1,
			subflow("initial", "false"):                     0,
			other("tcphup_mptcp_connection_subflows_sum"):   0,
			other("tcphup_mptcp_connection_subflows_count"): 1,
			other("tcphup_mptcp_connections_pathless"):      1,
		})

		// A server without MPTCP.
		client = dial(t, tcpOnly(t), true)
		to = client.RemoteAddr().(*net.TCPAddr).AddrPort()
		check("a connection that fell back", map[string]float64{
			connection("true", "established"):             1,
			subflow("initial", "false"):                   1,
			other("tcphup_mptcp_connection_subflows_sum"): 1,
			other("tcphup_mptcp_connections_pathless"):    0,
		})
	})
}

// The scrape of MPTCP fails if the kernel has no MPTCP dump but lists a subflow.
func TestPrivilegedScrapeNoMPTCPDiag(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NeedMPTCP(t)
		shell(t, "ip addr add 10.0.0.2/24 dev lo")
		c, err := New(Config{})
		if err != nil {
			t.Fatal(err)
		}
		c.dial = func(uint64) (source, error) {
			conn, err := sockdiag.Dial()
			return nodiag.Conn{Conn: conn}, err
		}
		check := func(mptcp float64) {
			t.Helper()
			exposition := []byte(scrape(t, c))
			for source, want := range map[string]float64{"tcp": 1, "mptcp": mptcp} {
				if got := value(t, exposition, fmt.Sprintf(`tcphup_scrape_success{source="%s"}`, source)); got != want {
					t.Errorf("success of %s is %v, want %v", source, got, want)
				}
			}
		}
		connect(t, "10.0.0.2", false)
		check(1)
		connect(t, "10.0.0.2", true)
		check(0)
	})
}

// tcpOnly returns the address of a listener without MPTCP.
func tcpOnly(t *testing.T) string {
	t.Helper()
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(t.Context(), "tcp", "10.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	return ln.Addr().String()
}
