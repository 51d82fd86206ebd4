package alerts

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"tcphup/internal/text"
)

// Receiver is the handler of POST /alerts, and a prometheus.Collector of what it
// has done. It is safe for concurrent use.
type Receiver struct {
	config Config
	hang   HangUpper
	log    *slog.Logger

	rules    atomic.Pointer[Rules]
	stopping atomic.Bool
	pause    *pause
	history  *history
	claims   claims
	metrics  *metrics

	notifications chan struct{} // one element for each that is being worked on
	actions       chan struct{} // one element for each that is under way
	// Rate-limited logs.
	credentials, auditFailed, rejected rate.Sometimes
}

// NewReceiver returns a receiver that acts by these rules. It fails when the rules
// or the configuration are not valid, and when the token file cannot be used.
func NewReceiver(config Config, rules Rules, hang HangUpper, log *slog.Logger) (*Receiver, error) {
	config, err := config.withDefaults()
	if err != nil {
		return nil, err
	}
	r := &Receiver{
		config:        config,
		hang:          hang,
		log:           log,
		pause:         newPause(config.PauseFile),
		history:       newHistory(),
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

// Reload replaces the rules for the notifications that arrive from now on; those
// under way end by the old ones. Rules that are not valid change nothing. What
// was hung up lately stays remembered by the names of the policies.
func (r *Receiver) Reload(rules Rules) error {
	if err := r.config.checkRules(&rules); err != nil {
		return err
	}
	r.rules.Store(&rules)
	return nil
}

// Allows reports whether a policy in force names any of the addresses, with this port,
// among what it may touch. One that may touch every address names none. Names are not
// looked at. It is fast enough to be asked for each flow.
func (r *Receiver) Allows(addresses netip.Prefix, port uint16) bool {
	policies := r.rules.Load().Policies
	for i := range policies {
		if p := &policies[i]; p.allowsPort(port) && slices.ContainsFunc(p.Allow.Prefixes, addresses.Overlaps) {
			return true
		}
	}
	return false
}

// Stop makes the receiver answer 503 from now on. Notifications under way end as
// they would have; http.Server.Shutdown waits for them.
func (r *Receiver) Stop() { r.stopping.Store(true) }

// ConfigureServer sets the limits that keep slow and huge clients from harming the
// server that the receiver runs in.
func (r *Receiver) ConfigureServer(s *http.Server) {
	s.ReadHeaderTimeout = headerTimeout
	// For bodies of requests that are turned away unread. It does not end an action:
	// net/http lifts it once the body has been read.
	s.ReadTimeout = headerTimeout + bodyTimeout
	s.IdleTimeout = idleTimeout
	s.MaxHeaderBytes = 16 << 10
	// From the end of the header: the work, and some time to send the answer.
	s.WriteTimeout = r.config.Timeout + bodyTimeout + headerTimeout
}

const (
	headerTimeout = 5 * time.Second
	bodyTimeout   = 5 * time.Second
	idleTimeout   = 2 * time.Minute
	// pauseInterval is how often the pause file is looked for during an action.
	pauseInterval = 500 * time.Millisecond
	// logInterval is the shortest time between two log messages about the same fault.
	logInterval = time.Minute
)

// ServeHTTP handles a notification and answers when the state that it asks for
// holds or its time is over.
//
// 200: it holds, or nothing can be done about it; the body counts what became of
// the alerts and flows. 400, 413, 415: it cannot be read. 401, 403, 405: it is not
// allowed. 503: it should be sent again soon; the next one goes on where this one
// stopped. There are no other codes: Alertmanager loses an alert on any redirect
// and does not try again on 429.
func (r *Receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	a := r.receive(w, req)
	r.metrics.notifications.WithLabelValues(strconv.Itoa(a.code)).Inc()
	r.logRejected(req, a)
	writeJSON(w, a.code, a)
}

func (r *Receiver) receive(w http.ResponseWriter, req *http.Request) *answer {
	if no := r.admit(w, req); no != nil {
		return no
	}
	begun := time.Now()
	defer func() { r.metrics.duration.Observe(time.Since(begun).Seconds()) }()
	// A twentieth of the time is for the answer.
	ctx, cancel := context.WithTimeout(req.Context(), r.config.Timeout-r.config.Timeout/20)
	defer cancel()

	if err := r.closed(); err != nil {
		return sayNo(http.StatusServiceUnavailable, err.Error())
	}
	if err := checkType(req.Header); err != nil {
		return sayNo(http.StatusUnsupportedMediaType, err.Error())
	}
	select {
	case r.notifications <- struct{}{}:
		defer func() { <-r.notifications }()
	case <-ctx.Done():
		return sayNo(http.StatusServiceUnavailable, "too many notifications at once")
	}
	body, no := readBody(w, req)
	if no != nil {
		return no
	}
	n, err := decode(body)
	if err != nil {
		return sayNo(http.StatusBadRequest, "not a notification of Alertmanager: "+err.Error())
	}
	ctx, stop := r.pause.watch(ctx, pauseInterval)
	defer stop()
	return r.handle(ctx, n)
}

// closed returns why no notification is worked on now, or nil.
func (r *Receiver) closed() error {
	if r.stopping.Load() {
		return errors.New("shutting down")
	}
	return r.pause.why()
}

// logRejected tells, once a minute, of a request that was turned away for its sender's
// fault: a wrong token, or no notification.
func (r *Receiver) logRejected(req *http.Request, a *answer) {
	if a.code < http.StatusBadRequest || a.code >= http.StatusInternalServerError {
		return
	}
	r.rejected.Do(func() {
		r.log.Warn("request rejected; others within a minute are not logged",
			"client", req.RemoteAddr, "path", text.Clip(req.URL.Path, clipLimit), "code", a.code, "detail", text.Clip(a.Error, clipLimit))
	})
}

// admit returns an answer when the request is not a POST of a client that may do
// that, and nil when it is.
func (r *Receiver) admit(w http.ResponseWriter, req *http.Request) *answer {
	if req.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return sayNo(http.StatusMethodNotAllowed, "use POST")
	}
	// Browsers send one of these with every POST, and nothing else does. It keeps a
	// web page from reaching a receiver on its visitor's loopback.
	if req.Header.Get("Origin") != "" || req.Header.Get("Sec-Fetch-Site") != "" {
		return sayNo(http.StatusForbidden, "not for browsers")
	}
	err := r.authorize(req)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errUnauthorized):
		w.Header().Set("WWW-Authenticate", `Bearer realm="tcphup"`)
		return sayNo(http.StatusUnauthorized, err.Error())
	default:
		// The operator's mistake, or a rotation half way: the sender shall try again.
		r.credentials.Do(func() { r.log.Error("cannot check credentials", "err", err) })
		return sayNo(http.StatusServiceUnavailable, "credentials cannot be checked now")
	}
}

