package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"tcphup/sockdiag"
	"tcphup/test/kit/netns"
)

// place is where applications and their server run: in node mode a pod with a network
// namespace of its own, otherwise the namespace of the soak. All places have the same
// addresses, so that flows of different pods can have the same addresses and ports.
type place struct {
	namespace, pod string // of Kubernetes; empty outside of node mode
	applications   int
	ns             *netns.Namespace // nil: that of the soak
}

// newPlaces returns the places of a run. In node mode, two pods of one namespace and one of
// another, with the name of the first.
func newPlaces(node bool) []*place {
	if !node {
		return []*place{{applications: applications}}
	}
	return []*place{
		{namespace: "prod", pod: "app", applications: 1},
		{namespace: "prod", pod: "worker", applications: 1},
		{namespace: "stage", pod: "app", applications: 1},
	}
}

const podLogs = "pods" // in dir

// do calls fn in the network namespace of a place.
func (p *place) do(fn func() error) error {
	if p.ns == nil {
		return fn()
	}
	return p.ns.Do(fn)
}

// dial opens a sock_diag connection in a place.
func (p *place) dial() (*sockdiag.Conn, error) { return sockdiag.DialIn(0, p.do) }

// prepare creates the network namespace of a pod, and sets up the settings and addresses of a
// place.
func (p *place) prepare(ctx context.Context, number int) error {
	if p.pod != "" {
		var err error
		if p.ns, err = netns.New(); err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Join(dir, podLogs, strings.Join([]string{p.namespace, p.pod, podUID(number)}, "_")), 0o755); err != nil {
			return err
		}
	}
	return p.do(func() error {
		for name, value := range sysctls {
			if err := os.WriteFile("/proc/sys/"+name, []byte(value), 0o644); err != nil {
				return err
			}
		}
		for _, a := range addresses6() {
			if out, err := exec.CommandContext(ctx, "ip", "address", "add", a+"/128", "dev", "lo", "nodad").CombinedOutput(); err != nil {
				return fmt.Errorf("add address %s: %w: %s", a, err, out)
			}
			if err := awaitLocalRoute(ctx, a); err != nil {
				return err
			}
		}
		return nil
	})
}

func podUID(number int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012x", number) }

// adopt makes a process one of the pod of a place: /proc/PID/cgroup shows the cgroup of a
// container.
func (p *place) adopt(number, pid int) error {
	if p.pod == "" {
		return nil
	}
	file := fmt.Sprintf("cgroup-%d", pid)
	text := "0::/kubepods/pod" + podUID(number) + "/" + strings.Repeat("0123456789abcdef", 4) + "\n"
	if err := write(file, text); err != nil {
		return err
	}
	if err := unix.Mount(filepath.Join(dir, file), fmt.Sprintf("/proc/%d/cgroup", pid), "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount over cgroup of process %d: %w", pid, err)
	}
	return nil
}

// scope returns the numbers of the places that an alert with these labels applies to.
func (s *soak) scope(namespace, pod string) (places []int) {
	for i, p := range s.places {
		if p.namespace == namespace && (pod == "" || p.pod == pod) {
			places = append(places, i)
		}
	}
	return places
}
