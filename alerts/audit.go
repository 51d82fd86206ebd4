package alerts

import (
	"encoding/json"
	"io"
	"net/http"
	"sync"
	"time"

	"tcphup/hangup"
)

// DefaultAuditSize is how many records an Audit keeps in memory.
const DefaultAuditSize = 1000

// Record is one decision: about one flow, or about an alert as a whole when Flow
// is nil.
type Record struct {
	Time        time.Time              `json:"time"`
	Policy      string                 `json:"policy,omitempty"` // empty: no policy is for the alert
	Fingerprint string                 `json:"fingerprint"`
	StartsAt    time.Time              `json:"starts_at,omitzero"`
	ExternalURL string                 `json:"external_url,omitempty"`
	Destination string                 `json:"destination,omitempty"`
	Port        string                 `json:"port,omitempty"`
	Result      string                 `json:"result"`           // of the alert
	Detail      string                 `json:"detail,omitempty"` // why, for people
	Shadow      bool                   `json:"shadow,omitempty"`
	Flows       map[hangup.Outcome]int `json:"flows,omitempty"` // of the alert, by outcome
	Flow        *hangup.ResultJSON     `json:"flow,omitempty"`
}

// Audit keeps the last records in memory, oldest first, and writes every record as
// a line of JSON. It serves those in memory over HTTP.
type Audit struct {
	mu     sync.Mutex
	writer io.Writer
	ring   []Record
	next   int // where the next record goes once the ring is full
	errors uint64
	torn   bool // the last line that was written has no end
}

// NewAudit returns an empty Audit that writes to w as well; nil means to memory
// only. Each record is one call of Write, so a file opened for appending may be
// shared. A record of which only a part could be written, to a disk that was full
// say, gets a line of its own: those before and after it can be read.
func NewAudit(w io.Writer) *Audit { return &Audit{writer: w} }

// SetWriter makes later records go to w, for a log file that was rotated, and
// returns the writer that was used until now. After it has returned that one is
// not used any more.
func (a *Audit) SetWriter(w io.Writer) (old io.Writer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	old, a.writer, a.torn = a.writer, w, false
	return old
}

// EndLine makes the next record begin on a line of its own, for a writer whose last
// line is cut off.
func (a *Audit) EndLine() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.torn = true
}

// Errors returns how many records could not be written.
func (a *Audit) Errors() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.errors
}

// Add keeps and writes a record. The error is of the writer; the record is in
// memory all the same.
func (a *Audit) Add(r Record) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.ring) < DefaultAuditSize {
		a.ring = append(a.ring, r)
	} else {
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
		a.errors++
	}
	return err
}

// writeLine writes one line, after the end of the last one if that was cut off. The
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
	records := make([]Record, 0, len(a.ring))
	records = append(records, a.ring[a.next:]...)
	return append(records, a.ring[:a.next]...)
}

// ServeHTTP answers GET with {"records": […]}, oldest first. The records name
// processes and peers: who may read them is for the caller to say.
func (a *Audit) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		writeJSON(w, http.StatusMethodNotAllowed, sayNo(0, "use GET"))
		return
	}
	writeJSON(w, http.StatusOK, struct {
		Records []Record `json:"records"`
	}{a.Records()})
}
