package main

import (
	"context"
	"io"
	"net"
	"syscall"
	"time"
)

// faultLoop injects the faults in turn, at intervals.
func (s *soak) faultLoop(ctx, busy context.Context) {
	faults := []func(context.Context) error{s.stall, s.failLookups, s.abortScrapes, s.abortAlerts}
	for n := 0; s.sleep(busy, s.every(time.Minute)); n++ {
		if err := faults[n%len(faults)](ctx); err != nil {
			s.checker.fail("fault injection failed: %v", err)
		}
		s.count(func(c *counts) { c.faults++ })
	}
}

// stall stops tcphup for two seconds, like an overloaded host.
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

// failLookups makes lookups of the service fail for five seconds.
func (s *soak) failLookups(ctx context.Context) error {
	s.hostsMu.Lock()
	defer s.hostsMu.Unlock()
	err := write("hosts", "")
	s.sleep(ctx, 5*time.Second)
	if err != nil {
		return err
	}
	return s.writeHosts()
}

// abortScrapes aborts scrapes in the middle of the response.
func (s *soak) abortScrapes(ctx context.Context) error {
	for range 20 {
		if err := abort(ctx, metricsAddress, "GET /metrics HTTP/1.1\r\nHost: soak\r\n\r\n", 100); err != nil {
			return err
		}
	}
	return nil
}

// abortAlerts aborts alert posts before the end of the body.
func (s *soak) abortAlerts(ctx context.Context) error {
	head := "POST /alerts HTTP/1.1\r\nHost: soak\r\nContent-Type: application/json\r\nContent-Length: 1000\r\nAuthorization: Bearer " + s.token + "\r\n\r\n{"
	for range 20 {
		if err := abort(ctx, alertsAddress, head, 0); err != nil {
			return err
		}
	}
	return nil
}

// abort sends a request and resets the connection after so many bytes of the response.
func abort(ctx context.Context, address, request string, after int64) error {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(responseTimeout)); err != nil {
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
