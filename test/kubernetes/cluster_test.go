package kubernetes

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	nodeAddress = "10.250.0.1"
	apiServer   = "https://" + nodeAddress + ":6443"
	adminToken  = "a-token-of-the-administrator"
	// binaryVariable is the environment variable for the path of the cluster's binary.
	binaryVariable = "TCPHUP_KUBERNETES_BINARY"
	// startTimeout bounds the start of each component.
	startTimeout = 5 * time.Minute
	containerd   = "containerd.sock"
)

// cluster is a Kubernetes of one node. All its processes end with the pid namespace.
type cluster struct{ dir string }

// path returns the path of a file of the cluster.
func (c *cluster) path(names ...string) string {
	return filepath.Join(append([]string{c.dir}, names...)...)
}

// startCluster starts a cluster whose files are in the directory, and waits until its node is
// ready. The calling process must be in namespaces of its own.
func startCluster(dir string) (*cluster, error) {
	c := &cluster{dir}
	for _, step := range []func() error{c.isolate, c.writeFiles, c.startControlPlane, c.startNode} {
		if err := step(); err != nil {
			return nil, errors.Join(err, fmt.Errorf("logs of the cluster are in %s", c.keepLogs()))
		}
	}
	return c, nil
}

// isolate hides the files that the cluster would change outside of its namespaces, and sets up the
// network.
func (c *cluster) isolate() error {
	for _, name := range []string{"bin", "logs", "pki", "cni", "kubelet", "run", "varlib", "varlog", "tunables", "plugins", "manifests"} {
		if err := os.Mkdir(c.path(name), 0o755); err != nil {
			return err
		}
	}
	// libcni and the kubelet have files in /var/lib that no option moves. The directory with the
	// names of pods is /var/log/pods, as in the manifests.
	for source, target := range map[string]string{c.path("run"): "/run", c.path("varlib"): "/var/lib", c.path("varlog"): "/var/log"} {
		if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount %s: %w", target, err)
		}
	}
	for name, value := range tunables {
		file := c.path("tunables", filepath.Base(name))
		if err := os.WriteFile(file, []byte(value+"\n"), 0o644); err != nil {
			return err
		}
		if err := unix.Mount(file, "/proc/sys/"+name, "", unix.MS_BIND, ""); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("mount %s: %w", name, err)
		}
	}
	for _, args := range []string{
		"link add node0 type veth peer name node1", "addr add " + nodeAddress + "/24 dev node0", "link set node0 up", "link set node1 up",
		"route add default dev node0",
	} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", args, err, out)
		}
	}
	return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644)
}

