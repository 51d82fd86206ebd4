package server

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"time"
)

const (
	// maxAnswers of those that take memory are made and sent at a time: 2 MB each
	// with 500 destinations.
	maxAnswers = 8
	// slowAnswer is how long an answer may take when others wait.
	slowAnswer = time.Second
	// answerWait is how long a request may wait for its turn.
	answerWait = 5 * time.Second
)

// answers bounds how many large answers are made and sent at a time. Clients that
// take theirs slowly do not keep others from having one.
type answers struct {
	slots chan struct{} // holds an element for each

	mu      sync.Mutex
	running []*answering // the oldest first
}

// answering is an answer on its way.
type answering struct {
	to    *http.ResponseController
	begun time.Time
}

func newAnswers(most int) *answers { return &answers{slots: make(chan struct{}, most)} }

// limit lets a request through in its turn. One that has waited too long is
// answered with 503.
func (a *answers) limit(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !a.takeSlot(r.Context()) {
			http.Error(w, "too many requests at once", http.StatusServiceUnavailable)
			return
		}
		defer func() { <-a.slots }()
		mine := &answering{http.NewResponseController(w), time.Now()}
		a.mu.Lock()
		a.running = append(a.running, mine)
		a.mu.Unlock()
		defer a.ended(mine)
		next.ServeHTTP(w, r)
	})
}

// takeSlot waits for a slot, at most as long as answerWait.
func (a *answers) takeSlot(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, answerWait)
	defer cancel()
	again := time.NewTicker(slowAnswer)
	defer again.Stop()
	for {
		a.makeRoom()
		select {
		case a.slots <- struct{}{}:
			return true
		case <-again.C:
		case <-ctx.Done():
			return false
		}
	}
}

// makeRoom cuts the oldest answer short when there is no room for one more and it
// has had its time.
func (a *answers) makeRoom() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.running) == cap(a.slots) && time.Since(a.running[0].begun) > slowAnswer {
		_ = a.running[0].to.SetWriteDeadline(time.Unix(1, 0)) // its next write fails
		a.running = a.running[1:]
	}
}

func (a *answers) ended(mine *answering) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if i := slices.Index(a.running, mine); i >= 0 {
		a.running = slices.Delete(a.running, i, i+1)
	}
}
