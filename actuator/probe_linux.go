package actuator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"tcphup/hangup"
	"tcphup/sockdiag"
)

// Check is the result of one check of the self-test.
type Check struct {
	Name   string
	Usable bool
	// Pending is set when Usable is false only because no application process was visible.
	Pending bool
	// Detail is the observation or the error.
	Detail string
	// Fix describes how to grant a missing capability or feature, or is "".
	Fix string
}

// Names of the checks in the metric tcphup_method_usable.
const (
	checkShutdown = "shutdown"
	checkDestroy  = "destroy"
)

// checkShutdownMPTCP is the check of shutdown of an MPTCP connection.
const checkShutdownMPTCP = "shutdown_mptcp"

// probeTimeout bounds each I/O operation of the self-test.
const probeTimeout = 2 * time.Second

// Probe runs the self-test: dumps of each family, both methods for TCP and MPTCP, and
// access to the visible processes. It opens loopback connections in the network namespace
// and does not change other processes. In the namespace of a pod it checks access to the
// processes of the pod only. The metric tcphup_method_usable has the results of the namespace
// of this process or of a pod, and no series while the check of the processes is pending: a
// native sidecar starts before the application. A ctx that ends does not change the metric.
func (a *Actuator) Probe(ctx context.Context, in hangup.Namespace) []Check {
	checks := []Check{
		probeDump(ctx, in, "dump_ipv4", "127.0.0.1:0", sockdiag.TCP),
		probeDump(ctx, in, "dump_ipv6", "[::1]:0", sockdiag.TCP),
		probeDump(ctx, in, "dump_mptcp", "127.0.0.1:0", sockdiag.MPTCP),
		shutdownCheck(checkShutdown, func() (string, error) { return a.tryShutdown(ctx, in, sockdiag.TCP) }),
		shutdownCheck(checkShutdownMPTCP, func() (string, error) { return a.probeMPTCP(ctx, in) }),
		destroyCheck(checkDestroy, a.probeDestroy(ctx, in)),
		destroyCheck("destroy_mptcp_path", a.probeDestroySubflow(ctx, in)),
		probeProcesses(in.Pod),
	}
	processes := checks[len(checks)-1]
	for i := range checks {
		checks[i].needAccess(&processes)
	}
	if ctx.Err() == nil && (in.Do == nil || in.Pod != nil) {
		a.metrics.setUsable(checks, processes.Pending)
	}
	return checks
}

// needAccess makes a check of shutdown unusable without access to processes: it passes on a
// socket of this process, but the method needs access to other processes.
func (c *Check) needAccess(processes *Check) {
	if c.Name != checkShutdown && c.Name != checkShutdownMPTCP || !c.Usable || processes.Usable {
		return
	}
	c.Usable, c.Pending, c.Fix = false, processes.Pending, processes.Fix
	c.Detail += ", but " + processes.Detail
}

// setUsable sets the metric of both methods, or removes it while the result is pending.
func (m *metrics) setUsable(checks []Check, pending bool) {
	if pending {
		m.usable.Reset()
		return
	}
	for _, c := range checks {
		if c.Name == checkShutdown || c.Name == checkDestroy {
			m.usable.WithLabelValues(c.Name).Set(boolToFloat(c.Usable))
		}
	}
}

