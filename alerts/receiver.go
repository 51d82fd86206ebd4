package alerts

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"mime"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"tcphup/internal/text"
)

// Receiver handles POST /alerts and implements prometheus.Collector. It is safe for
// concurrent use.
type Receiver struct {
	config Config
	hang   HangUpper
	log    *slog.Logger

	rules    atomic.Pointer[Rules]
	stopping atomic.Bool
	pause    *pause
	limiter  *limiter
	locks    keyedLock
	metrics  *metrics

	created time.Time     // with begun, makes audit.Record.Action unique
	begun   atomic.Uint64 // number of actions

	notifications chan struct{} // semaphore of MaxNotifications
	actions       chan struct{} // semaphore of MaxActions
	// Rate-limited logs.
	credentials, auditFailed, rejected rate.Sometimes
}

// NewReceiver returns a Receiver with these rules. It returns an error if the rules, the
// configuration or the token file are invalid.
func NewReceiver(config Config, rules Rules, hang HangUpper, log *slog.Logger) (*Receiver, error) {
	config, err := config.withDefaults()
	if err != nil {
		return nil, err
	}
	r := &Receiver{
		config:        config,
		hang:          hang,
		log:           log,
		created:       config.Now(),
		pause:         newPause(config.PauseFile),
		limiter:       newLimiter(),
		metrics:       newMetrics(),
		notifications: make(chan struct{}, config.MaxNotifications),
		actions:       make(chan struct{}, config.MaxActions),
		credentials:   rate.Sometimes{Interval: logInterval},
		auditFailed:   rate.Sometimes{Interval: logInterval},
		rejected:      rate.Sometimes{Interval: logInterval},
	}
	if err := r.Reload(rules); err != nil {
		return nil, err
	}
	return r, nil
}

