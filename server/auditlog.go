package server

import (
	"fmt"
	"os"

	"tcphup/alerts"
	"tcphup/internal/safefile"
)

// openAudit opens the audit log and returns a function that closes its file.
func (x *server) openAudit() (func(), error) {
	if x.options.AuditFile == "" {
		x.audit = alerts.NewAudit(nil)
		return func() {}, nil
	}
	file, err := os.OpenFile(x.options.AuditFile, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		err = safefile.Check(file)
	}
	if err != nil {
		return nil, fmt.Errorf("open --audit.log-file: %w", err)
	}
	x.audit = alerts.NewAudit(file)
	if isTorn(file) {
		x.audit.EndLine()
	}
	return func() {
		x.audit.SetWriter(nil)
		if err := file.Close(); err != nil {
			x.logger.Error("cannot close audit log", "err", err)
		}
	}, nil
}

// isTorn reports whether the last line of a file has no newline, because an earlier
// process was killed or the disk was full. It reports false for an unreadable file.
func isTorn(file *os.File) bool {
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Size() == 0 {
		return false
	}
	reader, err := os.Open(file.Name())
	if err != nil {
		return false
	}
	defer reader.Close()
	var last [1]byte
	_, err = reader.ReadAt(last[:], info.Size()-1)
	return err == nil && last[0] != '\n'
}
