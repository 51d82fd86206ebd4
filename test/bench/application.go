package main

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const applicationName = "bench-application"

// serviceAddress is for the service of the application alone.
const serviceAddress = "127.255.0.1:5000"

// endTimeout is many times what it takes to hang up, on a busy machine too.
const endTimeout = time.Minute

// application opens as many connections to an address as a line of its input says. It
// reads what comes, and closes a connection that has ended, as any client does.
func application(args []string) error {
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		n, err := strconv.Atoi(lines.Text())
		if err != nil {
			return err
		}
		for range n {
			conn, err := net.Dial("tcp", args[0])
			if err != nil {
				return err
			}
			go func() {
				defer conn.Close()
				for {
					if _, err := conn.Read(make([]byte, 512)); err != nil {
						return
					}
				}
			}()
		}
		fmt.Println("connected")
	}
	return nil
}

// service is what the application is connected to; it tells how each connection ends.
type service struct {
	listener net.Listener
	address  netip.AddrPort
	accepted chan struct{}
	ends     chan end
	client   *helper
}

// end is how and when the service has seen a connection end.
type end struct {
	err error // nil for a FIN
	at  time.Time
}

func startService() (*service, error) {
	listener, err := net.Listen("tcp", serviceAddress)
	if err != nil {
		return nil, err
	}
	address := listener.Addr().(*net.TCPAddr).AddrPort()
	client, err := startHelper(applicationName, nil, address.String())
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	s := &service{listener: listener, address: address, accepted: make(chan struct{}), ends: make(chan end), client: client}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go s.see(conn)
			s.accepted <- struct{}{}
		}
	}()
	return s, nil
}

func (s *service) see(conn net.Conn) {
	_, err := conn.Read(make([]byte, 1))
	at := time.Now()
	conn.Close()
	if err != nil && !errors.Is(err, unix.ECONNRESET) {
		err = nil // io.EOF
	}
	s.ends <- end{err, at}
}

func (s *service) stop() error { return errors.Join(s.listener.Close(), s.client.stop()) }

// host and port are what programs are given.
func (s *service) host() string { return s.address.Addr().String() }
func (s *service) port() string { return strconv.Itoa(int(s.address.Port())) }

// filter is what ss is given.
func (s *service) filter() []string { return []string{"dst", s.host(), "dport", "=", s.port()} }

// connect has the application open connections.
func (s *service) connect(n int) error {
	if err := s.client.ask(strconv.Itoa(n), new(string)); err != nil {
		return err
	}
	for range n {
		<-s.accepted
	}
	return nil
}

// wait returns when the last of so many connections has ended, by a reset or, if not,
// by a FIN.
func (s *service) wait(n int, reset bool) (last time.Time, err error) {
	late := time.After(endTimeout)
	for i := range n {
		select {
		case e := <-s.ends:
			if got := e.err != nil; got != reset {
				return last, fmt.Errorf("a connection has ended by a reset: %t, want %t", got, reset)
			}
			if e.at.After(last) {
				last = e.at
			}
		case <-late:
			return last, fmt.Errorf("%d of %d connections are open after %s", n-i, n, endTimeout)
		}
	}
	return last, nil
}

// forget removes what is in TIME_WAIT, where the kernel can: a load is to have as many
// sockets in the last round as in the first, and nothing of the load before it.
func forget() error {
	_, err := run("ss", "-K", "state", "time-wait")
	return err
}
