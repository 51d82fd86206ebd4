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

// route is a pattern of http.ServeMux and its handler.
type route struct {
	pattern string
	handler http.Handler
}

// newMux returns a handler that serves the routes.
func newMux(routes []route) http.Handler {
	mux := http.NewServeMux()
	for _, r := range routes {
		mux.Handle(r.pattern, r.handler)
	}
	return mux
}

// webHandler serves what only reads.
func (x *server) webHandler() http.Handler { return newMux(x.webRoutes()) }

func (x *server) webRoutes() []route {
	large := newAnswers(maxAnswers)
	return []route{
		{"GET /metrics", large.limit(x.collector.Handler(x.registry))},
		{"GET /-/healthy", answer("tcphup is healthy.\n")},
		{"GET /-/ready", answer("tcphup is ready.\n")},
		{"GET /api/v1/flows", x.local(large.limit(x.collector.FlowsHandler()))},
		{"GET /api/v1/hangups", x.local(large.limit(x.audit))},
		{"GET /{$}", large.limit(statuspage.Handler(x, x.logger))},
	}
}

// alertsHandler serves what acts.
func (x *server) alertsHandler() http.Handler { return newMux(x.alertRoutes()) }

// alertRoutes have no method in their patterns: the handlers check it themselves.
func (x *server) alertRoutes() []route {
	return []route{
		{"/alerts", x.receiver},
		{"/-/pause", x.receiver.PauseHandler()},
		{"/-/resume", x.receiver.ResumeHandler()},
		{"/-/reload", x.receiver.Protect(http.HandlerFunc(x.handleReload))},
	}
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
