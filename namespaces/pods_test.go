package namespaces

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestReadPods(t *testing.T) {
	const twice = "2b6a3a7e-9c1f-4f0d-8a2b-5d1c2e3f4a5b"
	dir := t.TempDir()
	for _, name := range []string{
		"default_web-0_" + uid, "kube-system_etcd-node.example_" + static,
		"shop_web-0_" + twice, "bank_web-0_" + twice,
		"default_web\n0_1b6a3a7e-9c1f-4f0d-8a2b-5d1c2e3f4a5b", "Default_web_1b6a3a7e-9c1f-4f0d-8a2b-5d1c2e3f4a5b",
		"default_.._1b6a3a7e-9c1f-4f0d-8a2b-5d1c2e3f4a5b", "default_web\xff_1b6a3a7e-9c1f-4f0d-8a2b-5d1c2e3f4a5b",
		"default_no-uid", "default_a_b_" + uid, "_web_" + uid, "default__" + uid, "default_web_" + uid[1:],
	} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("default_web-0_"+uid, filepath.Join(dir, "default_link_1b6a3a7e-9c1f-4f0d-8a2b-5d1c2e3f4a5b")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "default_file_1b6a3a7e-9c1f-4f0d-8a2b-5d1c2e3f4a5b"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := ReadPods(dir)
	want := map[string]Pod{uid: {"default", "web-0"}, static: {"kube-system", "etcd-node.example"}}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v, (-want +got):\n%s", err, diff)
	}
	if got, err := ReadPods(filepath.Join(dir, "absent")); got != nil || err != nil {
		t.Errorf("without the directory: %v, %v", got, err)
	}
	if _, err := ReadPods(filepath.Join(dir, "default_file_1b6a3a7e-9c1f-4f0d-8a2b-5d1c2e3f4a5b")); err == nil {
		t.Error("a file was read as a directory")
	}
}
