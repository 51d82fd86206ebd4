package main

import (
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"sync/atomic"
	"time"

	"tcphup/test/kit/netns"
)

// hostAddress is the address of the application's host: the first host of
// deploy/alertmanager-plain.example.yml.
const hostAddress = "192.0.2.11"

// site is a site of the service: a host with one address and a counting HTTP server.
type site struct {
	name, address string
	demoted       atomic.Bool  // responds with 503, like a former primary
	responses     atomic.Int64 // responses since the last failover
	connections   atomic.Int64 // open connections
}

func (s *site) String() string { return fmt.Sprintf("the %s site (%s)", s.name, s.address) }

// openSite creates a site in a new network namespace, connected by a veth pair.
func openSite(name, address string) (*site, error) {
	host, err := netns.New()
	if err != nil {
		return nil, err
	}
	err = ip(
		"link add "+name+" type veth peer name eth0 netns "+host.Path(),
		"link set "+name+" up",
		"route add "+address+" dev "+name+" src "+hostAddress,
	)
	if err != nil {
		return nil, err
	}
	s := &site{name: name, address: address}
	return s, host.Do(func() error {
		err := ip(
			"address add "+address+" dev eth0",
			"link set eth0 up",
			"route add "+hostAddress+" dev eth0",
		)
		if err != nil {
			return err
		}
		listener, err := net.Listen("tcp", net.JoinHostPort(address, servicePort))
		if err != nil {
			return err
		}
		go s.serve(listener)
		return nil
	})
}

// ip runs iproute2 commands until one fails.
func ip(commands ...string) error {
	for _, c := range commands {
		if out, err := exec.Command("ip", strings.Fields(c)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", c, err, out)
		}
	}
	return nil
}

// serve accepts connections and never closes one first.
func (s *site) serve(listener net.Listener) {
	server := http.Server{Handler: s, ConnState: func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			s.connections.Add(1)
		}
		if state == http.StateClosed {
			s.connections.Add(-1)
		}
	}}
	_ = server.Serve(listener) // until the demo ends
}

// ServeHTTP responds after 20 ms; with 503 once the site is demoted.
func (s *site) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	time.Sleep(20 * time.Millisecond)
	s.responses.Add(1)
	if s.demoted.Load() {
		http.Error(w, "site demoted", http.StatusServiceUnavailable)
	}
}