func boolToFloat(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// loopback is a test connection of the self-test.
type loopback struct {
	client, server *net.TCPConn
	conn           *sockdiag.Conn
	flow           sockdiag.Flow // of the client
	subflow        sockdiag.Flow // the same as flow for TCP
}

var errNoMPTCP = errors.New("open MPTCP test connection: fell back to TCP; net.mptcp.enabled is 0 or the kernel lacks MPTCP")

func openLoopback(ctx context.Context, in hangup.Namespace, address string, protocol sockdiag.Protocol) (*loopback, error) {
	var l loopback
	err := in.Enter(func() error { return l.open(ctx, address, protocol) })
	if err == nil {
		err = l.findAll(ctx, in, protocol)
	}
	if err != nil {
		l.close()
		return nil, err
	}
	return &l, nil
}

// open opens the connection in the network namespace of the calling thread: package net
// creates sockets in the calling goroutine for a literal address.
func (l *loopback) open(ctx context.Context, address string, protocol sockdiag.Protocol) error {
	var listen net.ListenConfig
	listen.SetMultipathTCP(protocol == sockdiag.MPTCP)
	listener, err := listen.Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("open test connection: %w", err)
	}
	defer listener.Close()
	dialer := net.Dialer{Timeout: probeTimeout}
	dialer.SetMultipathTCP(protocol == sockdiag.MPTCP)
	client, err := dialer.DialContext(ctx, "tcp", listener.Addr().String())
	if err != nil {
		return fmt.Errorf("open test connection: %w", err)
	}
	l.client = client.(*net.TCPConn)
	// A redirected connection does not arrive at the listener.
	if err := listener.(*net.TCPListener).SetDeadline(time.Now().Add(probeTimeout)); err != nil {
		return err
	}
	server, err := listener.Accept()
	if err != nil {
		return fmt.Errorf("open test connection: %w", err)
	}
	l.server = server.(*net.TCPConn)
	if mptcp, err := l.client.MultipathTCP(); protocol == sockdiag.MPTCP && (err != nil || !mptcp) {
		return errNoMPTCP
	}
	if err := l.client.SetDeadline(time.Now().Add(probeTimeout)); err != nil {
		return err
	}
	return l.server.SetDeadline(time.Now().Add(probeTimeout))
}

// findAll dumps the flow and the subflow.
func (l *loopback) findAll(ctx context.Context, in hangup.Namespace, protocol sockdiag.Protocol) (err error) {
	if l.conn, err = sockdiag.DialIn(in.Inode, in.Enter); err != nil {
		return err
	}
	if l.subflow, err = l.find(ctx, l.conn, sockdiag.TCP); err != nil || protocol == sockdiag.TCP {
		l.flow = l.subflow
		return err
	}
	l.flow, err = l.find(ctx, l.conn, protocol)
	return err
}

// find dumps the flow of the client.
func (l *loopback) find(ctx context.Context, from sockdiag.Reader, protocol sockdiag.Protocol) (sockdiag.Flow, error) {
	local := l.client.LocalAddr().(*net.TCPAddr).AddrPort()
	remote := l.client.RemoteAddr().(*net.TCPAddr).AddrPort()
	query := sockdiag.Query{
		Protocol: protocol,
		States:   sockdiag.Open,
		Info:     true,
		Selector: &sockdiag.Selector{
			Destinations: []netip.Prefix{netip.PrefixFrom(remote.Addr(), remote.Addr().BitLen())},
			Ports:        sockdiag.Ports(remote.Port()),
		},
	}
	for f, err := range from.Flows(ctx, query) {
		if err != nil {
			return f, err
		}
		if f.Local == local {
			return f, nil
		}
	}
	return sockdiag.Flow{}, fmt.Errorf("find test connection: not in the %s dump", protocol)
}

func (l *loopback) close() {
	for _, c := range []*net.TCPConn{l.client, l.server} {
		if c != nil {
			// Close with RST: TIME_WAIT would be exported as a destination for a minute.
			_ = c.SetLinger(0)
			_ = c.Close()
		}
	}
	if l.conn != nil {
		_ = l.conn.Close()
	}
}

func probeDump(ctx context.Context, in hangup.Namespace, name, address string, protocol sockdiag.Protocol) Check {
	l, err := openLoopback(ctx, in, address, protocol)
	if err != nil {
		return Check{Name: name, Detail: err.Error(), Fix: "connections of this kind are not listed and not hung up"}
	}
	l.close()
	return Check{Name: name, Usable: true, Detail: "dump lists the test connection"}
}

