package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// message is a report of an application: one JSON object per line.
type message struct {
	End    *end    `json:",omitempty"`
	Totals *totals `json:",omitempty"`
}

// end is the end of a connection that the application did not close.
type end struct {
	Destination int // index
	Local       string
	// Opened is the time before connect, LastData before the last send, and Noticed after
	// the read that failed. No span between them is shorter than the real one.
	Opened, LastData, Noticed time.Time
	Error                     string
	// Starved is how long before Noticed the application may have had no processor time:
	// the connection may have ended that much earlier.
	Starved time.Duration
	// Unresponsive: a response timed out on a connection that is still open.
	Unresponsive bool
}

// totals are counts since the start of the application. Hooked counts the opened connections
// whose getpeername(2) is rewritten. LastError is the error of the last failed connect.
type totals struct {
	Opened, Closed, Failed, Hooked int64
	LastError                      string
}

// totalsInterval is the interval between two reports of totals.
const totalsInterval = time.Second

// client is an application, without any knowledge of tcphup.
type client struct {
	mu  sync.Mutex
	out *json.Encoder

	opened, closed, failed, hooked atomic.Int64
	lastError                      atomic.Value // string
	beats                          heartbeat
}

// heartbeat holds the last two times at which the application had processor time.
type heartbeat struct {
	mu             sync.Mutex
	last, previous time.Time
}

const beatInterval = 50 * time.Millisecond

func (h *heartbeat) beat() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last, h.previous = time.Now(), h.last
}

// starved returns how long before now the application may have had no processor time. It
// uses the beat before the last, which may itself be delayed.
func (h *heartbeat) starved(now time.Time) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return now.Sub(h.previous)
}

// habit is how a session uses a connection: a number of requests, each followed by a
// random idle time.
type habit struct {
	sessions          int
	requests          int
	shortest, longest time.Duration
}

// habits apply to every application and destination: short-lived connections, a busy pool,
// idle keep-alive connections, and connections that the application never closes. The
// last kind reveals a lost alert.
var habits = []habit{
	{sessions: 2, requests: 1, longest: 200 * time.Millisecond},
	{sessions: 4, requests: 5, shortest: 100 * time.Millisecond, longest: time.Second},
	{sessions: 2, requests: 1, shortest: 2 * time.Second, longest: 8 * time.Second},
	{sessions: 2, requests: 1, shortest: 24 * time.Hour, longest: 48 * time.Hour},
}

// lasting is a further habit for the addresses that names exchange: connections that outlive a
// swap.
var lasting = habit{sessions: 4, requests: 1, shortest: 20 * time.Second, longest: time.Minute}

func (d *destination) habits() []habit {
	if d.swapped {
		return append(slices.Clone(habits), lasting)
	}
	return habits
}

// application keeps connections to all destinations until EOF on standard input.
func application(options) error {
	ctx, cancel := context.WithCancel(context.Background())
	c := &client{out: json.NewEncoder(os.Stdout)}
	c.beats.beat()
	c.beats.beat()
	var sessions sync.WaitGroup
	sessions.Go(func() {
		for tick := time.NewTicker(beatInterval); ctx.Err() == nil; {
			select {
			case <-tick.C:
				c.beats.beat()
			case <-ctx.Done():
			}
		}
	})
	for i := range destinations {
		for _, h := range destinations[i].habits() {
			for range h.sessions {
				sessions.Go(func() {
					for ctx.Err() == nil {
						c.session(ctx, i, h)
					}
				})
			}
		}
	}
	sessions.Go(func() {
		for ctx.Err() == nil {
			select {
			case <-time.After(totalsInterval):
				c.sendTotals()
			case <-ctx.Done():
			}
		}
	})
	_, err := io.Copy(io.Discard, os.Stdin)
	cancel()
	sessions.Wait()
	c.sendTotals()
	return err
}

func (c *client) sendTotals() {
	lastError, _ := c.lastError.Load().(string)
	c.send(message{Totals: &totals{c.opened.Load(), c.closed.Load(), c.failed.Load(), c.hooked.Load(), lastError}})
}

