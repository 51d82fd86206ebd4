package e2e

import (
	"net/netip"
	"os"
	"strings"
	"testing"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// site is a host 10.20.0.9 with applications, and a database at two IPv4 addresses and an IPv6
// address. Its peers close with the application on port 5432, and keep their side open on 6432.
type site struct {
	t        *testing.T
	binary   string
	database *nstest.Namespace
	apps     []*testapp.App
}

func newSite(t *testing.T) *site {
	s := &site{t: t, binary: testapp.Build(t), database: nstest.NewNamespace(t, "database")}
	bind(t, "/etc/hosts", "10.30.0.5 db.internal\n127.0.0.1 localhost\n")
	for _, command := range []string{
		"ip link add eth0 type veth peer name eth0 netns database",
		"ip addr add 10.20.0.9/24 dev eth0", "ip addr add 2001:db8:20::9/64 dev eth0 nodad",
		"ip -n database addr add 10.20.0.5/24 dev eth0", "ip -n database addr add 10.30.0.5/24 dev eth0",
		"ip -n database addr add 2001:db8:20::5/64 dev eth0 nodad",
		"ip link set eth0 up", "ip -n database link set eth0 up",
		"ip route add 10.30.0.0/24 dev eth0 src 10.20.0.9",
	} {
		nstest.Command(t, strings.Fields(command)...)
	}
	// Ports and process ids have the same number of digits in each run.
	for file, value := range map[string]string{"/proc/sys/net/ipv4/ip_local_port_range": "40000 40999", "/proc/sys/kernel/ns_last_pid": "10000"} {
		if err := os.WriteFile(file, []byte(value), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s.database.Do(func() {
		testapp.Serve(t, testapp.ServerConfig{Address: ":5432"})
		testapp.Serve(t, testapp.ServerConfig{Address: ":6432", KeepOpen: true})
	})
	return s
}

// connect starts an application with this name and a connection.
func (s *site) connect(command, to string) *testapp.App {
	s.t.Helper()
	app := testapp.Start(s.t, s.binary)
	if got := app.Call("rename %s", command); got != "rename ok" {
		s.t.Fatal(got)
	}
	if command != "psql" {
		app.Call("ignore")
	}
	app.Connect(netip.MustParseAddrPort(to), false, false)
	s.apps = append(s.apps, app)
	s.awaitIdle()
	return app
}

// awaitIdle waits until the next connection is idle for a shorter time than the others.
func (s *site) awaitIdle() {
	s.t.Helper()
	nstest.Eventually(s.t, "idle times", func() bool {
		for _, f := range listJSON(s.t, "--flows").Flows {
			if f.Idle == nil || *f.Idle < 0.03 {
				return false
			}
		}
		return true
	})
}

// pools opens connections to all addresses of the database.
func (s *site) pools() {
	s.t.Helper()
	for _, to := range []string{"10.20.0.5:5432", "10.20.0.5:5432", "10.30.0.5:5432", "10.20.0.5:5432", "[2001:db8:20::5]:5432"} {
		s.connect("java", to)
	}
	s.connect("prometheus-adap", "10.30.0.5:5432")
}

// disconnect ends the applications and waits until no connection is left.
func (s *site) disconnect() {
	s.t.Helper()
	for _, app := range s.apps {
		app.Kill()
	}
	s.apps = nil
	nstest.Command(s.t, "ss", "-HKtn")
	nstest.Command(s.t, "ip", "netns", "exec", "database", "ss", "-HKtn")
	nstest.Eventually(s.t, "no connection", func() bool {
		l := listJSON(s.t, "--direction=either")
		s.database.Do(func() { l.Destinations = append(l.Destinations, listJSON(s.t, "--direction=either").Destinations...) })
		return len(l.Destinations) == 0
	})
}
