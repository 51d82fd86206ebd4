package command

import (
	"fmt"
	"slices"
	"strings"

	"github.com/alecthomas/kingpin/v2"

	"tcphup/internal/text"
)

// parseError is an error about the command line itself. It matches ErrUsage.
type parseError struct {
	err  error
	help string // the command line that prints help
}

func (e parseError) Error() string        { return e.err.Error() + "; see " + e.help }
func (e parseError) Unwrap() error        { return e.err }
func (e parseError) Is(target error) bool { return target == ErrUsage }

// needs has the flags without effect unless another flag is set, by command.
var needs = map[string]map[string]string{
	"hangup": {"drain-quiet": "drain-deadline", "drain-answer": "drain-deadline", "former": "stale", "state.directory": "stale"},
	"list":   {"interval": "watch", "former": "stale", "state.directory": "stale"},
}

// commandLine checks a command line beyond the rules of kingpin, and explains the errors of
// kingpin. It suggests similar commands and flags; it never uses them.
type commandLine struct {
	app    *kingpin.Application
	parsed *kingpin.ParseContext
	args   []string
}

// given reports whether a flag is on the command line.
func (l *commandLine) given(flag string) bool {
	return slices.ContainsFunc(l.parsed.Elements, func(e *kingpin.ParseElement) bool {
		f, ok := e.Clause.(*kingpin.FlagClause)
		return ok && f.Model().Name == flag
	})
}

// words returns the arguments without the command and the flags.
func (l *commandLine) words() (words []string) {
	for _, e := range l.parsed.Elements {
		if _, ok := e.Clause.(*kingpin.ArgClause); ok && e.Value != nil {
			words = append(words, *e.Value)
		}
	}
	return words
}

// command returns the command, which may be the default command; nil before a command.
func (l *commandLine) command() *kingpin.CmdModel {
	if l.parsed.SelectedCommand == nil {
		return nil
	}
	return l.parsed.SelectedCommand.Model()
}

// fail returns an error with a hint at the help of the command.
func (l *commandLine) fail(format string, args ...any) error {
	help := "tcphup --help"
	if cmd := l.command(); cmd != nil && cmd.Name != "help" {
		help = "tcphup " + cmd.Name + " --help"
	}
	return parseError{fmt.Errorf(format, args...), help}
}

// parse sets the values of arguments and flags, and returns the name of the command.
// parseErr is the error of ParseContext.
func (l *commandLine) parse(parseErr error) (command string, err error) {
	if parseErr == nil && !l.given("completion-bash") {
		if err := l.checkHelpTopic(); err != nil {
			return "", err
		}
	}
	command, err = l.app.Parse(l.args)
	switch {
	case err == nil:
		err = l.check()
	case parseErr != nil:
		err = l.explain(parseErr)
	default:
		err = l.explainValue(err)
	}
	return command, err
}

// checkHelpTopic returns an error if the argument of tcphup help is not a command.
func (l *commandLine) checkHelpTopic() error {
	words := l.words()
	if l.parsed.SelectedCommand != l.app.HelpCommand || len(words) == 0 {
		return nil
	}
	names := namesOf(l.app.Model().Commands)
	if slices.Contains(names, words[0]) {
		return nil
	}
	return l.fail("unknown command %s%s", text.Quote(words[0]), didYouMean("", nearest(words[0], names)))
}

// check returns an error for a misspelt command and for a flag without its other flag.
func (l *commandLine) check() error {
	if err := l.checkBoolFlags(); err != nil {
		return err
	}
	if err := l.checkFirstWord(); err != nil {
		return err
	}
	for _, e := range l.parsed.Elements {
		if f, ok := e.Clause.(*kingpin.FlagClause); ok {
			name := f.Model().Name
			if other := needs[l.command().Name][name]; other != "" && !l.given(other) {
				return l.fail("--%s needs --%s", name, other)
			}
		}
	}
	return nil
}

// checkBoolFlags returns an error for a value of a flag without values: kingpin would take
// the value of --dry-run=false for a HOST.
func (l *commandLine) checkBoolFlags() error {
	flags := l.app.Model().Flags
	if cmd := l.command(); cmd != nil {
		flags = append(flags, cmd.Flags...)
	}
	for _, arg := range l.args {
		if arg == "--" {
			break
		}
		name, _, hasValue := strings.Cut(strings.TrimPrefix(arg, "--"), "=")
		if strings.HasPrefix(arg, "--") && hasValue && slices.ContainsFunc(flags, func(f *kingpin.FlagModel) bool {
			return f.IsBoolFlag() && (f.Name == name || "no-"+f.Name == name)
		}) {
			return l.fail("--%s takes no value", name)
		}
	}
	return nil
}

