// Package pods imitates the pods of a Kubernetes node without Kubernetes. A pod has a network
// namespace of its own, processes whose cgroup is that of a pod, and a directory of pod logs.
// Functions of the package must be called within nstest.Run.
package pods

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"tcphup/test/kit/netns"
)

// Node is the node of a test. Its network namespace is that of the test, and process 1 is the
// test. Its methods may be called concurrently.
type Node struct {
	// Logs is the directory of pod logs, with a directory NAMESPACE_NAME_UID for each pod.
	Logs string

	t       testing.TB
	binary  string // of testapp
	cgroups string // directory with the contents of /proc/PID/cgroup

	mu     sync.Mutex
	number int // of pods started
	reuse  int // process id, see ReusePID; 0 means any
}

// NewNode returns a node without pods, whose processes run the binary of testapp.Build.
func NewNode(t testing.TB, binary string) *Node {
	t.Helper()
	n := &Node{Logs: t.TempDir(), t: t, binary: binary, cgroups: t.TempDir()}
	// Some tests read it as another user.
	for _, path := range []string{n.Logs, filepath.Dir(n.Logs)} {
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

// next returns a number that is unique in the node.
func (n *Node) next() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.number++
	return n.number
}

// Spec describes a pod. The zero value is a pod with a new name, a random uid, a network
// namespace of its own and one process.
type Spec struct {
	// Namespace and Name are those of Kubernetes; empty means default and pod-N.
	Namespace, Name string
	// UID is the uid of the pod; empty means a random one.
	UID string
	// Static gives a random hash as the uid, like the kubelet for pods of its own directory.
	Static bool
	// Unnamed creates no directory of pod logs.
	Unnamed bool
	// HostNetwork starts the processes in the network namespace of the node.
	HostNetwork bool
	// In is a pod whose network namespace this pod uses; nil means one of its own.
	In *Pod
	// Containers is the number of containers with one process each; 0 means 1.
	Containers int
	// User is the uid and gid of the processes.
	User uint32
}

// Start starts a pod, which ends with the test. In its network namespace every address of
// 127.0.0.0/8 and 10.0.0.0/8 belongs to the loopback device, as in every other pod.
func (n *Node) Start(s Spec) *Pod {
	n.t.Helper()
	number := n.next()
	p := &Pod{
		Namespace: cmp.Or(s.Namespace, "default"), Name: cmp.Or(s.Name, "pod-"+strconv.Itoa(number)), UID: s.UID,
		node: n, spec: s,
	}
	switch {
	case p.UID != "":
	case s.Static:
		p.UID = randomDigits(32)
	default:
		d := randomDigits(32)
		p.UID = fmt.Sprintf("%s-%s-%s-%s-%s", d[:8], d[8:12], d[12:16], d[16:20], d[20:])
	}
	if !s.Unnamed {
		if err := os.MkdirAll(p.logs(), 0o755); err != nil {
			n.t.Fatal(err)
		}
	}
	var ns *netns.Namespace
	var err error
	switch {
	case s.HostNetwork:
	case s.In != nil:
		ns, err = s.In.open()
	default:
		if ns, err = netns.New(); err == nil {
			err = ns.Do(addAddresses)
		}
	}
	if err != nil {
		n.t.Fatal(err)
	}
	for range max(1, s.Containers) {
		p.start(ns)
	}
	// The processes alone keep the namespace.
	if ns != nil {
		if err := ns.Close(); err != nil {
			n.t.Fatal(err)
		}
	}
	return p
}

// addAddresses adds 10.0.0.1/8 to the loopback device of the calling thread's namespace. Of
// this device all addresses of the network are local.
func addAddresses() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open socket: %w", err)
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq("lo:1")
	if err != nil {
		return err
	}
	if err := request.SetInet4Addr([]byte{10, 0, 0, 1}); err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFADDR, request); err != nil {
		return fmt.Errorf("add address to loopback device: %w", err)
	}
	return nil
}

// Churn starts pods one after the other until ctx ends, keeps the last ones and ends the
// others. Process ids are reused at once, and network namespaces when they are free. spec
// describes pod i, and ready, if not nil, prepares it. Churn returns the number of pods that it
// started; the last ones stay.
func (n *Node) Churn(ctx context.Context, keep int, spec func(i int) Spec, ready func(*Pod)) int {
	n.t.Helper()
	var running []*Pod
	i := 0
	for ; ctx.Err() == nil && !n.t.Failed(); i++ {
		if len(running) == keep {
			oldest := running[0]
			running = running[1:]
			pid := oldest.Apps[0].PID()
			oldest.End()
			n.ReusePID(pid)
		}
		p := n.Start(spec(i))
		if ready != nil {
			ready(p)
		}
		running = append(running, p)
	}
	return i
}

// ReusePID gives the next process of a pod the id of a process that has ended, or the next free
// id. It needs a kernel with CONFIG_CHECKPOINT_RESTORE.
func (n *Node) ReusePID(pid int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.reuse = pid
}

// reusePID does what ReusePID announced.
func (n *Node) reusePID() {
	n.t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.reuse == 0 {
		return
	}
	spareThreads()
	if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte(strconv.Itoa(n.reuse-1)), 0); err != nil {
		n.t.Fatal(err)
	}
	n.reuse = 0
}

// spareThreads makes the runtime keep idle threads. It would start one otherwise when it starts a
// process, and that thread would get the next id.
func spareThreads() {
	const spare = 32
	var running, all sync.WaitGroup
	running.Add(spare)
	for range spare {
		all.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			running.Done()
			running.Wait()
		})
	}
	all.Wait()
}

func randomDigits(n int) string {
	b := make([]byte, n/2)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// bind makes a process one of a container of a pod, for readers of its /proc/PID/cgroup in the
// mount namespace of the test. The kernel removes the mount with the process.
func (n *Node) bind(pid int, uid, container string) {
	n.t.Helper()
	file := filepath.Join(n.cgroups, container)
	text := "0::/kubepods/burstable/pod" + uid + "/" + container + "\n"
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		n.t.Fatal(err)
	}
	if err := unix.Mount(file, fmt.Sprintf("/proc/%d/cgroup", pid), "", unix.MS_BIND, ""); err != nil {
		n.t.Fatalf("mount over cgroup of process %d: %v", pid, err)
	}
	// The mount keeps the file.
	if err := os.Remove(file); err != nil {
		n.t.Fatal(err)
	}
}
