package command

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"tcphup/hangup"
	"tcphup/internal/text"
)

// console is standard error with a line of progress, which it rewrites in place. Writes erase
// the line first. Without a terminal there is no progress, and writes are passed on.
type console struct {
	w     io.Writer
	color bool
	width int // 0: no terminal

	mu       sync.Mutex
	current  hangup.Progress
	began    time.Time // of the first activity
	drawn    bool
	finished chan struct{} // nil without progress
	stopped  sync.WaitGroup
}

// Progress appears progressDelay after the first activity, and is drawn every progressInterval.
const (
	progressDelay    = time.Second
	progressInterval = 250 * time.Millisecond
)

// newConsole returns a console for standard error. Its user must call close.
func newConsole(w io.Writer) *console {
	c := &console{w: w, color: useColor(w), width: terminalWidth(w), began: time.Now()}
	if c.width == 0 || strings.EqualFold(os.Getenv("TERM"), "dumb") {
		return c
	}
	finished := make(chan struct{})
	c.finished = finished
	c.stopped.Go(func() {
		tick := time.NewTicker(progressInterval)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				c.draw()
			case <-finished:
				return
			}
		}
	})
	return c
}

// close erases the progress and shows none from then on.
func (c *console) close() {
	if c.finished != nil {
		close(c.finished)
		c.stopped.Wait()
		c.finished = nil
	}
	c.show(hangup.Progress{})
}

// show sets the current activity. It erases the progress if there is no activity.
func (c *console) show(p hangup.Progress) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current.Activity == "" {
		c.began = time.Now()
	}
	c.current = p
	if p.Activity == "" {
		c.erase()
	}
}

// Write implements io.Writer for whole lines. Lines that exceed the width of the terminal are
// broken between their parts.
func (c *console) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.erase()
	if c.width == 0 {
		return c.w.Write(b)
	}
	var broken strings.Builder
	for line := range strings.Lines(string(b)) {
		broken.WriteString(c.fold(strings.TrimSuffix(line, "\n"), "") + "\n")
	}
	_, err := io.WriteString(c.w, broken.String())
	return len(b), err
}

// print prints a line with a style.
func (c *console) print(s style, line string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.erase()
	fmt.Fprintln(c.w, c.fold(line, s))
}

// fold breaks a line at semicolons if it exceeds the width.
func (c *console) fold(line string, s style) string {
	return strings.Join(wrapText(line, "; ", s, c.width, c.color), "\n")
}

func (c *console) erase() {
	if c.drawn {
		_, _ = io.WriteString(c.w, "\r"+eraseLine)
		c.drawn = false
	}
}

func (c *console) draw() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current.Activity == "" || time.Since(c.began) < progressDelay {
		return
	}
	line := []rune(progressText(c.current, time.Now()))
	line = line[:min(len(line), max(c.width-1, 0))]
	_, _ = io.WriteString(c.w, "\r"+string(line)+eraseLine)
	c.drawn = true
}

// progressText returns the activity, its counts and the time left.
func progressText(p hangup.Progress, now time.Time) string {
	counts, left := "", ""
	if p.Total > 0 {
		counts = fmt.Sprintf("%d done, %d left", p.Done, p.Total-p.Done)
	}
	if d := p.Until.Sub(now); d > 0 {
		left = text.Duration(d.Round(time.Second)) + " to go"
	}
	line := "tcphup: " + string(p.Activity)
	if details := text.JoinNonEmpty(", ", counts, left); details != "" {
		line += ": " + details
	}
	return line
}