// Reload replaces the rules for later notifications; running ones keep the old rules. On
// an error the old rules stay. Cooldowns and breakers persist by policy name.
func (r *Receiver) Reload(rules Rules) error {
	if err := rules.Validate(); err != nil {
		return fmt.Errorf("check rules: %w", err)
	}
	var errs []error
	for i := range rules.Policies {
		p := &rules.Policies[i]
		if err := r.checkPolicy(p); err != nil {
			errs = append(errs, fmt.Errorf("policy %q: %w", p.Name, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("check rules: %w", err)
	}
	r.rules.Store(&rules)
	return nil
}

// checkPolicy checks a policy against the configuration of the receiver.
func (r *Receiver) checkPolicy(p *Policy) error {
	switch node := r.config.Pods != nil; {
	case r.config.Names == nil && (len(p.Allow.Names) > 0 || p.Labels.Service != ""):
		return errors.New("needs a resolver for its names")
	case node && p.Namespaces == nil:
		return errors.New("namespaces is missing: node mode (--node) needs the Kubernetes namespaces in which the policy may act")
	case !node && len(p.Namespaces) > 0:
		return errors.New("namespaces needs node mode (--node)")
	case p.TokenFile == "" || r.config.NoListener:
		return nil
	case r.config.TokenFile == "":
		return errors.New("token_file needs tokens of the receiver too (--alerts.token-file): " +
			"with basic authentication or client certificates alone, every client may act by every policy")
	default:
		_, err := tokenFile(p.TokenFile).read()
		return err
	}
}

// Allows reports whether the prefix overlaps an allowed prefix of a current policy that
// allows the port. Allow.AnyAddress and Allow.Names do not count. It is cheap enough to
// call for every flow.
func (r *Receiver) Allows(addresses netip.Prefix, port uint16) bool {
	policies := r.rules.Load().Policies
	for i := range policies {
		if p := &policies[i]; p.allowsPort(port) && slices.ContainsFunc(p.Allow.Prefixes, addresses.Overlaps) {
			return true
		}
	}
	return false
}

// Stop rejects later notifications with 503. Running ones continue; http.Server.Shutdown
// waits for them.
func (r *Receiver) Stop() { r.stopping.Store(true) }

// ConfigureServer sets the server's timeouts and header limit against slow clients and
// large requests.
func (r *Receiver) ConfigureServer(s *http.Server) {
	s.ReadHeaderTimeout = headerTimeout
	// For rejected requests with an unread body. It does not end an action: net/http resets
	// the deadline after the body was read.
	s.ReadTimeout = headerTimeout + bodyTimeout
	s.IdleTimeout = idleTimeout
	s.MaxHeaderBytes = 16 << 10
	// From the end of the header: the action, and time to send the response.
	s.WriteTimeout = r.config.Timeout + bodyTimeout + headerTimeout
}

const (
	headerTimeout = 5 * time.Second
	bodyTimeout   = 5 * time.Second
	idleTimeout   = 2 * time.Minute
	// pauseInterval is the interval of checks for the pause file during an action.
	pauseInterval = 500 * time.Millisecond
	// logInterval is the minimum time between log messages about the same error.
	logInterval = time.Minute
)

// ServeHTTP handles a notification and responds when its actions are finished or Timeout
// is over.
//
// Status codes: 200 if every alert was handled or a retry is useless; the body counts
// alerts and flows. 400, 413, 415 for invalid requests. 401, 403, 405 for forbidden ones.
// 503 if Alertmanager should retry; unfinished actions continue then. Other codes are
// not used: Alertmanager drops the notification on a redirect and does not retry on 429.
func (r *Receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	resp := r.receive(w, req)
	r.metrics.notifications.WithLabelValues(strconv.Itoa(resp.code)).Inc()
	r.logRejected(req, resp)
	writeJSON(w, resp.code, resp)
}

func (r *Receiver) receive(w http.ResponseWriter, req *http.Request) *response {
	from, rejected := r.admit(w, req, r.tokenFiles())
	if rejected != nil {
		return rejected
	}
	begun := time.Now()
	defer func() { r.metrics.duration.Observe(time.Since(begun).Seconds()) }()
	// A twentieth of the time is reserved for the response.
	ctx, cancel := context.WithTimeout(req.Context(), r.config.Timeout-r.config.Timeout/20)
	defer cancel()

	if r.stopping.Load() {
		return reject(http.StatusServiceUnavailable, "shutting down")
	}
	if err := r.pause.cause(); err != nil {
		return reject(http.StatusServiceUnavailable, err.Error())
	}
	if err := checkType(req.Header); err != nil {
		return reject(http.StatusUnsupportedMediaType, err.Error())
	}
	select {
	case r.notifications <- struct{}{}:
		defer func() { <-r.notifications }()
	case <-ctx.Done():
		return reject(http.StatusServiceUnavailable, "too many notifications at once")
	}
	rules := r.rules.Load()
	n, rejected := readNotification(w, req, rules.labels(r.config.Pods != nil))
	if rejected != nil {
		return rejected
	}
	n.from = from
	ctx, stop := r.pause.watch(ctx, pauseInterval)
	defer stop()
	return r.handle(ctx, n, rules)
}

// logRejected logs a request with a 4xx status code, at most once per logInterval.
func (r *Receiver) logRejected(req *http.Request, resp *response) {
	if resp.code < http.StatusBadRequest || resp.code >= http.StatusInternalServerError {
		return
	}
	r.rejected.Do(func() {
		r.log.Warn("request rejected", "client", req.RemoteAddr, "path", text.Clip(req.URL.Path, clipLimit),
			"code", resp.code, "detail", text.Clip(resp.Error, clipLimit), "log_interval", logInterval)
	})
}

// admit returns the sender of a POST request that has a token of the files, or the rejection
// of another request.
func (r *Receiver) admit(w http.ResponseWriter, req *http.Request, files []string) (sender, *response) {
	if req.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return sender{}, reject(http.StatusMethodNotAllowed, "use POST")
	}
	// Browsers send one of these headers with every POST, Alertmanager none: a web page
	// cannot post to a receiver on the loopback address of its visitor.
	if req.Header.Get("Origin") != "" || req.Header.Get("Sec-Fetch-Site") != "" {
		return sender{}, reject(http.StatusForbidden, "browser requests are not allowed")
	}
	from, err := r.authorize(req, files)
	if broken := cmp.Or(from.err, err); broken != nil && !errors.Is(broken, errUnauthorized) {
		r.credentials.Do(func() { r.log.Error("cannot check credentials", "err", broken) })
	}
	switch {
	case err == nil:
		if r.config.Authenticated != nil && r.config.HasCredentials() {
			r.config.Authenticated(req)
		}
		return from, nil
	case errors.Is(err, errUnauthorized):
		w.Header().Set("WWW-Authenticate", `Bearer realm="tcphup"`)
		return from, reject(http.StatusUnauthorized, err.Error())
	default:
		// A configuration error or a rotation in progress: Alertmanager retries.
		return from, reject(http.StatusServiceUnavailable, "cannot check credentials")
	}
}

// authorize returns the sender of a request that has the required credentials, or none if
// none are required.
func (r *Receiver) authorize(req *http.Request, files []string) (sender, error) {
	if r.config.CheckListener != nil {
		if err := r.config.CheckListener(); err != nil {
			return sender{}, err
		}
	}
	if r.config.TokenFile == "" {
		return sender{}, nil
	}
	return identify(req, files)
}

// tokenFiles returns the token files of the receiver and of the current policies.
func (r *Receiver) tokenFiles() []string {
	files := []string{r.config.TokenFile}
	policies := r.rules.Load().Policies
	for i := range policies {
		if f := policies[i].TokenFile; f != "" && !slices.Contains(files, f) {
			files = append(files, f)
		}
	}
	return files
}

// Protect wraps a handler with the checks of ServeHTTP: POST and credentials. Use it for
// the other state-changing handlers of the same listener. Tokens of policies are not
// accepted.
func (r *Receiver) Protect(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if _, rejected := r.admit(w, req, []string{r.config.TokenFile}); rejected != nil {
			r.logRejected(req, rejected)
			writeJSON(w, rejected.code, rejected)
			return
		}
		next.ServeHTTP(w, req)
	})
}

