package server

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"tcphup/statuspage"
)

// webHandler serves what only reads.
func (x *server) webHandler() http.Handler {
	mux := http.NewServeMux()
	large := newAnswers(maxAnswers)
	mux.Handle("GET /metrics", large.limit(x.collector.Handler(x.registry)))
	mux.HandleFunc("GET /-/healthy", answer("tcphup is healthy.\n"))
	mux.HandleFunc("GET /-/ready", answer("tcphup is ready.\n"))
	mux.Handle("GET /api/v1/flows", x.local(large.limit(x.collector.FlowsHandler())))
	mux.Handle("GET /api/v1/hangups", x.local(large.limit(x.audit)))
	mux.Handle("GET /{$}", large.limit(statuspage.Handler(x, x.logger)))
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

// local lets local clients alone through, unless the listener knows its clients:
// what it protects names processes and peers.
func (x *server) local(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !x.maySeePeers(r) {
			http.Error(w, "for clients on this host only, that ask for localhost, unless --web.config.file asks for credentials", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// maySeePeers reports whether the client may see what names processes and peers:
// it is on this host, or the listener knows its clients.
func (x *server) maySeePeers(r *http.Request) bool {
	return isLocal(r) || *x.options.Web.WebConfigFile != "" && checkWebConfig(*x.options.Web.WebConfigFile) == nil
}

// isLocal reports whether a client on this host asks for itself: it comes from
// loopback and asks for localhost or a loopback address. A web page that has its
// own name lead here asks for that name (DNS rebinding), the proxy of a service
// mesh for whatever its client asked for, and other proxies say in a header that
// they are one.
func isLocal(r *http.Request) bool {
	for name := range r.Header {
		if name == "Forwarded" || name == "Via" || name == "X-Real-Ip" || strings.HasPrefix(name, "X-Forwarded-") {
			return false
		}
	}
	client, _, err := net.SplitHostPort(r.RemoteAddr)
	return err == nil && isLoopback(client) && isLoopback(hostname(r.Host))
}

// hostname returns what stands before the port in a Host header, without brackets.
func hostname(host string) string { return (&url.URL{Host: host}).Hostname() }

// isLoopback reports whether the host is a loopback address or localhost.
func isLoopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && a.Unmap().IsLoopback()
}
