package server

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// maxConnections is the maximum number of open connections per server. It keeps
// unauthenticated clients from exhausting memory.
const maxConnections = 512

// connectionLimit returns the limit of open connections per server: maxConnections, and at
// most a quarter of RLIMIT_NOFILE. Both servers together leave half of the descriptors to
// scrapes and actions.
func connectionLimit() int {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return maxConnections
	}
	return int(max(1, min(maxConnections, files.Cur/4)))
}

// connection is the state of an open connection.
type connection struct {
	changed       time.Time // last change of its http.ConnState
	authenticated atomic.Bool
}

type connectionKey struct{}

// markAuthenticated exempts the connection of a request with valid credentials from
// eviction by limitConnections.
func markAuthenticated(r *http.Request) {
	if c, ok := r.Context().Value(connectionKey{}).(*connection); ok {
		c.authenticated.Store(true)
	}
}

// limitConnections limits the open connections of a server. A new connection beyond the
// limit closes the unauthenticated connection whose state has not changed for the longest
// time, or itself if all others are authenticated. Idle and slow clients make room for
// scrapes and health checks.
func limitConnections(s *http.Server, limit func() int) {
	var mu sync.Mutex
	open := make(map[net.Conn]*connection)
	s.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		mu.Lock()
		defer mu.Unlock()
		open[c] = &connection{changed: time.Now()}
		return context.WithValue(ctx, connectionKey{}, open[c])
	}
	s.ConnState = func(c net.Conn, state http.ConnState) {
		mu.Lock()
		defer mu.Unlock()
		current, ok := open[c]
		switch {
		case !ok: // closed below
			return
		case state == http.StateClosed || state == http.StateHijacked:
			delete(open, c)
			return
		}
		current.changed = time.Now()
		for state == http.StateNew && len(open) > limit() && open[c] != nil {
			oldest := c
			for other, o := range open {
				if !o.authenticated.Load() && o.changed.Before(open[oldest].changed) {
					oldest = other
				}
			}
			delete(open, oldest)
			if encrypted, ok := oldest.(*tls.Conn); ok {
				oldest = encrypted.NetConn() // a TLS close_notify could block
			}
			_ = oldest.Close()
		}
	}
}
