package command

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"

	"tcphup/internal/text"
)

// Control sequences of xterm and ECMA-48.
const (
	enterScreen = "\x1b[?1049h\x1b[?25l" // alternate screen, hidden cursor
	leaveScreen = "\x1b[?25h\x1b[?1049l"
	noWrap      = "\x1b[?7l"
	wrap        = "\x1b[?7h"
	cursorHome  = "\x1b[H"
	eraseLine   = "\x1b[K"
	eraseBelow  = "\x1b[J"
)

// watchUntilDone scans and prints once per interval, until ctx ends. On a terminal it
// redraws the table in place, and the key q also ends it; otherwise, and for JSON, it
// appends. After a failed scan it prints the error and continues.
func (l *list) watchUntilDone(ctx context.Context, color bool) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	show := l.append
	redraw := make(chan os.Signal, 1)
	if l.output == "table" && isTerminal(l.stdout) && term.IsTerminal(int(l.stdin.Fd())) {
		restore, err := l.openScreen(stop)
		if err != nil {
			return err
		}
		defer restore()
		signal.Notify(redraw, syscall.SIGWINCH)
		defer signal.Stop(redraw)
		show = l.redraw
	}
	tick := time.NewTicker(l.interval)
	defer tick.Stop()
	for {
		s, err := l.snapshot(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err := show(s, err, color); err != nil {
			return fmt.Errorf("write list: %w", err)
		}
		select {
		case <-tick.C:
		case <-redraw:
		case <-ctx.Done():
			return nil
		}
	}
}

// append prints a snapshot below the previous ones.
func (l *list) append(s *snapshot, failed error, color bool) error {
	if failed != nil {
		fmt.Fprintf(l.stderr, "tcphup: list connections: %v\n", failed)
		return nil
	}
	if l.output == "json" {
		return l.write(s, color)
	}
	if _, err := fmt.Fprintf(l.stdout, "%s  %s\n", time.Now().Format(time.RFC3339), s.summary()); err != nil {
		return err
	}
	if err := l.write(s, color); err != nil {
		return err
	}
	_, err := fmt.Fprintln(l.stdout)
	return err
}

// smallHeight is the height of a terminal up to which the summary is left out.
const smallHeight = 10

// redraw prints a snapshot over the previous one, fitted to the terminal.
func (l *list) redraw(s *snapshot, failed error, color bool) error {
	width, height, err := term.GetSize(int(l.stdout.(*os.File).Fd()))
	if err != nil || width < 1 || height < 1 {
		width, height = defaultWidth, 24
	}
	lines := []string{cell{"tcphup list  " + time.Now().Format(time.TimeOnly) + "  by " + l.sort + "  q: quit", dim}.show(color)}
	if failed != nil {
		lines = append(lines, wrapParts("", []cell{{text.Printable(failed.Error()), red}}, "", width, color)...)
	} else {
		if height > smallHeight {
			lines = append(lines, wrapText(s.summary(), "; ", "", width, color)...)
			lines = append(lines, "")
		}
		lines = append(lines, s.table(l.flows).layout(width, color).screen(height-len(lines), color)...)
	}
	lines = lines[:min(len(lines), height)]
	frame := cursorHome + strings.Join(lines, eraseLine+"\r\n") + eraseLine + eraseBelow
	_, err = io.WriteString(l.stdout, frame)
	return err
}

// screen returns at most height lines: as many rows as fit, and the number of the others.
func (l layout) screen(height int, color bool) []string {
	room := height - len(l.header) - len(l.below)
	if len(l.rows) <= room {
		return slices.Concat(l.header, l.rows, l.below)
	}
	keep := max(room-1, 0) / l.height
	more := cell{fmt.Sprintf("%d more rows do not fit", len(l.rows)/l.height-keep), bold}.show(color)
	if keep == 0 {
		return []string{more}
	}
	return slices.Concat(l.header, l.rows[:keep*l.height], []string{more}, l.below)
}

// openScreen switches the terminal to raw mode and the alternate screen, and calls quit on
// q, Ctrl-C, Ctrl-D or EOF. restore resets the terminal.
func (l *list) openScreen(quit func()) (restore func(), err error) {
	fd := int(l.stdin.Fd())
	before, err := term.MakeRaw(fd)
	if err != nil {
		return nil, fmt.Errorf("set up terminal: %w", err)
	}
	if _, err := io.WriteString(l.stdout, enterScreen+noWrap); err != nil {
		_ = term.Restore(fd, before)
		return nil, fmt.Errorf("set up terminal: %w", err)
	}
	// The goroutine ends with the process: a blocked read of a terminal cannot be canceled.
	go func() {
		const controlC, controlD = 3, 4 // raw mode delivers them as input
		key := make([]byte, 1)
		for {
			n, err := l.stdin.Read(key)
			if err != nil || n == 1 && (key[0] == 'q' || key[0] == controlC || key[0] == controlD) {
				quit()
				return
			}
		}
	}()
	return func() {
		_, _ = io.WriteString(l.stdout, wrap+leaveScreen)
		_ = term.Restore(fd, before)
	}, nil
}
