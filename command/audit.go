package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"strings"
	"time"

	"golang.org/x/term"

	"tcphup/audit"
	"tcphup/hangup"
	"tcphup/internal/address"
	"tcphup/internal/text"
	"tcphup/sockdiag"
)

// packagedAuditFile is the audit file in the directory of logs of the packaged service. It
// exists if --audit.log-file of tcphup serve names it.
const packagedAuditFile = "/var/log/tcphup/audit.log"

// maxAuditText limits the text of a record, in bytes.
const maxAuditText = 512

// auditedHangup records a hang-up by hand. Without an audit file its methods do nothing. The
// first error is a warning; it does not stop the hang-up.
type auditedHangup struct {
	log    *audit.Log // nil without an audit file
	close  func() error
	common audit.Record // of all records
	stderr io.Writer
	warned bool
}

// auditHangup opens the audit file, if it exists, and adds records to the callbacks of the
// request. path is --audit.log-file; empty means packagedAuditFile. filters are the flags that
// filter connections. A dry run has no records.
func auditHangup(path string, request *hangup.Request, filters []string, stderr io.Writer) *auditedHangup {
	a := &auditedHangup{stderr: stderr}
	if request.DryRun {
		return a
	}
	log, closeFile, err := audit.Open(cmp.Or(path, packagedAuditFile))
	switch {
	case errors.Is(err, fs.ErrNotExist) && path == "":
		return a
	case err != nil:
		a.warn(err)
		return a
	}
	a.log, a.close = log, closeFile
	a.common = audit.Record{
		User:        &audit.User{UID: os.Getuid(), Login: login(), Terminal: terminal()},
		Destination: text.Clip(strings.Join(texts(request.Selector.Destinations, address.Format), ","), maxAuditText),
	}
	if ports := request.Selector.Ports; len(ports) > 0 {
		a.common.Port = text.Clip(sockdiag.FormatPorts(ports), maxAuditText)
	}
	begin, done := request.Begin, request.Done
	request.Begin = func(flows int) {
		a.common.Action = fmt.Sprintf("%x-%d", time.Now().UnixNano(), os.Getpid())
		a.add(audit.Record{
			Event: audit.EventBegin, Flows: map[hangup.Outcome]int{hangup.Planned: flows},
			Detail: text.Clip(strings.Join(filters, " "), maxAuditText),
		})
		if begin != nil {
			begin(flows)
		}
	}
	request.Done = func(r *hangup.Result) {
		a.add(audit.Record{Event: audit.EventFlow, Flow: new(r.JSON())})
		if done != nil {
			done(r)
		}
	}
	return a
}

// end records the result and closes the file. report is nil after an error.
func (a *auditedHangup) end(ctx context.Context, report *hangup.Report, err error) {
	if a.log == nil {
		return
	}
	r := audit.Record{Event: audit.EventEnd}
	if err != nil {
		r.Result, r.Detail = "error", text.Clip(err.Error(), maxAuditText)
	} else {
		r.Result, r.Flows, r.Spared = auditResult(ctx, report), report.Outcomes(), report.Spared()
	}
	a.add(r)
	if err := a.close(); err != nil {
		a.warn(err)
	}
}

// auditResult returns the result of a report, in the terms of alerts.
func auditResult(ctx context.Context, report *hangup.Report) string {
	switch {
	case ctx.Err() != nil && report.Count(hangup.Planned) > 0:
		return "unfinished"
	case report.Count(hangup.Failed) > 0:
		return "failed"
	case report.Refusals()[hangup.ReasonBudget] > 0:
		return "over_budget"
	case report.Count(hangup.Refused) > 0:
		return "refused"
	default:
		return "done"
	}
}

func (a *auditedHangup) add(r audit.Record) {
	r.Time, r.Action, r.User, r.Destination, r.Port = time.Now(), a.common.Action, a.common.User, a.common.Destination, a.common.Port
	if err := a.log.Add(r); err != nil {
		a.warn(err)
	}
}

func (a *auditedHangup) warn(err error) {
	if !a.warned {
		fmt.Fprintf(a.stderr, "tcphup: warning: hang-up is not in the audit file: %v\n", err)
	}
	a.warned = true
}

// login returns the user of the login session, which sudo and su keep. Without one, as in a
// container, it returns SUDO_USER.
func login() string {
	const unset = "4294967295" // AUDIT_UID_UNSET
	content, err := os.ReadFile("/proc/self/loginuid")
	uid := strings.TrimSpace(string(content))
	if err != nil || uid == unset || uid == "" {
		return text.Clip(os.Getenv("SUDO_USER"), maxAuditText)
	}
	if found, err := user.LookupId(uid); err == nil {
		return found.Username
	}
	return uid
}

// terminal returns the path of the terminal of the standard streams; "" without one.
func terminal() string {
	for fd := range 3 {
		if path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd)); err == nil && term.IsTerminal(fd) {
			return path
		}
	}
	return ""
}
