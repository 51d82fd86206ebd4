// Package browser drives a headless Chromium, and tests the status page in it. It is a
// module of its own: the go.mod of tcphup requires no browser driver.
package browser

import (
	"context"
	"os/exec"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/chromedp"
)

// Browser is a running browser with one tab. It ends with the test.
type Browser struct {
	t        testing.TB
	ctx      context.Context //nolint:containedctx // lifetime of the browser
	messages chan string
}

// View is a viewport and its media features.
type View struct {
	Width, Height int64 // in CSS pixels
	Phone         bool  // touch screen with two device pixels per CSS pixel
	Dark          bool
	NoScript      bool
}

// Start starts Chromium. It fails the test if Chromium is not installed.
func Start(t testing.TB) *Browser {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatal("chromium is needed: apt-get install chromium")
	}
	allocator, stopAllocator := chromedp.NewExecAllocator(context.Background(),
		chromedp.ExecPath(path), chromedp.Headless, chromedp.NoFirstRun, chromedp.NoDefaultBrowserCheck, chromedp.DisableGPU,
		chromedp.NoSandbox, // the sandbox does not start as root
		chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("disable-dev-shm-usage", true), // containers limit /dev/shm
		chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("hide-scrollbars", true),
		chromedp.Flag("font-render-hinting", "none"),
	)
	ctx, _ := chromedp.NewContext(allocator)
	b := &Browser{t: t, ctx: ctx, messages: make(chan string, 1000)}
	t.Cleanup(func() {
		if err := chromedp.Cancel(ctx); err != nil {
			t.Errorf("stop browser: %v", err)
		}
		stopAllocator()
	})
	if err := chromedp.Listen(ctx, func(event any) {
		if e, ok := event.(*log.EventEntryAdded); ok {
			b.messages <- e.Entry.Text + " " + e.Entry.URL
		}
	}); err != nil {
		t.Fatalf("start browser: %v", err)
	}
	call(b, log.Enable, cdp.Empty{})
	return b
}

// commandTimeout is the timeout of each browser command.
const commandTimeout = time.Minute

// do runs an action and returns its result.
func do[T any](b *Browser, action chromedp.Action[T]) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, commandTimeout)
	defer cancel()
	v, err := chromedp.Run(ctx, action)
	if err != nil {
		b.t.Fatalf("browser: %v", err)
	}
	return v
}

// call runs a command of the DevTools protocol.
func call[P, R any](b *Browser, command cdp.Command[P, R], params P) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, commandTimeout)
	defer cancel()
	if _, err := chromedp.Call(ctx, command, params); err != nil {
		b.t.Fatalf("browser: %v", err)
	}
}

// Open loads a page in a view.
func (b *Browser) Open(url string, v View) {
	b.t.Helper()
	scheme, scale := "light", 1.0
	if v.Dark {
		scheme = "dark"
	}
	if v.Phone {
		scale = 2
	}
	call(b, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{
		Width: v.Width, Height: v.Height, DeviceScaleFactor: scale, Mobile: v.Phone,
	})
	call(b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
	})
	call(b, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: v.NoScript})
	do(b, chromedp.Navigate(url))
}

// Eval evaluates a JavaScript expression, awaits it if it is a promise, and
// returns its value.
func Eval[T any](b *Browser, expression string) T {
	b.t.Helper()
	return do(b, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
}

// Screenshot returns the whole page as a PNG.
func (b *Browser) Screenshot() []byte {
	b.t.Helper()
	const lossless = 100
	return do(b, chromedp.FullScreenshot(lossless))
}

// Top returns the part of the page in the viewport as a PNG.
func (b *Browser) Top() []byte {
	b.t.Helper()
	return do(b, chromedp.CaptureScreenshot())
}

// Messages returns the log entries of the browser since the last call, such as failed
// loads and violations of the Content-Security-Policy.
func (b *Browser) Messages() (messages []string) {
	for {
		select {
		case m := <-b.messages:
			messages = append(messages, m)
		default:
			return messages
		}
	}
}
