package kubernetes

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
)

// TestHost checks the DaemonSet host with connections of a process of the node: of this test.
func TestHost(t *testing.T) {
	n := newNamespace(t, "tcphup", "privileged")
	database := startDatabase(t, nodeAddress, 0)
	var conns []net.Conn
	for range connections {
		conn, err := net.Dial("tcp", database.address())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conns = append(conns, conn)
	}
	database.await(connections, 0)

	dir := t.TempDir()
	source, err := filepath.Abs("../../deploy/kubernetes/host")
	if err == nil {
		source, err = filepath.Rel(dir, source)
	}
	if err != nil {
		t.Fatal(err)
	}
	kustomization := fmt.Sprintf("resources: [%s]\nimages: [{name: tcphup, newName: docker.io/library/tcphup, newTag: \"1\"}]\n", source)
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(kustomization), 0o600); err != nil {
		t.Fatal(err)
	}
	n.kubectl("apply", "-k", dir)
	n.kubectl("rollout", "status", "daemonset/tcphup", "--timeout=2m")
	pod := n.kubectl("get", "pods", "--output=jsonpath={.items[*].metadata.name}")
	if got := n.probe(pod); got != "shutdown, destroy" {
		t.Errorf("probe: %s", got)
	}
	if code, flows := postAlert(t, nodeAddress, database.host, database.port); code != 200 || flows["closed"] != connections {
		t.Errorf("hung up: %d, %v", code, flows)
	}
	for _, conn := range conns {
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("the application reads %v, want EOF", err)
		}
	}
}
