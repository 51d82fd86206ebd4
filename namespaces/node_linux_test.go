package namespaces

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/pods"
	"tcphup/test/kit/testapp"
)

// nodeOf returns the node of the test. Its process 1 is the test, and tcphup another process.
func nodeOf(n *pods.Node) *Node { return &Node{PodLogs: n.Logs, self: 2} }

func discoverPods(t *testing.T, n *Node) *NodePods {
	t.Helper()
	found, err := n.Discover()
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// counts are the counts of NodePods.
type counts struct{ Pods, Node, Other, HostNetwork, Unnamed, Unreadable int }

func (f *NodePods) counts() counts {
	return counts{len(f.Namespaces), f.Node, f.Other, f.HostNetwork, f.Unnamed, f.Unreadable}
}

// pod returns the namespace of a pod, or nil.
func (f *NodePods) pod(p *pods.Pod) *PodNamespace {
	i := slices.IndexFunc(f.Namespaces, func(n PodNamespace) bool { return n.UID == p.UID })
	if i < 0 {
		return nil
	}
	return &f.Namespaces[i]
}

func TestPrivilegedNodeDiscover(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		node := pods.NewNode(t, testapp.Build(t))
		spare := testapp.Start(t, testapp.Build(t))
		begin := time.Now()
		web := node.Start(pods.Spec{Namespace: "shop", Name: "web-0", Containers: 3})
		static := node.Start(pods.Spec{Namespace: "kube-system", Name: "etcd-node", Static: true})
		unnamed := node.Start(pods.Spec{Unnamed: true})
		node.Start(pods.Spec{HostNetwork: true, Containers: 2})
		node.Start(pods.Spec{HostNetwork: true})
		shared := node.Start(pods.Spec{})
		node.Start(pods.Spec{In: shared})
		startIn(t, nstest.NewNamespace(t, "bridge"), testapp.Build(t))
		nstest.Command(t, "ip", "netns", "add", "empty")

		// A process of no pod visits the namespace.
		var visitor *testapp.App
		web.Do(func() { visitor = testapp.Start(t, testapp.Build(t)) })
		// Each of these pods has a process in another namespace.
		nested := nstest.NewNamespace(t, "nested")
		static.Adopt(startIn(t, nested, testapp.Build(t)).PID())
		host := node.Start(pods.Spec{HostNetwork: true})
		host.Adopt(startIn(t, nstest.NewNamespace(t, "health"), testapp.Build(t)).PID())
		agent := node.Start(pods.Spec{})
		agent.Adopt(testapp.Start(t, testapp.Build(t)).PID())
		end := time.Now()

		n := nodeOf(node)
		found := discoverPods(t, n)
		// Other: shared, bridge, nested, health.
		if diff := cmp.Diff(counts{Pods: 4, Node: 1, Other: 4, HostNetwork: 3, Unnamed: 1}, found.counts()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		for p, want := range map[*pods.Pod]Pod{web: {"shop", "web-0"}, static: {"kube-system", "etcd-node"}, unnamed: {}, agent: {agent.Namespace, agent.Name}} {
			got := found.pod(p)
			id, err := OfProcess(p.Apps[0].PID())
			switch {
			case got == nil:
				t.Errorf("%v was not found", p)
			case err != nil || got.ID != id || got.Pod != want:
				t.Errorf("%v: got %+v in %v, want namespace %v, %v", p, got.Pod, got, id, err)
			case got.Started.Before(begin.Add(-2*minStep)) || got.Started.After(end):
				t.Errorf("%v: started at %v, want between %v and %v", p, got.Started, begin, end)
			}
		}
		first := found.pod(web).Started
		if again := discoverPods(t, n).pod(web); !again.Started.Equal(first) {
			t.Errorf("started at %v, then at %v", first, again.Started)
		}
		if visitor.PID() < web.Apps[0].PID() || found.pod(web).Processes() != 4 {
			t.Errorf("got %d processes", found.pod(web).Processes())
		}

		// The first process determines the age, whatever its id is.
		spare.Kill()
		node.ReusePID(spare.PID())
		late := web.Add()
		if again := discoverPods(t, n).pod(web); late.PID() >= web.Apps[0].PID() || again.PID() != late.PID() || !again.Started.Equal(first) {
			t.Errorf("process %d of %d started at %v, want %v", again.PID(), late.PID(), again.Started, first)
		}

		next := web.Replace()
		found = discoverPods(t, n)
		if got := found.pod(next); found.pod(web) != nil || got == nil || got.Pod != (Pod{"shop", "web-0"}) || !got.Started.After(first) {
			t.Errorf("after the replacement: %+v", got)
		}
	})
}

