package kubernetes

import (
	"io"
	"net"
	"strconv"
	"sync"
	"testing"
)

// database is a server on an address of the node. It holds its connections until their clients
// close them.
type database struct {
	t             *testing.T
	host          string
	port          int
	mu            sync.Mutex
	opened, ended int
}

// startDatabase starts a server that runs until the test ends. Port 0 takes a free one.
func startDatabase(t *testing.T, host string, port int) *database {
	t.Helper()
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.ParseIP(host), Port: port})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	d := &database{t: t, host: host, port: listener.Addr().(*net.TCPAddr).Port}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			d.count(&d.opened)
			go func() {
				defer conn.Close()
				_, _ = io.Copy(io.Discard, conn)
				d.count(&d.ended)
			}()
		}
	}()
	return d
}

func (d *database) address() string { return net.JoinHostPort(d.host, strconv.Itoa(d.port)) }

func (d *database) count(n *int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	*n++
}

// counts returns how many connections have been opened and how many have ended.
func (d *database) counts() (opened, ended int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.opened, d.ended
}

// await waits until this many connections have been opened and have ended.
func (d *database) await(opened, ended int) {
	d.t.Helper()
	eventually(d.t, "connections to the database", func() bool {
		o, e := d.counts()
		return o >= opened && e >= ended
	})
}
