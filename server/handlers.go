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

// routes are the handlers of a server by their pattern in http.ServeMux.
type routes map[string]http.Handler

func (r routes) mux() http.Handler {
	mux := http.NewServeMux()
	for pattern, handler := range r {
		mux.Handle(pattern, handler)
	}
	return closeAfterChunked(mux)
}

// closeAfterChunked closes the connection after a chunked request. If it has a Content-Length
// too, which net/http removes, a proxy may have seen another end of the request (RFC 9112,
// section 6.1). Alertmanager and Prometheus send no chunked requests.
func closeAfterChunked(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TransferEncoding) > 0 {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}

// exact serves each path as it is written. An http.ServeMux redirects paths such as //alerts, and
// senders may drop a notification on a redirect.
func (r routes) exact() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		handler, ok := r[req.URL.Path]
		if !ok {
			handler = http.NotFoundHandler()
		}
		handler.ServeHTTP(w, req)
	})
}

// webRoutes returns the metrics, the status page and the read-only API.
func (x *server) webRoutes() routes {
	large := newResponseLimiter(maxResponses)
	return routes{
		"GET /metrics":        large.limit(x.collector.Handler(x.registry)),
		"GET /-/healthy":      respond("tcphup is healthy.\n"),
		"GET /-/ready":        http.HandlerFunc(x.reloads.handleReady),
		"GET /api/v1/flows":   x.local(large.limit(x.collector.FlowsHandler())),
		"GET /api/v1/hangups": x.local(large.limit(x.audit)),
		"GET /{$}":            large.limit(statuspage.Handler(x, x.logger)),
	}
}

// alertRoutes returns the alert receiver and its commands. The handlers check the method.
func (x *server) alertRoutes() routes {
	return routes{
		"/alerts":   x.receiver,
		"/-/pause":  x.receiver.PauseHandler(),
		"/-/resume": x.receiver.ResumeHandler(),
		"/-/reload": x.receiver.Protect(http.HandlerFunc(x.handleReload)),
	}
}

func respond(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text) }
}

// local restricts a handler that exposes processes and peers to the clients of maySeePeers.
func (x *server) local(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !x.maySeePeers(r) {
			reason := "forbidden: use localhost on this host, or require credentials with --web.config.file"
			if x.options.Node.Enabled {
				reason = "forbidden: the peers of all pods are for clients with credentials only: require them with --web.config.file"
			}
			http.Error(w, reason, http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// maySeePeers reports whether the client may see processes and peers: the listener
// authenticates all clients, or the client is local. In node mode a local client may be a
// hostNetwork pod of another tenant.
func (x *server) maySeePeers(r *http.Request) bool {
	return isLocal(r) && !x.options.Node.Enabled || x.authenticatesWebClients()
}

// authenticatesWebClients reports whether requests on the web listener have credentials
// when they reach their handler.
func (x *server) authenticatesWebClients() bool {
	return *x.options.Web.WebConfigFile != "" && checkWebConfig(*x.options.Web.WebConfigFile) == nil
}

// markWebClients marks the connections of authenticated clients of the web listener.
func (x *server) markWebClients(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if x.authenticatesWebClients() {
			markAuthenticated(r)
		}
		next.ServeHTTP(w, r)
	})
}

// isLocal reports whether a request is from a client on this host: the remote address
// is loopback and Host is localhost or a loopback address. The Host check rejects DNS
// rebinding and the proxies of service meshes, which keep Host. Other proxies add a
// header.
func isLocal(r *http.Request) bool {
	for name := range r.Header {
		if name == "Forwarded" || name == "Via" || name == "X-Real-Ip" || strings.HasPrefix(name, "X-Forwarded-") {
			return false
		}
	}
	client, _, err := net.SplitHostPort(r.RemoteAddr)
	return err == nil && isLoopback(client) && isLoopback((&url.URL{Host: r.Host}).Hostname())
}

// isLoopback reports whether the host is a loopback address or localhost.
func isLoopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && a.Unmap().IsLoopback()
}
