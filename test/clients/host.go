package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"tcphup/test/kit/netns"
)

// Addresses of the servers.
const (
	serverAddress = "10.99.0.1"    // of all servers
	newSite       = "10.99.0.2"    // of those that clients fail over to
	sites         = "10.99.0.0/24" // contains both
)

// host is the network namespace of a client, with a link to the servers.
type host struct {
	ns            *netns.Namespace
	link, address string
}

// newHost creates the host with a number from 1 to 65000.
func newHost(ctx context.Context, number int) (*host, error) {
	ns, err := netns.New()
	if err != nil {
		return nil, err
	}
	h := &host{ns: ns, link: "v" + strconv.Itoa(number), address: hostAddress(number)}
	text := fmt.Sprintf("link add %s type veth peer name eth0 netns %s\nlink set %s up\nroute add %s dev %s src %s\n",
		h.link, ns.Path(), h.link, h.address, h.link, serverAddress)
	if _, err := output(ctx, text, "ip", "-batch", "-"); err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	text = fmt.Sprintf("addr add %s dev eth0\nlink set eth0 up\nroute add %s dev eth0 src %s\n", h.address, serverAddress, h.address)
	if _, err := h.output(ctx, text, "ip", "-batch", "-"); err != nil {
		return nil, errors.Join(err, h.close(ctx))
	}
	_, sent := output(ctx, silenceable(h.link, "sport"), "nft", "-f", "-")
	_, received := h.output(ctx, silenceable("eth0", "dport"), "nft", "-f", "-")
	if err := errors.Join(sent, received); err != nil {
		return nil, errors.Join(err, h.close(ctx))
	}
	return h, nil
}

func hostAddress(number int) string { return fmt.Sprintf("10.50.%d.%d", number/250, number%250+1) }

// close kills the processes of the host and removes its link.
func (h *host) close(ctx context.Context) error {
	pids, err := h.processes()
	for _, pid := range pids {
		err = errors.Join(err, ignore(unix.Kill(pid, unix.SIGKILL), unix.ESRCH))
	}
	_, removed := output(ctx, "", "ip", "link", "delete", h.link)
	_, allowed := output(ctx, "", "nft", "delete", "table", "netdev", "silent_"+h.link)
	return errors.Join(err, removed, allowed, h.ns.Close())
}

func ignore(err, ignored error) error {
	if errors.Is(err, ignored) {
		return nil
	}
	return err
}

