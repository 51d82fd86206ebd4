package main

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

// Control sequences that every terminal of today knows (xterm, ECMA-48).
const (
	enterScreen = "\x1b[?1049h\x1b[?25l" // another screen, no cursor
	leaveScreen = "\x1b[?25h\x1b[?1049l"
	noWrap      = "\x1b[?7l"
	wrap        = "\x1b[?7h"
	cursorHome  = "\x1b[H"
	eraseLine   = "\x1b[K"
	eraseBelow  = "\x1b[J"
)

// watchUntilDone looks every interval and shows what it saw: on a terminal in one
// place, until q is pressed or ctx ends, else and as JSON one after the other until
// ctx ends. A look that fails is told, and the next one may succeed.
func (l *list) watchUntilDone(ctx context.Context, colour bool) error {
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
		v, err := l.look(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err := show(v, err, colour); err != nil {
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

// append shows a look below those before.
func (l *list) append(v *view, failed error, colour bool) error {
	if failed != nil {
		fmt.Fprintf(l.stderr, "tcphup: list flows: %v\n", failed)
		return nil
	}
	if l.output == "json" {
		return l.write(v, colour)
	}
	if _, err := fmt.Fprintf(l.stdout, "%s  %s\n", time.Now().Format(time.RFC3339), v.summary()); err != nil {
		return err
	}
	if err := l.write(v, colour); err != nil {
		return err
	}
	_, err := fmt.Fprintln(l.stdout)
	return err
}

// redraw shows a look in place of the one before, as much of it as fits.
func (l *list) redraw(v *view, failed error, colour bool) error {
	_, height, err := term.GetSize(int(l.stdout.(*os.File).Fd()))
	if err != nil || height < 1 {
		height = 24
	}
	head := cell{"tcphup list  " + time.Now().Format(time.TimeOnly) + "  ", dim}
	var lines []string
	if failed != nil {
		lines = []string{head.show(colour) + cell{text.Printable(failed.Error()), red}.show(colour)}
	} else {
		lines = append([]string{head.show(colour) + v.summary() + cell{"  q: quit", dim}.show(colour), ""}, v.table(l.flows).lines(colour)...)
	}
	if len(lines) > height {
		lines = append(lines[:height-1], cell{fmt.Sprintf("%d more", len(lines)-height+1), dim}.show(colour))
	}
	frame := cursorHome + strings.Join(lines, eraseLine+"\r\n") + eraseLine + eraseBelow
	_, err = io.WriteString(l.stdout, frame)
	return err
}

// openScreen takes the terminal over and calls quit when its user wants no more.
// restore gives it back as it was.
func (l *list) openScreen(quit func()) (restore func(), err error) {
	fd := int(l.stdin.Fd())
	before, err := term.MakeRaw(fd)
	if err != nil {
		return nil, fmt.Errorf("take over terminal: %w", err)
	}
	if _, err := io.WriteString(l.stdout, enterScreen+noWrap); err != nil {
		_ = term.Restore(fd, before)
		return nil, fmt.Errorf("take over terminal: %w", err)
	}
	// It reads until the program ends: a read of a terminal cannot be taken back.
	go func() {
		const controlC, controlD = 3, 4 // in raw mode they are characters like others
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
