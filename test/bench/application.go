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

// serviceAddress is the address of the application's service; no load uses it.
const serviceAddress = "127.255.0.1:5000"

// endTimeout is far above the duration of a hang-up on a busy machine.
const endTimeout = time.Minute

// application opens connections to the address args[0]; each line of its input is a
// number of connections. It reads each connection and closes it at EOF or a reset.
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

// service accepts the application's connections and reports how each ends.
type service struct {
	listener net.Listener
	address  netip.AddrPort
	accepted chan struct{}
	ends     chan end
	client   *helper
}

// end is the end of a connection, as read by the service.
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
			go s.watch(conn)
			s.accepted <- struct{}{}
		}
	}()
	return s, nil
}

// watch reports the end of conn.
func (s *service) watch(conn net.Conn) {
	_, err := conn.Read(make([]byte, 1))
	at := time.Now()
	conn.Close()
	if err != nil && !errors.Is(err, unix.ECONNRESET) {
		err = nil // io.EOF
	}
	s.ends <- end{err, at}
}

func (s *service) stop() error { return errors.Join(s.listener.Close(), s.client.stop()) }

// host and port are the arguments of tcphup.
func (s *service) host() string { return s.address.Addr().String() }
func (s *service) port() string { return strconv.Itoa(int(s.address.Port())) }

// filter returns the filter arguments of ss.
func (s *service) filter() []string { return []string{"dst", s.host(), "dport", "=", s.port()} }

// connect makes the application open n connections and waits until all are accepted.
func (s *service) connect(n int) error {
	if err := s.client.request(strconv.Itoa(n), new(string)); err != nil {
		return err
	}
	for range n {
		<-s.accepted
	}
	return nil
}

// wait waits for the end of n connections and returns the time of the last. It fails
// unless all end by a reset, or by a FIN when reset is false.
func (s *service) wait(n int, reset bool) (last time.Time, err error) {
	late := time.After(endTimeout)
	for i := range n {
		select {
		case e := <-s.ends:
			if got := e.err != nil; got != reset {
				return last, fmt.Errorf("connection ended by reset: %t, want %t", got, reset)
			}
			if e.at.After(last) {
				last = e.at
			}
		case <-late:
			return last, fmt.Errorf("%d of %d connections still open after %s", n-i, n, endTimeout)
		}
	}
	return last, nil
}

// dropTimeWait destroys TIME_WAIT sockets, where the kernel supports it. The number of
// sockets then stays the same in all rounds, without leftovers of the previous load.
func dropTimeWait() error {
	_, err := run("ss", "-K", "state", "time-wait")
	return err
}