// start starts a program whose output goes to a log. Its end is noticed by those who use it.
func (c *cluster) start(name, program string, args ...string) error {
	log, err := os.Create(c.path("logs", name+".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(program, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = c.dir, log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }()
	return nil
}

// kubectl runs kubectl as administrator.
func (c *cluster) kubectl(stdin string, args ...string) (string, error) {
	cmd := exec.Command(c.path("bin", "kubectl"), append([]string{"--kubeconfig=" + c.path("kubeconfig")}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	// No files in the home directory.
	cmd.Env = append(os.Environ(), "HOME="+c.path("home"))
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, stderr.String())
	}
	return string(out), err
}

func (c *cluster) startControlPlane() error {
	if err := writePKI(c.path("pki"), net.ParseIP(nodeAddress), net.IPv4(127, 0, 0, 1), net.IPv4(10, 96, 0, 1)); err != nil {
		return err
	}
	pki := func(name string) string { return c.path("pki", name) }
	const etcd = "http://127.0.0.1:2379"
	if err := c.start("etcd", "etcd", "--data-dir="+c.path("etcd"), "--listen-client-urls="+etcd, "--advertise-client-urls="+etcd,
		"--listen-peer-urls=http://127.0.0.1:2380", "--unsafe-no-fsync"); err != nil {
		return err
	}
	if err := c.start("kube-apiserver", c.path("bin", "kube-apiserver"), "--etcd-servers="+etcd,
		"--bind-address="+nodeAddress, "--advertise-address="+nodeAddress, "--service-cluster-ip-range=10.96.0.0/16",
		"--tls-cert-file="+pki("api.crt"), "--tls-private-key-file="+pki("api.key"), "--client-ca-file="+pki("ca.crt"), "--cert-dir="+c.path("pki"),
		"--token-auth-file="+c.path("tokens.csv"), "--authorization-mode=Node,RBAC", "--allow-privileged",
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-signing-key-file="+pki("sa.key"), "--service-account-key-file="+pki("sa.pub"),
		"--feature-gates=MutatingAdmissionPolicy=true", "--runtime-config=admissionregistration.k8s.io/v1beta1=true",
		"--kubelet-preferred-address-types=InternalIP"); err != nil {
		return err
	}
	if err := c.await("kube-apiserver", func() error {
		_, err := c.kubectl("", "get", "--raw=/readyz")
		return err
	}); err != nil {
		return err
	}
	kubeconfig := "--kubeconfig=" + c.path("kubeconfig")
	return errors.Join(
		c.start("kube-controller-manager", c.path("bin", "kube-controller-manager"), kubeconfig, "--leader-elect=false", "--bind-address=127.0.0.1",
			"--cert-dir="+c.path("pki"), "--service-account-private-key-file="+pki("sa.key"), "--root-ca-file="+pki("ca.crt"), "--flex-volume-plugin-dir="+c.path("plugins")),
		c.start("kube-scheduler", c.path("bin", "kube-scheduler"), kubeconfig, "--leader-elect=false", "--bind-address=127.0.0.1", "--cert-dir="+c.path("pki")),
	)
}

func (c *cluster) startNode() error {
	if err := c.start("containerd", "containerd", "--config="+c.path("containerd.toml")); err != nil {
		return err
	}
	ctr := func(args ...string) error {
		out, err := exec.Command("ctr", append([]string{"--address=" + c.path(containerd), "--namespace=k8s.io"}, args...)...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("ctr %v: %w: %s", args, err, out)
		}
		return nil
	}
	if err := c.await("containerd", func() error { return ctr("version") }); err != nil {
		return err
	}
	for name, user := range map[string]string{"pause": "65535:65535", "app": "1000:1000", "tcphup": "65534:65534"} {
		archive := c.path(name + ".tar")
		if err := writeImage(archive, name, c.path(name), user); err != nil {
			return err
		}
		if err := ctr("images", "import", archive); err != nil {
			return err
		}
	}
	if err := c.start("kubelet", c.path("bin", "kubelet"), "--config="+c.path("kubelet.yaml"), "--kubeconfig="+c.path("kubeconfig"),
		"--root-dir="+c.path("kubelet"), "--cert-dir="+c.path("kubelet", "pki"), "--hostname-override=node", "--node-ip="+nodeAddress); err != nil {
		return err
	}
	return c.await("node", func() error {
		_, err := c.kubectl("", "wait", "--for=condition=Ready", "node/node", "--timeout=10s")
		return err
	})
}

// await waits until a component is ready.
func (c *cluster) await(name string, ready func() error) error {
	deadline := time.Now().Add(startTimeout)
	for {
		err := ready()
		switch {
		case err == nil:
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("%s is not ready after %v: %w", name, startTimeout, err)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// keepLogs copies the logs of the cluster to where they survive it, and returns that directory.
func (c *cluster) keepLogs() string {
	const kept = "../../bin/kubernetes"
	absolute, err := filepath.Abs(kept)
	if err == nil {
		err = errors.Join(os.RemoveAll(absolute), os.CopyFS(absolute, os.DirFS(c.path("logs"))))
	}
	if err != nil {
		return err.Error()
	}
	return absolute
}
