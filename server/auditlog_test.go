package server

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"tcphup/audit"
	"tcphup/test/kit/nstest"
)

// openedAudit opens the audit log and returns its records in memory.
func openedAudit(t *testing.T, path string, log *bytes.Buffer) []audit.Record {
	t.Helper()
	x := newServer(Options{AuditFile: path, Logger: slog.New(slog.NewTextHandler(log, nil))})
	closeAudit, err := x.openAudit()
	if err != nil {
		t.Fatal(err)
	}
	closeAudit()
	return x.audit.Records()
}

// A restart records an action without an end once, after a torn line on a new one.
func TestAuditAborted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit")
	const begin = `{"time":"2026-11-22T07:20:00Z","event":"begin","action":"a-1","policy":"p","fingerprint":"f","destination":"10.0.0.5","port":"5432","flows":{"planned":7}}` + "\n"
	const torn = `{"time":"20`
	// More than the tail that is read, so that it begins within a line.
	if err := os.WriteFile(path, []byte(strings.Repeat(`{"event":"end"}`+"\n", maxTail/16+1000)+begin+torn), 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	records := openedAudit(t, path, &log)
	if len(records) != 1 || records[0].Event != audit.EventAborted || records[0].Action != "a-1" || records[0].Time.IsZero() {
		t.Fatalf("records: %+v", records)
	}
	if want := `msg="earlier action did not end" policy=p fingerprint=f destination=10.0.0.5 port=5432`; !strings.Contains(log.String(), want) ||
		!strings.Contains(log.String(), "flows without a record: 7") {
		t.Errorf("log: %s", log.String())
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, end, _ := strings.Cut(string(content), begin+torn); !strings.HasPrefix(end, "\n{") || !strings.Contains(end, `"event":"aborted","action":"a-1"`) || !strings.HasSuffix(end, "}\n") {
		t.Errorf("end of the file: %q", end)
	}
	if records := openedAudit(t, path, &log); len(records) != 0 {
		t.Errorf("recorded again: %+v", records)
	}
}

// The reader of an audit pipe goes away: records are lost and counted, and none blocks.
func TestAuditPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	x := newServer(Options{AuditFile: path, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	closeAudit, err := x.openAudit()
	if err != nil {
		t.Fatal(err)
	}
	const records = 2 * maxQueuedLines
	for range records { // more than the pipe and the queue hold
		if err := x.audit.Add(audit.Record{Detail: strings.Repeat("x", 200)}); err != nil {
			t.Fatal(err)
		}
	}
	full := x.audit.Errors()
	if full == 0 || full >= records {
		t.Errorf("%d of %d records lost with a full pipe", full, records)
	}
	reader.Close()
	nstest.Eventually(t, "all records beyond a pipe of 64 KiB are lost", func() bool {
		return x.audit.Errors() >= records-64<<10/200
	})
	closeAudit()
	if n := strings.Count(log.String(), "cannot write audit record"); n != 1 {
		t.Errorf("logged %d times: %s", n, log.String())
	}
}
