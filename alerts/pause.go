package alerts

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"sync"
	"time"
)

// errPaused is the cause of contexts that a pause canceled.
var errPaused = errors.New("paused")

// pause is the pause state of alert actions: on by request or while the pause file exists.
type pause struct {
	file string // empty disables it

	mu       sync.Mutex
	on       bool
	turnedOn chan struct{} // closed and replaced when a request pauses
}

func newPause(file string) *pause { return &pause{file: file, turnedOn: make(chan struct{})} }

// set pauses or resumes by request. A pause cancels running actions.
func (p *pause) set(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if on && !p.on {
		close(p.turnedOn)
		p.turnedOn = make(chan struct{})
	}
	p.on = on
}

// byRequest reports whether a request paused.
func (p *pause) byRequest() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.on
}

// byFile reports whether the pause file exists. Errors other than fs.ErrNotExist count as
// existing: in doubt no flow is closed.
func (p *pause) byFile() bool {
	if p.file == "" {
		return false
	}
	_, err := os.Lstat(p.file)
	return !errors.Is(err, fs.ErrNotExist)
}

// cause returns an error that wraps errPaused and has the source, or nil if not paused.
func (p *pause) cause() error {
	switch {
	case p.byRequest():
		return fmt.Errorf("%w by request", errPaused)
	case p.byFile():
		return fmt.Errorf("%w by the pause file", errPaused)
	default:
		return nil
	}
}

// watch returns a context that a later pause cancels with the cause errPaused. It checks
// the file at each interval.
func (p *pause) watch(ctx context.Context, interval time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	p.mu.Lock()
	turnedOn := p.turnedOn
	p.mu.Unlock()
	go func() {
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		for ctx.Err() == nil {
			select {
			case <-turnedOn:
				cancel(errPaused)
			case <-ticker.C:
				if p.byFile() {
					cancel(errPaused)
				}
			case <-ctx.Done():
			}
		}
	}()
	return ctx, func() { cancel(nil) }
}

// Pause stops alert actions until Resume: running actions close no further flow, and
// notifications get 503, on which Alertmanager retries. A restart ends the pause; the
// pause file outlasts restarts.
func (r *Receiver) Pause() {
	r.pause.set(true)
	r.log.Warn("alert actions paused")
}

// Resume ends a Pause and closes all circuit breakers. It returns an error while the pause
// file exists; breakers stay open then.
func (r *Receiver) Resume() error {
	r.pause.set(false)
	if err := r.pause.cause(); err != nil {
		return err
	}
	r.log.Info("alert actions resumed", "breakers_closed", r.limiter.closeBreakers(r.config.Now()))
	return nil
}

// Paused reports whether alert actions are paused, by Pause or by the pause file.
func (r *Receiver) Paused() bool { return r.pause.cause() != nil }

// pauseState is the JSON body of the responses below.
type pauseState struct {
	Paused bool   `json:"paused"`
	Why    string `json:"why,omitempty"`
}

// PauseHandler handles POST /-/pause: 200 when paused.
func (r *Receiver) PauseHandler() http.Handler {
	return r.Protect(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		r.Pause()
		writeJSON(w, http.StatusOK, pauseState{Paused: true})
	}))
}

// ResumeHandler handles POST /-/resume: 200 when resumed, 409 while the pause file exists,
// which only a user of the host can remove.
func (r *Receiver) ResumeHandler() http.Handler {
	return r.Protect(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if err := r.Resume(); err != nil {
			writeJSON(w, http.StatusConflict, pauseState{Paused: true, Why: err.Error()})
			return
		}
		writeJSON(w, http.StatusOK, pauseState{})
	}))
}