// processes returns the processes in the network namespace.
func (h *host) processes() (pids []int, err error) {
	own, err := os.Stat(h.ns.Path())
	if err != nil {
		return nil, err
	}
	links, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		return nil, err
	}
	for _, link := range links {
		other, err := os.Stat(link)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		pid, err := strconv.Atoi(strings.Split(link, "/")[2])
		if err != nil {
			return nil, err
		}
		if os.SameFile(own, other) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// output runs a program on the host and returns its standard output.
func (h *host) output(ctx context.Context, stdin string, command ...string) (out []byte, err error) {
	err = errors.Join(h.ns.Do(func() error {
		out, err = output(ctx, stdin, command...)
		return nil
	}), err)
	return out, err
}

// output runs a program and returns its standard output.
func output(ctx context.Context, stdin string, command ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = strings.NewReader(stdin), &stderr
	out, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("%s: %w: %s", strings.Join(command, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out, nil
}

// flow is a connection to the servers as ss shows it.
type flow struct {
	state                 string
	peer                  string // address, IPv4 for an IPv4-mapped one
	port                  uint16 // local
	queue                 int    // bytes that the peer has not acknowledged
	sent, acked, received int
	pids                  []int
}

var (
	counter = regexp.MustCompile(`\b(bytes_sent|bytes_acked|bytes_received):(\d+)`)
	holder  = regexp.MustCompile(`pid=(\d+)`)
)

// flows returns the connections to a port of the servers.
func (h *host) flows(ctx context.Context, port int) ([]flow, error) {
	out, err := h.output(ctx, "", "ss", "-HOatnip", "dst", sites, "and", "dport", "=", strconv.Itoa(port))
	if err != nil {
		return nil, err
	}
	var flows []flow
	for line := range strings.Lines(string(out)) {
		f, err := parseFlow(line)
		if err != nil {
			return nil, fmt.Errorf("ss printed %q: %w", line, err)
		}
		flows = append(flows, f)
	}
	return flows, nil
}

// parseFlow parses a line of ss.
func parseFlow(line string) (f flow, err error) {
	fields := strings.Fields(line)
	if len(fields) < 5 {
		return f, errors.New("too few fields")
	}
	f.state = fields[0]
	if f.queue, err = strconv.Atoi(fields[2]); err != nil {
		return f, err
	}
	local, err := netip.ParseAddrPort(fields[3])
	if err != nil {
		return f, err
	}
	peer, err := netip.ParseAddrPort(fields[4])
	if err != nil {
		return f, err
	}
	f.port, f.peer = local.Port(), peer.Addr().Unmap().String()
	for _, m := range counter.FindAllStringSubmatch(line, -1) {
		n, _ := strconv.Atoi(m[2])
		*map[string]*int{"bytes_sent": &f.sent, "bytes_acked": &f.acked, "bytes_received": &f.received}[m[1]] = n
	}
	for _, m := range holder.FindAllStringSubmatch(line, -1) {
		pid, _ := strconv.Atoi(m[1])
		f.pids = append(f.pids, pid)
	}
	return f, nil
}

// silenceable returns rules that drop incoming packets of a device: TCP packets whose port, of
// the side of the client, is in a set, and packets whose address, of the other side, is in
// another. The sets are empty.
func silenceable(device, side string) string {
	other := map[string]string{"sport": "daddr", "dport": "saddr"}[side]
	return fmt.Sprintf(`table netdev silent_%s {
	set ports { type inet_service; }
	set addresses { type ipv4_addr; }
	chain in {
		type filter hook ingress device "%s" priority 0;
		tcp %s @ports drop
		ip %s @addresses drop
	}
}`, device, device, side, other)
}

// silence drops the packets of these connections in both directions, as a firewall does that
// has lost their state. New connections work.
func (h *host) silence(ctx context.Context, flows []flow) error {
	var ports []string
	for _, f := range flows {
		ports = append(ports, strconv.Itoa(int(f.port)))
	}
	return h.drop(ctx, "ports { "+strings.Join(ports, ", ")+" }")
}

// cut drops all packets to and from an address.
func (h *host) cut(ctx context.Context, address string) error {
	return h.drop(ctx, "addresses { "+address+" }")
}

func (h *host) drop(ctx context.Context, element string) error {
	_, sent := output(ctx, "add element netdev silent_"+h.link+" "+element, "nft", "-f", "-")
	_, received := h.output(ctx, "add element netdev silent_eth0 "+element, "nft", "-f", "-")
	return errors.Join(sent, received)
}

// closeByServer shuts down the server's sockets of all connections of this host.
func (h *host) closeByServer(ctx context.Context, port int) error {
	out, err := output(ctx, "", "ss", "-HOtnp", "dst", h.address, "and", "sport", "=", strconv.Itoa(port))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(out)) {
		m := regexp.MustCompile(`pid=(\d+),fd=(\d+)`).FindStringSubmatch(line)
		if m == nil {
			continue // closed by the server already
		}
		pid, _ := strconv.Atoi(m[1])
		number, _ := strconv.Atoi(m[2])
		if err := shutdown(pid, number); err != nil {
			return fmt.Errorf("shut down %q: %w", strings.TrimSpace(line), err)
		}
	}
	return nil
}

// shutdown ends a connection by a duplicate of the process's descriptor.
func shutdown(pid, number int) error {
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return err
	}
	defer unix.Close(process)
	fd, err := unix.PidfdGetfd(process, number, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Shutdown(fd, unix.SHUT_RDWR)
}

// alive reports whether all processes exist.
func alive(pids []int) bool {
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(text), ") Z ") {
			return false
		}
	}
	return true
}

// Limits of until: for idle connections, and for all else.
const (
	idleLimit = 10 * time.Second
	limit     = 2 * time.Minute
)

// until polls until the condition is true, or returns an error after a time.
func until(ctx context.Context, what string, within time.Duration, condition func() (bool, error)) error {
	deadline := time.Now().Add(within)
	for {
		ok, err := condition()
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		if ok {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("timed out: %s", what)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}
