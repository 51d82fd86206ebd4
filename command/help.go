package command

import (
	"fmt"
	"slices"
	"strings"

	"github.com/alecthomas/kingpin/v2"
)

// helpTemplate is kingpin's template of --help.
const helpTemplate = `{{if .Context.SelectedCommand}}{{CommandHelp .Context.SelectedCommand .Width}}{{else}}{{Help .App .Width}}{{end}}`

// maxHelpWidth limits the width of help on wide terminals, in columns.
const maxHelpWidth = 100

// example is a command line with its meaning.
type example struct{ line, meaning string }

// aboutExamples introduces the examples of all commands.
const aboutExamples = "10.20.0.5 is the old address, db.internal has the new one"

// examples of the commands, in help and man page. Each begins with the old address: a name
// has the new one after a failover.
var examples = map[string][]example{
	"hangup": {
		{"tcphup 10.20.0.5 5432 --dry-run", "print what would be closed"},
		{"tcphup 10.20.0.5 5432", "close every connection to it"},
		{"tcphup 10.20.0.5 5432 --min-idle=30s", "only those idle for so long"},
		{"tcphup 10.20.0.0/16 5432 --except=db.internal", "a network but the new address"},
	},
	"list": {
		{"tcphup list 10.20.0.5", "one line per destination"},
		{"tcphup list 10.20.0.5 5432 --flows", "one line per connection, with its process"},
		{"tcphup list 10.20.0.5 --watch", "refresh the list like top"},
	},
}

// synopses has the forms of a command whose arguments depend on each other.
var synopses = map[string][]string{
	"hangup": {"tcphup [hangup] [FLAG...] HOST... PORT", "tcphup [hangup] [FLAG...] --pid=PID (or --command, --uid, --cgroup)", "tcphup [hangup] [FLAG...] --stale=NAME[:PORT]"},
	"list":   {"tcphup list [FLAG...] [HOST...] [PORT]", "tcphup list [FLAG...] --stale=NAME[:PORT]"},
}

// flagGroup is a section of flags in help and man page.
type flagGroup struct {
	title string
	flags []string
}

// flagGroups has the groups of commands with many flags. Other commands have one group.
var flagGroups = map[string][]flagGroup{
	"hangup": {
		{"Which connections", []string{"port", "except", "direction", "source", "state", "min-idle", "netns", "stale", "former", "state.directory", "yes"}},
		{"Of which processes", []string{"pid", "command", "uid", "cgroup"}},
		{"Safety", []string{"dry-run", "max-flows", "rate"}},
		{"How to close", []string{"method", "mptcp", "sigpipe-safe", "linger"}},
		{"Busy connections", []string{"receive-wait", "drain-deadline", "drain-quiet", "drain-answer"}},
		{"Report", []string{"watch-reconnect", "output", "audit.log-file"}},
	},
	"serve": {
		{"Configuration", []string{"config.file", "service", "state.directory"}},
		{"Metrics", []string{
			"collector.max-destinations", "collector.histograms", "collector.prefix-length-v4", "collector.prefix-length-v6", "collector.include", "collector.exclude",
		}},
		{"Alerts", []string{
			"alerts.listen-address", "alerts.token-file", "alerts.web-config-file", "alerts.pause-file", "alerts.shadow", "audit.log-file", "watch-reconnect",
		}},
		{"Listeners and log", []string{"web.listen-address", "web.systemd-socket", "web.config.file", "log.level", "log.format"}},
		{"Pods of a Kubernetes node", []string{"node", "node.pod-logs", "node.cpu-budget", "collector.max-destinations-per-pod"}},
	},
	"list": {
		{"Which connections", []string{"port", "except", "direction", "source", "state", "min-idle", "netns", "stale", "former", "state.directory"}},
		{"Of which processes", []string{"pid", "command", "uid", "cgroup"}},
		{"Report", []string{"flows", "sort", "watch", "interval", "output"}},
	},
}

// otherFlags is the title of the flags without a group.
const otherFlags = "Flags"

// grouped returns the visible flags of a command by group.
func grouped(cmd *kingpin.CmdModel) []groupedFlags {
	rest := slices.DeleteFunc(slices.Clone(cmd.Flags), func(f *kingpin.FlagModel) bool { return f.Hidden })
	var groups []groupedFlags
	for _, g := range flagGroups[cmd.Name] {
		group := groupedFlags{title: g.title}
		for _, name := range g.flags {
			if i := slices.IndexFunc(rest, func(f *kingpin.FlagModel) bool { return f.Name == name }); i >= 0 {
				group.flags = append(group.flags, rest[i])
				rest = slices.Delete(rest, i, i+1)
			}
		}
		groups = append(groups, group)
	}
	if len(rest) > 0 {
		groups = append(groups, groupedFlags{otherFlags, rest})
	}
	return groups
}

type groupedFlags struct {
	title string
	flags []*kingpin.FlagModel
}

// synopsis returns the forms of a command.
func synopsis(cmd *kingpin.CmdModel) []string {
	if forms := synopses[cmd.Name]; forms != nil {
		return slices.Clone(forms)
	}
	form := "tcphup " + cmd.Name
	if len(cmd.Flags) > 0 {
		form += " [FLAG...]"
	}
	for _, a := range cmd.Args {
		if a.Required {
			form += " " + a.Name
		} else {
			form += " [" + a.Name + "]"
		}
	}
	return []string{form}
}

