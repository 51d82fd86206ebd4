package browser_test

import (
	"bytes"
	"flag"
	"image/png"
	"log/slog"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"tcphup/statuspage"
	"tcphup/test/browser"
	"tcphup/test/kit/nstest"
)

var update = flag.Bool("update", false, "rewrite docs/status-page.png")

// screenshotsVariable is the environment variable with a directory for the screenshots.
const screenshotsVariable = "TCPHUP_SCREENSHOTS"

// No view of the page has console messages, accessibility violations or content outside
// the viewport.
func TestStatusPageInBrowser(t *testing.T) {
	if testing.Short() {
		t.Skip("-short skips the browser")
	}
	axe := browser.Axe(t)
	served := httptest.NewServer(statuspage.Handler(pages{}, slog.New(slog.DiscardHandler)))
	t.Cleanup(served.Close)
	b := browser.Start(t)
	desktop := browser.View{Width: 1280, Height: 800}
	for _, tt := range []struct {
		name, path string
		view       browser.View
		unfold     bool // show the connections of every alert
	}{
		{name: "light", view: desktop},
		{name: "readme", view: browser.View{Width: 1100, Height: 2004}},
		{name: "dark", view: browser.View{Width: 1280, Height: 800, Dark: true}},
		{name: "tablet", view: browser.View{Width: 1000, Height: 800}},
		{name: "phone", view: browser.View{Width: 360, Height: 740, Phone: true}},
		{name: "phone-dark", view: browser.View{Width: 360, Height: 740, Phone: true, Dark: true}},
		{name: "unfolded", view: desktop, unfold: true},
		{name: "phone-unfolded", view: browser.View{Width: 360, Height: 740, Phone: true}, unfold: true},
		{name: "no-script", view: browser.View{Width: 1280, Height: 800, NoScript: true}},
		{name: "unauthenticated", path: "/unauthenticated", view: desktop},
		{name: "hostile", path: "/hostile", view: browser.View{Width: 360, Height: 740, Phone: true}},
		{name: "empty", path: "/empty", view: desktop},
		{name: "failed", path: "/failed", view: desktop},
		{name: "node", path: "/node", view: desktop},
		{name: "node-dark", path: "/node", view: browser.View{Width: 1280, Height: 800, Dark: true}},
		{name: "node-tablet", path: "/node", view: browser.View{Width: 1000, Height: 800}, unfold: true},
		{name: "node-phone", path: "/node", view: browser.View{Width: 390, Height: 844, Phone: true}},
		{name: "node-namespace", path: "/node?namespace=payments", view: desktop},
		{name: "node-namespace-phone", path: "/node?namespace=payments", view: browser.View{Width: 390, Height: 844, Phone: true, Dark: true}, unfold: true},
		{name: "node-no-such-namespace", path: "/node?namespace=" + url.QueryEscape(hostile), view: browser.View{Width: 390, Height: 844, Phone: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b.Open(served.URL+tt.path, tt.view)
			if tt.unfold {
				browser.Eval[int](b, "Array.from(document.querySelectorAll('details'), (d) => d.open = true).length")
			}
			picture := b.Screenshot()
			keepScreenshot(t, tt.name, picture)
			if tt.name == "readme" && *update {
				browser.Eval[string](b, "document.querySelector('.host').textContent = 'payments-1'")
				if err := os.WriteFile(filepath.Join("..", "..", "docs", "status-page.png"), b.Top(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			size, err := png.DecodeConfig(bytes.NewReader(picture))
			if err != nil || size.Height < 300 {
				t.Errorf("screenshot: %+v, %v", size, err)
			}
			// Not innerWidth: phones zoom out to the width of the content.
			if over := browser.Eval[int](b, "document.documentElement.scrollWidth") - int(tt.view.Width); over > 0 {
				t.Errorf("content exceeds the viewport by %d pixels", over)
			}
			if got := browser.Eval[bool](b, "document.getElementById('refresh').hidden"); got != tt.view.NoScript {
				t.Errorf("script runs: %v, want %v", !got, !tt.view.NoScript)
			}
			for _, m := range b.Messages() {
				t.Errorf("console: %s", m)
			}
			if tt.view.NoScript {
				return // axe is a script
			}
			for _, v := range b.Violations(axe) {
				t.Errorf("accessibility: %v", v)
			}
		})
	}
}

// The links of the namespaces work without a script.
func TestNamespaceLinks(t *testing.T) {
	if testing.Short() {
		t.Skip("-short skips the browser")
	}
	served := httptest.NewServer(statuspage.Handler(pages{}, slog.New(slog.DiscardHandler)))
	t.Cleanup(served.Close)
	b := browser.Start(t)
	b.Open(served.URL+"/node", browser.View{Width: 390, Height: 844, Phone: true, NoScript: true})
	// The namespaces of the rows of the destinations.
	shown := func() []string {
		return browser.Eval[[]string](b, `Array.from(new Set(Array.from(document.querySelectorAll('section[aria-labelledby=destinations] tbody th .aside'), (e) => e.textContent)))`)
	}
	click := func(text string) {
		t.Helper()
		browser.Eval[bool](b, `Array.from(document.querySelectorAll('.filter a')).find((a) => a.innerText.startsWith(`+strconv.Quote(text)+`)).click(), true`)
	}
	all := len(shown())
	if all < 2 {
		t.Fatalf("rows of %d namespaces", all)
	}
	click("payments")
	nstest.Eventually(t, "the page has rows of one namespace", func() bool { return slices.Equal(shown(), []string{"payments/"}) })
	click("All")
	nstest.Eventually(t, "the page has rows of all namespaces", func() bool { return len(shown()) == all })
}

func keepScreenshot(t *testing.T, name string, picture []byte) {
	t.Helper()
	if dir := os.Getenv(screenshotsVariable); dir != "" {
		if err := os.WriteFile(filepath.Join(dir, name+".png"), picture, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