// TestPrivilegedNodeHostPID checks that the processes of a container are not taken for those of
// a node.
func TestPrivilegedNodeHostPID(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		node := pods.NewNode(t, testapp.Build(t))
		node.Start(pods.Spec{})
		if _, err := (&Node{PodLogs: node.Logs}).Discover(); !errors.Is(err, errNoHostPID) {
			t.Errorf("as process 1: %v", err)
		}
		for _, tt := range []struct {
			name, cgroup string
			refused      bool
		}{
			{"init", "0::/init.scope\n", false},
			{"init of a node in a container", "0::/../../../../init.scope\n", false},
			{"without systemd, v1", "4:memory:/\n1:cpu:/\n", false},
			{"pause of the own pod", "0::/../cri-containerd-" + id + ".scope\n", true},
			{"container", "0::/docker/" + id + "\n", true},
			{"container of a pod, v1", "4:memory:/kubepods/pod" + uid + "/" + id + "\n", true},
		} {
			bindCgroup(t, 1, tt.cgroup)
			_, err := nodeOf(node).Discover()
			if errors.Is(err, errNoHostPID) != tt.refused || (err != nil) != tt.refused {
				t.Errorf("%s: %v", tt.name, err)
			}
			if err := unix.Unmount("/proc/1/cgroup", 0); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// discoverVariable is the environment variable with the directory of pod logs of a process that
// prints a discovery.
const discoverVariable = "TCPHUP_TEST_DISCOVER"

func TestMain(m *testing.M) {
	logs := os.Getenv(discoverVariable)
	if logs == "" {
		os.Exit(nstest.Main(m))
	}
	_, _ = io.Copy(io.Discard, os.Stdin) // until the test has moved it to a pod
	found, err := (&Node{PodLogs: logs}).Discover()
	if err != nil {
		fmt.Print(err)
		os.Exit(1)
	}
	fmt.Printf("%+v", found.counts())
	for i := range found.Namespaces {
		fmt.Print(" ", found.Namespaces[i].UID)
	}
}

// discoverAs returns the counts and uids of a discovery of another user, or its error. The
// discovering process is of a pod, or of none.
func discoverAs(t *testing.T, node *pods.Node, of *pods.Pod, user uint32) (string, error) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), discoverVariable+"="+node.Logs)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}}
	var out strings.Builder
	cmd.Stdout = &out
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	if of != nil {
		of.Adopt(cmd.Process.Pid)
	}
	_ = stdin.Close()
	err = cmd.Wait()
	return out.String(), err
}

// TestPrivilegedNodeUnreadable checks a node whose process 1 cannot be inspected.
func TestPrivilegedNodeUnreadable(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		const user = 65534
		node := pods.NewNode(t, testapp.Build(t))
		web := node.Start(pods.Spec{User: user})
		host := node.Start(pods.Spec{User: user, HostNetwork: true})
		node.Start(pods.Spec{}) // another user's
		mustFail := func(when, want string, of *pods.Pod) {
			t.Helper()
			if out, err := discoverAs(t, node, of, user); err == nil || !strings.Contains(out, want) {
				t.Errorf("%s: %s, %v; want %s", when, out, err, want)
			}
		}
		// The node looks like its hostNetwork pod.
		mustFail("without another process outside of pods", "process 1 and 0 other processes outside of pods", host)
		bridge := nstest.NewNamespace(t, "bridge")
		bridge.Do(func() { testapp.StartAs(t, testapp.Build(t), user) })
		testapp.StartAs(t, testapp.Build(t), user)
		// Unreadable: process 1 and the other user's pod. Other: the node and the bridge.
		want := fmt.Sprintf("%+v %s", counts{Pods: 1, Other: 2, Unreadable: 2}, web.UID)
		if out, err := discoverAs(t, node, nil, user); err != nil || out != want {
			t.Errorf("got %s, %v; want %s without %s", out, err, want, host.UID)
		}
		// The process may be in the namespace of the node.
		hidden := testapp.Start(t, testapp.Build(t))
		mustFail("with an unreadable process outside of pods", "process 1 and 1 other processes outside of pods", nil)
		hidden.Kill()
		nstest.Command(t, "mount", "-o", "remount,hidepid=2", "/proc")
		mustFail("hidden processes", "hidepid", nil)
	})
}

// TestPrivilegedNodeNames checks that unreadable names are an error.
func TestPrivilegedNodeNames(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		node := pods.NewNode(t, testapp.Build(t))
		node.Start(pods.Spec{})
		n := &Node{PodLogs: node.Logs + "/absent", self: 2}
		if got := discoverPods(t, n).counts(); got.Unnamed != 1 {
			t.Errorf("without the directory: %+v", got)
		}
		n.PodLogs = "/proc/version"
		if _, err := n.Discover(); err == nil {
			t.Error("a file was read as a directory")
		}
	})
}