// checkFirstWord returns an error if no command is named and the first word is similar to a
// command. The word would be the first HOST: a search domain may resolve it, and the command
// would hang up connections instead of, for example, listing them.
func (l *commandLine) checkFirstWord() error {
	cmd, words := l.command(), l.words()
	if !cmd.Default || len(words) == 0 || slices.Contains(l.args, cmd.Name) || strings.Trim(strings.ToLower(words[0]), "abcdefghijklmnopqrstuvwxyz-") != "" {
		return nil
	}
	candidates := l.app.Model().Commands
	if len(words) > 1 {
		candidates = slices.DeleteFunc(candidates, func(c *kingpin.CmdModel) bool { return len(c.Args) == 0 })
	}
	find, otherwise := nearest, "to hang up, HOST and PORT are both needed"
	if len(words) > 1 {
		find, otherwise = similar, "for a host of this name, write tcphup "+cmd.Name+" "+text.Printable(strings.Join(words, " "))
	}
	names := find(strings.ToLower(words[0]), namesOf(candidates))
	if len(names) == 0 {
		return nil
	}
	if names[0] == words[0] {
		return parseError{fmt.Errorf("flags come after the command: tcphup %s; %s", words[0], otherwise), "tcphup " + words[0] + " --help"}
	}
	return parseError{fmt.Errorf("unknown command %s%s; %s", text.Quote(words[0]), didYouMean("tcphup ", names), otherwise), "tcphup --help"}
}

// explain returns an error of kingpin's parser with suggestions.
func (l *commandLine) explain(err error) error {
	if err := l.checkBoolFlags(); err != nil {
		return err
	}
	message := err.Error()
	if flag, ok := between(message, "unknown long flag '--", "'"); ok {
		return l.unknownFlag("--"+flag, flag)
	}
	if flag, ok := between(message, "unknown short flag '", "'"); ok {
		// kingpin names the first letter of -flag.
		if i := slices.IndexFunc(l.args, func(arg string) bool { return strings.HasPrefix(arg, flag) && len(arg) > len(flag) }); i >= 0 {
			word, _, _ := strings.Cut(l.args[i], "=")
			return l.unknownFlag(word, word[1:])
		}
		return l.fail("unknown flag %s", text.Printable(flag))
	}
	if flag, ok := between(message, "expected argument for flag '", "'"); ok {
		return l.fail("%s needs a value", flag)
	}
	if word, ok := between(message, "unexpected ", ""); ok {
		return l.fail("unexpected argument %s", text.Quote(word))
	}
	return l.fail("%w", err)
}

// explainValue returns an error of kingpin about a value or a missing argument, with its
// flag. kingpin returns the error of Value.Set as it is.
func (l *commandLine) explainValue(err error) error {
	if flag, ok := between(err.Error(), "flag '", "' cannot be repeated"); ok {
		return l.fail("--%s is set more than once", flag)
	}
	if arg, ok := between(err.Error(), "required argument '", "' not provided"); ok {
		return l.fail("%s is missing", arg)
	}
	for _, element := range l.parsed.Elements {
		flag, ok := element.Clause.(*kingpin.FlagClause)
		if !ok || element.Value == nil {
			continue
		}
		if setErr := flag.Model().Value.Set(*element.Value); setErr != nil && setErr.Error() == err.Error() {
			return l.fail("--%s: %w", flag.Model().Name, err)
		}
	}
	return l.fail("%w", err)
}

// unknownFlag returns the error for a flag as written and its name.
func (l *commandLine) unknownFlag(written, name string) error {
	cmd := l.command()
	names := flagNames(l.app.Model().Flags)
	if cmd != nil {
		names = append(names, flagNames(cmd.Flags)...)
	}
	for _, other := range l.app.Model().Commands {
		if cmd != nil && other.Name != cmd.Name && slices.Contains(flagNames(other.Flags), name) && !slices.Contains(names, name) {
			return l.fail("--%s is a flag of tcphup %s, not of tcphup %s", name, other.Name, cmd.Name)
		}
	}
	return l.fail("unknown flag %s%s", text.Printable(written), didYouMean("--", nearest(name, names)))
}

func flagNames(flags []*kingpin.FlagModel) (names []string) {
	for _, f := range flags {
		if !f.Hidden {
			names = append(names, f.Name)
		}
	}
	return names
}

func namesOf(commands []*kingpin.CmdModel) []string {
	names := make([]string, len(commands))
	for i, c := range commands {
		names[i] = c.Name
	}
	return names
}

// between returns the part of s between a prefix and a suffix.
func between(s, prefix, suffix string) (string, bool) {
	s, hasPrefix := strings.CutPrefix(s, prefix)
	s, hasSuffix := strings.CutSuffix(s, suffix)
	return s, hasPrefix && hasSuffix
}
