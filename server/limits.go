package server

import (
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"time"

	"tcphup/alerts"
)

// newMetricsServer returns a server for scrapes and the status page.
func newMetricsServer(handler http.Handler) *http.Server {
	s := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, WriteTimeout: time.Minute, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10}
	limitConnections(s, maxConnections)
	return s
}

// newAlertsServer returns a server for the handlers of a receiver, whose timeout
// determines those of the connections.
func newAlertsServer(handler http.Handler, receiver *alerts.Receiver) *http.Server {
	s := &http.Server{Handler: handler}
	receiver.ConfigureServer(s)
	limitConnections(s, maxConnections)
	return s
}

// maxConnections of a server are open at a time, so that whoever can connect to it
// cannot take the memory and the descriptors that hanging up needs.
const maxConnections = 512

// limitConnections keeps a server from having more than most connections. For one
// more it closes the one on which nothing has begun or ended for the longest time,
// so that idle and slow clients make way for a scrape or a health check.
func limitConnections(s *http.Server, most int) {
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
		if len(changed) <= most {
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
			oldest = encrypted.NetConn() // without a farewell, which might block
		}
		_ = oldest.Close()
	}
}
