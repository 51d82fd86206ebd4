package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// process is a running client program. See programs/golang/main.go for its protocol.
type process struct {
	stdin   io.Writer
	answers chan answer // closed when the program exits
}

// answer is the result of an operation.
type answer struct {
	size int
	err  string // empty: success
	at   time.Time
}

// startClient starts a client on a host. Its standard error goes to the log file.
func startClient(h *host, c client, o options, work string, variables ...string) (*process, error) {
	cmd := exec.Command(c.command(o)[0], c.command(o)[1:]...)
	cmd.Env = append(os.Environ(), environment()...)
	cmd.Env = append(cmd.Env, "WORK="+work, "HOME="+work)
	cmd.Env = append(cmd.Env, variables...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	log, err := os.Create(work + "/log")
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stderr = log
	if err := h.ns.Do(cmd.Start); err != nil {
		return nil, err
	}
	p := &process{stdin: stdin, answers: make(chan answer, 16)}
	go func() {
		defer close(p.answers)
		lines := bufio.NewScanner(stdout)
		for lines.Scan() {
			kind, text, _ := strings.Cut(lines.Text(), " ")
			a := answer{at: time.Now()}
			switch kind {
			case "ok":
				var err error
				if a.size, err = strconv.Atoi(text); err != nil {
					a.err = "malformed answer: " + lines.Text()
				}
			case "error":
				a.err = text
			default:
				continue // a library's output
			}
			p.answers <- a
		}
		_ = cmd.Wait()
	}()
	return p, nil
}

// send starts an operation.
func (p *process) send(operation string, number int) error {
	_, err := fmt.Fprintf(p.stdin, "%s %d\n", operation, number)
	return err
}

// exited is the answer of a program that has exited.
const exited = "client program exited"

// wait returns the answer to the operation; ok is false if there is none until the deadline.
func (p *process) wait(ctx context.Context, deadline time.Time) (a answer, ok bool, err error) {
	select {
	case a, open := <-p.answers:
		if !open {
			return answer{err: exited, at: time.Now()}, true, nil
		}
		return a, true, nil
	case <-time.After(time.Until(deadline)):
		return answer{}, false, nil
	case <-ctx.Done():
		return answer{}, false, ctx.Err()
	}
}