func (c *client) send(m message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.out.Encode(m) // fails only when the soak has ended, which ends standard input too
}

// session opens a connection, uses it and closes it.
func (c *client) session(ctx context.Context, index int, h habit) {
	d := &destinations[index]
	opened := time.Now()
	conn, err := d.dial(ctx)
	if err != nil {
		if ctx.Err() == nil {
			c.failed.Add(1)
			c.lastError.Store(fmt.Sprintf("%v: %v", d, err))
			time.Sleep(100 * time.Millisecond)
		}
		return
	}
	c.opened.Add(1)
	if isHooked(conn) {
		c.hooked.Add(1)
	}
	defer conn.Close()
	// A past deadline ends reads and writes when ctx ends.
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	lastData, unresponsive, err := opened, false, error(nil)
	for range h.requests {
		lastData = time.Now()
		if unresponsive, err = ask(conn); err == nil {
			err = wait(ctx, conn, h.shortest+rand.N(h.longest-h.shortest))
		}
		if err != nil {
			break
		}
	}
	if err == nil || ctx.Err() != nil {
		c.closed.Add(1)
		return
	}
	noticed := time.Now()
	c.send(message{End: &end{
		Destination: index, Local: conn.LocalAddr().String(), Opened: opened, LastData: lastData, Noticed: noticed,
		Error: err.Error(), Unresponsive: unresponsive, Starved: c.beats.starved(noticed),
	}})
}

// isHooked reports whether getpeername(2) returns hookedAddress.
func isHooked(conn net.Conn) (hooked bool) {
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		return false
	}
	_ = raw.Control(func(fd uintptr) { // fails only after the end of the connection
		switch peer, _ := unix.Getpeername(int(fd)); p := peer.(type) {
		case *unix.SockaddrInet4:
			hooked = p.Addr == hookedAddress
		case *unix.SockaddrInet6:
			hooked = [4]byte(p.Addr[12:]) == hookedAddress
		}
	})
	return hooked
}

// responseTimeout is far above the response time on one host.
const responseTimeout = 20 * time.Second

// ask sends a request and reads its response. unresponsive reports a timeout.
func ask(conn net.Conn) (unresponsive bool, err error) {
	if err := conn.SetDeadline(time.Now().Add(responseTimeout)); err != nil {
		return false, err
	}
	if _, err := conn.Write([]byte{'?'}); err != nil {
		return false, err
	}
	_, err = io.ReadFull(conn, make([]byte, 1))
	return errors.Is(err, os.ErrDeadlineExceeded), err
}

// wait returns nil when the connection stays open for a duration.
func wait(ctx context.Context, conn net.Conn, long time.Duration) error {
	if err := conn.SetReadDeadline(time.Now().Add(long)); err != nil || ctx.Err() != nil {
		return err
	}
	_, err := conn.Read(make([]byte, 1))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	if err == nil {
		err = errors.New("read: unsolicited data")
	}
	return err
}

func (d *destination) dial(ctx context.Context) (net.Conn, error) {
	if d.kind == mapped {
		return d.dialMapped()
	}
	var dialer net.Dialer
	dialer.SetMultipathTCP(d.kind == mptcp)
	if d.from.IsValid() {
		dialer.LocalAddr = &net.TCPAddr{IP: d.from.AsSlice()}
	}
	conn, err := dialer.DialContext(ctx, "tcp", d.address.String())
	if err != nil || d.kind != mptcp {
		return conn, err
	}
	if used, err := conn.(*net.TCPConn).MultipathTCP(); err != nil || !used {
		return nil, errors.Join(errors.New("no MPTCP"), err, conn.Close())
	}
	return conn, nil
}

// dialMapped connects to an IPv4 address through an IPv6 socket, like a JVM.
func (d *destination) dialMapped() (net.Conn, error) {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "connection")
	defer file.Close()
	if err := unix.Connect(fd, &unix.SockaddrInet6{Addr: d.address.Addr().As16(), Port: int(d.address.Port())}); err != nil {
		return nil, err
	}
	return net.FileConn(file)
}
