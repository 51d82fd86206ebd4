package browser_test

import (
	"bytes"
	"flag"
	"image/png"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"tcphup/statuspage"
	"tcphup/test/browser"
)

var update = flag.Bool("update", false, "rewrite docs/status-page.png")

// screenshotsVariable names a directory to keep the screenshots in, to look at.
const screenshotsVariable = "TCPHUP_SCREENSHOTS"

// Every way to look at the page: nothing that the browser or an accessibility check
// complains about, nothing beside the screen.
func TestStatusPageInBrowser(t *testing.T) {
	if testing.Short() {
		t.Skip("a browser is left out by -short")
	}
	axe := browser.Axe(t)
	served := httptest.NewServer(statuspage.Handler(pages{}, slog.New(slog.DiscardHandler)))
	t.Cleanup(served.Close)
	b := browser.Start(t)
	desktop := browser.View{Width: 1280, Height: 800}
	for _, tt := range []struct {
		name, path string
		view       browser.View
	}{
		{name: "light", view: desktop},
		{name: "readme", view: browser.View{Width: 1100, Height: 1483}},
		{name: "dark", view: browser.View{Width: 1280, Height: 800, Dark: true}},
		{name: "tablet", view: browser.View{Width: 1000, Height: 800}},
		{name: "phone", view: browser.View{Width: 360, Height: 740, Phone: true}},
		{name: "phone-dark", view: browser.View{Width: 360, Height: 740, Phone: true, Dark: true}},
		{name: "no-script", view: browser.View{Width: 1280, Height: 800, NoScript: true}},
		{name: "stranger", path: "/stranger", view: desktop},
		{name: "hostile", path: "/hostile", view: browser.View{Width: 360, Height: 740, Phone: true}},
		{name: "empty", path: "/empty", view: desktop},
		{name: "failed", path: "/failed", view: desktop},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b.Open(served.URL+tt.path, tt.view)
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
			// Not innerWidth: a phone zooms out until everything fits.
			if over := browser.Eval[int](b, "document.documentElement.scrollWidth") - int(tt.view.Width); over > 0 {
				t.Errorf("%d pixels are beside the screen", over)
			}
			if got := browser.Eval[bool](b, "document.getElementById('refresh').hidden"); got != tt.view.NoScript {
				t.Errorf("the script runs: %v, want %v", !got, !tt.view.NoScript)
			}
			for _, m := range b.Messages() {
				t.Errorf("the browser says: %s", m)
			}
			if tt.view.NoScript {
				return // axe would not run
			}
			for _, v := range b.Violations(axe) {
				t.Errorf("accessibility: %v", v)
			}
		})
	}
}

func keepScreenshot(t *testing.T, name string, picture []byte) {
	t.Helper()
	if dir := os.Getenv(screenshotsVariable); dir != "" {
		if err := os.WriteFile(filepath.Join(dir, name+".png"), picture, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
