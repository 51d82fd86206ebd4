package command

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/alecthomas/kingpin/v2"
)

// explained is a term of the man page with its explanation.
type explained struct{ term, text string }

var exitStatuses = []explained{
	{"0", "The command succeeded. A hang-up that matches no connection succeeds as well."},
	{"1", "A connection failed, lingers, was refused or left undecided (--stale), the hang-up was interrupted, or another error occurred. With probe: no method is usable."},
	{"2", "The command line, or a file or name on it, has an error. No connection was closed."},
}

var environment = []explained{
	{"NO_COLOR", "Disables colors if it is not empty."},
	{"STATE_DIRECTORY", "The default of --state.directory of tcphup serve. systemd sets it for StateDirectory=."},
	{"COLUMNS", "Width of help."},
}

var files = []explained{
	{defaultStateDirectory + "/services.json", "Current and former addresses of watched names, written by tcphup serve and read by --stale. --state.directory sets another directory."},
	{defaultStateDirectory + "/firstseen.json", "Times at which tcphup serve first saw connections, until the next boot."},
	{packagedAuditFile, "Audit file of the packaged service, if it is the value of its --audit.log-file. Hang-ups from the command line append to it, but do not create it."},
	{"/etc/default/tcphup", "Options of the packaged service."},
	{"/usr/share/doc/tcphup", "Documentation, and examples of configuration, alerting rules and a dashboard."},
}

const seeAlso = "ss(8), lsof(8), shutdown(2), pidfd_getfd(2), sock_diag(7), tcp(7), proc(5), capabilities(7), systemd.service(5)"

// writeManPage writes the man page in the macros of man(7).
func writeManPage(w io.Writer, app *kingpin.ApplicationModel) error {
	var b strings.Builder
	b.WriteString(".TH TCPHUP 1 \"\" tcphup \"User Commands\"\n")
	b.WriteString(".SH NAME\ntcphup \\- gracefully close stale TCP connections\n")
	commands := slices.DeleteFunc(slices.Clone(app.Commands), func(c *kingpin.CmdModel) bool { return c.Hidden || c.Name == "help" })
	b.WriteString(".SH SYNOPSIS\n.nf\n")
	for _, c := range commands {
		for _, form := range synopsis(c) {
			fmt.Fprintf(&b, "%s\n", roff(form))
		}
	}
	b.WriteString(".fi\n.SH DESCRIPTION\n")
	for i, paragraph := range []string{
		app.Help + " Applications then reconnect to the current address of the service, without a restart.",
		"HOST is an address, a prefix or a name. After a failover, a name resolves to the new address, and stale connections lead to the old one: give the old address, or --except=NAME, or --stale=NAME.",
		"tcphup closes a connection by shutdown(2) on a duplicate of the application's socket, which sends a FIN, or by SOCK_DESTROY, which sends a RST. tcphup probe shows which of them work on this host.",
	} {
		if i > 0 {
			b.WriteString(".PP\n")
		}
		b.WriteString(roffText(paragraph))
	}
	b.WriteString(".SH OPTIONS\n")
	writeFlags(&b, app.Flags)
	for _, c := range commands {
		fmt.Fprintf(&b, ".SS %s\n%s", roff("tcphup "+c.Name), roffText(c.Help))
		for _, a := range c.Args {
			fmt.Fprintf(&b, ".TP\n.I %s\n%s", roff(a.Name), roffText(a.Help+defaultText(a.Default)))
		}
		for _, group := range grouped(c) {
			if group.title != otherFlags {
				fmt.Fprintf(&b, ".PP\n%s:\n", roff(group.title))
			}
			writeFlags(&b, group.flags)
		}
	}
	fmt.Fprintf(&b, ".SH EXIT STATUS\n")
	writeExplained(&b, exitStatuses)
	fmt.Fprintf(&b, ".SH ENVIRONMENT\n")
	writeExplained(&b, environment)
	fmt.Fprintf(&b, ".SH FILES\n")
	writeExplained(&b, files)
	fmt.Fprintf(&b, ".SH EXAMPLES\n%s:\n", roff(aboutExamples))
	for _, c := range commands {
		for _, e := range examples[c.Name] {
			fmt.Fprintf(&b, ".TP\n.B %s\n%s", roff(e.line), roffText(e.meaning))
		}
	}
	fmt.Fprintf(&b, ".SH SEE ALSO\n")
	references := strings.Split(seeAlso, ", ")
	for i, reference := range references {
		name, section, _ := strings.Cut(reference, "(")
		comma := ","
		if i == len(references)-1 {
			comma = ""
		}
		fmt.Fprintf(&b, ".BR %s (%s%s\n", roff(name), section, comma)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func writeFlags(b *strings.Builder, flags []*kingpin.FlagModel) {
	for _, f := range flags {
		if !f.Hidden {
			fmt.Fprintf(b, ".TP\n.B %s\n%s", roff(strings.TrimSpace(flagText(f))), roffText(f.Help+defaultText(f.Default)))
		}
	}
}

func writeExplained(b *strings.Builder, list []explained) {
	for _, e := range list {
		fmt.Fprintf(b, ".TP\n.B %s\n%s", roff(e.term), roffText(e.text))
	}
}

// roffText returns text as lines of the source.
func roffText(s string) string {
	var b strings.Builder
	for _, line := range wrapWords(s, 70) {
		b.WriteString(roff(line) + "\n")
	}
	return b.String()
}

// roff escapes text for a line of its own, or for the argument of a macro.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`, "`", `\(ga`, "'", `\(aq`, `"`, `\(dq`, "^", `\(ha`, "~", `\(ti`).Replace(s)
	if strings.HasPrefix(s, ".") {
		s = `\&` + s
	}
	return s
}
