package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// TestPrivilegedReload checks reloads by SIGHUP and by request. An invalid file changes only the
// metric of the reload.
func TestPrivilegedReload(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		server := startBackend(t, "127.0.0.1:0")
		dial(t, true, 1, server.addr())
		elsewhere := strings.ReplaceAll(policyText("    limits: {cooldown: 0s, breaker: {actions: 100}}"), "127.0.0.0/8", "192.0.2.0/24")
		here := policyText("    limits: {cooldown: 0s, breaker: {actions: 100}}")
		path := writeFile(t, "tcphup.yml", elsewhere)
		served := serveArmed(t, "--config.file="+path)
		const successful, when = "tcphup_config_last_reload_successful", "tcphup_config_last_reload_success_timestamp_seconds"
		mustSample(t, successful, 1)

		write := func(content string) {
			t.Helper()
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		hup := func() {
			t.Helper()
			if err := served.cmd.Process.Signal(syscall.SIGHUP); err != nil {
				t.Fatal(err)
			}
		}
		ended := 0
		mustAnswer := func(want string, closes int) {
			t.Helper()
			answer, err := postAlert(t, server.addr())
			if err != nil || !strings.HasPrefix(answer, "200 ") || !strings.Contains(answer, want) {
				t.Errorf("response: %q, %v, want %s", answer, err, want)
			}
			ended += closes
			server.awaitEnded(ended)
			server.awaitOpen(1)
			server.mustCount(1, ended)
		}
		mustAnswer(`"not_allowed":1`, 0)

		write(here)
		mustAnswer(`"not_allowed":1`, 0) // not reloaded yet
		before, _ := sample(t, when)
		hup()
		nstest.Eventually(t, "the file is reloaded after SIGHUP", func() bool {
			now, ok := sample(t, when)
			return ok && now > before
		})
		mustAnswer(`"closed":1`, 1)

		write(here + "surprise: true\n")
		before, _ = sample(t, when)
		hup()
		nstest.Eventually(t, "the failed reload is exported", func() bool {
			value, ok := sample(t, successful)
			return ok && value == 0
		})
		mustSample(t, when, before)
		mustAnswer(`"closed":1`, 1)
		mustCommand(t, "/-/reload", http.StatusInternalServerError)
		mustSample(t, successful, 0)
		mustAnswer(`"closed":1`, 1)

		write(here + "    shadow: true\n")
		if status := command(t, "/-/reload", "another-token-of-enough-length"); status != http.StatusUnauthorized {
			t.Errorf("POST /-/reload with a wrong token: status %d", status)
		}
		mustAnswer(`"closed":1`, 1)
		mustCommand(t, "/-/reload", http.StatusOK)
		mustSample(t, successful, 1)
		mustSample(t, `tcphup_policy_shadow{policy="test"}`, 1)
		mustAnswer(`"planned":1`, 0)
	})
}

