package e2e

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/pods"
	"tcphup/test/kit/program"
	"tcphup/test/kit/testapp"
)

// TestPrivilegedNodeRefused checks the errors of node mode at start.
func TestPrivilegedNodeRefused(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		node := pods.NewNode(t, testapp.Build(t))
		node.Start(pods.Spec{})
		ambient := func(capabilities ...uint) func(args ...string) result {
			return func(args ...string) result {
				cmd := withCapabilities(nobody, capabilities, program.Path(t), args...)
				return runProgram(t, nil, need(t, cmd.Args[0], "util-linux"), cmd.Args[1:]...)
			}
		}
		alone := func(args ...string) result {
			return runProgram(t, nil, need(t, "unshare", "util-linux"), append([]string{"--pid", "--fork", "--kill-child", "--mount-proc", program.Path(t)}, args...)...)
		}
		serve := []string{"serve", "--node", "--web.listen-address=" + tcphupAddress, "--alerts.listen-address="}
		policies := nodeFile(t, "tcphup.yml", "policies: [{name: shop, match: ['tcphup=\"hangup\"'], allow: [10.20.0.0/24]}]\n")
		shop := nodeFile(t, "shop.yml", "policies: [{name: shop, match: ['tcphup=\"hangup\"'], allow: [10.20.0.0/24], namespaces: [shop]}]\n")
		for _, tt := range []struct {
			name string
			run  func(args ...string) result
			args []string
			exit int
			want string
		}{
			{"own pid namespace", alone, serve, 2, "hostPID: true"},
			{"without CAP_SYS_ADMIN", ambient(unix.CAP_SYS_PTRACE), serve, 1, "CAP_SYS_ADMIN"},
			{"without CAP_SYS_PTRACE", ambient(unix.CAP_SYS_ADMIN), serve, 1, "CAP_SYS_PTRACE"},
			{"pod logs are a file", ambient(nodeCapabilities...), append(serve, "--node.pod-logs="+policies), 2, policies},
			{"policy without namespaces", ambient(nodeCapabilities...), append(serve, "--config.file="+policies), 2, "namespaces is missing"},
			{"namespaces without --node", ambient(), append([]string{"serve", "--config.file=" + shop}, serve[2:]...), 2, "--node"},
			{"pod logs without --node", ambient(), []string{"serve", "--node.pod-logs=/"}, 2, "--node.pod-logs needs --node"},
			{"budget without --node", ambient(), []string{"serve", "--node.cpu-budget=1s"}, 2, "--node.cpu-budget needs --node"},
			{"limit without --node", ambient(), []string{"serve", "--collector.max-destinations-per-pod=5"}, 2, "--collector.max-destinations-per-pod needs --node"},
		} {
			t.Run(tt.name, func(t *testing.T) {
				r := tt.run(tt.args...)
				r.mustExit(t, tt.exit)
				if !strings.Contains(r.stderr, tt.want) {
					t.Errorf("%q is not in %s", tt.want, r.stderr)
				}
			})
		}
		// Process 1 holds the namespaces of the own pod (shareProcessNamespace).
		bind(t, "/proc/1/cgroup", fmt.Sprintf("0::/../cri-containerd-%s.scope\n", strings.Repeat("0a", 32)))
		r := ambient(nodeCapabilities...)(serve...)
		r.mustExit(t, 2)
		if !strings.Contains(r.stderr, "hostPID: true") {
			t.Errorf("in a container: %s", r.stderr)
		}
	})
}