// checkType returns an error unless the body is unencoded JSON in UTF-8.
func checkType(header http.Header) error {
	media, params, err := mime.ParseMediaType(header.Get("Content-Type"))
	if err != nil || media != "application/json" {
		return errors.New("Content-Type must be application/json")
	}
	if !strings.EqualFold(cmp.Or(params["charset"], "utf-8"), "utf-8") {
		return errors.New("charset must be UTF-8")
	}
	if encoding := header.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return errors.New("Content-Encoding is not supported")
	}
	return nil
}

// readNotification reads and decodes the body within maxBody and bodyTimeout.
func readNotification(w http.ResponseWriter, req *http.Request, needed func(label string) bool) (*notification, *response) {
	tooLarge := reject(http.StatusRequestEntityTooLarge, "body exceeds 16 MiB")
	if req.ContentLength > maxBody {
		return nil, tooLarge
	}
	// Without effect on writers without a deadline, such as a recorder in a test.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout))
	n, err := decode(http.MaxBytesReader(w, req.Body, maxBody), needed)
	_, large := errors.AsType[*http.MaxBytesError](err)
	switch {
	case err == nil:
		return n, nil
	case large:
		return nil, tooLarge
	case errors.Is(err, errTooLarge):
		return nil, reject(http.StatusRequestEntityTooLarge, err.Error())
	case errors.Is(err, errRead):
		return nil, reject(http.StatusServiceUnavailable, "read body: timeout or connection closed")
	}
	return nil, reject(http.StatusBadRequest, "parse notification: "+err.Error())
}
