package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"syscall"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// webHandler serves what only reads.
func (x *server) webHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", x.collector.Handler(x.registry, promhttp.HandlerOpts{
		ErrorLog: errorLog{x},
		Registry: x.registry,
		// A scrape of many destinations would spend more time on gzip than on sockets.
		DisableCompression: true,
	}))
	mux.HandleFunc("GET /-/healthy", answer("tcphup is healthy.\n"))
	mux.HandleFunc("GET /-/ready", answer("tcphup is ready.\n"))
	mux.Handle("GET /api/v1/flows", x.local(x.collector.FlowsHandler()))
	mux.Handle("GET /api/v1/hangups", x.local(x.audit))
	mux.Handle("GET /{$}", statusPage(x.pageData, x.logger))
	return mux
}

// alertsHandler serves what acts.
func (x *server) alertsHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/alerts", x.receiver)
	mux.Handle("/-/pause", x.receiver.PauseHandler())
	mux.Handle("/-/resume", x.receiver.ResumeHandler())
	mux.Handle("/-/reload", x.receiver.Protect(http.HandlerFunc(x.handleReload)))
	return mux
}

func answer(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text) }
}

// local lets loopback clients alone through, unless the listener knows its
// clients: what it protects names processes and peers.
func (x *server) local(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !x.maySeePeers(r) {
			http.Error(w, "for clients on this host only, unless --web.config.file asks for credentials", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// maySeePeers reports whether the client may see what names processes and peers:
// it is on this host, or the listener knows its clients.
func (x *server) maySeePeers(r *http.Request) bool {
	return fromLoopback(r) || *x.web.WebConfigFile != "" && checkWebConfig(*x.web.WebConfigFile) == nil
}

func fromLoopback(r *http.Request) bool {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return false
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback()
}

// errorLog is the logger that promhttp wants.
type errorLog struct{ *server }

func (l errorLog) Println(v ...any) {
	level := slog.LevelError
	for _, v := range v {
		// A scraper that hangs up is no fault of ours, and could fill the log.
		if err, ok := v.(error); ok && (errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)) {
			level = slog.LevelDebug
		}
	}
	l.logger.Log(context.Background(), level, "cannot serve metrics", "err", fmt.Sprint(v...))
}
