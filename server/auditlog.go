package server

import (
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/time/rate"

	"tcphup/audit"
	"tcphup/internal/safefile"
)

// openAudit opens the audit log and returns a function that closes its file. It records the
// actions of an earlier process that did not end.
func (x *server) openAudit() (func(), error) {
	if x.options.AuditFile == "" {
		x.audit = audit.New(nil)
		return func() {}, nil
	}
	file, err := os.OpenFile(x.options.AuditFile, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		err = safefile.Check(file)
	}
	if err != nil {
		return nil, fmt.Errorf("open --audit.log-file: %w", err)
	}
	writer, flush := io.Writer(file), func() {}
	if info, err := file.Stat(); err == nil && !info.Mode().IsRegular() {
		// The reader of a pipe may block or go away.
		queue := x.queueAudit(file)
		writer, flush = queue, queue.Close
	}
	x.audit = audit.New(writer)
	x.recordAborted(file)
	return func() {
		x.audit.SetWriter(nil)
		flush()
		if err := file.Close(); err != nil {
			x.logger.Error("cannot close audit log", "err", err)
		}
	}, nil
}

// queueAudit returns a queue for a file whose writes may block.
func (x *server) queueAudit(file io.Writer) *LineQueue {
	failed := rate.Sometimes{Interval: time.Minute}
	return NewLineQueue(file, func(err error) {
		x.audit.CountError()
		failed.Do(func() { x.logger.Error("cannot write audit record", "err", err) })
	}, func(dropped uint64) { x.logger.Warn("audit log is written again", "dropped_records", dropped) })
}

// recordAborted records and logs each action in the audit log without an end: an earlier
// process was killed during the action. If it was killed while it wrote a line, the next
// record starts on a new line.
func (x *server) recordAborted(file *os.File) {
	log := readTail(file)
	if len(log) > 0 && log[len(log)-1] != '\n' {
		x.audit.EndLine()
	}
	for _, r := range audit.Aborted(log) {
		r.Time = time.Now()
		x.logger.Warn("earlier action did not end", "policy", r.Policy, "fingerprint", r.Fingerprint,
			"destination", r.Destination, "port", r.Port, "flows", r.Flows, "detail", r.Detail)
		if err := x.audit.Add(r); err != nil {
			x.logger.Error("cannot write audit record", "err", err)
		}
	}
}

// maxTail is how many bytes at the end of the audit log are searched for actions without an
// end.
const maxTail = 1 << 20

// readTail returns the last maxTail bytes of a regular file, and nothing for an unreadable
// file.
func readTail(file *os.File) []byte {
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil
	}
	reader, err := os.Open(file.Name())
	if err != nil {
		return nil
	}
	defer reader.Close()
	tail := make([]byte, min(info.Size(), maxTail))
	n, _ := reader.ReadAt(tail, info.Size()-int64(len(tail)))
	return tail[:n]
}
