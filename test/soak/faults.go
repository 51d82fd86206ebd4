package main

import (
	"context"
	"io"
	"net"
	"syscall"
	"time"
)

// faultAll lets something go wrong now and then, each in turn.
func (s *soak) faultAll(ctx, busy context.Context) {
	faults := []func(context.Context) error{s.stall, s.loseName, s.hangUpScrape, s.hangUpAlert}
	for n := 0; s.sleep(busy, s.every(time.Minute)); n++ {
		if err := faults[n%len(faults)](ctx); err != nil {
			s.judge.fail("fault: %v", err)
		}
		s.count(func(c *counts) { c.faults++ })
	}
}

// stall stops tcphup for two seconds, as a host does that has no time for it.
func (s *soak) stall(ctx context.Context) error {
	s.mu.Lock()
	s.faultUntil = time.Now().Add(time.Hour)
	s.mu.Unlock()
	err := s.tcphup.cmd.Process.Signal(syscall.SIGSTOP)
	s.sleep(ctx, 2*time.Second)
	if err == nil {
		err = s.tcphup.cmd.Process.Signal(syscall.SIGCONT)
	}
	s.mu.Lock()
	s.faultUntil = time.Now().Add(time.Second)
	s.mu.Unlock()
	return err
}

// loseName lets lookups of the service fail for some seconds.
func (s *soak) loseName(ctx context.Context) error {
	s.hostsMu.Lock()
	defer s.hostsMu.Unlock()
	err := write("hosts", "")
	s.sleep(ctx, 5*time.Second)
	if err != nil {
		return err
	}
	return s.writeHosts()
}

// hangUpScrape asks for the metrics many times at once and leaves in the middle of
// the answer.
func (s *soak) hangUpScrape(ctx context.Context) error {
	for range 20 {
		if err := leave(ctx, metricsAddress, "GET /metrics HTTP/1.1\r\nHost: soak\r\n\r\n", 100); err != nil {
			return err
		}
	}
	return nil
}

// hangUpAlert posts alerts and leaves before the body is whole.
func (s *soak) hangUpAlert(ctx context.Context) error {
	head := "POST /alerts HTTP/1.1\r\nHost: soak\r\nContent-Type: application/json\r\nContent-Length: 1000\r\nAuthorization: Bearer " + s.token + "\r\n\r\n{"
	for range 20 {
		if err := leave(ctx, alertsAddress, head, 0); err != nil {
			return err
		}
	}
	return nil
}

// leave sends a request and resets the connection after some bytes of the answer.
func leave(ctx context.Context, address, request string, after int64) error {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(answerTimeout)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, request); err != nil {
		return err
	}
	if _, err := io.CopyN(io.Discard, conn, after); err != nil {
		return err
	}
	return conn.(*net.TCPConn).SetLinger(0)
}
