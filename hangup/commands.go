package hangup

import (
	"fmt"
	"strings"
)

// MaxCommand is the longest name in /proc/PID/comm (TASK_COMM_LEN), in bytes. Linux cuts
// longer names.
const MaxCommand = 15

// CheckCommand returns an error for text that cannot be the name in /proc/PID/comm.
func CheckCommand(text string) error {
	if text == "" || len(text) > MaxCommand {
		return fmt.Errorf("%q is not a command name of 1 to %d bytes, as in /proc/PID/comm", text, MaxCommand)
	}
	return nil
}

// SplitCommands returns the names in a list, which it does not check. They are separated by
// commas; a comma in a name is written \, and a backslash may be written \\.
func SplitCommands(list string) []string {
	names := []string{""}
	for i := 0; i < len(list); i++ {
		last := &names[len(names)-1]
		switch rest := list[i:]; {
		case strings.HasPrefix(rest, `\,`), strings.HasPrefix(rest, `\\`):
			i++
			*last += list[i : i+1]
		case rest[0] == ',':
			names = append(names, "")
		default:
			*last += rest[:1]
		}
	}
	return names
}

// JoinCommands returns the list of the names, for SplitCommands.
func JoinCommands(names []string) string {
	escape := strings.NewReplacer(`\`, `\\`, ",", `\,`)
	list := make([]string, len(names))
	for i, name := range names {
		list[i] = escape.Replace(name)
	}
	return strings.Join(list, ",")
}
