package alerts

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tcphup/hangup"
)

const (
	shopToken = "0123456789-0123456789-0123456789-shop"
	bankToken = "0123456789-0123456789-0123456789-bank"
)

// tokenFixture returns a receiver with testToken, the policies shop and bank with tokens of
// their own, and the policy rest, which takes the tokens of the receiver. Its files are
// receiver, shop and bank in the directory.
func tokenFixture(t *testing.T, change func(*Rules)) (f *fixture, directory string) {
	t.Helper()
	directory = t.TempDir()
	file := func(name, token string) string {
		path := filepath.Join(directory, name)
		writeFile(t, path, token+"\n")
		return path
	}
	rules := nodeRules(t)
	rest := Labelled()
	rest.Name, rest.Match, rest.Namespaces = "rest", mustMatch(t, `tenant=~".+"`), []string{"shop", "bank", "rest"}
	rules.Policies = append(rules.Policies, rest)
	rules.Policies[0].TokenFile, rules.Policies[1].TokenFile = file("shop", shopToken), file("bank", bankToken)
	if change != nil {
		change(&rules)
	}
	return nodeFixture(t, rules, func(c *Config) {
		c.TokenFile = file("receiver", testToken)
		c.Pods = func() ([]hangup.Namespace, error) {
			return []hangup.Namespace{podNamed("shop/web-0"), podNamed("bank/web-0"), podNamed("rest/web-0")}, nil
		}
	}), directory
}

func withToken(r *http.Request, token string) *http.Request {
	r.Header.Set("Authorization", "Bearer "+token)
	return r
}

// An alert acts under a token of its policy alone. A token of one policy acts by no other
// policy, in any order of the policies and with any alerts beside it.
func TestPolicyTokens(t *testing.T) {
	own := map[string]string{"shop": shopToken, "bank": bankToken, "rest": testToken}
	for name, change := range map[string]func(*Rules){
		"in order": nil,
		"rest first": func(r *Rules) {
			p := r.Policies
			p[2].Match = mustMatch(t, `tenant="rest"`)
			r.Policies = []Policy{p[2], p[1], p[0]}
		},
	} {
		t.Run(name, func(t *testing.T) {
			for policy := range own {
				for sender, token := range own {
					f, _ := tokenFixture(t, change)
					got := send(t, f, withToken(newRequest(notify(podAlert(policy, policy, "10.0.0.5"))), token))
					result := resultNotAllowed
					if sender == policy {
						result = resultDone
					}
					got.want(t, http.StatusOK, map[string]int{result: 1})
					if acted := len(f.hang.seen()); (acted == 1) != (sender == policy) {
						t.Errorf("token of %s, policy %s: %d actions", sender, policy, acted)
					}
				}
			}
		})
	}

	// Several alerts in one notification, and as many that the token does not allow.
	f, _ := tokenFixture(t, nil)
	alerts := []testAlert{podAlert("shop", "shop", "10.0.0.5"), podAlert("other", "rest", "10.0.0.6")}
	for i := range 30 {
		alerts = append(alerts, podAlert("bank", "bank", fmt.Sprintf("10.0.1.%d", i)))
	}
	got := send(t, f, withToken(newRequest(notify(alerts...)), shopToken))
	got.want(t, http.StatusOK, map[string]int{resultDone: 1, resultNotAllowed: 31})
	if acted := f.hang.acted(); len(acted) != 1 || acted[0] != "shop/web-0" {
		t.Errorf("acted in %q", acted)
	}
	// They have not changed the limits of that policy.
	if n := len(f.limiter.policies); n != 1 {
		t.Errorf("the limits of %d policies have changed", n)
	}
	send(t, f, withToken(newRequest(notify(podAlert("bank", "bank", "10.0.1.1"))), bankToken)).want(t, http.StatusOK, map[string]int{resultDone: 1})
	if r := f.config.Audit.Records()[0]; r.Result != resultNotAllowed || r.Detail != "token of the request is not one of the policy" {
		t.Errorf("got %+v", r)
	}

	// A token is not that of another label of the alert: the namespace alone selects no policy.
	send(t, f, withToken(newRequest(notify(podAlert("shop", "bank", "10.0.1.9"))), shopToken)).want(t, http.StatusOK, map[string]int{resultNotAllowed: 1})
}

// Only the tokens of the receiver itself pause, resume and reload.
func TestPolicyTokensProtect(t *testing.T) {
	f, _ := tokenFixture(t, nil)
	called := 0
	reload := f.Protect(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		called++
		writeJSON(w, http.StatusOK, nil)
	}))
	for _, h := range []http.Handler{f.PauseHandler(), f.ResumeHandler(), reload} {
		for token, want := range map[string]int{testToken: 200, shopToken: 401, bankToken: 401, otherToken: 401} {
			if got := send(t, h, withToken(newRequest(nil), token)); got.code != want {
				t.Errorf("token %s: code %d, want %d", token, got.code, want)
			}
			if token != testToken && f.Paused() {
				f.pause.set(false)
			}
		}
	}
	if called != 1 {
		t.Errorf("%d reloads", called)
	}
}