// TestPrivilegedAuditLog checks that the audit log has every decision with its evidence, keeps
// the records of earlier runs, and equals /api/v1/hangups.
func TestPrivilegedAuditLog(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		server := startBackend(t, "127.0.0.1:0")
		app := testapp.Start(t, testapp.Build(t))
		app.Call("ignore")
		app.Connect(server.addr(), false, false)
		server.awaitOpen(1)
		denied := netip.MustParseAddrPort("127.0.0.5:5432")
		log := filepath.Join(t.TempDir(), "audit.jsonl")
		const earlier = `{"result":"of an earlier run"}`
		if err := os.WriteFile(log, []byte(earlier+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		config := policyText(`never: ["127.0.0.5:5432"]`)
		served := serveArmed(t, "--config.file="+writeFile(t, "tcphup.yml", config), "--audit.log-file="+log)
		am := startAlertmanager(t, alertmanagerConfig{groupBy: "destination", interval: "5m", token: token})
		// Alertmanager truncates to milliseconds.
		first, second := alertAbout(server.addr()), alertAbout(denied)
		first.StartsAt = first.StartsAt.UTC().Truncate(time.Millisecond)
		second.StartsAt = first.StartsAt
		begun := time.Now()
		cookie := cookieOf(t, server)
		am.post(first)
		awaitSample(t, alertsWith("done"), 1)
		am.post(second)
		awaitSample(t, alertsWith("denied"), 1)
		inMemory := hangups(t)
		if err := served.stop(); err != nil {
			t.Error(err)
		}

		content, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSuffix(string(content), "\n"), "\n")
		if lines[0] != earlier {
			t.Errorf("record of the earlier run overwritten: %s", lines[0])
		}
		var got []record
		for _, line := range lines[1:] {
			var r record
			if err := json.Unmarshal([]byte(line), &r); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			got = append(got, r)
		}
		if diff := cmp.Diff(got, inMemory); diff != "" {
			t.Errorf("audit log and /api/v1/hangups (-file +page):\n%s", diff)
		}
		common := record{Policy: "test", ExternalURL: am.url, StartsAt: first.StartsAt}
		begin, flow, done, refused := common, common, common, common
		done.Event, done.Destination, done.Port, done.Result = "end", "127.0.0.1", strconv.Itoa(int(server.addr().Port())), "done"
		begin.Event, begin.Destination, begin.Port, begin.Flows = "begin", done.Destination, done.Port, map[string]int{"planned": 1}
		flow.Event, flow.Destination, flow.Port = "flow", done.Destination, done.Port
		done.Detail, done.Flows = "1 flow hung up, 1 in the other direction", map[string]int{"closed": 1}
		flow.Flow = &flowRecord{
			Local: server.ends[0].client.String(), Remote: server.addr().String(), Cookie: cookie, PID: app.PID(), Command: "app",
			State: "established", Method: "shutdown", Outcome: "closed",
		}
		refused.Event, refused.Destination, refused.Port, refused.Result, refused.Detail = "end", "127.0.0.5", "5432", "denied", "destination is on the never list"
		ignore := cmp.Options{
			cmpopts.IgnoreFields(record{}, "Time", "Action", "Fingerprint"), cmpopts.IgnoreFields(flowRecord{}, "IdleSeconds", "Detail", "TookSeconds"),
		}
		if diff := cmp.Diff([]record{begin, flow, done, refused}, got, ignore); diff != "" {
			t.Errorf("audit (-want +got):\n%s", diff)
		}
		for _, r := range got {
			if len(r.Fingerprint) != 16 || r.Time.Before(begun) || r.Time.After(time.Now()) {
				t.Errorf("fingerprint %q, time %s", r.Fingerprint, r.Time)
			}
			if r.Flow != nil && (!strings.HasPrefix(r.Flow.Detail, "FIN acknowledged") && r.Flow.Detail != "connection ended" || r.Flow.TookSeconds <= 0) {
				t.Errorf("detail %q, took %v s", r.Flow.Detail, r.Flow.TookSeconds)
			}
			if r.Flow != nil && (r.Flow.IdleSeconds == nil || *r.Flow.IdleSeconds <= 0) {
				t.Errorf("missing evidence: %+v", r.Flow)
			}
		}
		if got[0].Fingerprint != got[1].Fingerprint || got[0].Fingerprint != got[2].Fingerprint || got[0].Fingerprint == got[3].Fingerprint {
			t.Errorf("fingerprints %s, %s and %s of one alert, %s of the other", got[0].Fingerprint, got[1].Fingerprint, got[2].Fingerprint, got[3].Fingerprint)
		}
		if got[0].Action == "" || got[0].Action != got[1].Action || got[0].Action != got[2].Action || got[3].Action != "" {
			t.Errorf("actions %q, %q and %q of one alert, %q of the other", got[0].Action, got[1].Action, got[2].Action, got[3].Action)
		}
	})
}

// cookieOf returns the cookie of the only connection to the server, read with ss.
func cookieOf(t testing.TB, server *backend) string {
	t.Helper()
	out := nstest.Command(t, "ss", "-Htne", "state", "established", "dport", "=", strconv.Itoa(int(server.addr().Port())))
	_, rest, _ := strings.Cut(out, " sk:")
	var cookie uint64
	if _, err := fmt.Sscanf(rest, "%x", &cookie); err != nil {
		t.Fatalf("%s: %v", out, err)
	}
	return strconv.FormatUint(cookie, 10)
}
