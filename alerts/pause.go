package alerts

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"
)

// errPaused is the cause of contexts that a pause has ended.
var errPaused = errors.New("paused")

// pause is the switch that stops everything which alerts may do. It is on when
// someone asked for it or when the pause file exists.
type pause struct {
	file string // empty: no file

	mu       sync.Mutex
	on       bool
	turnedOn chan struct{} // closed and replaced whenever the switch is turned on
}

func newPause(file string) *pause { return &pause{file: file, turnedOn: make(chan struct{})} }

// set turns the switch on or off. On ends the actions that are under way.
func (p *pause) set(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if on && !p.on {
		close(p.turnedOn)
		p.turnedOn = make(chan struct{})
	}
	p.on = on
}

// byRequest reports whether someone asked for the pause.
func (p *pause) byRequest() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.on
}

// byFile reports whether the pause file exists. When that cannot be told it
// reports true: whoever made the file wanted nothing to happen.
func (p *pause) byFile() bool {
	if p.file == "" {
		return false
	}
	_, err := os.Lstat(p.file)
	return !errors.Is(err, fs.ErrNotExist)
}

// why returns what pauses, or nil when nothing does.
func (p *pause) why() error {
	switch {
	case p.byRequest():
		return fmt.Errorf("%w by request", errPaused)
	case p.byFile():
		return fmt.Errorf("%w by the pause file", errPaused)
	default:
		return nil
	}
}

// watch returns a context that ends with errPaused as its cause when the switch is
// turned on from now on. The file is looked at every interval.
func (p *pause) watch(ctx context.Context, interval time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	p.mu.Lock()
	turnedOn := p.turnedOn
	p.mu.Unlock()
	go func() {
		var tick <-chan time.Time
		if p.file != "" {
			ticker := time.NewTicker(interval)
			defer ticker.Stop()
			tick = ticker.C
		}
		for {
			select {
			case <-turnedOn:
				cancel(errPaused)
				return
			case <-tick:
				if p.byFile() {
					cancel(errPaused)
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return ctx, func() { cancel(nil) }
}
