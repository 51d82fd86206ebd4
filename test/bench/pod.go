package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"tcphup/test/kit/netns"
)

// ownHash is the sysctl for the size of the connection table of network namespaces that are
// created later; 0: they share the table of the host. It exists from Linux 6.1.
const ownHash = "/proc/sys/net/ipv4/tcp_child_ehash_entries"

func hasOwnHash() bool {
	_, err := os.Stat(ownHash)
	return err == nil
}

// pod is a network namespace with a process in the cgroup of a pod. The process holds
// connections, both ends.
type pod struct {
	ns      *netns.Namespace
	holder  *helper
	cgroup  string
	sockets int
}

// pods are all pods of a node, and the directory with their names.
type pods struct {
	all  []pod
	logs string // as /var/log/pods
	root string // cgroup
}

// startPods creates pods with so many sockets each. The caller stops the returned pods, also
// after an error.
func startPods(sockets []int, own bool) (p *pods, err error) {
	p = &pods{}
	if entries := map[bool]string{true: "4096", false: "0"}[own]; hasOwnHash() {
		if err := os.WriteFile(ownHash, []byte(entries), 0o644); err != nil {
			return p, fmt.Errorf("set size of connection tables: %w", err)
		}
	}
	if p.logs, err = os.MkdirTemp(dir, "pods-"); err != nil {
		return p, err
	}
	mount := "/sys/fs/cgroup/unified"
	if _, err := os.Stat(mount); err != nil {
		mount = "/sys/fs/cgroup"
	}
	if p.root, err = os.MkdirTemp(mount, "tcphup-bench-"); err != nil {
		return p, fmt.Errorf("create cgroup: %w", err)
	}
	for i, n := range sockets {
		if err := p.add(i, n); err != nil {
			return p, fmt.Errorf("start pod %d: %w", i, err)
		}
	}
	for _, one := range p.all {
		if err := one.holder.readLine(new(string)); err != nil {
			return p, err
		}
	}
	return p, nil
}

// add starts a pod. It does not wait until the pod is connected.
func (p *pods) add(number, sockets int) error {
	ns, err := netns.New()
	if err != nil {
		return err
	}
	p.all = append(p.all, pod{ns: ns, sockets: sockets})
	one := &p.all[len(p.all)-1]
	uid := fmt.Sprintf("%08x-0000-4000-8000-%012x", os.Getpid(), number)
	if err := os.Mkdir(filepath.Join(p.logs, fmt.Sprintf("bench_pod-%d_%s", number, uid)), 0o755); err != nil {
		return err
	}
	one.cgroup = filepath.Join(p.root, "kubepods", "pod"+uid, strings.Repeat("0123456789abcdef", 4))
	if err := os.MkdirAll(one.cgroup, 0o755); err != nil {
		return err
	}
	return ns.Do(func() error {
		listener, err := listen(mapped)
		if err != nil {
			return err
		}
		defer listener.Close() // inherited by the process
		one.holder, err = startHelper(loadName, []*os.File{listener}, "0", strconv.Itoa(sockets/2), strconv.Itoa(max(1, sockets/20)), string(acceptedMapped), "false")
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(one.cgroup, "cgroup.procs"), []byte(strconv.Itoa(one.holder.cmd.Process.Pid)), 0o644)
	})
}

// stop kills the processes and removes the cgroups.
func (p *pods) stop() error {
	var errs []error
	var holders loads
	for _, one := range p.all {
		errs = append(errs, one.ns.Close())
		if one.holder != nil {
			holders = append(holders, one.holder)
		}
	}
	errs = append(errs, holders.stop())
	for _, one := range p.all {
		if one.cgroup == "" {
			continue
		}
		errs = append(errs, os.Remove(one.cgroup), os.Remove(filepath.Dir(one.cgroup)))
	}
	for _, directory := range []string{filepath.Join(p.root, "kubepods"), p.root} {
		if err := os.Remove(directory); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// processes returns the process ids of the pods.
func (p *pods) processes() (ids []string) {
	for _, one := range p.all {
		ids = append(ids, strconv.Itoa(one.holder.cmd.Process.Pid))
	}
	return ids
}

// sockets returns the number of sockets in all pods.
func (p *pods) sockets() (n int) {
	for _, one := range p.all {
		n += one.sockets
	}
	return n
}
