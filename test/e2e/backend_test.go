package e2e

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"tcphup/test/kit/nstest"
)

// backend is a server that records how each connection ended. It never closes a
// connection first, except at the end of the test.
type backend struct {
	t        testing.TB
	listener net.Listener
	done     sync.WaitGroup

	mu   sync.Mutex
	open map[net.Conn]bool
	ends []end
}

// end is the recorded end of a connection.
type end struct {
	client netip.AddrPort
	how    string // "eof", "reset" or the read error
}

func startBackend(t testing.TB, address string) *backend {
	t.Helper()
	listener, err := net.Listen("tcp4", address)
	if err != nil {
		t.Fatal(err)
	}
	b := &backend{t: t, listener: listener, open: make(map[net.Conn]bool)}
	b.done.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			b.mu.Lock()
			b.open[conn] = true
			b.mu.Unlock()
			b.done.Go(func() { b.read(conn) })
		}
	})
	t.Cleanup(func() {
		b.stopListening()
		b.mu.Lock()
		for conn := range b.open {
			_ = conn.Close()
		}
		b.mu.Unlock()
		b.done.Wait()
	})
	return b
}

func (b *backend) read(conn net.Conn) {
	_, err := io.Copy(io.Discard, conn)
	_ = conn.Close()
	how := "eof"
	switch {
	case errors.Is(err, unix.ECONNRESET):
		how = "reset"
	case err != nil:
		how = err.Error()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.open, conn)
	b.ends = append(b.ends, end{conn.RemoteAddr().(*net.TCPAddr).AddrPort(), how})
}

// stopListening closes the listener and keeps the connections.
func (b *backend) stopListening() { _ = b.listener.Close() }

func (b *backend) addr() netip.AddrPort { return b.listener.Addr().(*net.TCPAddr).AddrPort() }

// counts returns the number of open and of ended connections.
func (b *backend) counts() (open, ended int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.open), len(b.ends)
}

// establishedTo counts the established flows to the server in the kernel. The server's own
// counts lag behind, because it has to read EOF first.
func establishedTo(t testing.TB, b *backend) int {
	t.Helper()
	out := nstest.Command(t, "ss", "-Htn", "state", "established", "dst", b.addr().Addr().String(), "dport", "=", strconv.Itoa(int(b.addr().Port())))
	return strings.Count(out, "\n")
}

// awaitOpen waits until n connections are open.
func (b *backend) awaitOpen(n int) {
	b.t.Helper()
	nstest.Eventually(b.t, "connections are open", func() bool { open, _ := b.counts(); return open == n })
}

// awaitEnded waits until n connections have ended.
func (b *backend) awaitEnded(n int) {
	b.t.Helper()
	nstest.Eventually(b.t, "connections have ended", func() bool { _, ended := b.counts(); return ended >= n })
}

// mustCount checks the number of open and of ended connections, and that all of them ended
// with EOF.
func (b *backend) mustCount(open, ended int) {
	b.t.Helper()
	if o, e := b.counts(); o != open || e != ended {
		b.t.Errorf("%d connections open and %d ended, want %d and %d", o, e, open, ended)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, end := range b.ends {
		if end.how != "eof" {
			b.t.Errorf("connection of %v ended with %s, want eof", end.client, end.how)
		}
	}
}

// dialer keeps connections open. With reconnect it replaces each ended connection, like an
// application's pool.
type dialer struct {
	t         testing.TB
	reconnect bool
	done      sync.WaitGroup

	mu      sync.Mutex
	stopped bool
	conns   map[net.Conn]bool
}

// dial opens n connections to each address.
func dial(t testing.TB, reconnect bool, n int, to ...netip.AddrPort) {
	t.Helper()
	d := &dialer{t: t, reconnect: reconnect, conns: make(map[net.Conn]bool)}
	t.Cleanup(func() {
		d.mu.Lock()
		d.stopped = true
		for conn := range d.conns {
			_ = conn.Close()
		}
		d.mu.Unlock()
		d.done.Wait()
	})
	for _, address := range to {
		for range n {
			if err := d.open(address); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func (d *dialer) open(to netip.AddrPort) error {
	conn, err := net.Dial("tcp", to.String())
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stopped {
		return conn.Close()
	}
	d.conns[conn] = true
	d.done.Go(func() {
		_, _ = io.Copy(io.Discard, conn)
		_ = conn.Close()
		d.mu.Lock()
		delete(d.conns, conn)
		// The test's context ends before its servers do.
		again := d.reconnect && d.t.Context().Err() == nil
		d.mu.Unlock()
		if !again {
			return
		}
		if err := d.open(to); err != nil {
			d.t.Errorf("reconnect: %v", err)
		}
	})
	return nil
}
