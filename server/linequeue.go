package server

import (
	"errors"
	"io"
	"sync/atomic"
	"time"
)

// Limits of a LineQueue.
const (
	maxQueuedLines = 4096
	maxQueuedBytes = 1 << 20
	// flushTimeout bounds Close.
	flushTimeout = time.Second
)

// errQueueFull is the error of a line for which a LineQueue has no room.
var errQueueFull = errors.New("write blocks, and the queue is full")

// LineQueue writes lines from a goroutine of its own, so that Write never blocks: stderr may
// be a pipe without a reader. When the queue is full, and after an error, it drops lines. It
// is safe for concurrent use.
type LineQueue struct {
	to      io.Writer
	lines   chan []byte // nil ends the goroutine
	size    atomic.Int64
	dropped atomic.Uint64
	onDrop  func(error)
	onWrite func(dropped uint64)
	done    chan struct{}
}

// NewLineQueue returns a LineQueue for to. onDrop, if not nil, is called for each dropped
// line. onWrite is called when lines are written again, with the number of lines dropped
// since the last call.
func NewLineQueue(to io.Writer, onDrop func(error), onWrite func(dropped uint64)) *LineQueue {
	q := &LineQueue{to: to, lines: make(chan []byte, maxQueuedLines), onDrop: onDrop, onWrite: onWrite, done: make(chan struct{})}
	go q.run()
	return q
}

// Write queues or drops a line. It returns no error.
func (q *LineQueue) Write(line []byte) (int, error) {
	n := int64(len(line))
	if q.size.Add(n) <= maxQueuedBytes {
		select {
		case q.lines <- append([]byte{}, line...):
			return len(line), nil
		default:
		}
	}
	q.size.Add(-n)
	q.drop(errQueueFull)
	return len(line), nil
}

func (q *LineQueue) drop(err error) {
	q.dropped.Add(1)
	if q.onDrop != nil {
		q.onDrop(err)
	}
}

// Dropped returns the number of dropped lines; 0 for a nil LineQueue.
func (q *LineQueue) Dropped() uint64 {
	if q == nil {
		return 0
	}
	return q.dropped.Load()
}

// Close waits up to a second until the queued lines are written. Later lines are not
// written.
func (q *LineQueue) Close() {
	timeout := time.NewTimer(flushTimeout)
	defer timeout.Stop()
	select {
	case q.lines <- nil:
	case <-timeout.C:
		return
	}
	select {
	case <-q.done:
	case <-timeout.C:
	}
}

func (q *LineQueue) run() {
	defer close(q.done)
	var reported uint64
	for line := range q.lines {
		if line == nil {
			return
		}
		_, err := q.to.Write(line)
		q.size.Add(-int64(len(line)))
		if err != nil {
			q.drop(err)
			continue
		}
		// onWrite may queue a line itself, which needs room.
		if dropped := q.dropped.Load(); dropped > reported && len(q.lines) <= maxQueuedLines/2 {
			q.onWrite(dropped - reported)
			reported = dropped
		}
	}
}
