package browser_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"tcphup/test/browser"
	"tcphup/test/kit/nstest"
	"tcphup/test/kit/program"
	"tcphup/test/kit/testapp"
)

// hostileCommand is the name of the process, shownCommand its form on the page.
const (
	hostileCommand = "x\x1b[2J<b>&\"\u009b'y"
	shownCommand   = `x\x1b[2J<b>&"\u009b'y`
)

// TestPrivilegedStatusPage checks the status page in a browser: its content, its updates, and
// the reduced content for unauthenticated remote clients.
func TestPrivilegedStatusPage(t *testing.T) {
	axe := browser.Axe(t) // may need the network
	nstest.Run(t, func(t *testing.T) {
		peer := nstest.NewPeer(t)
		var plain, multi, later *testapp.Server
		peer.Do(func() {
			plain = testapp.Serve(t, testapp.ServerConfig{Address: ":0"})
			multi = testapp.Serve(t, testapp.ServerConfig{Address: ":0", MPTCP: true})
			later = testapp.Serve(t, testapp.ServerConfig{Address: ":0"})
		})
		at := func(s *testapp.Server) netip.AddrPort {
			return netip.AddrPortFrom(netip.MustParseAddr(nstest.Peer4), s.Addr().Port())
		}
		hostile := filepath.Join(t.TempDir(), hostileCommand)
		if err := os.Link(testapp.Build(t), hostile); err != nil {
			t.Fatal(err)
		}
		app := testapp.Start(t, hostile)
		app.Call("ignore")
		fd := app.Connect(at(plain), false, false)
		app.Connect(at(multi), false, nstest.HasMPTCP())

		serve(t, "--alerts.listen-address="+receiverAddress, "--alerts.token-file="+writeFile(t, "token", token), "--collector.exclude=127.0.0.0/8")
		alert := fmt.Sprintf(`{"version":"4","status":"firing","alerts":[{"status":"firing","fingerprint":"c0ffee","startsAt":%q,
			"labels":{"alertname":"Stale","tcphup":"hangup","destination":%q,"port":"%d"}}]}`,
			time.Now().UTC().Format(time.RFC3339Nano), nstest.Peer4, at(plain).Port())
		if response := post(t, "/alerts", alert); !strings.Contains(response, `"closed":1`) {
			t.Fatal(response)
		}
		if got := app.Call("recv %d", fd); got != "recv ok 0" {
			t.Fatalf("application: %q", got)
		}

		b := browser.Start(t)
		views := map[string]browser.View{
			"real-desktop": {Width: 1280, Height: 800},
			"real-phone":   {Width: 360, Height: 740, Phone: true, Dark: true},
		}
		text := func() string { return browser.Eval[string](b, "document.querySelector('main').innerText") }
		unfold := func() {
			browser.Eval[bool](b, "(() => { const d = document.querySelector('details'); d.open = true; d.querySelector('summary').focus(); return true })()")
		}
		for name, view := range views {
			b.Open("http://"+tcphupAddress+"/", view)
			keepScreenshot(t, name, b.Screenshot())
			if shown := text(); !strings.Contains(shown, "1 connection") || strings.Contains(shown, "→") {
				t.Errorf("%s: the connections of the alert are not folded:\n%s", name, shown)
			}
			unfold()
			shown := text()
			for _, want := range []string{
				"armed", at(multi).String(), "labelled", "closed", "→ " + at(plain).String(), "dump_mptcp",
				fmt.Sprintf("%s (%d)", shownCommand, app.PID()),
			} {
				if !strings.Contains(shown, want) {
					t.Errorf("%s: page without %s:\n%s", name, want, shown)
				}
			}
			if got := browser.Eval[int](b, "document.querySelectorAll('main svg rect').length"); got < 1 {
				t.Errorf("%s: no histogram", name)
			}
			if got := browser.Eval[int](b, "document.querySelectorAll('main b, main img, main script').length"); got > 0 {
				t.Errorf("%s: process name rendered as markup", name)
			}
			for _, v := range b.Violations(axe) {
				t.Errorf("%s: accessibility: %v", name, v)
			}
		}

		browser.Eval[bool](b, "window.same = true")
		app.Connect(at(later), false, false)
		post(t, "/-/pause", "")
		nstest.Eventually(t, "the page updates itself", func() bool {
			shown := text()
			return strings.Contains(shown, at(later).String()) && strings.Contains(shown, "paused by request")
		})
		if !browser.Eval[bool](b, "window.same === true") {
			t.Error("page reloaded")
		}
		if !browser.Eval[bool](b, "document.querySelector('details').open && document.activeElement.localName === 'summary'") {
			t.Error("an update folds the connections, or moves the focus")
		}
		for _, m := range b.Messages() {
			t.Errorf("browser message: %s", m)
		}

		remote := nstest.Command(t, "ip", "netns", "exec", "peer", "curl", "-sS", "http://"+nstest.Local4+":10471/")
		for _, secret := range []string{hostileCommand, `\x1b`, "(" + strconv.Itoa(app.PID()) + ")", at(plain).String(), "/api/v1/"} {
			if strings.Contains(remote, secret) {
				t.Errorf("page for a remote client has %q", secret)
			}
		}
		if !strings.Contains(remote, "closed") || !strings.Contains(remote, "paused by request") {
			t.Errorf("page for a remote client lacks content:\n%s", remote)
		}
	})
}