// errNoEOF matches errors about a shutdown that the two ends did not read as EOF.
var errNoEOF = errors.New("no EOF")

// tryShutdown shuts down a test connection through a duplicate of its descriptor. After an
// error, fix is that of a Check.
func (a *Actuator) tryShutdown(ctx context.Context, in hangup.Namespace, protocol sockdiag.Protocol) (fix string, err error) {
	l, err := openLoopback(ctx, in, "127.0.0.1:0", protocol)
	if err != nil {
		return "", err
	}
	defer l.close()
	raw, err := l.client.SyscallConn()
	if err != nil {
		return "", err
	}
	var actErr error
	err = raw.Control(func(fd uintptr) {
		var own int
		if own, actErr = duplicate(holder{pid: os.Getpid(), fd: int(fd)}, &l.flow); actErr == nil {
			actErr = errors.Join(a.shutdown(own), setUserTimeout(own, hangup.DefaultLinger), unix.Close(own))
		}
	})
	if err := errors.Join(err, actErr); err != nil {
		const fix = "use Linux 5.10 or later and a seccomp profile that allows pidfd_open and pidfd_getfd (Docker's default does once CAP_SYS_PTRACE is in the container's capability list)"
		return fix, err
	}
	for side, end := range map[string]*net.TCPConn{"client": l.client, "server": l.server} {
		if _, err := end.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			err = fmt.Errorf("shut down test connection: %s read returned %s: %w", side, fmt.Sprint(err), errNoEOF)
			if protocol == sockdiag.MPTCP {
				return needsLinux61, err
			}
			return "", err
		}
	}
	return "", nil
}

func shutdownCheck(name string, try func() (fix string, err error)) Check {
	if fix, err := try(); err != nil {
		return Check{Name: name, Detail: err.Error(), Fix: fix}
	}
	return Check{Name: name, Usable: true, Detail: "both ends of the test connection read EOF"}
}

// probeDestroy destroys a test connection.
func (a *Actuator) probeDestroy(ctx context.Context, in hangup.Namespace) error {
	l, err := openLoopback(ctx, in, "127.0.0.1:0", sockdiag.TCP)
	if err != nil {
		return err
	}
	defer l.close()
	if err := a.destroy(ctx, l.conn, &l.flow); err != nil {
		return err
	}
	if _, err := l.client.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNABORTED) {
		return fmt.Errorf("destroy test connection: client read returned %s, want ECONNABORTED", fmt.Sprint(err))
	}
	return nil
}

// probeDestroySubflow destroys the subflow of an MPTCP test connection.
func (a *Actuator) probeDestroySubflow(ctx context.Context, in hangup.Namespace) error {
	l, err := openLoopback(ctx, in, "127.0.0.1:0", sockdiag.MPTCP)
	if err != nil {
		return err
	}
	defer l.close()
	if err := a.destroy(ctx, l.conn, &l.subflow); err != nil {
		return err
	}
	if _, err := l.conn.Lookup(ctx, &l.subflow); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("destroy subflow of test connection: lookup returned %s, want not found", fmt.Sprint(err))
	}
	return nil
}

func destroyCheck(name string, err error) Check {
	switch {
	case err == nil:
		return Check{Name: name, Usable: true, Detail: "destroyed the test connection"}
	case errors.Is(err, sockdiag.ErrNoTCPDiag), errors.Is(err, sockdiag.ErrNoMPTCPDiag):
		return Check{Name: name, Detail: err.Error()}
	case errors.Is(err, os.ErrPermission):
		return Check{Name: name, Detail: err.Error(), Fix: howToDestroy + " (effective: as root, or as a file or ambient capability)"}
	case errors.Is(err, errors.ErrUnsupported):
		return Check{Name: name, Detail: err.Error(), Fix: noDestroy}
	default:
		return Check{Name: name, Detail: err.Error()}
	}
}
