package command

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
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

// redraw prints a snapshot over the previous one, truncated to the terminal height.
func (l *list) redraw(s *snapshot, failed error, color bool) error {
	_, height, err := term.GetSize(int(l.stdout.(*os.File).Fd()))
	if err != nil || height < 1 {
		height = 24
	}
	head := cell{"tcphup list  " + time.Now().Format(time.TimeOnly) + "  ", dim}
	var lines []string
	if failed != nil {
		lines = []string{head.show(color) + cell{text.Printable(failed.Error()), red}.show(color)}
	} else {
		lines = append([]string{head.show(color) + s.summary() + cell{"  q: quit", dim}.show(color), ""}, s.table(l.flows).lines(color)...)
	}
	if len(lines) > height {
		lines = append(lines[:height-1], cell{fmt.Sprintf("%d more", len(lines)-height+1), dim}.show(color))
	}
	frame := cursorHome + strings.Join(lines, eraseLine+"\r\n") + eraseLine + eraseBelow
	_, err = io.WriteString(l.stdout, frame)
	return err
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
