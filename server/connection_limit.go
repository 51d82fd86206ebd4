package server

import (
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"time"
)

// maxConnections is the number of open connections per server. It keeps unauthenticated
// clients from exhausting memory and descriptors.
const maxConnections = 512

// limitConnections limits a server to limit connections. A new connection beyond that
// closes the connection whose state has not changed for the longest time. Idle and slow
// clients make room for scrapes and health checks.
func limitConnections(s *http.Server, limit int) {
	var mu sync.Mutex
	changed := make(map[net.Conn]time.Time)
	s.ConnState = func(c net.Conn, state http.ConnState) {
		mu.Lock()
		defer mu.Unlock()
		if state == http.StateClosed || state == http.StateHijacked {
			delete(changed, c)
			return
		}
		changed[c] = time.Now()
		if len(changed) <= limit {
			return
		}
		oldest := c
		for other, at := range changed {
			if at.Before(changed[oldest]) {
				oldest = other
			}
		}
		delete(changed, oldest)
		if encrypted, ok := oldest.(*tls.Conn); ok {
			oldest = encrypted.NetConn() // a TLS close_notify could block
		}
		_ = oldest.Close()
	}
}
