package command

import (
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// useColor reports whether w is a terminal, NO_COLOR is unset and TERM is not dumb.
func useColor(w io.Writer) bool {
	return isTerminal(w) && os.Getenv("NO_COLOR") == "" && !strings.EqualFold(os.Getenv("TERM"), "dumb")
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// defaultWidth is the width of a terminal that does not report it.
const defaultWidth = 80

// terminalWidth returns the number of columns, or 0 if w is not a terminal.
func terminalWidth(w io.Writer) int {
	if !isTerminal(w) {
		return 0
	}
	width, _, err := term.GetSize(int(w.(*os.File).Fd()))
	if err != nil || width < 1 {
		return defaultWidth
	}
	return width
}