// TestPrivilegedStatusPageServices checks services on the status page during a failover:
// current and former addresses, their sockets and lookup errors. Unauthenticated remote
// clients get only the content of the metrics.
func TestPrivilegedStatusPageServices(t *testing.T) {
	axe := browser.Axe(t) // may need the network
	nstest.Run(t, func(t *testing.T) {
		const serviceName, current = "db.internal", "10.99.0.66" // no socket, so in no metric
		peer := nstest.NewPeer(t)
		dns := startNameServer(t, serviceName+" "+nstest.Peer4Two, "cache.internal "+current)
		var server *testapp.Server
		peer.Do(func() { server = testapp.Serve(t, testapp.ServerConfig{Address: ":0"}) })
		port := server.Addr().Port()
		app := testapp.Start(t, testapp.Build(t))
		app.Call("ignore")
		for range 2 {
			app.Connect(netip.AddrPortFrom(netip.MustParseAddr(nstest.Peer4Two), port), false, false)
		}
		serve(t, "--alerts.listen-address=", "--config.file="+writeFile(t, "tcphup.yml", fmt.Sprintf(`
services:
  - {name: %s, port: %d, settle: 1s, interval: 1s}
  - {name: cache.internal, port: 6379, settle: 1s, interval: 1s}
`, serviceName, port)))
		awaitSample(t, `tcphup_service_addresses{address="current",service="`+serviceName+`"} 1`)
		awaitSample(t, `tcphup_service_addresses{address="current",service="cache.internal"} 1`)
		dns.set(serviceName + " " + current)
		awaitSample(t, `tcphup_service_sockets{address="former",service="`+serviceName+`"} 2`)

		b := browser.Start(t)
		b.Open("http://"+tcphupAddress+"/", browser.View{Width: 360, Height: 740, Phone: true})
		shows := func(words ...string) {
			t.Helper()
			nstest.Eventually(t, fmt.Sprintf("the page shows %q", words), func() bool {
				shown := browser.Eval[string](b, "document.querySelector('section[aria-labelledby=services]')?.innerText ?? ''")
				for _, word := range words {
					if !strings.Contains(shown, word) {
						return false
					}
				}
				return true
			})
		}
		shows(net.JoinHostPort(serviceName, strconv.Itoa(int(port))), nstest.Peer4Two+" 2 sockets, since 20", current+" 0 sockets", "answered",
			"cache.internal:6379", "failed", "no such host", "An address is former when")
		for _, v := range b.Violations(axe) {
			t.Errorf("accessibility: %v", v)
		}

		ask := func(path string) string {
			return nstest.Command(t, "ip", "netns", "exec", "peer", "curl", "-sS", "http://"+nstest.Local4+":10471"+path)
		}
		page, metrics := ask("/"), ask("/metrics")
		for _, secret := range []string{current, "no such host", net.JoinHostPort(serviceName, strconv.Itoa(int(port)))} {
			if strings.Contains(page, secret) || strings.Contains(metrics, secret) {
				t.Errorf("page for a remote client has %q", secret)
			}
		}
		for _, want := range []string{`service">` + serviceName + "<", `data-label="Stale">2<`, `data-label="Former">1<`, ">failed<"} {
			if !strings.Contains(page, want) {
				t.Errorf("page for a remote client without %s:\n%s", want, page)
			}
		}

		nstest.Command(t, program.Path(t), nstest.Peer4Two, strconv.Itoa(int(port)))
		shows(nstest.Peer4Two + " 0 sockets, since 20")
		for _, m := range b.Messages() {
			t.Errorf("browser message: %s", m)
		}
	})
}