// authorize returns nil when the request shows the credentials that are asked for,
// or when none are.
func (r *Receiver) authorize(req *http.Request) error {
	if r.config.ListenerAuthenticates && r.config.CheckListener != nil {
		if err := r.config.CheckListener(); err != nil {
			return err
		}
	}
	if r.config.TokenFile == "" {
		return nil
	}
	return tokenFile(r.config.TokenFile).authorize(req)
}

// Protect asks of every request what ServeHTTP asks: POST, and the credentials.
// It is for the other handlers on the same listener that change something.
func (r *Receiver) Protect(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if no := r.admit(w, req); no != nil {
			r.logRejected(req, no)
			writeJSON(w, no.code, no)
			return
		}
		next.ServeHTTP(w, req)
	})
}

func checkType(header http.Header) error {
	media, params, err := mime.ParseMediaType(header.Get("Content-Type"))
	if err != nil || media != "application/json" {
		return errors.New("the content type must be application/json")
	}
	switch cmp.Or(params["charset"], "utf-8") {
	case "utf-8", "UTF-8":
	default:
		return errors.New("the character set must be UTF-8")
	}
	if encoding := header.Get("Content-Encoding"); encoding != "" && encoding != "identity" {
		return errors.New("the content must not be encoded")
	}
	return nil
}

// readBody reads the body, within its limits of size and time.
func readBody(w http.ResponseWriter, req *http.Request) ([]byte, *answer) {
	tooLarge := sayNo(http.StatusRequestEntityTooLarge, "a notification has 1 MiB at most")
	if req.ContentLength > maxBody {
		return nil, tooLarge
	}
	// A recorder in a test has no deadline, and needs none.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout))
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxBody))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, tooLarge
	case err != nil:
		return nil, sayNo(http.StatusServiceUnavailable, "the body did not arrive in time")
	}
	return body, nil
}