// formatHelp returns tcphup --help.
func formatHelp(app *kingpin.ApplicationModel, width int) string {
	width = min(width, maxHelpWidth)
	var b strings.Builder
	fmt.Fprintf(&b, "usage: tcphup HOST... PORT\n       tcphup COMMAND [FLAG...] [ARGUMENT...]\n\n")
	fmt.Fprintf(&b, "%s\n\n", strings.Join(wrapWords(app.Help, width), "\n"))
	writeExamples(&b, examples["hangup"], width)
	var commands, flags [][2]string
	for _, c := range app.Commands {
		if !c.Hidden && c.Name != "help" {
			commands = append(commands, [2]string{c.Name, c.Help})
		}
	}
	for _, f := range app.Flags {
		if !f.Hidden {
			flags = append(flags, [2]string{flagText(f), f.Help})
		}
	}
	fmt.Fprintf(&b, "Commands:\n%s\nFlags:\n%s\n", columns(commands, width), columns(flags, width))
	fmt.Fprintln(&b, "tcphup COMMAND --help lists the flags of a command: tcphup hangup --help.")
	return b.String()
}

// formatCommandHelp returns the help of a command.
func formatCommandHelp(cmd *kingpin.CmdModel, width int) string {
	width = min(width, maxHelpWidth)
	var b strings.Builder
	fmt.Fprintf(&b, "usage: %s\n\n%s\n\n", strings.Join(synopsis(cmd), "\n       "), strings.Join(wrapWords(cmd.Help, width), "\n"))
	writeExamples(&b, examples[cmd.Name], width)
	var rows [][2]string
	for _, a := range cmd.Args {
		rows = append(rows, [2]string{a.Name, a.Help + defaultText(a.Default)})
	}
	if len(rows) > 0 {
		fmt.Fprintf(&b, "Arguments:\n%s\n", columns(rows, width))
	}
	for _, group := range grouped(cmd) {
		rows = nil
		for _, f := range group.flags {
			rows = append(rows, [2]string{flagText(f), f.Help + defaultText(f.Default)})
		}
		fmt.Fprintf(&b, "%s:\n%s\n", group.title, columns(rows, width))
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func writeExamples(b *strings.Builder, list []example, width int) {
	if len(list) == 0 {
		return
	}
	longest := 0
	rows := make([][2]string, len(list))
	for i, e := range list {
		rows[i] = [2]string{e.line, e.meaning}
		longest = max(longest, len(e.line))
	}
	fmt.Fprintf(b, "Examples (%s):\n%s\n", aboutExamples, columnsAt(rows, width, longest))
}

// flagText returns a flag with its value: "-w, --watch", "    --linger=DURATION".
func flagText(f *kingpin.FlagModel) string {
	s := "    --" + f.Name
	if f.Short != 0 {
		s = "-" + string(f.Short) + ", --" + f.Name
	}
	if !f.IsBoolFlag() {
		s += "=" + valueText(f)
	}
	return s
}

// valueText names the value of a flag: its choices, its type, or the last part of the flag.
func valueText(f *kingpin.FlagModel) string {
	if f.PlaceHolder != "" {
		return f.PlaceHolder
	}
	switch v := f.Value.(type) {
	case interface{ names() []string }:
		return strings.Join(v.names(), "|")
	case duration:
		return "DURATION"
	case wholeNumber, rate:
		return "N"
	case *prefixes:
		return "PREFIX"
	case *serviceFlags:
		return "NAME:PORT"
	}
	return strings.ToUpper(f.Name[strings.LastIndexAny(f.Name, ".-")+1:])
}

// defaultText returns the default in parentheses; "" without one.
func defaultText(values []string) string {
	if len(values) == 0 || values[0] == "" {
		return ""
	}
	return " (default " + strings.Join(values, " ") + ")"
}

// columns formats rows as an indented list of terms and wrapped explanations.
func columns(rows [][2]string, width int) string {
	const maxTerm = 28
	term := 0
	for _, row := range rows {
		if n := len(row[0]); n <= maxTerm {
			term = max(term, n)
		}
	}
	return columnsAt(rows, width, term)
}

// columnsAt is columns with the width of the terms. The explanation of a longer term begins
// on the next line.
func columnsAt(rows [][2]string, width, term int) string {
	const indent, gap = 2, 2
	var b strings.Builder
	for _, row := range rows {
		lines := wrapWords(row[1], width-indent-term-gap)
		if len(row[0]) > term {
			fmt.Fprintf(&b, "%*s%s\n", indent, "", row[0])
		} else {
			fmt.Fprintf(&b, "%*s%-*s%*s%s\n", indent, "", term, row[0], gap, "", lines[0])
			lines = lines[1:]
		}
		for _, line := range lines {
			fmt.Fprintf(&b, "%*s%s\n", indent+term+gap, "", line)
		}
	}
	return b.String()
}

// wrapWords breaks text into lines of at most width bytes, longer words excepted. It returns
// at least one line.
func wrapWords(text string, width int) []string {
	lines := []string{""}
	for word := range strings.FieldsSeq(text) {
		last := &lines[len(lines)-1]
		switch {
		case *last == "":
			*last = word
		case len(*last)+1+len(word) <= width:
			*last += " " + word
		default:
			lines = append(lines, word)
		}
	}
	return lines
}
