package testapp

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// Server accepts connections and reports their ends.
type Server struct {
	t        testing.TB
	listener net.Listener
	mptcp    bool
	hold     bool

	mu    sync.Mutex
	conns []net.Conn

	// Ends receives "eof", "reset" or an error text when a read of a connection fails.
	Ends chan string
}

// ServerConfig configures a Server.
type ServerConfig struct {
	Address  string // listening address; port 0 means an ephemeral port
	MPTCP    bool
	KeepOpen bool // keep a connection open after EOF or an error
	NoRead   bool // never read, so that the client's send queue fills
	Echo     bool // echo received data; Ends stays empty
}

// Serve starts a server. It stops when the test ends.
func Serve(t testing.TB, c ServerConfig) *Server {
	t.Helper()
	var config net.ListenConfig
	config.SetMultipathTCP(c.MPTCP)
	listener, err := listen(t, &config, c.Address)
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{t: t, listener: listener, mptcp: c.MPTCP, hold: c.KeepOpen, Ends: make(chan string, 4096)}
	var done sync.WaitGroup
	done.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns = append(s.conns, conn)
			s.mu.Unlock()
			switch {
			case c.NoRead:
			case c.Echo:
				done.Go(func() { s.echo(conn) })
			default:
				done.Go(func() { s.read(conn) })
			}
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		s.CloseAll()
		done.Wait()
	})
	return s
}

// lastPort is the last port that listen used.
var lastPort atomic.Uint32

// listen listens on an address. In place of port 0 it takes a free port below the ephemeral
// ports, as services have it: ports help to determine the direction of a flow.
func listen(t testing.TB, config *net.ListenConfig, address string) (net.Listener, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil || port != "0" {
		return config.Listen(t.Context(), "tcp", address)
	}
	for {
		const first, number = 5000, 20000
		port := first + lastPort.Add(1)%number
		listener, err := config.Listen(t.Context(), "tcp", net.JoinHostPort(host, strconv.Itoa(int(port))))
		if !errors.Is(err, unix.EADDRINUSE) {
			return listener, err
		}
	}
}

// echo removes a closed connection, so that memory does not grow with their number.
func (s *Server) echo(conn net.Conn) {
	_, _ = io.Copy(conn, conn)
	_ = conn.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns = slices.DeleteFunc(s.conns, func(c net.Conn) bool { return c == conn })
}

func (s *Server) read(conn net.Conn) {
	_, err := io.Copy(io.Discard, conn)
	switch {
	case err == nil:
		s.Ends <- "eof"
	case errors.Is(err, unix.ECONNRESET):
		s.Ends <- "reset"
	case errors.Is(err, net.ErrClosed):
		return
	default:
		s.Ends <- err.Error()
	}
	if !s.hold {
		_ = conn.Close()
	}
}

// Addr returns the listening address.
func (s *Server) Addr() netip.AddrPort { return s.listener.Addr().(*net.TCPAddr).AddrPort() }

// Listens reports whether the server accepts a new connection.
func (s *Server) Listens() bool {
	conn, err := net.Dial("tcp", s.listener.Addr().String())
	if err != nil {
		return false
	}
	return conn.Close() == nil
}

// CloseAll closes the accepted connections.
func (s *Server) CloseAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		_ = c.Close()
	}
	s.conns = nil
}

// Accepted returns the number of accepted connections.
func (s *Server) Accepted() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}
