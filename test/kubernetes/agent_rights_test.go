package kubernetes

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// process returns the directory in /proc of the agent's process, which the tests see in their
// own pid namespace.
func (a *agent) process() string {
	a.t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		a.t.Fatal(err)
	}
	uid := a.kubectl("get", "pod", a.pod, "--output=jsonpath={.metadata.uid}")
	for _, file := range files {
		command, err := os.ReadFile(file)
		if err != nil || !bytes.HasPrefix(command, []byte("/tcphup\x00serve\x00--node\x00")) {
			continue
		}
		dir := filepath.Dir(file)
		if cgroup, err := os.ReadFile(dir + "/cgroup"); err == nil && bytes.Contains(cgroup, []byte("pod"+uid)) {
			return dir
		}
	}
	a.t.Fatal("no process of the agent")
	return ""
}

// status returns a field of a status file in /proc.
func status(t *testing.T, file, field string) string {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(content)) {
		if value, ok := strings.CutPrefix(line, field+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	t.Fatalf("%s has no %s", file, field)
	return ""
}

func capabilities(t *testing.T, file, set string) uint64 {
	t.Helper()
	bits, err := strconv.ParseUint(status(t, file, set), 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	return bits
}

// TestAgentRights checks the rights of the running agent: those of the manifest are the upper
// bound, and SYS_ADMIN is in effect on one thread at most.
func TestAgentRights(t *testing.T) {
	a := startAgent(t, "agent-rights", "policies: []\n", "")
	const shipped = 1<<unix.CAP_DAC_READ_SEARCH | 1<<unix.CAP_SYS_ADMIN | 1<<unix.CAP_SYS_PTRACE
	const admin = 1 << unix.CAP_SYS_ADMIN
	process := a.process()
	for set, want := range map[string]uint64{"CapBnd": shipped, "CapPrm": shipped, "CapInh": 0, "CapAmb": 0} {
		if got := capabilities(t, process+"/status", set); got != want {
			t.Errorf("%s is %x, want %x", set, got, want)
		}
	}
	// RuntimeDefault is a filter, 2.
	for field, want := range map[string]string{"NoNewPrivs": "1", "Seccomp": "2", "Uid": "0\t0\t0\t0"} {
		if got := status(t, process+"/status", field); got != want {
			t.Errorf("%s is %q, want %q", field, got, want)
		}
	}
	for range 20 {
		if sum, series := a.sum("tcphup_node_namespaces", map[string]string{"result": "read"}); sum == 0 || series != 1 {
			t.Fatalf("%v namespaces read, %d series", sum, series)
		}
		threads, err := filepath.Glob(process + "/task/*/status")
		if err != nil || len(threads) == 0 {
			t.Fatalf("threads of the agent: %v, %v", threads, err)
		}
		effective := 0
		for _, thread := range threads {
			if _, err := os.Stat(thread); err == nil && capabilities(t, thread, "CapEff")&admin != 0 {
				effective++
			}
		}
		if effective > 1 {
			t.Fatalf("SYS_ADMIN is in effect on %d of %d threads", effective, len(threads))
		}
	}
	// The root file system and the directory with the names of pods are read-only.
	mounts, err := os.ReadFile(process + "/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/", "/var/log/pods", "/etc/tcphup"} {
		if !strings.Contains(string(mounts), fmt.Sprintf(" %s ro,", path)) {
			t.Errorf("%s is not read-only:\n%s", path, mounts)
		}
	}
}

// withCapabilities returns a patch that replaces the capabilities of the agent.
func withCapabilities(names string) string {
	return "- {op: replace, path: /spec/template/spec/containers/0/securityContext/capabilities/add, value: [" + names + "]}\n"
}

// TestAgentLacksRights checks that an agent without a right of the manifest does not get ready,
// and that the last line of its log names the right.
func TestAgentLacksRights(t *testing.T) {
	for i, tt := range []struct{ name, patch, want string }{
		{"SYS_ADMIN", withCapabilities("DAC_READ_SEARCH, SYS_PTRACE"), "SYS_ADMIN"},
		{"SYS_PTRACE", withCapabilities("DAC_READ_SEARCH, SYS_ADMIN"), "SYS_PTRACE"},
		{"hostPID", "- {op: remove, path: /spec/template/spec/hostPID}\n", "hostPID"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := newAgent(t, "agent-lacks-"+strconv.Itoa(i), "policies: []\n", tt.patch)
			const ended = "{.items[*].status.containerStatuses[*].lastState.terminated.exitCode}"
			eventually(t, "the agent has ended", func() bool {
				return a.kubectl("get", "pods", "--selector=tcphup=node", "--output=jsonpath="+ended) != ""
			})
			if ready := a.kubectl("get", "pods", "--selector=tcphup=node", "--output=jsonpath={.items[*].status.containerStatuses[*].ready}"); ready != "false" {
				t.Errorf("ready: %s", ready)
			}
			log := a.kubectl("logs", "daemonset/tcphup", "--tail=1")
			if !strings.Contains(log, tt.want) {
				t.Errorf("last line of the log: %q, want %s in it", log, tt.want)
			}
		})
	}
}

// TestAgentMethods checks that each right that hangs up is needed, and that the component
// node-destroy grants the one for RST.
func TestAgentMethods(t *testing.T) {
	const config = "policies: [{name: pods, match: ['tcphup=\"hangup\"'], namespaces: [agent-methods], allow: [10.250.0.0/24], method: %s}]\n"
	n := newNamespace(t, "agent-methods", "restricted")
	d := startDatabase(t, nodeAddress, 0)
	apply(t, podManifest("app", n.name, d, "app"))
	d.await(connections, 0)
	awaitMargin(t)
	closed := 0
	for i, tt := range []struct {
		name, method, patch string
		components          []string
		want                answer
	}{
		{"shutdown without DAC_READ_SEARCH", "shutdown", withCapabilities("SYS_ADMIN, SYS_PTRACE"), nil, answer{Alerts: map[string]int{"refused": 1}, Flows: map[string]int{"refused": connections}}},
		{"shutdown", "shutdown", "", nil, answer{Alerts: map[string]int{"done": 1}, Flows: map[string]int{"closed": connections}}},
		{"destroy without NET_ADMIN", "destroy", "", nil, answer{Alerts: map[string]int{"refused": 1}, Flows: map[string]int{"refused": connections}}},
		{"destroy", "destroy", "", []string{"node-destroy"}, answer{Alerts: map[string]int{"done": 1}, Flows: map[string]int{"closed": connections}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d.await(closed+connections, closed)
			a := startAgent(t, "agent-methods-"+strconv.Itoa(i), fmt.Sprintf(config, tt.method), tt.patch, tt.components...)
			a.awaitEstablished(n.name, "app", d, connections)
			got := a.post(agentToken, n.name, "app", d)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
			closed += got.Flows["closed"]
		})
	}
	d.await(closed+connections, closed)
}
