package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/prometheus/common/model"

	"tcphup/test/kit/nstest"
)

// Limits of the next hang-up of connections that were reopened to an old address.
const (
	nextHangup      = time.Minute     // documented
	receiverTimeout = 9 * time.Second // a notification and its action take this at most
)

// shippedDuration returns the value of a key in a file of deploy/.
func shippedDuration(t *testing.T, file, key string) time.Duration {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("..", "..", "deploy", file))
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^ *`+key+`: ([0-9a-z]+)`).FindAllSubmatch(content, -1)
	if len(found) != 1 {
		t.Fatalf("%s: %d times %s, want 1", file, len(found), key)
	}
	d, err := model.ParseDuration(string(found[0][1]))
	if err != nil {
		t.Fatalf("%s: %s: %v", file, key, err)
	}
	return time.Duration(d)
}

// TestShippedRepeat checks by computation that the shipped settings hang up connections again
// within a minute while an alert fires. Alertmanager sends a group with each group_interval
// if repeat_interval has passed since the last notification was delivered.
func TestShippedRepeat(t *testing.T) {
	cooldown := shippedDuration(t, "tcphup.example.yml", "cooldown")
	for _, tt := range []struct{ file, group, repeat string }{
		{"alertmanager.example.yml", "group_interval", "repeat_interval"},
		{"alertmanager-plain.example.yml", "group_interval", "repeat_interval"},
		{"kubernetes/monitoring/alertmanagerconfig.yaml", "groupInterval", "repeatInterval"},
	} {
		group, repeat := shippedDuration(t, tt.file, tt.group), shippedDuration(t, tt.file, tt.repeat)
		for _, took := range []time.Duration{0, receiverTimeout} {
			next := (repeat + took + group - 1) / group * group
			if next > nextHangup || cooldown+took >= next {
				t.Errorf("%s: notification after an action of %s follows after %s, want %s at most, and more than the cooldown of %s",
					tt.file, took, next, nextHangup, cooldown)
			}
		}
	}
}

// TestPrivilegedCachedName checks with a tenth of the shipped times that connections which an
// application reopens to the old address are hung up by the next notification that
// Alertmanager sends, while the alert fires: the cooldown is over by then.
func TestPrivilegedCachedName(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		const (
			flows   = 3
			scale   = 10
			example = "alertmanager-plain.example.yml"
		)
		var changes []string
		for _, key := range []string{"group_wait", "group_interval", "repeat_interval"} {
			d := shippedDuration(t, example, key)
			changes = append(changes, key+": "+model.Duration(d).String(), key+": "+model.Duration(d/scale).String())
		}
		cooldown := model.Duration(shippedDuration(t, "tcphup.example.yml", "cooldown") / scale)
		config := change(t, filepath.Join("..", "..", "deploy", example), append(changes,
			"/etc/alertmanager/tcphup.token", writeFile(t, "token", token),
			"http://192.0.2.11:10472", "http://"+receiverAddress, `192\\.0\\.2\\.11`, `127\\.0\\.0\\.1`)...)

		server := startBackend(t, "127.0.0.1:0")
		dial(t, true, flows, server.addr()) // reopens each connection to the same address
		serveArmed(t, "--config.file="+policyFile(t, "    limits: {cooldown: "+cooldown.String()+"}"))
		am := runAlertmanager(t, need(t, "prometheus-alertmanager", "prometheus-alertmanager"), alertmanagerAddress, config, "--cluster.listen-address=")
		alert := alertAbout(server.addr())
		alert.Labels["instance"] = tcphupAddress
		am.post(alert)

		server.awaitEnded(2 * flows)
		var ended []record
		nstest.Eventually(t, "two decisions", func() bool {
			ended = nil
			for _, r := range hangups(t) {
				if r.Event == "end" {
					ended = append(ended, r)
				}
			}
			return len(ended) >= 2
		})
		for _, r := range ended[:2] {
			if r.Result != "done" || r.Flows["closed"] != flows {
				t.Errorf("decision: %+v, want %d flows closed", r, flows)
			}
		}
		t.Logf("second hang-up after %s, with times of a tenth", ended[1].Time.Sub(ended[0].Time))
	})
}
