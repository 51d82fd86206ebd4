package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/program"
)

// TestPrivilegedFilesOfOthers checks that security-relevant files writable by other users are
// rejected with a hint: at startup, by check-config and at a reload.
func TestPrivilegedFilesOfOthers(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		authority := newAuthority(t, "ours")
		flags := []string{"serve", "--web.listen-address=" + tcphupAddress, "--alerts.listen-address=" + receiverAddress}
		for _, tt := range []struct {
			flag, content string
			args          []string // before the flag
		}{
			{flag: "config.file", content: policyText(""), args: flags},
			{flag: "alerts.token-file", content: token, args: flags},
			{flag: "alerts.web-config-file", content: "basic_auth_users: {a: $2y$10$abcdefghijklmnopqrstuv}\n", args: flags},
			{flag: "web.config.file", content: "basic_auth_users: {a: $2y$10$abcdefghijklmnopqrstuv}\n", args: flags},
			{flag: "audit.log-file", args: flags},
			{content: policyText(""), args: []string{"check-config"}},
		} {
			t.Run(tt.flag, func(t *testing.T) {
				path := writeFile(t, "file", tt.content)
				refused := func(says string) {
					t.Helper()
					last := path
					if tt.flag != "" {
						last = "--" + tt.flag + "=" + path
					}
					if r := tcphup(t, slices.Concat(tt.args, []string{last})...); r.exit == 0 || !strings.Contains(r.stderr, says) || strings.Contains(r.stderr, token) {
						t.Errorf("exit %d, %s", r.exit, r.stderr)
					}
				}
				mustChmod(t, path, 0o602)
				refused("chmod")
				mustChmod(t, path, 0o600)
				mustChmod(t, filepath.Dir(path), 0o777|os.ModeSticky)
				if err := os.Chown(path, nobody, nobody); err != nil {
					t.Fatal(err)
				}
				refused("belongs to user 65534")
			})
		}
		mustChmod(t, authority.file, 0o666)
		r := tcphup(t, slices.Concat(flags, []string{"--alerts.web-config-file=" + writeFile(t, "web.yml",
			fmt.Sprintf("tls_server_config: {client_auth_type: RequireAndVerifyClientCert, client_ca_file: %s}\n", authority.file))})...)
		if r.exit != 2 || !strings.Contains(r.stderr, "chmod o-w "+authority.file) {
			t.Errorf("client CA: exit %d, %s", r.exit, r.stderr)
		}

		t.Run("reload", func(t *testing.T) {
			path := policyFile(t, "")
			served := serveArmed(t, "--config.file="+path)
			if err := os.WriteFile(path, []byte("policies: []\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			mustChmod(t, path, 0o606)
			mustCommand(t, "/-/reload", http.StatusInternalServerError)
			mustSample(t, "tcphup_config_last_reload_successful", 0)
			mustSample(t, `tcphup_policy_shadow{policy="test"}`, 0) // previous configuration
			log, err := os.ReadFile(served.log)
			if err != nil || !strings.Contains(string(log), "chmod o-w "+path) {
				t.Errorf("log without hint: %s, %v", log, err)
			}
			mustChmod(t, path, 0o604)
			mustCommand(t, "/-/reload", http.StatusOK)
		})
	})
}

// TestPrivilegedKubernetesFiles checks that mounted ConfigMaps and Secrets are accepted:
// symbolic links to root's files in a directory of mode 0777, readable by the pod's group.
func TestPrivilegedKubernetesFiles(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		dir := t.TempDir()
		data := filepath.Join(dir, "..2026_01_01_00_00_00.1")
		if err := os.Mkdir(data, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, content := range map[string]string{"token": token, "tcphup.yml": policyText("")} {
			if err := os.WriteFile(filepath.Join(data, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(filepath.Join("..data", name), filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Symlink(filepath.Base(data), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
		mustGive(t, filepath.Join(dir, "token"), 0)
		if err := os.Chown(filepath.Join(data, "token"), 0, other); err != nil {
			t.Fatal(err)
		}
		mustChmod(t, filepath.Join(data, "token"), 0o440)
		mustChmod(t, filepath.Join(data, "tcphup.yml"), 0o644)
		mustChmod(t, dir, 0o777)

		startProcessAs(t, &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: other, Gid: other}}, program.Path(t),
			"serve", "--web.listen-address="+tcphupAddress, "--alerts.listen-address="+receiverAddress,
			"--alerts.token-file="+dir+"/token", "--config.file="+dir+"/tcphup.yml")
		awaitPage(t, "http://"+tcphupAddress+"/-/ready")
		mustSample(t, `tcphup_policy_shadow{policy="test"}`, 0)
		mustCommand(t, "/-/reload", http.StatusOK)
	})
}

func mustChmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

// mustGive changes the owner of a file and makes its directories accessible.
func mustGive(t *testing.T, path string, uid int) {
	t.Helper()
	for _, dir := range []string{filepath.Dir(path), filepath.Dir(filepath.Dir(path))} {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(path, uid, uid); err != nil {
		t.Fatal(err)
	}
}
