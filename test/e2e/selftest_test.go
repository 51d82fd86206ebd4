package e2e

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/program"
	"tcphup/test/kit/testapp"
)

// TestPrivilegedNativeSidecar checks a sidecar that starts before the application, and one
// that outlives it: no method is exported as unusable, and each hang-up succeeds.
func TestPrivilegedNativeSidecar(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		// Process 1 of a pod that shares its pid namespace is pause.
		if err := os.WriteFile("/proc/1/comm", []byte("pause"), 0o644); err != nil {
			t.Fatal(err)
		}
		binary := testapp.Build(t)
		// Another tcphup, for example of kubectl exec, is no application.
		startProcess(t, program.Path(t), "serve", "--web.listen-address=127.0.0.1:1", "--alerts.listen-address=")
		awaitPage(t, "http://127.0.0.1:1/-/ready")
		served := serve(t, "--log.level=debug", "--alerts.token-file="+writeFile(t, "token", token))
		nstest.Eventually(t, "self-tests without an application", func() bool {
			return strings.Count(served.logged(), "next self-test") > 1
		})
		absent := func() bool {
			for _, method := range []string{"shutdown", "destroy"} {
				if _, ok := sample(t, fmt.Sprintf("tcphup_method_usable{method=%q}", method)); ok {
					return false
				}
			}
			return true
		}
		if !absent() {
			t.Error("the result of the self-test is exported before an application was visible")
		}
		if strings.Contains(served.logged(), "level=WARN") {
			t.Errorf("warnings before an application was visible:\n%s", served.logged())
		}

		server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
		app := testapp.Start(t, binary)
		app.Call("ignore")
		fd := app.Connect(server.Addr(), false, false)
		for _, method := range []string{"shutdown", "destroy"} {
			nstest.Eventually(t, method+" is usable", func() bool {
				usable, ok := sample(t, fmt.Sprintf("tcphup_method_usable{method=%q}", method))
				if ok && usable != 1 {
					t.Fatalf("%s is exported as %v", method, usable)
				}
				return ok
			})
		}
		response, err := postAlert(t, server.Addr())
		if err != nil || !strings.Contains(response, `"closed":1`) {
			t.Errorf("hang-up: %s, %v", response, err)
		}
		if got := app.Call("recv %d", fd); got != "recv ok 0" {
			t.Errorf("application: %q", got)
		}

		// A reload requests a self-test.
		app.Kill()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+receiverAddress+"/-/reload", nil)
		if err != nil {
			t.Fatal(err)
		}
		if response, err := sendWithToken(request); err != nil || !strings.HasPrefix(response, "200 ") {
			t.Fatalf("reload: %s, %v", response, err)
		}
		nstest.Eventually(t, "no result after the application", absent)
	})
}

// TestPrivilegedSelfTestAlone checks a sidecar in a pid namespace of its own, which no
// application joins: the unusable method is exported.
func TestPrivilegedSelfTestAlone(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		startProcess(t, need(t, "unshare", "util-linux"), "--pid", "--fork", "--kill-child", "--mount-proc", program.Path(t), "serve",
			"--web.listen-address="+tcphupAddress, "--alerts.listen-address="+receiverAddress)
		awaitPage(t, "http://"+tcphupAddress+"/-/ready")
		for method, want := range map[string]float64{"shutdown": 0, "destroy": 1} {
			if usable, ok := sample(t, fmt.Sprintf("tcphup_method_usable{method=%q}", method)); !ok || usable != want {
				t.Errorf("%s is %v, %v; want %v", method, usable, ok, want)
			}
		}
	})
}
