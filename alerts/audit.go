package alerts

import (
	"encoding/json"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
)

// DefaultAuditSize is how many records an Audit keeps in memory.
const DefaultAuditSize = 1000

// Audit keeps the last DefaultAuditSize records in memory, writes every record as a line
// of JSON and serves the records in memory over HTTP. It is safe for concurrent use.
type Audit struct {
	mu     sync.Mutex
	writer io.Writer
	ring   []Record
	next   int  // index of the oldest record once the ring is full
	torn   bool // the last line is incomplete
	errors atomic.Uint64

	reconnects map[string]*Reconnects // by Record.Action, from the begin record until the end record is dropped
}

// NewAudit returns an empty Audit that also writes to w; nil means memory only. Each
// record is one call of Write, so a file opened for appending may be shared. After a
// partial write, for example on a full disk, the next record starts on a new line.
func NewAudit(w io.Writer) *Audit {
	return &Audit{writer: w, reconnects: make(map[string]*Reconnects)}
}

// SetWriter replaces the writer, after log rotation, and returns the previous one, which
// the caller may close. The error count is kept.
func (a *Audit) SetWriter(w io.Writer) (old io.Writer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	old, a.writer, a.torn = a.writer, w, false
	return old
}

// EndLine starts the next record on a new line, for a file whose last line is incomplete.
func (a *Audit) EndLine() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.torn = true
}

// Errors returns the number of records that could not be written.
func (a *Audit) Errors() uint64 { return a.errors.Load() }

// CountError counts a record that a writer with a queue could not write.
func (a *Audit) CountError() { a.errors.Add(1) }

// Add stores and writes a record. It returns the error of the writer; the record stays in
// memory.
func (a *Audit) Add(r Record) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if r.Event == EventBegin {
		a.reconnects[r.Action] = new(Reconnects)
	}
	if len(a.ring) < DefaultAuditSize {
		a.ring = append(a.ring, r)
	} else {
		if old := a.ring[a.next]; old.Event == EventEnd {
			delete(a.reconnects, old.Action)
		}
		a.ring[a.next] = r
		a.next = (a.next + 1) % len(a.ring)
	}
	if a.writer == nil {
		return nil
	}
	line, err := json.Marshal(r)
	if err == nil {
		err = a.writeLine(line)
	}
	if err != nil {
		a.errors.Add(1)
	}
	return err
}

// writeLine writes one line, preceded by a newline if the last line is incomplete. The
// caller holds the lock.
func (a *Audit) writeLine(line []byte) error {
	if a.torn {
		line = append([]byte{'\n'}, line...)
	}
	n, err := a.writer.Write(append(line, '\n'))
	if err == nil || n > 0 {
		a.torn = err != nil
	}
	return err
}

// Records returns the records in memory, oldest first.
func (a *Audit) Records() []Record {
	a.mu.Lock()
	defer a.mu.Unlock()
	records := append([]Record{}, a.ring[a.next:]...) // not null in JSON
	records = append(records, a.ring[:a.next]...)
	for i := range records {
		r := &records[i]
		if counts := a.reconnects[r.Action]; r.Event == EventEnd && counts != nil && *counts != (Reconnects{}) {
			r.Reconnects = new(*counts)
		}
	}
	return records
}

// countReconnect adds a reconnect to the counts of an action in memory.
func (a *Audit) countReconnect(action string, sameAddress bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	counts := a.reconnects[action]
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
func (a *Audit) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, struct {
		Records []Record `json:"records"`
	}{a.Records()})
}
