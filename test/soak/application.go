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
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// message is what an application tells, a line of JSON each.
type message struct {
	End    *end    `json:",omitempty"`
	Totals *totals `json:",omitempty"`
}

// end is that of a connection which the application did not ask for.
type end struct {
	Destination int // index
	Local       string
	// Opened is taken before the connection was asked for, LastData before the last
	// data was sent, and Noticed when the end was read: every span between them is as
	// long as it was in truth, or longer.
	Opened, LastData, Noticed time.Time
	How                       string
	// Late is how long before Noticed the application may have had no processor time:
	// the end may have been there for as long.
	Late time.Duration
	// Mute says that an answer was missing: nothing ended, and nothing works.
	Mute bool
}

// totals are counts since the start of the application. Why says how a connection
// last failed to open.
type totals struct {
	Opened, Closed, Failed int64
	Why                    string
}

// tellInterval is how often an application tells its totals.
const tellInterval = time.Second

// client is an application. It knows nothing of tcphup.
type client struct {
	mu  sync.Mutex
	out *json.Encoder

	opened, closed, failed atomic.Int64
	why                    atomic.Value // string
	beats                  heartbeat
}

// heartbeat has the last two times at which the application had processor time.
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

// late returns how long before now the application may have had no processor time. The
// last beat may be one that came at the end of that time.
func (h *heartbeat) late(now time.Time) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return now.Sub(h.previous)
}

// habit is how a session uses a connection: so many requests, and after each of
// them nothing for a random time.
type habit struct {
	sessions          int
	requests          int
	shortest, longest time.Duration
}

// habits are those of every application with every destination: passing
// connections, a pool in use, kept-alive ones that nobody needs just now, and some
// that nobody closes. These show when an alert is lost, for they do not go away.
var habits = []habit{
	{sessions: 2, requests: 1, longest: 200 * time.Millisecond},
	{sessions: 4, requests: 5, shortest: 100 * time.Millisecond, longest: time.Second},
	{sessions: 2, requests: 1, shortest: 2 * time.Second, longest: 8 * time.Second},
	{sessions: 2, requests: 1, shortest: 24 * time.Hour, longest: 48 * time.Hour},
}

// application keeps connections to all destinations until its standard input ends.
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
		for _, h := range habits {
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
			case <-time.After(tellInterval):
				c.tellTotals()
			case <-ctx.Done():
			}
		}
	})
	_, err := io.Copy(io.Discard, os.Stdin)
	cancel()
	sessions.Wait()
	c.tellTotals()
	return err
}

func (c *client) tellTotals() {
	why, _ := c.why.Load().(string)
	c.tell(message{Totals: &totals{c.opened.Load(), c.closed.Load(), c.failed.Load(), why}})
}

func (c *client) tell(m message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.out.Encode(m) // nobody listens: then standard input ends as well
}

// session opens a connection, uses it and closes it.
func (c *client) session(ctx context.Context, index int, h habit) {
	d := &destinations[index]
	opened := time.Now()
	conn, err := d.dial(ctx)
	if err != nil {
		if ctx.Err() == nil {
			c.failed.Add(1)
			c.why.Store(fmt.Sprintf("%v: %v", d, err))
			time.Sleep(100 * time.Millisecond)
		}
		return
	}
	c.opened.Add(1)
	defer conn.Close()
	// The end of the application ends every wait.
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	lastData, mute, err := opened, false, error(nil)
	for range h.requests {
		lastData = time.Now()
		if mute, err = ask(conn); err == nil {
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
	c.tell(message{End: &end{
		Destination: index, Local: conn.LocalAddr().String(), Opened: opened, LastData: lastData, Noticed: noticed,
		How: err.Error(), Mute: mute, Late: c.beats.late(noticed),
	}})
}

// answerTimeout is far more than an answer takes on this host.
const answerTimeout = 20 * time.Second

// ask sends a request and reads its answer. mute says that there was none in time.
func ask(conn net.Conn) (mute bool, err error) {
	if err := conn.SetDeadline(time.Now().Add(answerTimeout)); err != nil {
		return false, err
	}
	if _, err := conn.Write([]byte{'?'}); err != nil {
		return false, err
	}
	_, err = io.ReadFull(conn, make([]byte, 1))
	return errors.Is(err, os.ErrDeadlineExceeded), err
}

// wait returns nil when the connection has stayed open for so long.
func wait(ctx context.Context, conn net.Conn, long time.Duration) error {
	if err := conn.SetReadDeadline(time.Now().Add(long)); err != nil || ctx.Err() != nil {
		return err
	}
	_, err := conn.Read(make([]byte, 1))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	if err == nil {
		err = errors.New("data that nobody asked for")
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

// dialMapped connects as every JVM does: with an IPv6 socket.
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