// The files are read for every request. An unusable file stops its policy alone.
func TestPolicyTokenRotation(t *testing.T) {
	f, directory := tokenFixture(t, nil)
	var log bytes.Buffer
	f.log = slog.New(slog.NewTextHandler(&log, nil))
	n := 0
	// post returns the code and the result of an alert for the policy.
	post := func(policy, token string) string {
		t.Helper()
		n++
		got := send(t, f, withToken(newRequest(notify(podAlert(policy, policy, fmt.Sprintf("10.0.2.%d", n)))), token))
		for result := range got.response.Alerts {
			return fmt.Sprint(got.code, " ", result)
		}
		return fmt.Sprint(got.code)
	}
	check := func(step string, want map[[2]string]string) {
		t.Helper()
		for c, want := range want {
			if got := post(c[0], c[1]); got != want {
				t.Errorf("%s: policy %s, token %s: got %s, want %s", step, c[0], c[1], got, want)
			}
		}
	}
	shop := filepath.Join(directory, "shop")
	writeFile(t, shop, shopToken+"\n"+otherToken+"\n")
	check("both tokens", map[[2]string]string{{"shop", shopToken}: "200 done", {"shop", otherToken}: "200 done", {"bank", otherToken}: "200 not_allowed"})
	writeFile(t, shop, otherToken+"\n")
	check("new token", map[[2]string]string{{"shop", shopToken}: "401", {"shop", otherToken}: "200 done"})
	if strings.Contains(log.String(), "credentials") {
		t.Errorf("log: %s", log.String())
	}

	if err := os.Remove(shop); err != nil {
		t.Fatal(err)
	}
	check("no file", map[[2]string]string{
		{"shop", otherToken}: "503", // it may be in the file
		{"shop", shopToken}:  "503",
		{"shop", testToken}:  "503 error", {"shop", bankToken}: "503 error",
		{"bank", bankToken}: "200 done", {"rest", testToken}: "200 done", {"rest", bankToken}: "200 not_allowed",
	})
	if !strings.Contains(log.String(), "cannot check credentials") || !strings.Contains(log.String(), shop) || strings.Contains(log.String(), otherToken) {
		t.Errorf("log: %s", log.String())
	}
	writeFile(t, shop, shopToken+"\n")
	if err := os.Chmod(shop, 0o644); err != nil {
		t.Fatal(err)
	}
	check("readable by every user", map[[2]string]string{{"shop", shopToken}: "503", {"bank", bankToken}: "200 done"})
	if err := os.Remove(filepath.Join(directory, "receiver")); err != nil {
		t.Fatal(err)
	}
	check("no file of the receiver", map[[2]string]string{{"bank", bankToken}: "200 done", {"rest", bankToken}: "503 error", {"rest", testToken}: "503"})
	if got := send(t, f.PauseHandler(), withToken(newRequest(nil), bankToken)); got.code != http.StatusServiceUnavailable || f.Paused() {
		t.Errorf("pause: code %d", got.code)
	}
}

// A policy with tokens of its own needs those of the receiver, and a file that can be read.
// Basic authentication and client certificates do not identify the policy.
func TestPolicyTokenRules(t *testing.T) {
	tokens := writeTokens(t, shopToken)
	for _, tt := range []struct {
		name, file string
		change     func(*Config)
		want       string // part of the error
	}{
		{"tokens", tokens, nil, ""},
		{"tokens and client certificates", tokens, func(c *Config) { c.CheckListener = authenticates }, ""},
		{"client certificates alone", tokens, func(c *Config) { c.TokenFile, c.CheckListener = "", authenticates }, "token_file needs tokens of the receiver too (--alerts.token-file)"},
		{"no credentials", tokens, func(c *Config) { c.TokenFile = "" }, "token_file needs tokens of the receiver too"},
		{"no listener", tokens, func(c *Config) { c.TokenFile, c.NoListener = "", true }, ""},
		{"no file", tokens + "x", nil, "no such file"},
		{"short token", writeTokens(t, "short"), nil, "token has 5 characters"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rules := DefaultRules()
			rules.Policies[0].TokenFile = tt.file
			config := Config{TokenFile: writeTokens(t, testToken)}
			if tt.change != nil {
				tt.change(&config)
			}
			r, err := NewReceiver(config, rules, new(fakeHangUpper), slog.New(slog.DiscardHandler))
			if (err == nil) != (tt.want == "") || err != nil && (!strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), `policy "labelled"`)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if err != nil || config.CheckListener == nil {
				return
			}
			// The listener alone is not enough.
			req := newRequest(notify(staleAlert("10.0.0.5", "80")))
			req.Header.Del("Authorization")
			send(t, r, req).want(t, http.StatusUnauthorized, nil)
		})
	}

	// A reload with an unusable file keeps the rules.
	f, directory := tokenFixture(t, nil)
	rules := *f.rules.Load()
	if err := os.Remove(filepath.Join(directory, "bank")); err != nil {
		t.Fatal(err)
	}
	if err := f.Reload(rules); err == nil || !strings.Contains(err.Error(), `policy "bank"`) {
		t.Errorf("reload: %v", err)
	}
	send(t, f, withToken(newRequest(notify(podAlert("shop", "shop", "10.0.0.5"))), shopToken)).want(t, http.StatusOK, map[string]int{resultDone: 1})
}
