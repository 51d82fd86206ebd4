package audit

import (
	"encoding/json"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
)

// MaxRecords is how many records a Log keeps in memory.
const MaxRecords = 1000

// Log keeps the last MaxRecords records in memory, writes every record as a line of JSON
// and serves the records in memory over HTTP. It is safe for concurrent use.
type Log struct {
	mu     sync.Mutex
	writer io.Writer
	ring   []Record
	next   int  // index of the oldest record once the ring is full
	torn   bool // the last line is incomplete
	errors atomic.Uint64

	reconnects map[string]*Reconnects // by Record.Action, from the begin record until the end record is dropped
}

// New returns an empty Log that also writes to w; nil means memory only. Each
// record is one call of Write, so a file opened for appending may be shared. After a
// partial write, for example on a full disk, the next record starts on a new line.
func New(w io.Writer) *Log {
	return &Log{writer: w, reconnects: make(map[string]*Reconnects)}
}

// SetWriter replaces the writer, after log rotation, and returns the previous one, which
// the caller may close. The error count is kept.
func (l *Log) SetWriter(w io.Writer) (old io.Writer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	old, l.writer, l.torn = l.writer, w, false
	return old
}

// EndLine starts the next record on a new line, for a file whose last line is incomplete.
func (l *Log) EndLine() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.torn = true
}

// Errors returns the number of records that could not be written.
func (l *Log) Errors() uint64 { return l.errors.Load() }

// CountError counts a record that a writer with a queue could not write.
func (l *Log) CountError() { l.errors.Add(1) }

// Add stores and writes a record. It returns the error of the writer; the record stays in
// memory.
func (l *Log) Add(r Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.Event == EventBegin {
		l.reconnects[r.Action] = new(Reconnects)
	}
	if len(l.ring) < MaxRecords {
		l.ring = append(l.ring, r)
	} else {
		if old := l.ring[l.next]; old.Event == EventEnd {
			delete(l.reconnects, old.Action)
		}
		l.ring[l.next] = r
		l.next = (l.next + 1) % len(l.ring)
	}
	if l.writer == nil {
		return nil
	}
	line, err := json.Marshal(r)
	if err == nil {
		err = l.writeLine(line)
	}
	if err != nil {
		l.errors.Add(1)
	}
	return err
}

// writeLine writes one line, preceded by a newline if the last line is incomplete. The
// caller holds the lock.
func (l *Log) writeLine(line []byte) error {
	if l.torn {
		line = append([]byte{'\n'}, line...)
	}
	n, err := l.writer.Write(append(line, '\n'))
	if err == nil || n > 0 {
		l.torn = err != nil
	}
	return err
}

// Records returns the records in memory, oldest first.
func (l *Log) Records() []Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	records := append([]Record{}, l.ring[l.next:]...) // not null in JSON
	records = append(records, l.ring[:l.next]...)
	for i := range records {
		r := &records[i]
		if counts := l.reconnects[r.Action]; r.Event == EventEnd && counts != nil && *counts != (Reconnects{}) {
			r.Reconnects = new(*counts)
		}
	}
	return records
}

// CountReconnect adds a reconnect to the counts of an action in memory.
func (l *Log) CountReconnect(action string, sameAddress bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	counts := l.reconnects[action]
	switch {
	case counts == nil: // the end record is no longer in memory
	case sameAddress:
		counts.SameAddress++
	default:
		counts.OtherAddress++
	}
}

// ServeHTTP responds with {"records": […]}, oldest first. Records contain
// processes and peer addresses: the caller restricts access.
func (l *Log) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	body, err := json.Marshal(struct {
		Records []Record `json:"records"`
	}{l.Records()})
	if err != nil {
		http.Error(w, "cannot encode records", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(append(body, '\n'))
}
