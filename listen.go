package main

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/exporter-toolkit/web"
)

// listen opens the listeners that the flags name, while ports below 1024 may still
// be had. It returns none for those that systemd hands over or that are no TCP:
// they are opened when they are served.
func listen(flags *web.FlagConfig) ([]net.Listener, error) {
	isVsock := func(address string) bool { return strings.HasPrefix(address, "vsock://") }
	if *flags.WebSystemdSocket || slices.ContainsFunc(*flags.WebListenAddresses, isVsock) {
		return nil, nil
	}
	var listeners []net.Listener
	for _, address := range *flags.WebListenAddresses {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return nil, fmt.Errorf("serve: %w", err)
		}
		listeners = append(listeners, l)
	}
	return listeners, nil
}

// serveOn serves on the listeners that listen has returned for the flags, until it
// fails or the server is shut down.
func serveOn(listeners []net.Listener, s *http.Server, flags *web.FlagConfig, logger *slog.Logger) error {
	if len(listeners) == 0 {
		return web.ListenAndServe(s, flags, logger)
	}
	return web.ServeMultiple(listeners, s, flags, logger)
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
